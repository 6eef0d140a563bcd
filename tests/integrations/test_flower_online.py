"""Tuning within one long run of a Flower app."""

from __future__ import annotations

import math
import os
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

import pytest

pytest.importorskip("flwr")

from flwr.serverapp.strategy import FedAvg

from autotune import Float, Ordinal, SearchSpace, Study, UsageError
from autotune.integrations.flower import OnlineTuner, Round, tuned
from autotune.measurement import Failure, FailureKind
from autotune.store import TrialState
from tests.integrations.flower_apps import message_app, model
from tests.integrations.local_grid import LocalGrid


def study_of(values: list[float], **settings: Any) -> Study:
    space = SearchSpace([Ordinal("lr", values)])
    return Study.create(space, "maximize gain", **{"strategy": "exhaustive", "default": {"lr": values[0]}, **settings})


def drive(tuner: OnlineTuner, rounds: int, progress: Any, **fields: int) -> list[float]:
    """A run in which the loss falls by the share `progress(round, lr)` in each round; returns the rates of its rounds."""
    loss, rates = 1000.0, []
    tuner.closed(Round(0, {"server.loss": loss}))
    for number in range(1, rounds + 1):
        config, kept = tuner.configure(number, loss)
        rates.append(config["lr"])
        loss = kept * (1.0 - progress(number, config["lr"]))
        tuner.closed(Round(number, {"server.loss": loss}, **fields))
    return rates


def test_what_the_default_gains_less_and_less_does_not_count_for_or_against_a_candidate() -> None:
    bonus = {0.1: 0.0, 0.2: 0.03, 0.4: -0.02, 0.8: 0.01}
    study = study_of(list(bonus), seed=4)
    with OnlineTuner(study, "minimize server.loss", trials=4) as tuner:
        rates = drive(tuner, 12, lambda number, lr: 0.2 - 0.01 * number + bonus[lr])
        assert tuner.settled == {"lr": 0.2}
    assert {t.config["lr"]: t.values["gain"] for t in study.trials} == pytest.approx(bonus)
    tried = [t.config["lr"] for t in study.trials]
    assert rates == [0.1, tried[0], 0.1, tried[1], 0.1, tried[2], 0.1, tried[3], 0.1, 0.2, 0.2, 0.2]
    assert study.best is not None and study.best.config == {"lr": 0.2}
    assert study.trials[1].notes["first_round"] == 4


def test_the_default_stays_where_nothing_is_better() -> None:
    study = study_of([0.1, 0.2, 0.4])
    with OnlineTuner(study, "minimize server.loss", trials=3) as tuner:
        rates = drive(tuner, 9, lambda number, lr: 0.1 if lr == 0.1 else 0.05)
    assert tuner.settled == {"lr": 0.1} and rates[-1] == 0.1


def test_progress_may_be_counted_by_bytes_and_windows_may_be_longer() -> None:
    study = study_of([0.1, 0.2])
    with OnlineTuner(study, "minimize server.loss", every=2, trials=2, per="upload_bytes") as tuner:
        rates = drive(tuner, 10, lambda number, lr: lr, upload_bytes=50)
    assert rates == [0.1] * 2 + [0.1] * 2 + [0.1] * 2 + [0.2] * 2 + [0.1] * 2
    (gain,) = [t.values["gain"] for t in study.trials if t.config["lr"] == 0.2]
    assert gain == pytest.approx((0.9**2 - 0.8**2) / 100)


def test_a_real_run_finds_the_better_rate_and_goes_on_with_it() -> None:
    study, grid = study_of([0.1, 0.05, 0.6]), LocalGrid(message_app())
    with OnlineTuner(study, "minimize train.loss", trials=3) as tuner:
        tuned(FedAvg(fraction_evaluate=0.0), tuner).start(grid, model(100.0), num_rounds=12)
    rates = [config["lr"] for config in grid.seen[100]]
    assert rates[0] == rates[1] == 0.1, (
        "the first window tells where the loss begins, the second what the default gains"
    )
    gains = {t.config["lr"]: t.values["gain"] for t in study.trials}
    assert gains[0.05] < gains[0.1] < gains[0.6]
    assert rates[-1] == 0.6


def test_a_candidate_under_which_the_model_diverges_is_taken_back() -> None:
    study, grid, models = study_of([0.5, 1e200]), LocalGrid(message_app()), []
    with OnlineTuner(study, "minimize train.loss", trials=2) as tuner:
        strategy = tuned(FedAvg(fraction_evaluate=0.0), tuner)
        keep = lambda r, arrays: models.append(float(arrays["mean"].numpy()[0]))  # noqa: E731
        result = strategy.start(grid, model(100.0), num_rounds=7, evaluate_fn=keep)
        assert tuner.settled == {"lr": 0.5}
    rates = [config["lr"] for config in grid.seen[100]]
    assert rates == [0.5] * 4 + [1e200] + [0.5] * 2
    assert study.trials[1].failure_kind is FailureKind.NAN
    assert study.trials[1].failure_message == "train.loss is inf in round 5"
    assert models[6] == pytest.approx(models[4] + 0.5 * (3.8 - models[4])), "round 6 began with the model of round 4"
    assert math.isfinite(result.arrays["mean"].numpy()[0])


def test_a_run_that_ends_with_such_a_candidate_has_the_model_of_before() -> None:
    study, grid = study_of([0.5, 1e200]), LocalGrid(message_app())
    with OnlineTuner(study, "minimize train.loss", trials=2) as tuner:
        result = tuned(FedAvg(fraction_evaluate=0.0), tuner).start(grid, model(100.0), num_rounds=5)
    assert result.arrays["mean"].numpy()[0] == pytest.approx(3.8 + (100.0 - 3.8) * 0.5**4)


def test_the_default_that_diverges_ends_the_run() -> None:
    study = study_of([1e200, 0.5])
    with (
        OnlineTuner(study, "minimize train.loss", trials=2) as tuner,
        pytest.raises(Failure, match="under the default"),
    ):
        tuned(FedAvg(fraction_evaluate=0.0), tuner).start(LocalGrid(message_app()), model(100.0), num_rounds=5)
    assert study.trials == ()


def test_a_candidate_that_was_not_compared_is_asked_for_again() -> None:
    study = study_of([0.1, 0.2])
    with OnlineTuner(study, "minimize server.loss", trials=2) as tuner:
        drive(tuner, 2, lambda number, lr: lr)
    assert [t.state for t in study.trials] == [TrialState.WAITING]
    with OnlineTuner(study, "minimize server.loss", trials=2) as tuner:
        drive(tuner, 5, lambda number, lr: lr)
    assert [t.state for t in study.trials] == [TrialState.COMPLETED] * 2


def test_mistakes_are_told() -> None:
    space = SearchSpace([Float("lr", 0.1, 1.0)])
    with pytest.raises(UsageError, match="study 'study' is to minimize loss; make one with objectives='maximize gain'"):
        OnlineTuner(Study.create(space, "minimize loss"), "minimize loss", trials=3)
    with pytest.raises(UsageError, match="per is 'watts'; use one of: rounds"):
        OnlineTuner(study_of([0.1]), "minimize loss", trials=3, per="watts")
    with pytest.raises(UsageError, match="trials is None"):
        OnlineTuner(study_of([0.1]), "minimize loss")
    watch = "watch is 'train.accuracy', which no round from 1 on reported; reported were: train.loss"
    with (
        OnlineTuner(study_of([0.1]), "maximize train.accuracy", trials=3) as tuner,
        pytest.raises(UsageError, match=watch),
    ):
        tuned(FedAvg(fraction_evaluate=0.0), tuner).start(LocalGrid(message_app()), model(), num_rounds=3)
