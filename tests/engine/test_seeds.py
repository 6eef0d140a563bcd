"""What a domain's own solver finds is measured first by the strategies that learn from measurements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

import autotune
from autotune import Float, SearchSpace, Study, UsageError
from autotune.space import Config
from autotune.strategies.fixed_point import Vector


class Answers:
    """A fixed-point map with a start for each of its answers, which it predicts well."""

    def __init__(self, answers: Sequence[float]) -> None:
        self.answers, self.solved = answers, 0

    def starts(self) -> Sequence[str]:
        return [str(i) for i in range(len(self.answers))]

    def initial(self, start: str) -> Vector:
        return np.zeros(1)

    def apply(self, start: str, coupling: Vector) -> tuple[Vector, Config, float]:
        self.solved += 1
        x = self.answers[int(start)]
        return coupling, {"x": x, "y": 0.5}, loss({"x": x, "y": 0.5})

    def refine(self, start: str, config: Config) -> tuple[Config, float]:
        return config, loss(config)


def loss(config: Config) -> float:
    return float(1.0 + abs(config["x"] - 0.3) + abs(config["y"] - 0.5))


def space() -> SearchSpace:
    return SearchSpace([Float("x", 0.0, 1.0, default=0.9), Float("y", 0.0, 1.0, default=0.9)])


def asked(strategy: str, solver: Any, trials: int, objectives: str | list[str] = "value", **options: Any) -> Study:
    study = Study.create(
        space(), objectives, strategy=strategy, strategy_options=options, domain_map=solver, budget=trials
    )
    for _ in range(trials):
        trial = study.ask()
        study.tell(trial, loss(trial.config) if objectives == "value" else {"a": loss(trial.config), "b": 1.0})
    return study


def proposers(study: Study) -> list[str]:
    return [t.proposer for t in study.trials if t.label is None]


@pytest.mark.parametrize("strategy", ["bo", "trees"])
def test_the_best_answers_come_first_and_the_models_follow(strategy: str) -> None:
    study = asked(strategy, Answers([0.8, 0.35, 0.4, 0.5]), 8)
    assert proposers(study) == ["fixed-point"] * 3 + [strategy] * 4
    assert [t.config["x"] for t in study.trials[1:4]] == [0.35, 0.4, 0.5]  # best prediction first; 0.8 is a fourth


def test_how_many_is_an_option_and_none_is_off() -> None:
    assert proposers(asked("bo", Answers([0.8, 0.35]), 5, seeds=1)) == ["fixed-point"] + ["bo"] * 3
    solver = Answers([0.8, 0.35])
    assert proposers(asked("bo", solver, 5, seeds=0)) == ["bo"] * 4 and solver.solved == 0
    with pytest.raises(UsageError, match="seeds"):
        Study.create(space(), strategy="bo", strategy_options={"seeds": -1})


def test_a_batch_waits_for_the_answers() -> None:
    study = Study.create(space(), strategy="bo", domain_map=Answers([0.35, 0.4]), budget=12)
    study.tell(study.ask(), 2.0)
    assert [t.record.proposer for t in study.ask(6)][:2] == ["fixed-point"] * 2


def test_without_a_solver_or_with_several_objectives_nothing_is_seeded() -> None:
    assert proposers(asked("bo", None, 4)) == ["bo"] * 3
    assert proposers(asked("bo", Answers([0.35]), 4, ["minimize a", "minimize b"])) == ["bo"] * 3


def test_in_a_portfolio_the_solver_is_a_member_and_leaving_it_out_leaves_it_out() -> None:
    solver = Answers([0.35, 0.4])
    study = asked("auto", solver, 6)
    assert proposers(study)[:2] == ["fixed-point"] * 2 and "fixed-point" not in proposers(study)[2:]
    silent = Answers([0.35, 0.4])
    study = asked("auto", silent, 6, members=["bo", "random"])
    assert "fixed-point" not in proposers(study) and silent.solved == 0


def test_a_study_that_is_gone_on_with_does_not_seed_again(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    study = Study.create(
        space(), strategy="bo", storage=url, name="s", domain_map=Answers([0.35, 0.4, 0.45]), budget=20
    )
    for _ in range(5):
        trial = study.ask()
        study.tell(trial, loss(trial.config))
    again = autotune.Study.load("s", url, domain_map=Answers([0.1, 0.2, 0.6]))
    assert again.ask().record.proposer == "bo"
