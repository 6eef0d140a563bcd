"""Training over real gloo processes against the simulation: bytes, weights, failures, and the hook in a script of one's own."""

from __future__ import annotations

import inspect
import json
import math
import os
import re
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed import HashStore
from torch.nn.parallel import DistributedDataParallel

from autotune import Failure, FailureKind, UsageError
from autotune.execution.process import Limits, SessionProcess
from evaluators.federated.compressors import COMPRESSORS, make
from evaluators.federated.feedback import make_feedback
from evaluators.federated.settings import Settings
from evaluators.federated.tensors import Tensors
from evaluators.federated.wire.comparison import compare
from evaluators.federated.wire.ends import Receiver, Sender
from evaluators.federated.wire.hook import register
from evaluators.federated.wire.network import HEADER_BYTES, Pace
from evaluators.federated.wire.run import WORKER, Calibration, Link, Outcome, WireRun, simulate, train

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wire")]

ROUNDS = 3
KEEP = {"top-k": 0.05, "rand-k": 0.2, "quantise": 0.25, "nonuniform": 0.25, "fedzip": 0.1, "low-rank": 0.3}
SLOW = Link(up_mbit_s=4.0, down_mbit_s=8.0, latency_ms=10.0)


def run_of(compressor: str, topology: str = "peers", **given: Any) -> WireRun:
    """Of 4 devices; in the topology `server` with 3 local steps."""
    outside = {name: given.pop(name) for name in ("rounds", "links", "alpha") if name in given}
    given = {"local_steps": 1 if topology == "peers" else 3, "learning_rate": 0.25, **given}
    settings = Settings(compressor=compressor, upload_keep=KEEP.get(compressor, 1.0), **given)
    values: dict[str, Any] = {"rounds": ROUNDS, "options": {"hidden": 8}, "seed": 3, "calibrations": 1, **outside}
    return WireRun(settings, topology=topology, **values)


def cases(topology: str) -> dict[str, WireRun]:
    return {
        **{name: run_of(name, topology) for name in COMPRESSORS},
        **{f"top-k, {name}": run_of("top-k", topology, feedback=name) for name in ("ef", "ef21", "econtrol", "dgc")},
        "sign, ef": run_of("sign", topology, feedback="ef"),
        "rand-k, ef": run_of("rand-k", topology, feedback="ef"),
        "fedzip, ef": run_of("fedzip", topology, feedback="ef"),
        "signs after a warm-up": run_of("sign", topology, warmup_rounds=2),
        "ratios of a warm-up": run_of("top-k", topology, warmup_rounds=2, feedback="ef"),
        "ratios by importance": run_of("top-k", topology, importance_share=0.5, alpha=1.0),
        "all samples": run_of("top-k", topology, batch=0, alpha=1.0),
        "momentum": run_of("top-k", topology, server_momentum=0.5, server_rate=0.7),
        "diverging": run_of("none", topology, learning_rate=1e3, server_rate=1e3, rounds=8),
        "slow": run_of("none", topology, links=(SLOW,)),
    }


@cache
def outcomes(topology: str) -> dict[str, Outcome]:
    """What processes that are started once did."""
    runs = cases(topology)
    return dict(zip(runs, train([*runs.values()]), strict=True))


SOUND = [name for name in cases("peers") if name != "diverging"]


@pytest.mark.parametrize("topology", ["peers", "server"])
@pytest.mark.parametrize("name", SOUND)
def test_bytes_and_weights_are_those_of_the_simulation(name: str, topology: str) -> None:
    run, real = cases(topology)[name], outcomes(topology)[name].check()
    simulated = simulate(run)
    assert real.up_bytes == simulated.up_bytes
    change = (simulated.model - run.world().initial()).abs().max()
    assert change > 0.005
    assert real.replicas_agree
    if topology == "server" and run.settings.feedback in ("none", "ef", "dgc") and run.settings.batch:
        assert torch.equal(real.model, simulated.model)
    else:
        # Equal to rounding: DDP's gradients are of the loss times the rate, estimates are summed in another order, and the
        # simulation pads batches of several sizes.
        assert float((real.model - simulated.model).abs().max()) < 1e-4


@pytest.mark.parametrize("name", SOUND)
def test_every_byte_that_is_handed_to_the_network_is_counted(name: str) -> None:
    rounds, n = ROUNDS, 4
    peers = outcomes("peers")[name]
    assert peers.sent_bytes == tuple((n - 1) * payload for payload in peers.up_bytes)
    assert peers.header_bytes == (rounds * (n - 1) * HEADER_BYTES,) * n
    served = outcomes("server")[name]
    model = 4 * len(served.model)
    assert served.sent_bytes == (*served.up_bytes, rounds * n * model)
    assert served.header_bytes == (rounds * HEADER_BYTES,) * n + (rounds * n * HEADER_BYTES,)


@pytest.mark.parametrize("topology", ["peers", "server"])
def test_the_kernel_has_sent_those_bytes_and_little_else(topology: str) -> None:
    for name in ("none", "sign"):
        outcome = outcomes(topology)[name]
        if outcome.tcp_bytes is None:
            pytest.skip("the kernel does not tell")
        for tcp, sent, headers in zip(outcome.tcp_bytes, outcome.sent_bytes, outcome.header_bytes, strict=True):
            messages = 2 * headers // HEADER_BYTES  # each behind its length
            # Gloo says more with every message, and there are barriers of a few messages.
            assert sent + headers < tcp < sent + headers + 200 * (messages + 12 * ROUNDS)


@pytest.mark.parametrize("topology", ["peers", "server"])
def test_a_diverging_run_is_nan(topology: str) -> None:
    with pytest.raises(Failure, match=r"diverged by round \d of 8") as failed:
        outcomes(topology)["diverging"].check()
    assert failed.value.kind is FailureKind.NAN


@pytest.mark.parametrize("topology", ["peers", "server"])
def test_a_slow_link_is_really_slow(topology: str) -> None:
    run, outcome = cases(topology)["slow"], outcomes(topology)["slow"]
    # No earlier than the bytes would have arrived; how much later says something about the machine alone.
    assert min(outcome.round_s) >= simulate(run).round_s - 1e-3


def test_a_comparison_tells_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    run = cases("server")["top-k, ef"]
    monkeypatch.setattr("evaluators.federated.wire.comparison.train", lambda _, __: [outcomes("server")["top-k, ef"]])
    [row] = compare([run])
    assert row.bytes_real == row.bytes_predicted == sum(outcomes("server")["top-k, ef"].up_bytes)
    assert row.weights_difference == 0.0 < row.weights_change
    assert row.seconds_predicted > row.seconds_simulated > 0
    assert row.seconds_quartiles[0] <= row.seconds_real <= row.seconds_quartiles[1]
    assert row.network_bytes == row.bytes_real + ROUNDS * 4 * (4 * run.world().initial().numel() + 2 * HEADER_BYTES)


def test_a_process_that_dies_is_a_crash_and_takes_the_others_with_it() -> None:
    failures: list[Failure] = []

    def endless() -> None:
        with pytest.raises(Failure) as failed:
            train([run_of("sign", rounds=10**9)])
        failures.append(failed.value)

    thread = threading.Thread(target=endless)
    thread.start()
    deadline = time.monotonic() + 200
    while len(at_work()) < 4:
        assert time.monotonic() < deadline
        assert thread.is_alive()
        time.sleep(0.1)
    at_work()[2].send_signal(signal.SIGSEGV)
    thread.join(60)
    assert [failure.kind for failure in failures] == [FailureKind.CRASH]
    assert not processes()


def processes() -> list[psutil.Process]:
    """Torchrun and the workers that this process waits for."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if WORKER in line and line[-1] == str(os.getpid()):
            found.append(process)
    return found


def at_work() -> list[psutil.Process]:
    """Workers, when all four have met."""
    found = [process for process in processes() if "torch.distributed.run" not in process.cmdline()]
    met = {path for process in found for path in Path(process.cmdline()[-2]).glob("started-*")}
    return found if len(met) == 4 else []


# ----------------------------------------------------------------- the hook in anybody's script


def test_the_example_of_the_docstring_trains(tmp_path: Path) -> None:
    text = inspect.getdoc(register) or ""
    [example] = re.findall(r"Example::\n\n(.*?)\n\S", text, re.DOTALL)
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(example))
    root = Path(__file__).resolve().parents[2]
    process = SessionProcess(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "0"),
            *("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1", str(script)),
        ],
        env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
    )
    try:
        process.supervise(process.exits_within, Limits(time_s=200))
    finally:
        code = process.end()
    assert code == 0, process.stderr.text()
    # 26 of 257 numbers: their count, a bitmap of 33 bytes that says which or 26 packed indices, and they themselves.
    [told] = re.findall(r"loss (\S+), (\d+) bytes a step instead of 1028", process.stdout.text())
    assert int(told[1]) == 4 + min(math.ceil(257 / 8), math.ceil(26 * 9 / 8)) + 26 * 4
    assert float(told[0]) < 0.01  # from 1 / 3 at the start


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group of this process."""
    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


class Crossed(nn.Module):
    """Parameters in another order than their gradients come in, so that DDP arranges its buckets anew."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        sizes = (300_000, 100_000, 250_000, 150_000, 280_000)
        self.weights = nn.ParameterList(torch.randn(size, generator=generator) for size in sizes)

    def forward(self, directions: list[Tensor]) -> Tensor:
        total = torch.zeros(())
        for place in (3, 0, 4, 2, 1):
            total = torch.tanh(total) * 0.0 + total + (self.weights[place] * directions[place]).sum()
        return total


@pytest.mark.parametrize(("compressor", "feedback"), [("top-k", "ef"), ("sign", "ef"), ("top-k", "ef21")])
def test_memories_stay_with_their_parameters_when_buckets_change(alone: None, compressor: str, feedback: str) -> None:
    module = Crossed()
    ddp = DistributedDataParallel(module, bucket_cap_mb=2)  # type: ignore[no-untyped-call]
    exchange = register(ddp, compressor, keep=0.3, feedback=feedback)
    generator = torch.Generator().manual_seed(1)
    directions = [torch.randn(weight.shape, generator=generator) for weight in module.weights]
    layouts, taken = [], [torch.zeros_like(weight) for weight in module.weights]
    for step in range(1, 6):
        module.zero_grad()
        ddp(directions).backward()
        layouts.append(set(exchange._buckets))
        assert exchange.step == step
        for so_far, weight in zip(taken, module.weights, strict=True):
            assert weight.grad is not None
            so_far.add_(weight.grad)
    assert layouts[0] != layouts[1] == layouts[-1]
    memories = {
        place: held.memories[0][0, part] for held in exchange._buckets.values() for place, part in held.parts.items()
    }
    assert sorted(memories) == [0, 1, 2, 3, 4]
    for place, direction in enumerate(directions):
        if feedback == "ef":
            # What was sent and what waits are all that there was to send.
            torch.testing.assert_close(taken[place] + memories[place], 5 * direction, rtol=1e-4, atol=1e-4)
        else:
            # A constant gradient is known in full after 1 / keep steps.
            torch.testing.assert_close(module.weights[place].grad, direction, rtol=1e-5, atol=1e-5)


def test_the_hook_of_nothing_gives_the_gradients_themselves(alone: None) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)).double()
    ddp = DistributedDataParallel(model)  # type: ignore[no-untyped-call]
    exchange = register(ddp, "none", keep=1.0, feedback="none")
    x = torch.randn(7, 5, dtype=torch.float64)
    expected = torch.autograd.grad(model(x).square().sum(), [*model.parameters()])
    ddp(x).square().sum().backward()
    for weight, gradient in zip(model.parameters(), expected, strict=True):
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, gradient.float().double())
    assert exchange.last is not None
    assert (exchange.last.payload_bytes, exchange.last.sent_bytes) == (4 * (5 * 4 + 4 + 4 * 3 + 3), 0)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"compressor": "top-n"}, "compressor 'top-n' is unknown"),
        ({"feedback": "memory"}, "feedback 'memory' is unknown"),
        ({"keep": 0.0}, "upload_keep is 0.0"),
        ({"seed": -1}, "seed is -1"),
        ({"momentum": 1.0}, "momentum is 1.0"),
        ({"clusters": 3}, "option 'clusters' of compressor 'top-k'"),
    ],
)
def test_arguments_that_cannot_be_are_refused(alone: None, wrong: dict[str, Any], told: str) -> None:
    ddp = DistributedDataParallel(nn.Linear(2, 2))  # type: ignore[no-untyped-call]
    with pytest.raises(UsageError, match=re.escape(told)):
        register(ddp, **wrong)


def test_a_model_without_ddp_is_refused() -> None:
    with pytest.raises(UsageError, match="ddp_model is a Linear"):
        register(nn.Linear(2, 2))  # type: ignore[arg-type]


# ----------------------------------------------------------------- parts, without processes


@pytest.mark.parametrize("feedback", ["none", "ef", "ef21", "econtrol", "dgc"])
def test_both_ends_do_what_the_simulation_does_with_all_devices_at_once(feedback: str) -> None:
    n, tensors = 3, Tensors(("w",), ((40,),))
    compressor = make("top-k", tensors)
    together = make_feedback(feedback, n, 40, strength=0.5, momentum=0.5)
    senders = [Sender(make_feedback(feedback, 1, 40, strength=0.5, momentum=0.5)) for _ in range(n)]
    weights = torch.tensor([0.5, 0.3, 0.2])
    receiver = Receiver(40, weights, sums=senders[0].sums)
    generator = torch.Generator().manual_seed(0)
    keep, seeds = torch.full((n,), 0.2, dtype=torch.float64), torch.arange(n)
    for _ in range(6):
        updates = torch.randn(n, 40, generator=generator)
        taken, sent = together.send(torch.arange(n), updates, lambda rows: compressor.compress(rows, keep, seeds))
        payloads = [
            sender.pack(row, compressor, 0.2, i) for i, (sender, row) in enumerate(zip(senders, updates, strict=True))
        ]
        assert [len(payload) for payload in payloads] == sent.bytes.tolist()
        torch.testing.assert_close(receiver.mean(payloads, compressor, seeds.tolist()), weights @ taken)


def test_the_time_of_a_round_by_hand() -> None:
    links = (Link(2.0, 4.0, 10.0), *(Link(20.0, 40.0, 10.0),) * 3)
    measured = Calibration((0.1, 0.2, 0.3, 0.2), (0.004, 0.005, 0.006, 0.005), 0.01, 0.001, 0.002)
    model = 4 * (64 * 8 + 8 + 8 * 10 + 10)
    served = simulate(run_of("none", "server", links=links), measured)
    # The slow link: 3 local steps of 0.1 s, 250,000 bytes/s up, 500,000 down; the slow device: 3 of 0.3 s, ten times as fast.
    slow_link = 0.3 + 2 * 0.011 + model / 500_000 + model / 250_000
    slow_device = 0.9 + 2 * 0.011 + model / 5_000_000 + model / 2_500_000
    assert served.round_s == pytest.approx(max(slow_link, slow_device))
    assert served.codec_s == pytest.approx(0.006 + 0.01 + 0.002)
    peers = simulate(run_of("none", links=links), measured)
    assert peers.round_s == pytest.approx(max(0.1 + 0.011 + 3 * model / 250_000, 0.3 + 0.011 + 3 * model / 2_500_000))


@given(st.floats(1.0, 1e9), st.floats(0.0, 1.0), st.lists(st.integers(0, 10**9), min_size=2, max_size=5).map(sorted))
def test_no_byte_arrives_before_those_that_left_before_it(bytes_s: float, latency_s: float, sent: list[int]) -> None:
    times = [Pace(bytes_s, latency_s).arrival_s(count) for count in sent]
    assert times == sorted(times)
    assert times[0] >= latency_s
    assert times[-1] - times[0] == pytest.approx((sent[-1] - sent[0]) / bytes_s)


def test_a_run_survives_json() -> None:
    run = run_of("top-k", "server", links=(SLOW,) * 4, alpha=0.5)
    assert WireRun.from_dict(json.loads(json.dumps(run.to_dict()))) == run
    assert replace(run, links=(Link(),)).link(3) == Link(math.inf, math.inf, 0.0)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"topology": "ring"}, "topology 'ring' is unknown"),
        ({"devices": 1}, "devices is 1"),
        ({"links": (SLOW,) * 3}, "links are 3"),
        ({"topology": "peers", "settings": Settings(local_steps=2)}, "local_steps is 2"),
        ({"settings": Settings(method="diloco")}, "method is 'diloco'"),
        ({"settings": Settings(download="half")}, "download is 'half'"),
        ({"settings": Settings(balanced=True)}, "balanced is True"),
    ],
)
def test_what_is_not_run_over_the_wire_is_refused(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        WireRun(**{"settings": Settings(), **wrong})


def test_links_and_lists_of_runs_that_cannot_be_are_refused() -> None:
    with pytest.raises(UsageError, match="up_mbit_s is 0"):
        Link(up_mbit_s=0)
    with pytest.raises(UsageError, match="latency_ms is -1"):
        Link(latency_ms=-1)
    for runs in ([], [run_of("none"), run_of("none", "server")]):
        with pytest.raises(UsageError, match=f"runs are {len(runs)}"):
            train(runs)
