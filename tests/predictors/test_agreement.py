"""How a predictor was borne out: exact on small cases, from what trials keep."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import pytest

from autotune import Int, Result, SearchSpace, Study, UsageError
from autotune.predictors import Agreement, agreements
from autotune.predictors.guarded import PredictorLike
from autotune.space import Config


def squared(config: Config) -> dict[str, float]:
    return {"ms": float(config["x"] ** 2), "gib": 4.0 + config["x"]}


def doubled(config: Config) -> dict[str, float]:
    """Twice the root of what is measured, and nothing of the other metric."""
    return {"ms": 2.0 * config["x"]}


def study(predictor: PredictorLike | None, trials: int = 10) -> Study:
    space = SearchSpace([Int("x", 1, 30)])
    made = Study.create(space, ["ms"], constraints=["gib <= 30"], strategy="bo", predictor=predictor)
    for _ in range(trials):
        trial = made.ask()
        made.tell(trial, squared(trial.config))
    return made


def test_small_cases_are_exact() -> None:
    found = Agreement.of([1.0, 2.0, 4.0, math.nan], [3.0, 6.0, 12.0, 5.0])
    assert (found.pairs, found.rank, found.calibration.log) == (3, 1.0, True)
    assert (found.calibration.scale, found.calibration.offset) == pytest.approx((1.0, math.log(3.0)))
    assert found.median_error == pytest.approx(2.0 / 3.0)
    one = Agreement.of([1.0], [0.0]).to_dict()
    assert (one["pairs"], one["rank_agreement"], one["median_error"], one["r2"]) == (1, None, None, None)
    with pytest.raises(UsageError, match="at least one pair"):
        Agreement.of([math.nan], [1.0])


def test_numbers_near_the_largest_are_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = Agreement.of([-1.7e308, 0.0, 1.7e308], [1.7e308, 1e-308, -1.7e308])
    assert (found.pairs, found.rank) == (3, -1.0)
    assert found.to_dict()["scale"] is None


def test_what_was_predicted_stands_beside_what_was_measured() -> None:
    made = study(doubled)
    assert [t.notes["predicted"] for t in made.trials] == [{"ms": 2.0 * t.config["x"]} for t in made.trials]
    found = Result.of(made).predictor
    assert found is not None and list(found) == ["ms"]  # nothing was said of the other metric
    line = found["ms"].calibration
    assert (found["ms"].pairs, found["ms"].rank, line.log) == (10, pytest.approx(1.0), True)
    assert (line.scale, line.offset) == pytest.approx((2.0, -2.0 * math.log(2.0)))


def test_a_note_of_that_name_from_an_evaluator_is_no_prediction() -> None:
    notes = ({"predicted": said} for said in (3.0, {"ms": "a"}, {}, {"ms": 2}))
    trials = [replace(t, notes=note) for t, note in zip(study(doubled, 4).trials, notes, strict=True)]
    assert agreements(trials, ["ms"])["ms"].pairs == 1


def test_a_study_without_a_predictor_says_nothing_of_one() -> None:
    made = study(None, 3)
    assert Result.of(made).predictor is None and Result.of(made).to_dict()["predictor"] is None
    assert all("predicted" not in t.notes for t in made.trials)
    assert Result.of(study(doubled, 0)).predictor == {}  # nothing was measured yet
