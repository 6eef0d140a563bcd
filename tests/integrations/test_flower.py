"""Flower apps under tuning, driven by Flower's own strategies and client apps; messages travel within this process.

Real simulations are in `test_flower_simulation.py`.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("flwr")

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAdam, FedAvg, FedProx

from autotune import Float, SearchSpace, Study, UsageError
from autotune.integrations.flower import (
    ClientState,
    TunedRun,
    by_rank,
    by_speed,
    by_staleness,
    caesar_like,
    open_study,
    tune,
    tuned,
    tuned_run,
)
from autotune.integrations.flower.wire import Scale, sendable
from autotune.measurement import FailureKind
from autotune.space import Config
from autotune.store import TrialState
from tests.integrations.flower_apps import message_app, model
from tests.integrations.local_grid import LocalGrid, pushed_bytes

SPACE = SearchSpace([Float("lr", 0.1, 1.0)])


def peers(**fields: list[Any]) -> list[ClientState]:
    """Clients of one round with these fields, each with all as its peers."""
    count = len(next(iter(fields.values())))
    plain = [ClientState(i, **{name: values[i] for name, values in fields.items()}) for i in range(count)]
    return [ClientState(**{**vars(one), "peers": tuple(plain)}) for one in plain]


def run_with(grid: LocalGrid, rounds: int = 3, **options: Any) -> Callable[[TunedRun], None]:
    def run_app(run: TunedRun) -> None:
        run.tuned(FedAvg(), **options).start(grid, model(), num_rounds=rounds)

    return run_app


def refused(wanted: str) -> Any:
    return pytest.raises(UsageError, match=wanted)


# ------------------------------------------------------------------------------------- rules


def test_who_was_away_longer_gets_more_of_the_model() -> None:
    assert by_staleness(ClientState(1), 8, 0.2) == 1.0
    assert by_staleness(ClientState(1, away=2), 8, 0.2) == pytest.approx(1 - 0.75 * 0.8)
    assert by_staleness(ClientState(1, away=8), 8, 0.2) == 1.0
    assert by_staleness(ClientState(1, away=1), 1000, 0.2) == pytest.approx(0.2, abs=1e-3)


def test_the_most_important_send_most_and_equals_send_alike() -> None:
    told = peers(examples=[10.0, 40.0, 20.0, 20.0, 5.0])
    assert [by_rank(c, "examples", 0.8, 0.25) for c in told] == pytest.approx(
        [0.8 * (1 - 0.75 * r / 4) for r in (3, 0, 1, 1, 4)]
    )
    unknown = peers(examples=[None, None])
    assert [by_rank(c, "examples", 0.8, 0.25) for c in unknown] == [0.8, 0.8]
    alone = peers(examples=[3.0])
    assert by_rank(alone[0], lambda c: c.examples, 0.8, 0.25) == 0.8
    assert by_rank(ClientState(1, examples=3.0), "examples", 0.8, 0.25) == 0.8
    metric = peers(metrics=[{"norm": 2.0}, {"norm": 1.0}])
    assert [by_rank(c, "norm", 1.0, 0.5) for c in metric] == [1.0, 0.5]


def test_slower_clients_get_smaller_batches_by_the_pace_they_had() -> None:
    # 0.5, 1.0 and 0.25 seconds for each sample of a step; the last has not told any.
    told = peers(seconds=[4.0, 8.0, 8.0, None], settings=[{"batch": 8}, {"batch": 8}, {"batch": 32}, {"batch": 8}])
    assert [by_speed(c, 30) for c in told] == [15, 7, 30, 30]
    assert by_speed(told[1], 1) == 1
    assert by_speed(ClientState(1, seconds=3.0), 30) == 30


@given(
    st.lists(st.none() | st.floats(-1e6, 1e6), min_size=1, max_size=8),
    st.floats(0.01, 1.0),
    st.floats(0.01, 1.0),
)
@settings(max_examples=60)
def test_ranked_shares_lie_between_their_ends_and_follow_importance(
    examples: list[float | None], most: float, least: float
) -> None:
    told = peers(examples=examples)
    shares = [by_rank(c, "examples", most, least) for c in told]
    assert all(most * least - 1e-12 <= share <= most for share in shares)
    for one, mine in zip(examples, shares, strict=True):
        for other, yours in zip(examples, shares, strict=True):
            if one is not None and other is not None and one >= other:
                assert mine >= yours


@given(st.integers(1, 50), st.integers(1, 50), st.floats(0.01, 1.0))
@settings(max_examples=60)
def test_staleness_never_sends_less_than_to_the_freshest(round_: int, away: int, freshest: float) -> None:
    now, longer = (by_staleness(ClientState(1, away=a), round_, freshest) for a in (away, away + 1))
    assert freshest - 1e-12 <= now <= longer <= 1.0


def test_the_ready_rule_uses_the_knobs_that_are_there_and_sends_the_rest_as_it_is() -> None:
    config = {"download_keep": 0.5, "upload_keep": 0.8, "importance_share": 0.5, "batch": 16, "lr": 0.1}
    first, second = peers(examples=[10.0, 20.0], away=[1, 2], seconds=[1.0, 2.0], settings=[{"batch": 16}] * 2)
    assert caesar_like(config, 4, first) == {
        "download_keep": pytest.approx(1 - 0.75 * 0.5),
        "upload_keep": pytest.approx(0.4),
        "batch": 16,
        "lr": 0.1,
    }
    assert caesar_like(config, 4, second)["batch"] == 8
    reporting = peers(examples=[10.0, 20.0], metrics=[{"importance": 9.0}, {"importance": 1.0}])
    assert caesar_like({"upload_keep": 0.8, "importance_share": 0.5}, 4, reporting[0]) == {"upload_keep": 0.8}
    assert caesar_like({"lr": 0.1}, 1, ClientState(1)) == {"lr": 0.1}


def test_shares_that_cannot_be_are_refused() -> None:
    with refused("freshest is 0.0; give a share above 0"):
        by_staleness(ClientState(1), 1, 0.0)
    with refused("most is 1.5"):
        by_rank(ClientState(1), "examples", 1.5, 1.0)
    with refused("least_share is -1"):
        by_rank(ClientState(1), "examples", 1.0, -1)
    with refused("batch is 0"):
        by_speed(ClientState(1), 0)


# ----------------------------------------------------------------------------------- the wire


def test_settings_are_sent_in_flowers_types() -> None:
    given_ = {
        "a": np.float32(0.5),
        "b": np.int64(3),
        "c": True,
        "d": None,
        "e": [1, 2.5],
        "f": (1, 2),
        "g": np.arange(2),
    }
    sent = sendable({**given_, "h": "text", "i": b"bytes", "j": []})
    assert sent == {
        "a": 0.5,
        "b": 3,
        "c": True,
        "e": [1.0, 2.5],
        "f": [1, 2],
        "g": [0, 1],
        "h": "text",
        "i": b"bytes",
        "j": [],
    }
    assert [type(sent[name]) for name in "abce"] == [float, int, bool, list]
    ConfigRecord(sent)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ({"a": 1}, "the setting 'x' is a dict; clients can be sent numbers"),
        ([1, "a"], "the setting 'x' is a list of int, str; clients can be sent lists of one type"),
        (2**63, "the setting 'x' is 9223372036854775808, beyond 64 bits"),
    ],
)
def test_what_cannot_be_sent_is_named(value: Any, wanted: str) -> None:
    with refused(wanted):
        sendable({"x": value})


def test_the_older_api_is_sent_no_lists() -> None:
    with refused("the setting 'x' is a list, which clients of Flower's older API cannot be sent"):
        sendable({"x": [1]}, lists=False)


@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["f4", "f8", "i2"])), max_size=4), st.booleans())
@settings(max_examples=25)
def test_bytes_are_those_that_flowers_transport_pushes(shapes: list[tuple[int, str]], twice: bool) -> None:
    arrays = {f"a{i}": Array(np.zeros(size, dtype)) for i, (size, dtype) in enumerate(shapes)}
    content = RecordDict({"arrays": ArrayRecord(arrays), "config": ConfigRecord({"lr": 0.1, "name": "x"})})
    content["metrics"] = MetricRecord({"loss": 1.0})
    if twice:
        content["again"] = ArrayRecord(dict(arrays))
    scale = Scale()
    assert scale.content_bytes(content) == pushed_bytes(content)
    assert scale.content_bytes(content) == pushed_bytes(content), "records that are known weigh the same"


# ----------------------------------------------------------------------------- one run, one trial


def test_clients_receive_what_the_study_asked_for_and_the_study_holds_what_they_report() -> None:
    study = open_study(SPACE, ["minimize error", "minimize upload_bytes"], seed=3)
    grids = []

    def run_app(run: TunedRun) -> None:
        grids.append(LocalGrid(message_app()))
        run.tuned(FedAvg()).start(grids[-1], model(), num_rounds=3)

    result = tune(study, run_app, trials=3)
    assert result.trials["completed"] == 3 and result.stop_reason == "the budget of 3 trials is spent"
    for trial, grid in zip(study.trials, grids, strict=True):
        lr = trial.config["lr"]
        assert grid.seen == {n: [{"server-round": r, "lr": lr} for r in (1, 2, 3)] for n in (100, 101, 102, 103)}
        assert trial.values["train.told-lr"] == pytest.approx(lr)
        # The weighted mean of the targets is 3.8, and each round halves the distance or so.
        mean = 3.8 * (1 - (1 - lr) ** 3)
        assert (
            trial.values["error"]
            == trial.values["evaluate.error"]
            == pytest.approx(np.mean((mean - np.array([1, 2, 3, 6])) ** 2))
        )
        assert trial.values["upload_bytes"] == sum(grid.up.values())
        assert trial.values["download_bytes"] == sum(grid.down.values())
        assert trial.values["evaluate_bytes"] == grid.evaluate
        assert (trial.values["rounds"], trial.values["client_failures"]) == (3, 0)
        assert trial.values["slowest_s"] == pytest.approx(3 * 2.0)
        noted = trial.notes["clients"]["102"]
        assert noted["settings"] == {"lr": lr} and noted["examples"] == 30 and noted["returned"] == 3
        assert noted["upload_bytes"] == grid.up[102] and noted["metrics"]["told-lr"] == lr
        reports: dict[str, list[float]] = {}
        for _, name, value in study.store.reports(trial.id):
            reports.setdefault(name, []).append(value)
        assert reports["upload_bytes"] == pytest.approx([sum(grid.up.values()) * r / 3 for r in (1, 2, 3)], rel=1e-2)
        assert len(reports["error"]) == 3 and reports["error"][-1] == trial.values["error"]


def test_a_rule_sees_who_was_away_and_what_clients_told() -> None:
    """Nodes 0 and 1 in odd rounds, 1 and 2 in even ones; node 2 fails in round 2."""

    class Alternating(FedAvg):
        def configure_train(
            self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Any
        ) -> Iterable[Message]:
            messages = super().configure_train(server_round, arrays, config, grid)
            wanted = (100, 101) if server_round % 2 else (101, 102)
            return [m for m in messages if m.metadata.dst_node_id in wanted]

    def fail(message: Message, context: Context) -> None:
        if context.node_id == 102 and message.content["config"]["round"] == 2:
            raise ValueError("no room")

    states: dict[tuple[int, int | str], ClientState] = {}

    def rule(config: dict[str, Any], round_: int, client: ClientState) -> dict[str, Any]:
        states[round_, client.node_id] = client
        return {"lr": config["lr"] / round_, "round": round_, "node": client.node_id}

    grid = LocalGrid(message_app(fail))
    strategy = tuned(Alternating(fraction_evaluate=0.0), {"lr": 0.5}, per_client=rule)
    strategy.start(grid, model(), num_rounds=4)
    assert grid.seen[100] == [{"server-round": r, "lr": 0.5 / r, "round": r, "node": 100} for r in (1, 3)]
    assert grid.seen[102] == [{"server-round": r, "lr": 0.5 / r, "round": r, "node": 102} for r in (2, 4)]
    away = {key: state.away for key, state in states.items()}
    assert away == {
        (1, 100): None, (1, 101): None,
        (2, 101): 1, (2, 102): None,
        (3, 100): 2, (3, 101): 1,
        (4, 101): 1, (4, 102): None,
    }  # fmt: skip
    failed, known = states[4, 102], states[3, 100]
    assert (failed.returned, failed.failures, failed.examples) == (0, 1, None)
    assert (known.returned, known.examples, known.seconds) == (1, 10, 0.5)
    assert known.settings == {"lr": 0.5, "round": 1, "node": 100} and known.metrics["told-lr"] == 0.5
    assert {p.node_id for p in known.peers} == {100, 101}


def test_a_strategy_stays_what_it_is() -> None:
    class Saving(FedAvg):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.saved: list[float] = []

        def start(self, grid: Any, initial_arrays: ArrayRecord, num_rounds: int = 3) -> str:  # type: ignore[override]
            super().start(grid, initial_arrays, num_rounds, evaluate_fn=self.keep)
            return "saved"

        def keep(self, server_round: int, arrays: ArrayRecord) -> None:
            self.saved.append(float(arrays["mean"].numpy()[0]))

    plain, grid = Saving(fraction_evaluate=0.5, min_evaluate_nodes=1), LocalGrid(message_app())
    made = tuned(plain, {"lr": 1.0})
    assert isinstance(made, Saving) and made.fraction_evaluate == 0.5 and type(made).__name__ == "TunedSaving"
    assert made.start(grid, model(), num_rounds=2) == "saved"  # type: ignore[comparison-overlap]
    assert made.saved == pytest.approx([0.0, 3.8, 3.8])
    assert type(plain) is Saving


@pytest.mark.parametrize(
    "strategy",
    [
        lambda: FedProx(proximal_mu=0.1),
        lambda: FedAdam(eta=0.1),
        lambda: DifferentialPrivacyServerSideFixedClipping(FedAvg(), 0.0, 100.0, 4),
    ],
)
def test_flowers_other_strategies_are_tuned_alike(strategy: Callable[[], Any]) -> None:
    study, grid = open_study(SPACE, "minimize train.loss"), LocalGrid(message_app())
    with tuned_run(study) as run:
        run.tuned(strategy()).start(grid, model(), num_rounds=2)
    assert run.record is not None and run.record.state is TrialState.COMPLETED
    assert [config["lr"] for config in grid.seen[100]] == [run.config["lr"]] * 2
    assert run.record.values["upload_bytes"] == sum(grid.up.values())


def test_settings_take_the_place_of_the_strategys_own_by_the_same_name() -> None:
    grid = LocalGrid(message_app())
    rule = lambda config, round_, client: {"lr": 0.5, "proximal-mu": config["mu"]}  # noqa: E731
    tuned(FedProx(proximal_mu=0.1), {"mu": 0.7}, per_client=rule).start(grid, model(), num_rounds=1)
    assert grid.seen[100] == [{"server-round": 1, "lr": 0.5, "proximal-mu": 0.7}]


def test_models_are_packed_for_each_client_and_updates_unpacked_before_they_are_averaged() -> None:
    def fail(message: Message, context: Context) -> None:
        assert message.content["arrays"]["mean"].numpy().dtype == np.float16

    def pack(arrays: ArrayRecord, chosen: Any) -> ArrayRecord:
        return ArrayRecord({"mean": Array(arrays["mean"].numpy().astype(chosen["dtype"]))})

    def unpack(update: ArrayRecord, chosen: Any, before: ArrayRecord) -> ArrayRecord:
        change = update["mean"].numpy().astype("f8") - before["mean"].numpy()
        return ArrayRecord({"mean": Array(before["mean"].numpy() + chosen["weight"] * change)})

    def rule(config: Config, round_: int, client: ClientState) -> dict[str, Any]:
        return {"lr": 1.0, "dtype": "f2", "weight": 1.0 if client.node_id == 103 else 0.0}

    halves, grid = LocalGrid(message_app(fail)), LocalGrid(message_app())
    strategy = tuned(FedAvg(), {}, per_client=rule, pack=pack, unpack=unpack)
    result = strategy.start(halves, model(2.0, size=1000), num_rounds=1)
    assert result.arrays["mean"].numpy() == pytest.approx(2.0 + (6.0 - 2.0) * 0.4), "of 100 examples, node 103 has 40"
    tuned(FedAvg(), {"lr": 1.0}).start(grid, model(2.0, size=1000), num_rounds=1)
    assert grid.down[100] - halves.down[100] == pytest.approx(6000, abs=100), "each number took two bytes, not eight"


def test_an_app_with_a_loop_of_its_own_reports_rounds_itself() -> None:
    study = open_study(SPACE, "minimize loss")
    with tuned_run(study) as run:
        for number in (1, 2):
            run.report(number, {"loss": 1.0 / number})
        run.measured(test_loss=0.75)
    assert run.record is not None and run.record.values["loss"] == 0.5 and run.record.values["test_loss"] == 0.75
    assert [(s, v) for s, name, v in study.store.reports(run.record.id) if name == "loss"] == [(1, 1.0), (2, 0.5)]


def test_the_servers_evaluation_counts_from_before_the_first_round() -> None:
    study, grid = open_study(SPACE, "maximize accuracy"), LocalGrid(message_app())
    with tuned_run(study) as run:
        strategy = run.tuned(FedAvg())
        strategy.start(grid, model(), num_rounds=2, evaluate_fn=lambda r, arrays: MetricRecord({"accuracy": r / 2}))
    assert run.record is not None and run.record.values["accuracy"] == run.record.values["server.accuracy"] == 1.0
    told = [(s, v) for s, name, v in study.store.reports(run.record.id) if name == "accuracy"]
    assert told == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert run.record.values["rounds"] == 2


def test_what_the_app_returns_is_measured_too() -> None:
    study, grid = open_study(SPACE, "minimize final"), LocalGrid(message_app())

    def run_app(run: TunedRun) -> dict[str, float]:
        result = run.tuned(FedAvg()).start(grid, model(), num_rounds=1)
        return {"final": float(result.arrays["mean"].numpy()[0])}

    best = tune(study, run_app, trials=1).best
    assert best is not None and best.metrics["final"] == pytest.approx(3.8 * best.config["lr"])


# --------------------------------------------------------------------------------- what can go wrong


def test_a_metric_that_nobody_reports_is_named_and_the_trial_given_back() -> None:
    study = open_study(SPACE, "maximize accuracy")
    with refused(
        "the study is about the metric 'accuracy', which neither clients nor the server reported; reported were: "
        "train.loss, .*evaluate.error, rounds"
    ):
        tune(study, run_with(LocalGrid(message_app())), trials=3)
    (trial,) = study.trials
    assert trial.state is TrialState.WAITING


def test_a_metric_that_two_report_must_be_named_with_its_reporter() -> None:
    study = open_study(SPACE, "minimize error")
    with refused("'error', which is reported as evaluate.error and as train.error; name one of these"):
        tune(study, run_with(LocalGrid(message_app(report="error"))), trials=1)
    named = open_study(SPACE, "minimize train.error", name="named")
    assert tune(named, run_with(LocalGrid(message_app(report="error"))), trials=1).best is not None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_run_that_diverges_ends_at_that_round_and_is_told_as_nan(bad: float) -> None:
    study, rounds = open_study(SPACE, "maximize accuracy"), []

    def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord:
        rounds.append(server_round)
        return MetricRecord({"loss": bad if server_round == 2 else 1.0, "accuracy": 0.5})

    with tuned_run(study) as run:
        run.tuned(FedAvg()).start(LocalGrid(message_app()), model(), num_rounds=9, evaluate_fn=evaluate)
    assert run.record is not None and run.record.failure_kind is FailureKind.NAN
    assert run.record.failure_message == f"server.loss is {bad} in round 2"
    assert rounds == [0, 1, 2]


def test_what_flower_wraps_is_told_as_what_it_was() -> None:
    """Its simulation runs the server in a thread, and may raise something else in the end."""
    study = open_study(SPACE, "minimize loss")
    with tuned_run(study) as run:
        try:
            run.tuned(FedAvg()).start(
                LocalGrid(message_app()), model(), 3, evaluate_fn=lambda r, arrays: MetricRecord({"loss": math.nan})
            )
        except Exception as error:
            raise RuntimeError("An error was encountered. Ending simulation.") from error
    assert run.record is not None and run.record.failure_kind is FailureKind.NAN
    swallowing = open_study(SPACE, "minimize loss", name="swallowing")
    nothing = lambda config, round_, client: None  # noqa: E731
    wanted = refused("per_client returned None; return a mapping")
    with wanted, tuned_run(swallowing) as run, contextlib.suppress(UsageError):
        run.tuned(FedAvg(), per_client=nothing).start(LocalGrid(message_app()), model())


def test_a_crash_is_told_and_passed_on_and_a_search_goes_on_with_a_warning() -> None:
    study = open_study(SPACE, "minimize error")
    with pytest.raises(ZeroDivisionError), tuned_run(study) as run:
        run.tuned(FedAvg())
        raise ZeroDivisionError("by zero")
    assert run.record is not None and run.record.failure_kind is FailureKind.CRASH
    assert run.record.failure_message == "ZeroDivisionError: by zero"

    def run_app(run: TunedRun) -> None:
        if run.number == 1:
            raise MemoryError
        run.tuned(FedAvg()).start(LocalGrid(message_app()), model(), num_rounds=1)

    with pytest.warns(RuntimeWarning, match="trial 1 failed: MemoryError"):
        result = tune(study, run_app, trials=3)
    assert result.trials["failures"] == {"crash": 1, "oom": 1} and result.trials["completed"] == 1


def test_a_trial_that_is_another_workers_by_now_is_left_to_it() -> None:
    study, grid = open_study(SPACE, "minimize error"), LocalGrid(message_app())

    def run_app(run: TunedRun) -> None:
        if run.number == 0:
            study.tell(run.trial, {"error": 7.0})
        run_with(grid, rounds=2)(run)

    assert tune(study, run_app, trials=2).trials["completed"] == 2
    assert study.trials[0].values == {"error": 7.0}
    assert len(grid.seen[100]) == 1 + 2, "the first run ended where it could not report"


def test_clients_that_fail_are_counted_and_the_others_are_measured() -> None:
    def fail(message: Message, context: Context) -> None:
        if context.node_id in (100, 101) and message.metadata.message_type == "train":
            raise ValueError("no data")

    study = open_study(SPACE, "minimize error")
    with tuned_run(study) as run:
        run.tuned(FedAvg()).start(LocalGrid(message_app(fail)), model(), num_rounds=2)
    assert run.record is not None and run.record.values["client_failures"] == 4
    assert run.record.notes["clients"]["100"]["failures"] == 2
    assert run.rounds[0].trained == 2 and run.rounds[0].failure == "ValueError: no data"


@pytest.mark.parametrize(
    ("error", "kind"),
    [(ValueError("no data"), "crash"), (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "oom")],
)
def test_a_run_from_which_no_client_came_back_has_failed(error: Exception, kind: str) -> None:
    def fail(message: Message, context: Context) -> None:
        raise error

    study = open_study(SPACE, "minimize loss")
    with tuned_run(study) as run:
        evaluate = lambda r, arrays: MetricRecord({"loss": 1.0})  # noqa: E731 - of a model that nobody has trained
        run.tuned(FedAvg(fraction_evaluate=0.0)).start(LocalGrid(message_app(fail)), model(), 2, evaluate_fn=evaluate)
    assert run.record is not None and run.record.failure_kind == kind
    said = f"no client came back from training; the last one said: {type(error).__name__}: {error}"
    assert run.record.failure_message == said


def test_clients_that_never_answer_are_a_timeout() -> None:
    study = open_study(SPACE, "minimize error")
    with tuned_run(study) as run:
        run.tuned(FedAvg()).start(LocalGrid(message_app(), lost=lambda message: True), model(), num_rounds=2)
    assert run.record is not None and run.record.failure_kind is FailureKind.TIMEOUT
    failing = LocalGrid(message_app(), lost=lambda message: message.metadata.message_type == "evaluate")
    with tuned_run(study) as run:
        run.tuned(FedAvg()).start(failing, model(), num_rounds=2)
    assert run.record is not None and run.record.failure_message == (
        "no client came back from evaluation; the last one said: no reply in time"
    )


def test_an_interrupted_run_is_begun_anew_in_the_study_that_is_gone_on_with(tmp_path: Path) -> None:
    url, grid = f"sqlite:///{tmp_path / 'runs.db'}", LocalGrid(message_app())
    made = {"objectives": "minimize error", "storage": url, "name": "flower", "seed": 1}

    def interrupt(server_round: int, arrays: ArrayRecord) -> None:
        if server_round == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), tuned_run(open_study(SPACE, **made)) as run:
        run.tuned(FedAvg()).start(grid, model(), num_rounds=3, evaluate_fn=interrupt)
    result = tune(open_study(SPACE, **made), run_with(grid), trials=2)
    assert result.trials["completed"] == 2
    study = Study.load("flower", url)
    assert [t.number for t in study.trials] == [0, 1]
    first = study.trials[0]
    assert first.config == run.config and first.attempt == 2
    assert [s for s, name, _ in study.store.reports(first.id) if name == "error"] == [1, 2, 3]
    more = tune(open_study(SPACE, **made), run_with(grid), trials=3)
    assert more.trials["completed"] == 3
    with refused("has the objectives"):
        open_study(SPACE, "maximize error", storage=url, name="flower")


def test_a_run_beyond_a_limit_on_bytes_is_pruned_before_its_next_round() -> None:
    """Trial 0, the default, always ends; the sizes of all rounds are the same."""
    whole, grid = LocalGrid(message_app()), LocalGrid(message_app())
    tuned(FedAvg(), {"lr": 0.5}).start(whole, model(), num_rounds=4)
    limit = sum(whole.up.values()) * 2.5 / 4
    study = open_study(SPACE, "minimize error", constraints=[f"upload_bytes <= {limit}"])
    tune(study, run_with(grid, rounds=4), trials=2)
    default, other = study.trials
    assert default.state is TrialState.COMPLETED and default.values["rounds"] == 4
    assert other.state is TrialState.PRUNED
    assert len(grid.seen[100]) == 4 + 3
    assert other.reported["upload_bytes"] == pytest.approx(sum(whole.up.values()) * 3 / 4, rel=0.01)


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (lambda: tuned(3, {}), "strategy is 3; give a strategy of flwr.serverapp.strategy"),
        (lambda: tuned(tuned(FedAvg(), {}), {}), "strategy is TunedFedAvg, which is tuned already"),
        (lambda: tuned(FedAvg(), {}, per_client=3), r"per_client is 3; give a function of \(config, round_, client\)"),
        (lambda: tuned(FedAvg(), {}, pack=lambda model: model), "which does not take 2 arguments; give a function of"),
    ],
)
def test_mistakes_are_told_when_a_strategy_is_wrapped(make: Callable[[], Any], wanted: str) -> None:
    with refused(wanted):
        make()


def test_a_strategy_with_several_config_records_says_which_is_for_settings() -> None:
    class Two(FedAvg):
        def configure_train(self, *args: Any) -> Iterable[Message]:
            for message in super().configure_train(*args):
                message.content = RecordDict({**message.content, "other": ConfigRecord({"x": 1})})
                yield message

    assert [len(c) for c in _two(Two()).seen.values()] == [2] * 4
    with refused("have the config records config, other; give it an attribute configrecord_key"):
        strategy = Two()
        strategy.configrecord_key = "config"
        made = tuned(strategy, {"lr": 1.0})
        made.configrecord_key = "settings"
        grid = LocalGrid(message_app())
        made._outgoing("train", Two().configure_train(1, model(), ConfigRecord(), grid))


def _two(strategy: FedAvg) -> LocalGrid:
    grid = LocalGrid(message_app())
    tuned(strategy, {"lr": 1.0}).start(grid, model(), num_rounds=1)
    return grid
