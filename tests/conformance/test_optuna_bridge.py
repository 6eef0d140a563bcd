"""Every strategy as a sampler of a plain Optuna study."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from autotune import STRATEGIES, Bool, Categorical, Float, Int, Ordinal, SearchSpace, SpaceExhaustedError, UsageError
from autotune.integrations.optuna import StrategySampler
from tests.conformance.test_strategies import GIVEN

NAMES = sorted(STRATEGIES)
optuna.logging.set_verbosity(optuna.logging.ERROR)


def space(name: str = "") -> SearchSpace:
    rate = Ordinal("rate", [0.1, 0.5]) if name == "exhaustive" else Float("rate", 0.001, 1.0, log=True)
    return SearchSpace(
        [Ordinal("tp", [1, 2, 4, 8]), Ordinal("pp", [1, 2, 4, 8]), Categorical("cache", ["lru", "lfu", None]), rate,
         Int("window", 1, 64, when="cache == 'lru'"), Bool("on"), Int("n", 0, 3, size=2)],
        ["tp * pp <= 8", "sum(n) <= 4"],
    )  # fmt: skip


def suggest(trial: optuna.Trial) -> dict[str, Any]:
    """As somebody would write it who thinks in Optuna's terms."""
    config: dict[str, Any] = {
        "tp": trial.suggest_categorical("tp", [1, 2, 4, 8]),
        "pp": [1, 2, 4, 8][trial.suggest_int("pp", 0, 3)],
        "cache": trial.suggest_categorical("cache", ["lru", "lfu", None]),
        "rate": trial.suggest_float("rate", 0.001, 1.0, log=True),
        "on": trial.suggest_categorical("on", [True, False]),
        "n": [trial.suggest_int(f"n[{i}]", 0, 3) for i in range(2)],
    }
    if config["cache"] == "lru":
        config["window"] = trial.suggest_int("window", 1, 64)
    return config


def cost(config: dict[str, Any]) -> float:
    return float(
        config["tp"] + abs(config["pp"] - 4) + config["rate"] + sum(config["n"]) + config.get("window", 80) / 10
    )


def sampler(name: str, searched: SearchSpace, **settings: Any) -> StrategySampler:
    given = GIVEN[name](searched) if name in GIVEN else None
    return StrategySampler(searched, name, domain_map=given, **settings)


def study_of(used: StrategySampler, storage: str | None = None, **settings: Any) -> optuna.Study:
    return optuna.create_study(sampler=used, storage=storage, study_name="s", load_if_exists=True, **settings)


def configs(study: optuna.Study) -> list[Any]:
    return [json.loads(t.system_attrs["autotune"])["config"] for t in study.trials]


@pytest.mark.parametrize("name", NAMES)
def test_every_strategy_drives_a_plain_study(name: str) -> None:
    searched = space(name)
    evaluated: list[dict[str, Any]] = []

    def objective(trial: optuna.Trial) -> float:
        config = suggest(trial)
        evaluated.append(config)
        if len(evaluated) % 5 == 2:
            raise RuntimeError("out of memory")
        if len(evaluated) % 5 == 4:
            raise optuna.TrialPruned
        return cost(config)

    study = study_of(sampler(name, searched))
    study.optimize(objective, n_trials=14, catch=(RuntimeError,))
    assert [t.state.name for t in study.trials].count("FAIL") == 3
    assert len(evaluated) == 14 and evaluated[0] == searched.default()
    for config in evaluated:
        assert searched.explain(config) == []
    assert len({searched.config_hash(c) for c in evaluated}) == 14
    assert study.best_value == min(cost(c) for i, c in enumerate(evaluated, 1) if i % 5 not in (2, 4))


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_study_goes_on_as_if_it_had_not_stopped(name: str, tmp_path: Path) -> None:
    searched = space(name)

    def run(parts: tuple[int, ...], storage: str | None = None) -> list[Any]:
        for n in parts:
            study = study_of(sampler(name, searched, seed=3), storage)
            study.optimize(lambda trial: cost(suggest(trial)), n_trials=n)
        return configs(study)

    assert run((5, 7, 1), f"sqlite:///{tmp_path / 'parts.db'}") == run((13,))


@pytest.mark.parametrize("name", NAMES)
def test_several_objectives(name: str) -> None:
    searched = space(name)

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        config = suggest(trial)
        return cost(config), float(config["rate"])

    study = study_of(sampler(name, searched), directions=["minimize", "maximize"])
    if STRATEGIES[name].capabilities.several_objectives:
        study.optimize(objective, n_trials=12)
        assert study.best_trials
    else:
        with pytest.raises(UsageError, match=f"strategy '{name}' cannot handle several objectives"):
            study.optimize(objective, n_trials=1)
        assert [t.state.name for t in study.trials] == ["FAIL"]


def test_running_trials_are_not_proposed_again_and_the_direction_counts() -> None:
    searched = SearchSpace([Int("x", 0, 20)])
    study = study_of(StrategySampler(searched, "local", default={"x": 10}), direction="maximize")
    asked = [study.ask() for _ in range(4)]
    values = [t.suggest_int("x", 0, 20) for t in asked]
    assert values[0] == 10 and len(set(values)) == 4
    for trial, value in zip(asked, values, strict=True):
        study.tell(trial, value)
    study.optimize(lambda t: t.suggest_int("x", 0, 20), n_trials=12)
    assert study.best_value == 20.0


def test_optimize_stops_when_the_space_is_exhausted() -> None:
    searched = SearchSpace([Ordinal("a", [1, 2, 4]), Bool("b")], ["a < 4 or b"])
    study = study_of(StrategySampler(searched, "exhaustive"))

    def objective(trial: optuna.Trial) -> float:
        return trial.suggest_int("a", 1, 4) + trial.suggest_categorical("b", [False, True])

    study.optimize(objective, n_trials=50)
    assert len(study.trials) == 5 and study.best_params == {"a": 1, "b": False}
    with pytest.raises(SpaceExhaustedError, match="every feasible configuration was proposed, after 5 trials"):
        study.ask()


def test_what_somebody_enqueued_is_learned_from() -> None:
    searched = SearchSpace([Int("x", 0, 20), Int("y", 0, 20)])
    study = study_of(StrategySampler(searched, "local", default={"x": 0, "y": 0}))
    study.enqueue_trial({"x": 12, "y": 7})
    study.enqueue_trial({"x": 3})
    study.enqueue_trial({"other": 3})
    seen: list[tuple[int, int]] = []

    def objective(trial: optuna.Trial) -> float:
        seen.append((trial.suggest_int("x", 0, 20), trial.suggest_int("y", 0, 20)))
        return abs(seen[-1][0] - 12) + abs(seen[-1][1] - 7)

    study.optimize(objective, n_trials=8)
    assert seen[0] == (12, 7) and seen[1][0] == 3
    assert len(set(seen)) == 8
    near = [abs(x - 12) + abs(y - 7) for x, y in seen[4:]]
    assert min(near) <= 2  # it looks around the best, which was not its own idea


def test_threads_share_a_sampler() -> None:
    searched = SearchSpace([Int("x", 0, 99)])
    study = study_of(StrategySampler(searched, "random"))
    study.optimize(lambda trial: trial.suggest_int("x", 0, 99), n_trials=24, n_jobs=4)
    assert len({t.params["x"] for t in study.trials}) == 24


@pytest.mark.parametrize(
    ("objective", "says"),
    [
        (lambda t: t.suggest_int("z", 0, 3), "'z' is suggested but not in the space; known are: tp, "),
        (
            lambda t: t.suggest_int("window", 1, 64),
            "'window' is suggested where it is inactive; suggest it only when cache",
        ),
        (lambda t: t.suggest_categorical("tp", [16, 32]), "which cannot hold "),
        (lambda t: t.suggest_float("cache", 0, 1), "which cannot hold 'lfu', a value of the space"),
    ],
)
def test_suggestions_that_do_not_fit_the_space(objective: Callable[[optuna.Trial], float], says: str) -> None:
    start = {"tp": 1, "pp": 1, "cache": "lfu", "rate": 0.1, "on": True, "n": [0, 0]}
    study = study_of(StrategySampler(space(), "random", default=start))
    with pytest.raises(UsageError) as told:
        study.optimize(objective, n_trials=1)
    assert says in str(told.value)


def test_settings_that_cannot_be_used() -> None:
    with pytest.raises(UsageError, match="strategy 'magic' is unknown"):
        StrategySampler(space(), "magic")
    with pytest.raises(UsageError, match="default configuration is not feasible"):
        StrategySampler(space(), default={"tp": 8})
