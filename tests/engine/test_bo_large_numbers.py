"""Metrics, noise, predictions and earlier studies at the ends of double precision: no warning of numpy's, no failure."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from autotune import Categorical, Float, Int, Measurement, Metric, SearchSpace, Study
from autotune.space import Config

Value = Callable[[int, Config], float]

VALUES: dict[str, Value] = {
    "both ends": lambda i, _: (1.7e308, -1.7e308)[i % 2],
    "one of many": lambda i, c: -1.7e308 if i == 4 else float(c["x"]),
    "both orders": lambda i, _: (5e-324, 1.7e308, 1.0, -5e-324)[i % 4],
}
TRIALS = 10


@pytest.fixture(autouse=True)
def strict() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        yield


def space() -> SearchSpace:
    return SearchSpace([Int("x", 1, 30), Float("y", 0.0, 1.0), Categorical("c", ["a", "b"])])


def run(study: Study, evaluate: Callable[[int, Config], Any]) -> None:
    for i in range(TRIALS):
        trial = study.ask()
        study.tell(trial, evaluate(i, trial.config))
    assert any("weights" in trial.notes for trial in study.trials)  # that models had a say


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize("objective", ["minimize value", "maximize value"])
def test_objectives_with_known_noise(objective: str, value: Value) -> None:
    def evaluate(i: int, config: Config) -> Measurement:
        return Measurement({"value": Metric(value(i, config), abs(value(i, config)) / 10.0)})

    run(Study.create(space(), objective, strategy="bo", seed=1), evaluate)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_several_objectives_and_limits(value: Value) -> None:
    study = Study.create(space(), ["a", "maximize b"], constraints=["d <= 1e308"], strategy="bo", seed=1)
    run(study, lambda i, c: {"a": value(i, c), "b": value(i + 1, c), "d": value(i + 2, c)})


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_predictions(value: Value) -> None:
    run(Study.create(space(), strategy="bo", predictor=lambda c: value(c["x"], c)), value)


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_earlier_studies(value: Value) -> None:
    old = Study.create(space(), strategy="random", name="old")
    for i in range(8):
        trial = old.ask()
        old.tell(trial, value(i, trial.config))
    run(Study.create(space(), strategy="bo", transfer_from=old), lambda _, c: float(c["x"]))


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_cheaper_evaluators(value: Value) -> None:
    study = Study.create(space(), strategy="bo", fidelities=["cheap", "real"], costs={"cheap": 0.1})
    for i in range(20):
        trial = study.ask()
        study.tell(trial, value(i, trial.config))
    assert any("weights" in trial.notes for trial in study.trials)
