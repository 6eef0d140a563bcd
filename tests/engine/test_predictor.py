"""A predictor from the user or the domain to the strategy, and what a study remembers of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autotune
from autotune import STRATEGIES, PredictorWarning, Problem, Study, UsageError
from autotune.opening import open_study
from autotune.space import Config
from tests.engine.informed import Informed, away, line


@pytest.fixture(autouse=True)
def informed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(STRATEGIES, "informed", Informed)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


class Near20:
    """A predictor of many configurations at once, which knows where the optimum is."""

    def predict(self, configs: Sequence[Config]) -> dict[str, Any]:
        return {"value": np.array([abs(c["x"] - 20.2) for c in configs])}


def near_25(config: Config) -> float:
    return float(abs(config["x"] - 25))


def visited(study: Study) -> list[int]:
    return [int(t.config["x"]) for t in study.trials]


@pytest.mark.parametrize("predictor", [Near20(), away, lambda c: {"value": away(c), "spare": 1}])
def test_a_predictor_shows_where_to_begin(predictor: Any) -> None:
    result = autotune.search(line(), away, strategy="informed", predictor=predictor, trials=2)
    assert visited(result.study) == [15, 20]


def test_a_number_is_the_first_objective() -> None:
    def evaluate(config: Config) -> dict[str, float]:
        return {"ms": away(config), "gib": float(config["x"])}

    objectives = ["ms", "minimize gib"]
    result = autotune.search(line(), evaluate, objectives, strategy="informed", predictor=near_25, trials=2)
    assert visited(result.study) == [15, 25]


def test_a_failing_predictor_does_not_stop_a_search_and_is_told_once() -> None:
    def fails(config: Config) -> float:
        raise ValueError("out of range")

    with pytest.warns(PredictorWarning, match="raised ValueError: out of range") as said:
        result = autotune.search(line(), away, strategy="informed", predictor=fails, trials=4)
    assert len(said) == 1
    assert visited(result.study) == [15, 0, 1, 2]


@pytest.mark.parametrize("strategy", ["tpe", "local", "random"])
def test_a_strategy_that_would_not_look_at_it_is_refused(tmp_path: Path, url: str, strategy: str) -> None:
    says = f"strategy '{strategy}' does not use a predictor; choose one that does"
    with pytest.raises(UsageError, match=says):
        autotune.search(line(), away, strategy=strategy, predictor=near_25, storage=url)
    with pytest.raises(UsageError, match="predictor is 3; give a function"):
        autotune.search(line(), away, strategy=strategy, predictor=3, storage=url)
    assert not list(tmp_path.iterdir())


def test_going_on_needs_the_predictor_again(url: str) -> None:
    given: dict[str, Any] = {"space": line(), "evaluate": away, "storage": url}
    autotune.search(**given, strategy="informed", predictor=near_25, trials=2)
    for go_on in (lambda: autotune.search(**given, trials=3), lambda: Study.load("study", url)):
        with pytest.raises(UsageError, match=r"made with a predictor, .* pass predictor=\.\.\. .* predictor=False"):
            go_on()
    assert visited(autotune.search(**given, predictor=near_25, trials=3).study) == [15, 25, 24]
    assert visited(autotune.search(**given, predictor=False, trials=4).study) == [15, 25, 24, 0]
    Study.load("study", url, strategy="random").ask()  # one that has no use for it
    assert autotune.Result.of(Study.view(autotune.Store(url), autotune.Store(url).load_study("study"))).best is not None


def problem(predictor: Any = None) -> Problem:
    return Problem(line(), ("minimize value",), {"x": 15}, {"real": away}, predictor=predictor)


def second(study: Study) -> int:
    study.tell(study.ask(), 5.0)
    return int(study.ask().config["x"])


def test_a_domain_brings_its_own() -> None:
    assert second(open_study(problem(Near20()), strategy="informed")) == 20
    assert second(open_study(problem(Near20()), strategy="informed", predictor=near_25)) == 25
    assert second(open_study(problem(Near20()), strategy="informed", predictor=False)) == 0
    open_study(problem(Near20()), strategy="local").ask()  # nobody asked it to look
    open_study(problem(Near20())).ask()


def test_a_domains_predictor_stays_off_where_it_was_turned_off(url: str) -> None:
    first = open_study(problem(Near20()), strategy="informed", predictor=False, storage=url)
    assert second(first) == 0
    assert open_study(problem(Near20()), storage=url).ask().config["x"] == 1
    again = open_study(problem(Near20()), storage=url, predictor=Near20())  # unless it is asked for by name
    assert again.ask().config["x"] == 20
    assert open_study(problem(), name="new", strategy="informed", predictor=False, storage=url).ask().number == 0


def test_a_domains_predictor_is_there_again_when_a_study_is_gone_on_with(url: str) -> None:
    assert second(open_study(problem(Near20()), strategy="informed", storage=url)) == 20
    assert open_study(problem(Near20()), storage=url).ask().config["x"] == 21
    with pytest.raises(UsageError, match="made with a predictor"):
        open_study(problem(), storage=url)
