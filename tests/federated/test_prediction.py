"""What is told before a configuration is trained: bytes as the ledger counts them, and an order that people would expect."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

import autotune
from autotune import UsageError
from autotune.domain import Problem
from autotune.strategies.fixed_point import solve
from evaluators.federated.job import Job
from evaluators.federated.methods import make_method
from evaluators.federated.prediction import METRICS, Prediction, Rule
from evaluators.federated.reference import Reference
from evaluators.federated.settings import Settings
from evaluators.federated.starts import ASSUMED
from evaluators.federated.trained import Trained
from search_spaces.compression import DOMAIN

_ROUNDS = 6
_PLAIN: dict[str, Any] = {"local_steps": 1, "batch": 4, "learning_rate": 0.1}


@pytest.fixture(scope="module")
def trained() -> Trained:
    options = DOMAIN.options(
        task="digits", hidden=24, devices=12, participation=0.5, dropout=0.2, repeats=2, rounds=40, target_accuracy=0.85
    )
    found = DOMAIN.problem(options).evaluators["trained"]
    assert isinstance(found, Trained)
    return found


@pytest.fixture(scope="module")
def job(trained: Trained) -> Job:
    return trained.job


@pytest.fixture(scope="module")
def prediction(trained: Trained) -> Prediction:
    return Prediction(trained.job, lambda: trained.reference)


def _measured(job: Job, settings: Settings) -> tuple[list[float], list[float]]:
    """Bytes down and up of each round of a real run."""
    method = make_method(job.worlds[0], settings)
    down, up = [0.0], [0.0]
    for round_ in range(_ROUNDS):
        method.round(round_)
        down.append(float(method.ledger.down_bytes.sum()))
        up.append(float(method.ledger.up_bytes.sum()))
    return np.diff(down).tolist(), np.diff(up).tolist()


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"compressor": "top-k", "upload_keep": 0.05, "feedback": "ef", "download": "half"},
        {"compressor": "quantise", "upload_keep": 0.1, "download": "quantise", "download_keep": 0.2},
        {"compressor": "sign", "feedback": "ef", "warmup_rounds": 2, "download": "top-k", "download_keep": 0.1},
        {"compressor": "low-rank", "upload_keep": 0.25, "download": "low-deviation", "download_keep": 0.4},
        {"compressor": "rand-k", "upload_keep": 0.1, "method": "scallion", "download": "top-k", "download_keep": 0.2},
        {"compressor": "top-k", "upload_keep": 0.1, "method": "diloco", "download": "quantise", "download_keep": 0.25},
        {"compressor": "rand-k", "upload_keep": 0.5, "adapter_rank": 4, "download": "half"},
    ],
)  # fmt: skip
def test_bytes_of_a_round_are_the_ledgers(job: Job, prediction: Prediction, given: dict[str, Any]) -> None:
    settings = Settings(**{**_PLAIN, **given})
    told_down, told_up = prediction.round_bytes({**_PLAIN, **given})
    down, up = _measured(job, settings)
    assert told_down[:_ROUNDS].tolist() == down
    assert told_up[:_ROUNDS].tolist() == up


@pytest.mark.parametrize(
    "given",
    [
        {"compressor": "fedzip", "upload_keep": 0.25, "feedback": "ef", "download": "fedzip", "download_keep": 0.1},
        {"compressor": "quantise", "upload_keep": 0.9, "importance_share": 0.44, "warmup_rounds": 2},
        {"compressor": "top-k", "upload_keep": 0.9, "importance_share": 0.2, "warmup_rounds": 4},
        {"compressor": "low-rank", "upload_keep": 0.25, "importance_share": 0.44, "feedback": "ef"},
        {"compressor": "none", "download": "low-deviation", "download_keep": 0.1, "staleness": True},
        {"compressor": "none", "download": "top-k", "download_keep": 0.1, "staleness": True},
    ],
)  # fmt: skip
def test_bytes_that_depend_on_numbers_and_ranks_are_near_the_ledgers(
    job: Job, prediction: Prediction, given: dict[str, Any]
) -> None:
    settings = Settings(**{**_PLAIN, **given})
    told_down, told_up = prediction.round_bytes({**_PLAIN, **given})
    down, up = _measured(job, settings)
    assert told_down[:_ROUNDS].sum() == pytest.approx(sum(down), rel=0.08)
    assert told_up[:_ROUNDS].sum() == pytest.approx(sum(up), rel=0.08)


def _told(prediction: Prediction, **given: Any) -> dict[str, float]:
    found = prediction.predict([{**_PLAIN, "batch": 16, "local_steps": 5, **given}])
    assert set(found) == set(METRICS)
    return {name: float(values[0]) for name, values in found.items()}


def test_traffic_is_its_two_directions_over_the_rounds_told(prediction: Prediction) -> None:
    given = {"compressor": "top-k", "upload_keep": 0.1, "feedback": "ef", "download": "half"}
    told = _told(prediction, **given)
    assert told["traffic_mib"] == told["upload_mib"] + told["download_mib"]
    down, up = prediction.round_bytes({**_PLAIN, **given})
    rounds = int(told["rounds"])
    assert up[:rounds].sum() <= told["upload_mib"] * 2**20 <= up[: rounds + 1].sum()
    assert down[:rounds].sum() <= told["download_mib"] * 2**20 <= down[: rounds + 1].sum()
    assert told["time_s"] > 0.0


def test_rounds_are_ordered_as_people_expect(prediction: Prediction) -> None:
    def rounds(**given: Any) -> float:
        return _told(prediction, **given)["rounds"]

    assert rounds(local_steps=20) < rounds(local_steps=5) < rounds(local_steps=1)
    assert rounds(learning_rate=0.2) < rounds(learning_rate=0.1)
    sparse = {"compressor": "top-k", "upload_keep": 0.02}
    assert rounds() < rounds(**sparse, feedback="ef") < rounds(**sparse, feedback="none")
    assert rounds(**sparse, feedback="ef") > rounds(compressor="top-k", upload_keep=0.5, feedback="ef")
    assert rounds(**sparse, feedback="ef") > rounds(**sparse, feedback="ef", warmup_rounds=5)
    assert rounds(compressor="quantise", upload_keep=0.25) == pytest.approx(rounds(), rel=0.02)
    strong = {"compressor": "top-k", "upload_keep": 0.02, "feedback": "econtrol"}
    assert rounds(**strong, feedback_strength=1.0) > rounds(**strong, feedback_strength=0.1)


def test_traffic_is_ordered_as_people_expect(prediction: Prediction) -> None:
    def traffic(**given: Any) -> float:
        return _told(prediction, **given)["traffic_mib"]

    up = {"compressor": "top-k", "upload_keep": 0.1, "feedback": "ef"}
    both = {**up, "download": "top-k", "download_keep": 0.1}
    assert traffic(**both) < traffic(**up) < traffic()
    assert traffic(**both) < traffic(**both, warmup_rounds=20)
    assert traffic(**both, staleness=True) > traffic(**both)


def test_what_the_rule_does_not_know_and_what_cannot_be_trained_is_left_open(trained: Trained) -> None:
    searched = Prediction(replace(trained.job, given={}), lambda: trained.reference)
    told = searched.predict([
        {"method": "seeds", **_PLAIN},
        {"method": "gossip", **_PLAIN},
        {**_PLAIN, "compressor": "top-k", "upload_keep": 2.0},
        {**_PLAIN},
    ])  # fmt: skip
    assert np.isnan(told["traffic_mib"]).tolist() == [True, True, True, False]


def test_final_accuracy_falls_with_what_slows_training_down(prediction: Prediction) -> None:
    def drop(**given: Any) -> float:
        return _told(prediction, **given)["accuracy_drop_points"]

    sparse = {"compressor": "top-k", "upload_keep": 0.02}
    assert 0.0 < drop() < drop(**sparse, feedback="ef") < drop(**sparse, feedback="none")
    assert drop(**sparse, feedback="ef") < drop(**sparse, feedback="dgc", momentum=0.5)
    assert drop(**sparse, feedback="dgc", momentum=0.5) < drop(**sparse, feedback="dgc", momentum=0.9)
    assert drop(download="top-k", download_keep=0.05) > drop(download="top-k", download_keep=0.4)


def test_without_compression_what_was_measured_is_told(trained: Trained, prediction: Prediction) -> None:
    plain = trained.job.plain
    told = _told(prediction, local_steps=plain.local_steps, batch=plain.batch, learning_rate=plain.learning_rate)
    measured = trained(asdict(plain)).values()
    assert told["rounds"] == pytest.approx(measured["rounds"])
    assert measured["accuracy_drop_points"] == 0.0
    assert told["accuracy_drop_points"] == pytest.approx(Rule().points)  # noise


def test_accuracy_is_that_of_the_plain_run_as_far_on_its_way(trained: Trained) -> None:
    reference = trained.reference
    assert reference.accuracy_after(np.array([40.0, 1e6])).tolist() == pytest.approx([reference.final_accuracy] * 2)
    early, late = reference.accuracy_after(np.array([4.0, 20.0]))
    assert early < late < reference.final_accuracy


def test_where_plain_training_diverges_nothing_is_told(job: Job) -> None:
    wild = Trained(replace(job, plain=replace(job.plain, learning_rate=1e3)))
    asked: list[None] = []

    def reference() -> Reference:
        asked.append(None)
        return wild.reference

    prediction = Prediction(wild.job, reference)
    for sensitivity in (1.0, 2.0):
        told = prediction.with_sensitivity(sensitivity).predict([{**_PLAIN}])
        assert np.isnan(told["traffic_mib"]).all()
    assert len(asked) == 1  # it is not trained over and over again


def test_training_longer_than_was_counted_goes_on_at_the_same_pace(job: Job, prediction: Prediction) -> None:
    # At a thousandth of the usual rate no round goes far; six devices are sent the whole model in each.
    told = _told(prediction, learning_rate=1e-4)
    assert told["rounds"] > job.rounds
    assert told["download_mib"] * 2**20 == pytest.approx(told["rounds"] * 6 * 4 * job.task.learner.tensors.size)


# --------------------------------------------------------------------------------- where a search may begin


def _problem(**options: Any) -> Problem:
    small = {"task": "digits", "hidden": 24, "devices": 12, "participation": 0.5, "repeats": 1, "rounds": 40}
    return DOMAIN.problem(DOMAIN.options(**small, **options))


def test_starts_differ_in_how_they_compress_and_beat_what_people_use() -> None:
    built = _problem()
    runs = solve(built.domain_map)
    found = {run.start: run.best.config for run in runs}
    for assumed in ("bold", "careful"):
        both = [config for name, config in found.items() if name.startswith(assumed)]
        assert len(both) == 2
        for name in ("compressor", "download"):
            assert len({config[name] for config in both}) == 2
    assert all(built.space.contains(config) for config in found.values())
    usual = [built.default, *built.baselines.values()]
    assert isinstance(built.predictor, Prediction)
    told = built.predictor.predict([runs[0].best.config, *usual])
    assert told["traffic_mib"][0] < np.nanmin(told["traffic_mib"][1:])
    assert [run.best.loss for run in runs] == sorted(run.best.loss for run in runs)


def test_careful_starts_lose_less_and_learn_at_the_usual_rate() -> None:
    built = _problem(learning_rate="0.1,0.2,0.4,0.8")
    found = {run.start: run.best.config for run in solve(built.domain_map)}
    assert isinstance(built.predictor, Prediction)
    drops: dict[str, list[float]] = {}
    for name, config in found.items():
        (drop,) = built.predictor.predict([config])["accuracy_drop_points"]
        drops.setdefault(name.split(",")[0], []).append(float(drop))
        if name.startswith("careful"):
            assert config["learning_rate"] <= built.predictor.job.plain.learning_rate
    assert max(drops["careful"]) < min(drops["bold"])


def test_what_compression_slows_down_it_slows_down_more_on_sensitive_tasks(prediction: Prediction) -> None:
    sparse = {"compressor": "top-k", "upload_keep": 0.02, "feedback": "ef"}
    plain = _told(prediction)["rounds"]
    slower = _told(prediction, **sparse)["rounds"] / plain
    twice = prediction.with_sensitivity(2.0)
    assert _told(twice)["rounds"] == plain
    assert _told(twice, **sparse)["rounds"] / plain == pytest.approx(slower**2)
    assert _told(prediction, **sparse)["rounds"] / plain == slower


def test_starts_keep_to_the_accuracy_that_may_be_lost() -> None:
    losses = []
    for limit in (0.2, 20.0):
        built = _problem(accuracy_drop=limit, local_steps=5, learning_rate=0.2)
        assert isinstance(built.predictor, Prediction)
        (config,) = [run.best.config for run in solve(built.domain_map) if run.start.startswith("bold")][:1]
        assumed = built.predictor.with_sensitivity(ASSUMED[0].sensitivity)
        losses.append(float(assumed.predict([config])["accuracy_drop_points"][0]))
    assert losses[0] < 0.25 < losses[1]  # what lies just beyond counts as a little more traffic


def test_a_compressor_that_is_given_is_that_of_every_start() -> None:
    built = _problem(compressor="top-k", download="none")
    runs = solve(built.domain_map)
    assert {run.start for run in runs} <= {"bold", "careful"}
    job: Job = built.evaluators["trained"].job  # type: ignore[attr-defined]
    for run in runs:
        settings = job.settings(run.best.config)
        assert (settings.compressor, settings.download) == ("top-k", "none")


def test_methods_that_the_rule_does_not_know_have_no_starts() -> None:
    with pytest.raises(UsageError, match="fixed-point"):
        autotune.search(
            "compression", options={"method": "gossip", "devices": 8, "rounds": 4}, trials=1, strategy="fixed-point"
        )


def test_a_search_measures_the_starts_first() -> None:
    options = {"hidden": 8, "devices": 8, "rounds": 3, "repeats": 1, "target_accuracy": 0.05, "accuracy_drop": 100.0}
    result = autotune.search("compression", options=options, trials=14, strategy="auto", pruner="none")
    proposers = [trial.proposer for trial in result.study.trials]
    assert proposers.count("fixed-point") == 4
    assert all(math.isfinite(trial.notes["predicted"]["traffic_mib"]) for trial in result.study.trials)
