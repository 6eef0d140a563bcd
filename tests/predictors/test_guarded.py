"""A predictor as a strategy gets it: asked once, and never able to stop a search or to fail unnoticed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autotune import UsageError
from autotune.predictors import Guarded, PredictorWarning, guarded
from autotune.space import Config

METRICS = ("latency_ms", "vram_gib")


def at(*values: Any) -> list[Config]:
    return [{"x": value} for value in values]


@pytest.fixture
def silent() -> Iterator[None]:
    """Nothing is told."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


class Batch:
    """A predictor of many configurations at once that counts what it is asked for."""

    def __init__(self, predict: Callable[[Sequence[Config]], Any]) -> None:
        self.asked: list[Config] = []
        self._predict = predict

    def predict(self, configs: Sequence[Config]) -> Any:
        self.asked += configs
        return self._predict(configs)


def told(predictor: object, configs: Sequence[Config]) -> tuple[Mapping[str, Any], str]:
    """The predictions and the one warning."""
    made = guarded(predictor, METRICS)  # type: ignore[arg-type]
    assert made is not None
    with pytest.warns(PredictorWarning) as said:
        found = made.predict(configs)
    made.predict(configs)
    assert len(said) == 1 and made.problem is not None
    assert str(said[0].message).endswith(f"goes on without what it did not predict: {made.problem}")
    return found, made.problem


@pytest.mark.usefixtures("silent")
def test_a_number_stands_for_the_first_metric_and_a_mapping_for_those_it_names() -> None:
    found = Guarded(lambda c: c["x"] / 2, METRICS).predict(at(3, 4))
    assert set(found) == {"latency_ms"} and found["latency_ms"].tolist() == [1.5, 2.0]
    found = Guarded(lambda c: {"vram_gib": np.float32(c["x"]), "other": 9}, METRICS).predict(at(3, 4))
    assert set(found) == {"vram_gib"} and found["vram_gib"].tolist() == [3.0, 4.0]
    both = Guarded(lambda c: {"latency_ms": torch.tensor(c["x"]), "vram_gib": 1}, METRICS).predict(at(2))
    assert {metric: values.tolist() for metric, values in both.items()} == {"latency_ms": [2.0], "vram_gib": [1.0]}


@pytest.mark.usefixtures("silent")
@given(st.lists(st.lists(st.integers(0, 8), max_size=12), max_size=5))
def test_predictions_come_in_the_order_asked_for_and_each_is_made_once(calls: list[list[int]]) -> None:
    batch = Batch(lambda configs: {"latency_ms": np.array([c["x"] ** 2 for c in configs])})
    made = Guarded(batch, METRICS)
    for values in calls:
        found = made.predict(at(*values))
        assert found.get("latency_ms", np.zeros(0)).tolist() == [v**2 for v in values]
    assert sorted(c["x"] for c in batch.asked) == sorted({v for values in calls for v in values})


@pytest.mark.usefixtures("silent")
def test_values_that_python_calls_equal_are_told_apart() -> None:
    made = Guarded(lambda c: {bool: 1.0, str: 2.0}.get(type(c["x"]), 3.0), METRICS)
    assert made.predict(at(True, "1", 1))["latency_ms"].tolist() == [1.0, 2.0, 3.0]
    assert made.predict([{"x": [1, 2]}, {"x": np.array([1, 2])}])["latency_ms"].tolist() == [3.0, 3.0]


@pytest.mark.usefixtures("silent")
def test_a_batch_predictor_may_have_nothing_to_say() -> None:
    batch = Batch(lambda configs: {"latency_ms": [1.0, math.nan], "vram_gib": [math.nan, math.nan]})
    found = Guarded(batch, METRICS).predict(at(1, 2))
    assert set(found) == {"latency_ms"}
    np.testing.assert_array_equal(found["latency_ms"], [1.0, math.nan])


def test_a_configuration_that_it_fails_for_is_nan_and_the_others_stand() -> None:
    found, problem = told(lambda c: 1.0 / c["x"], at(2, 0, 4))
    np.testing.assert_array_equal(found["latency_ms"], [0.5, math.nan, 0.25])
    assert problem == "for {'x': 0} it raised ZeroDivisionError: float division by zero"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, "fast", True, [1.0]])
def test_what_is_no_finite_number_is_nan(value: Any) -> None:
    found, problem = told(lambda c: value if c["x"] else 7.0, at(0, 1))
    np.testing.assert_array_equal(found["latency_ms"], [7.0, math.nan])
    assert problem


def test_a_metric_of_a_mapping_that_is_no_number_is_nan() -> None:
    found, problem = told(lambda c: {"latency_ms": "fast" if c["x"] else 7.0, "vram_gib": 1.0}, at(0, 1))
    np.testing.assert_array_equal(found["latency_ms"], [7.0, math.nan])
    assert found["vram_gib"].tolist() == [1.0, 1.0]
    assert problem == "its latency_ms of {'x': 1} is 'fast'"


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (
            {"latency_ms": [1.0, 2.0, 3.0]},
            "an array of shape (3,) for latency_ms of 2 configurations; its shape must be (2,)",
        ),
        ({"latency_ms": 1.0}, "an array of shape () for latency_ms of 2"),
        ({"latency_ms": ["a", "b"]}, "predict gave no numbers for latency_ms: ValueError"),
        ({"latency_ms": [1.0, math.inf]}, "its latency_ms of {'x': 1} is inf"),
        ([1.0, 2.0], "it returned list; return a mapping by metric name"),
        ({"loss": [1.0, 2.0]}, "it predicts loss, but none of this study's metrics: latency_ms, vram_gib"),
        ({}, "it predicts nothing, but none of"),
    ],
)
def test_a_batch_of_the_wrong_form_is_told_once(returned: Any, says: str) -> None:
    found, problem = told(Batch(lambda configs: returned), at(0, 1))
    assert says in problem
    assert all(np.isfinite(values).sum() < 2 for values in found.values())


def test_a_good_metric_beside_a_bad_one_is_kept() -> None:
    found, _ = told(Batch(lambda configs: {"latency_ms": [1.0], "vram_gib": [1.0, 2.0]}), at(0, 1))
    assert set(found) == {"vram_gib"} and found["vram_gib"].tolist() == [1.0, 2.0]


def test_a_predictor_that_raises_as_a_whole_gives_nothing() -> None:
    def fail(configs: Sequence[Config]) -> Any:
        raise RuntimeError("no weights")

    found, problem = told(Batch(fail), at(0, 1))
    assert found == {} and problem == "predict raised RuntimeError: no weights"


def test_an_interruption_is_passed_on() -> None:
    def interrupted(config: Config) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Guarded(interrupted, METRICS).predict(at(1))


@pytest.mark.usefixtures("silent")
def test_a_predictor_cannot_change_what_it_is_asked_for() -> None:
    configs = at(1, 2)
    assert Guarded(lambda c: c.pop("x"), METRICS).predict(configs)["latency_ms"].tolist() == [1.0, 2.0]
    assert configs == at(1, 2)


@pytest.mark.parametrize("nothing", [None, False])
def test_none(nothing: Any) -> None:
    assert guarded(nothing, METRICS) is None


@pytest.mark.parametrize("wrong", [True, 3, "latency", Batch, {"latency_ms": 1}])
def test_what_is_no_predictor(wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"predictor is .*; give a function of a configuration"):
        guarded(wrong, METRICS)
