"""Real runs: every layout trains the same model, failures have their kinds, and no process outlives its owner."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest

from autotune import Failure, FailureKind, UsageError
from autotune.execution.process import Limits, SessionProcess
from evaluators.training_layout.cluster import Cluster
from evaluators.training_layout.gpus import gpu
from evaluators.training_layout.job import Job
from evaluators.training_layout.presets import preset
from evaluators.training_layout.real.evaluator import Real
from evaluators.training_layout.real.launch import WORKER, launch
from evaluators.training_layout.real.run import Run, layout_refusal
from evaluators.training_layout.shape import TransformerShape
from evaluators.training_layout.tables import PeakTimes

# What was started for one case serves the others, so that one process runs them all.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("real runs")]

TINY = TransformerShape("tiny", 4, 64, 4, 2, 16, 128, 256)
TIED = replace(TINY, name="tied", tied=True, gated=False)
EXPERTS = replace(
    TINY, name="experts", n_experts=4, top_k=2, expert_ffn=32, shared_ffn=32, expert_layers=3, dense_layers=1
)
SEQUENCES = 8  # of a step, however they are shared out


def of(shape: TransformerShape, **layout: Any) -> Run:
    """A run of one step on the same sequences."""
    run = Run(shape, "cpu", 32, steps=1, **{"micro_batch": 2, **layout})
    return replace(run, microbatches=SEQUENCES // run.dp // run.micro_batch)


PAIRS = {
    "data": of(TINY, dp=2),
    "states": of(TINY, dp=2, zero=1, shards=2, micro_batch=1),
    "gradients, selective": of(TINY, dp=2, zero=2, shards=2, recompute="selective"),
    "weights, half recomputed": of(TINY, dp=2, zero=3, shards=2, recompute="full", recompute_share=0.5),
    "tensor, selective": of(TINY, tp=2, micro_batch=4, recompute="selective"),
    "tensor, recomputed": of(TINY, tp=2, micro_batch=4, recompute="full"),
    "pipeline": of(TINY, pp=2),
    "interleaved": of(TINY, pp=2, interleave=2, recompute="full"),
    "ends as layers": of(TINY, pp=2, interleave=3),
    "tied tensor": of(TIED, tp=2, micro_batch=4),
    "tied weights": of(TIED, dp=2, zero=3, shards=2),
    "experts everywhere": of(EXPERTS, dp=2, zero=1, shards=2),
    "experts shared out": of(EXPERTS, dp=2, ep=2, zero=3, shards=2, recompute="full"),
    "experts split": of(EXPERTS, tp=2, micro_batch=4, etp=2),
    "experts whole under tensor": of(EXPERTS, tp=2, micro_batch=4),
    "experts shared out under tensor": of(EXPERTS, tp=2, micro_batch=4, ep=2, recompute="selective"),
}
FOURS = {
    "shards in groups": of(TINY, dp=4, zero=2, shards=2, micro_batch=1),
    "data x tensor": of(TINY, dp=2, tp=2, zero=3, shards=2),
    "tensor x pipeline": of(TINY, tp=2, pp=2, interleave=2, micro_batch=4),
    "experts on half of the data": of(EXPERTS, dp=4, ep=2, zero=1, shards=4, micro_batch=1),
    "experts split on half of the rest": of(EXPERTS, dp=2, tp=2, ep=2, etp=2, zero=1, shards=2, micro_batch=4),
    "experts in pipelines": of(EXPERTS, dp=2, pp=2, ep=2, zero=1, shards=2),
}


def job(gpus: int = 2, model: TransformerShape = TINY, **given: Any) -> Job:
    device = gpu("h100")
    return Job(model, Cluster(device, gpus, PeakTimes(device)), 32, SEQUENCES, **given)


CONFIG = {"tp": 1, "cp": 1, "pp": 1, "interleave": 1, "micro_batch": 2, "zero": 1, "recompute": "full 1/2"}


@cache
def first_steps(processes: int) -> dict[str, dict[str, Any]]:
    """What all runs of so many processes measured, one after the other in the same processes, as starting these takes time."""
    runs = {2: PAIRS, 4: FOURS}[processes]
    told = {"device": "cpu", "runs": [run.to_dict() for run in runs.values()]}
    found: list[dict[str, Any]] = launch(__name__, told, processes, 240, 1)
    return dict(zip(runs, found, strict=True))


@cache
def alone() -> dict[str, dict[str, Any]]:
    """What this process measures of the same models, by their names."""
    from torch import distributed as dist
    from torch.distributed import HashStore  # type: ignore[attr-defined] # which its stubs leave out

    from evaluators.training_layout.real.worker import measure

    dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
    try:
        return {shape.name: measure(of(shape)) for shape in (TINY, TIED, EXPERTS)}
    finally:
        dist.destroy_process_group()


@pytest.mark.parametrize("name", [*PAIRS, *FOURS])
def test_every_layout_trains_as_one_process_does(name: str) -> None:
    run = {**PAIRS, **FOURS}[name]
    found = first_steps(run.processes)[name]
    expected = alone()[run.shape.name]
    assert found["gradient_norm"] == pytest.approx(expected["gradient_norm"], rel=1e-5)
    # The second step's loss depends on every gradient of the first.
    assert found["losses"] == pytest.approx(expected["losses"], rel=1e-5)


def test_a_configuration_is_trained_and_measured() -> None:
    measured = Real(job(), steps=3, device="cpu")(CONFIG)
    assert set(measured.metrics) == {"tokens_per_s_gpu", "step_s", "memory_gib", "data_parallel", "microbatches"}
    step, speed = measured.metrics["step_s"], measured.metrics["tokens_per_s_gpu"]
    assert len(step.samples) == 3
    assert step.half_width is not None
    assert speed.value == pytest.approx(SEQUENCES * 32 / 2 / step.value)
    assert measured.metrics["memory_gib"].value > 0
    assert measured.values()["data_parallel"] == measured.values()["microbatches"] == 2
    assert measured.notes["layers"] == 4
    assert measured.notes["dtype"] == "float32"
    assert measured.notes["backend"] == "gloo"
    assert "spread by FSDP2" in measured.notes["zero"]
    assert measured.notes["first_gradient_norm"] > 0
    json.dumps(dict(measured.notes))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (job(model=preset("deepseek-v3")), "latent attention"),
        (job(model=preset("nemotron-3-nano")), "layers without attention"),
        (job(gpus=32), "gpus is 32"),
        (job(settings={"precision": ("fp8",)}), "precision=fp8"),
        (job(settings={"optimizer": ("adam8bit",)}), "give optimizer=adam"),
    ],
)
def test_a_job_that_cannot_be_run_is_refused_before_anything_starts(wrong: Job, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Real(wrong, device="cpu")(CONFIG)


def test_without_enough_gpus_their_number_is_named() -> None:
    with pytest.raises(UsageError, match=r"gpus is 4096, and this machine has \d+ to run on"):
        Real(job(gpus=4096), device="cuda").check()


@pytest.mark.parametrize(
    ("knobs", "told"),
    [
        ({"cp": 2}, "needs GPUs"),
        ({"pp": 2, "micro_batch": 8}, "fewer than the pp=2 stages"),
        ({"optimizer": "adam8bit"}, "optimizer=adam8bit"),
    ],
)
def test_a_layout_that_cannot_be_run_is_invalid(knobs: dict[str, Any], told: str) -> None:
    searched = job(settings={"optimizer": ("adam", "adam8bit")})
    with pytest.raises(Failure, match=told) as failed:
        Real(searched, device="cpu")({**CONFIG, **knobs})
    assert failed.value.kind is FailureKind.INVALID


@pytest.mark.parametrize(
    ("run", "told"),
    [
        (of(TINY, tp=4), "key and value heads"),
        (replace(of(TINY, tp=2, micro_batch=4), sequence=33), "33 tokens"),
        (replace(of(TINY, pp=2, interleave=2), microbatches=3), "no multiple of pp=2"),
        (of(TINY, pp=5, micro_batch=1), "cannot be shared out over pp=5"),
        (of(TINY, dp=2, shards=4), "4 shards"),
        (of(EXPERTS, dp=2, ep=3), "ep=3"),
        (of(EXPERTS, dp=2, etp=2), "etp=2 must be 1 or tp=1"),
    ],
)
def test_layouts_without_means_to_run_them_say_why(run: Run, told: str) -> None:
    refusal = layout_refusal(run)
    assert refusal is not None
    assert told in refusal


@pytest.mark.parametrize("run", [*PAIRS.values(), *FOURS.values()])
def test_every_layer_lies_in_one_chunk(run: Run) -> None:
    assert layout_refusal(run) is None
    layers = [layer for chunk in range(run.chunks) for layer in run.layers_of(chunk)]
    assert layers == list(range(run.shape.n_layers))


@pytest.mark.parametrize("share", [0.25, 0.5, 1.0])
def test_recomputed_layers_are_as_many_as_their_share(share: float) -> None:
    run = of(TINY, recompute="full", recompute_share=share)
    assert sum(run.recomputed(layer) for layer in range(4)) == 4 * share


def test_memory_that_there_is_not_fails_as_oom() -> None:
    failure = failed(lambda: trained(of(replace(TINY, vocab=2**40))))
    assert failure.kind is FailureKind.OOM
    assert "ran out of memory" in failure.message
    assert not processes_of(os.getpid())


def test_an_error_of_a_process_fails_as_a_crash_with_its_words() -> None:
    failure = failed(lambda: trained(of(replace(TINY, head_dim=15))))
    assert failure.kind is FailureKind.CRASH
    assert "RuntimeError: shape" in failure.message
    assert "Traceback" in failure.__notes__[0]


def test_processes_that_cannot_start_fail_as_infrastructure(monkeypatch: pytest.MonkeyPatch) -> None:
    failure = failed(lambda: launch(f"{WORKER}_of_nothing", of(TINY).to_dict(), 2, 60, 1))
    assert failure.kind is FailureKind.INFRA
    assert "No module named" in failure.message
    assert sys.executable in failure.message
    monkeypatch.setattr(sys, "executable", "/usr/bin/false")
    assert failed(lambda: trained(of(TINY))).kind is FailureKind.INFRA


def test_processes_that_do_not_meet_in_time_fail_as_infrastructure() -> None:
    failure = failed(lambda: launch(WORKER, endless().to_dict(), 2, 0.5, 1))
    assert failure.kind is FailureKind.INFRA
    assert "did not meet within 0.5 s" in failure.message
    assert not processes_of(os.getpid())


def test_a_run_that_takes_too_long_is_ended_with_all_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def as_soon_as_they_work(process: SessionProcess, done: Callable[[float], bool], limits: Limits) -> None:
        wait_until(lambda: len(working(os.getpid())) == 2)
        # Time is up from here on.
        supervise(process, done, replace(limits, time_s=0.1))

    supervise = SessionProcess.supervise
    monkeypatch.setattr(SessionProcess, "supervise", as_soon_as_they_work)
    failure = failed(lambda: launch(WORKER, endless().to_dict(), 2, 30, 1))
    assert failure.kind is FailureKind.TIMEOUT
    assert "no result within 30 s" in failure.message
    assert not processes_of(os.getpid())


def test_a_killed_process_fails_as_oom_and_takes_the_others_with_it() -> None:
    failures: list[Failure] = []
    thread = threading.Thread(target=lambda: failures.append(failed(lambda: trained(endless()))))
    thread.start()
    wait_until(lambda: len(working(os.getpid())) == 2)
    working(os.getpid())[0].send_signal(signal.SIGKILL)
    thread.join(60)
    assert [failure.kind for failure in failures] == [FailureKind.OOM]
    assert "SIGKILL" in failures[0].message
    assert not processes_of(os.getpid())


def test_processes_end_with_their_owner() -> None:
    script = (
        "from tests.training_layout.test_real_runs import endless, trained\n"
        "trained(endless())\n"
    )  # fmt: skip
    root = Path(__file__).resolve().parents[2]
    owner = subprocess.Popen([sys.executable, "-c", script], cwd=root)
    wait_until(lambda: len(working(owner.pid)) == 2)
    started = processes_of(owner.pid)
    owner.kill()
    owner.wait()
    _, alive = psutil.wait_procs(started, timeout=30)
    assert not alive


def endless() -> Run:
    return replace(of(TINY, dp=2), steps=10**9)


def trained(run: Run) -> Any:
    return launch(WORKER, run.to_dict(), run.processes, 240, 1)


def failed(call: Callable[[], object]) -> Failure:
    with pytest.raises(Failure) as failure:
        call()
    return failure.value


def processes_of(owner: int) -> list[psutil.Process]:
    """Torchrun and the processes it started for an owner."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line: Sequence[str] = process.info["cmdline"] or []
        if WORKER in line and line[-1] == str(owner):
            found.append(process)
    return found


def working(owner: int) -> list[psutil.Process]:
    """Those that have met the others."""
    found = [process for process in processes_of(owner) if "torch.distributed.run" not in process.cmdline()]
    folders = {process.cmdline()[-2] for process in found}
    return found if any(list(Path(folder).glob("started-*"))[1:] for folder in folders) else []


def wait_until(done: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)


if __name__ == "__main__":
    from evaluators.training_layout.real.process import serve
    from evaluators.training_layout.real.worker import measure

    serve(lambda told: [measure(Run.from_dict(run)) for run in told["runs"]])
