"""Pages of trials and sums over them, computed by the database; each beside the same computed from the records."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autotune.errors import UsageError
from autotune.measurement import Failure, Measurement, Metric
from autotune.reports import Pruned
from autotune.store import Profile, Store, StudyRecord, TrialRecord, TrialState
from autotune.store.queries import environment_of, environments, spent, trial_page
from tests.conformance.store_helpers import WORKER, new_study, proposal

VALUES = [5.0, float("nan"), 3.0, 9.0, 3.0, None, 1.0]


def filled(store: Store) -> tuple[StudyRecord, list[TrialRecord]]:
    """Fourteen trials: seven measured or failed as `VALUES` says, five that failed, one pruned, one that runs."""
    study = new_study(store, options={"fidelities": ["short", "full"]})
    other = new_study(store, "other")
    for number in range(14):
        one = proposal({"x": number}, fidelity="short" if number == 3 else None, suggest_s=0.5)
        one = one if number % 2 else type(one)(**{**one.__dict__, "proposer": "bo"})
        for owner in (study, other):
            (trial,) = store.begin_trials(owner.id, [one], worker_id=WORKER, lease_s=60) or [None]
            assert trial is not None
            if owner is other or number == 13:
                continue
            if number == 12:
                store.finish(study.id, trial, Pruned("behind"), evaluate_s=1.0)
            elif number >= len(VALUES) or (value := VALUES[number]) is None:
                store.finish(study.id, trial, Failure("oom" if number % 3 else "crash"), evaluate_s=float(number))
            else:
                metrics = {"latency_ms": Metric(value, 0.1), "size_mib": Metric(2.0)}
                store.finish(study.id, trial, Measurement(metrics), evaluate_s=2.0)
    return study, store.trials(study.id)


def test_pages_are_the_chosen_trials_in_their_order(store: Store) -> None:
    study, trials = filled(store)
    assert trial_page(store, study.id) == (trials, 14)
    assert trial_page(store, study.id, descending=True, offset=2, limit=3) == (trials[11:8:-1], 14)
    assert trial_page(store, study.id, offset=14) == ([], 14)
    oom = [t for t in trials if t.failure_kind == "oom"]
    assert trial_page(store, study.id, states=["failed"], failure_kinds=["oom"], limit=2) == (oom[:2], len(oom))
    both = [t for t in trials if t.proposer == "bo" and t.state in ("pruned", "completed")]
    states = [TrialState.PRUNED, TrialState.COMPLETED]
    assert trial_page(store, study.id, states=states, proposers=["bo"]) == (both, len(both))
    assert trial_page(store, study.id, states=[]) == ([], 0)


def test_trials_are_ordered_by_a_metric_with_those_last_that_have_none(store: Store) -> None:
    study, _ = filled(store)

    def numbers(**order: object) -> list[int]:
        return [t.number for t in trial_page(store, study.id, **order)[0]]  # type: ignore[arg-type]

    none = [1, 5, *range(7, 14)]
    assert numbers(order_by="latency_ms") == [6, 2, 4, 0, 3, *none]
    assert numbers(order_by="latency_ms", descending=True) == [3, 0, 2, 4, 6, *none]
    assert numbers(order_by="nothing") == list(range(14))
    assert numbers(order_by="evaluate_s")[-3:] == [10, 11, 13] and numbers(order_by="evaluate_s")[0] == 12


@pytest.mark.parametrize("bad", [{"offset": -1}, {"limit": 0}])
def test_a_page_that_cannot_be_is_refused(store: Store, bad: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(bad))} is"):
        trial_page(store, new_study(store).id, **bad)  # type: ignore[arg-type]


def test_seconds_are_summed_by_proposer_and_by_fidelity(store: Store) -> None:
    study, trials = filled(store)
    took = spent(store, study.id)

    def sums(chosen: Callable[[TrialRecord], bool]) -> tuple[int, float, float]:
        found = [t for t in trials if chosen(t)]
        return len(found), sum(t.suggest_s for t in found), sum(t.evaluate_s or 0.0 for t in found)

    for proposer in ("bo", "random"):
        one = took.by_proposer[proposer]
        assert (one.trials, one.suggest, one.evaluate) == sums(lambda t, name=proposer: t.proposer == name)  # type: ignore[misc]
    for fidelity in (None, "short"):
        one = took.by_fidelity[fidelity]
        assert (one.trials, one.suggest, one.evaluate) == sums(lambda t, name=fidelity: t.fidelity == name)  # type: ignore[misc]
    assert (took.total.trials, took.total.suggest) == (14, 7.0)
    assert spent(store, new_study(store, "empty").id).total.trials == 0


def test_machines_are_listed_with_their_trials_and_profiles(store: Store) -> None:
    assert environments(store) == []
    payload = {"gib_per_s": [1.5, 2.0]}
    study = new_study(store, profile=Profile("machine-1", {"cpu": "x"}, "tiers", payload))
    key = store.save_environment("machine-2", {"cpu": "y"})
    (here,) = store.begin_trials(study.id, [proposal({"x": 1})], worker_id=WORKER, lease_s=60, environment_id=key) or []
    (nowhere,) = store.begin_trials(study.id, [proposal({"x": 2})], worker_id=WORKER, lease_s=60) or []
    assert here is not None and nowhere is not None and here.environment_id == key
    assert store.trials(study.id) == [here, nowhere]
    assert store.finish(study.id, here, Failure("oom")).environment_id == key
    second, first = environments(store)
    assert (second.fingerprint, second.details, second.trials, second.profiles) == ("machine-2", {"cpu": "y"}, 1, ())
    assert (first.fingerprint, first.trials) == ("machine-1", 0)
    assert [(p.kind, p.payload) for p in first.profiles] == [("tiers", payload)]
    assert first.profiles[0].created_at.utcoffset() is not None
    found = environment_of(store, here.id)
    assert found is not None and (found.id, found.fingerprint, found.details) == (key, "machine-2", {"cpu": "y"})
    assert environment_of(store, nowhere.id) is None
