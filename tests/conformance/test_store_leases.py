"""Who may finish a trial, and who is handed it when its worker is gone: on every database."""

from __future__ import annotations

import pytest

from autotune.errors import LeaseLostError
from autotune.measurement import Failure, FailureKind
from autotune.store import Store, TrialState
from autotune.store.store import MAX_ATTEMPTS
from autotune.store.workers import is_dead, worker_name
from tests.conformance.store_helpers import OTHER, begin, measured, new_study


def test_only_the_holder_finishes_and_only_once(store: Store) -> None:
    study = new_study(store)
    trial = begin(store, study, {"x": 1})
    done = store.finish(study.id, trial, measured(1.0))
    for act in (
        lambda: store.finish(study.id, trial, measured(2.0)),
        lambda: store.release(study.id, trial),
        lambda: store.extend_lease(trial, 60),
    ):
        with pytest.raises(LeaseLostError, match="trial 0 is not leased"):
            act()
    assert store.trials(study.id) == [done]
    assert store.samples(trial.id) == {}


def test_a_live_lease_is_not_taken(store: Store) -> None:
    study = new_study(store)
    begin(store, study, {"x": 1})
    assert store.take_over(study.id, worker_id=OTHER, lease_s=60) is None


def test_an_expired_lease_is_taken_and_its_first_holder_is_refused(store: Store) -> None:
    study = new_study(store)
    trial = begin(store, study, {"x": 1})
    store.extend_lease(trial, -1.0)
    environment = store.save_environment("host", {})
    taken = store.take_over(study.id, worker_id=OTHER, lease_s=60, environment_id=environment)
    assert taken is not None
    assert (taken.number, taken.worker_id, taken.attempt, taken.config) == (0, OTHER, 2, {"x": 1})
    assert store.trials(study.id) == [taken]
    with pytest.raises(LeaseLostError):
        store.finish(study.id, trial, measured(1.0))
    assert store.finish(study.id, taken, measured(2.0)).values == {"latency_ms": 2.0}


def test_a_released_trial_is_handed_out_again_in_order(store: Store) -> None:
    study = new_study(store)
    trials = [begin(store, study, {"x": i}) for i in range(3)]
    store.release(study.id, trials[2])
    store.release(study.id, trials[0])
    assert [t.state for t in store.trials(study.id)] == ["waiting", "running", "waiting"]
    taken = [store.take_over(study.id, worker_id=OTHER, lease_s=60) for _ in range(3)]
    assert [t and t.number for t in taken] == [0, 2, None]


def test_a_trial_of_a_process_that_is_gone_is_taken_at_once(store: Store) -> None:
    study = new_study(store)
    host, pid, started = worker_name().rsplit(":", 2)
    before_us = f"{host}:{pid}:{float(started) - 1000:.2f}"  # the same process number, used before we were
    begin(store, study, {"x": 1}, worker=before_us)
    begin(store, study, {"x": 2}, worker=worker_name())
    taken = store.take_over(study.id, worker_id=worker_name(), lease_s=60)
    assert taken is not None and taken.number == 0
    assert store.take_over(study.id, worker_id=worker_name(), lease_s=60) is None


@pytest.mark.parametrize("name", [None, "", "x", "a:b", "::", "elsewhere:1:1.00", "host:name:pid:1.0"])
def test_nothing_is_said_of_workers_that_cannot_be_known(name: str | None) -> None:
    assert not is_dead(name)


def test_a_trial_whose_workers_keep_vanishing_is_given_up(store: Store) -> None:
    study = new_study(store)
    trial = begin(store, study, {"x": 1})
    for _ in range(MAX_ATTEMPTS - 1):
        store.extend_lease(trial, -1.0)
        taken = store.take_over(study.id, worker_id=OTHER, lease_s=60)
        assert taken is not None
        trial = taken
    store.extend_lease(trial, -1.0)
    assert store.take_over(study.id, worker_id=OTHER, lease_s=60) is None
    (read,) = store.trials(study.id, since=trial.revision)
    assert (read.state, read.failure_kind) == (TrialState.FAILED, FailureKind.INFRA)
    assert "3 attempts" in (read.failure_message or "")


def test_an_infra_failure_is_retried_a_bounded_number_of_times(store: Store) -> None:
    study = new_study(store)
    trial = begin(store, study, {"x": 1}, notes={"run": 3})
    states = []
    for _ in range(MAX_ATTEMPTS):
        told = store.finish(study.id, trial, Failure("infra", "node died"), evaluate_s=2.0)
        states.append(told.state)
        assert store.trials(study.id) == [told]
        assert told.notes == {"run": 3}
        trial = store.take_over(study.id, worker_id=OTHER, lease_s=60) or trial
    assert states == [TrialState.WAITING] * (MAX_ATTEMPTS - 1) + [TrialState.FAILED]
    once = store.finish(study.id, begin(store, study, {"x": 2}), Failure("infra"), retry=False)
    assert once.state is TrialState.FAILED
