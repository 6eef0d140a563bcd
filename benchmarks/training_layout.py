"""Training layouts: predictions beside measured runs, what the search gains over the default, and how fast it is.

python -m benchmarks.training_layout [--part tables|papers|ranking|search|speed ...] [--data DIR] [--seeds 10]
    [--kernels FILE.json]

`tables`: errors on every table of DIR/training_throughput and DIR/published_tables, before and after a calibration by a tenth
of each table's rows, over several draws of these. `papers`: the rows of the two papers one by one. `ranking`: whether the
measured best of several runs of a model is among the predicted first three. `search`: for each model and GPU count of the
tables, the predicted gain over the default layout, beside the layout that was measured. `speed`: layouts scored in a second on
one core, and 1,024 GPUs laid out. `real`: short runs on this machine beside what is predicted from its own kernels, which
`autotune kernels --out FILE` measured (on CPUs with `--processes 2`); of one GPU or, without GPUs, of two processes.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from autotune.comparison import Score
from autotune.errors import UsageError
from autotune.hardware import current_environment
from autotune.measurement import Failure
from autotune.space import Config
from evaluators.training_layout.choices import chosen
from evaluators.training_layout.cluster import Cluster
from evaluators.training_layout.comparison import compare
from evaluators.training_layout.gpus import gpu
from evaluators.training_layout.job import Job
from evaluators.training_layout.knobs import default_of, space_of
from evaluators.training_layout.layouts import Layouts
from evaluators.training_layout.machine import EAGER
from evaluators.training_layout.own_gpu import own_gpu
from evaluators.training_layout.own_tables import OwnTimes
from evaluators.training_layout.prediction import predict
from evaluators.training_layout.presets import preset
from evaluators.training_layout.profiled import Profiled
from evaluators.training_layout.real.evaluator import Real
from evaluators.training_layout.rows import MeasuredRun, read_runs
from evaluators.training_layout.tables import kernel_times

FOLDERS = ("training_throughput", "published_tables")
PARTS = ("tables", "papers", "ranking", "search", "speed", "real")
_WITHOUT_RUNS = PARTS[:-1]
_FIRST = 3


def tables(data: Path, seeds: int) -> Iterator[str]:
    """Errors by table and group, the mean and range over draws of the calibrating rows."""
    yield "| table | group | rows | median error | Spearman | peak figures | calibrated by a tenth: median error | Spearman |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for folder in FOLDERS:
        plain, peak = (compare(data / folder, 0.0, 0, measured=measured) for measured in (True, False))
        drawn = [compare(data / folder, 0.1, seed) for seed in range(seeds)]
        for key in [*plain.groups, None]:
            one, without = (found.groups[key] if key else found.overall for found in (plain, peak))
            several = [found.groups.get(key) if key else found.overall for found in drawn]
            errors = _of(several, "median_ape_calibrated")
            ranks = _of(several, "spearman_calibrated")
            table, group = key or (f"**{folder}**", "all")
            yield (
                f"| {table} | {group} | {one.answered} of {one.rows} | {one.median_ape_uncalibrated:.1%} | "
                f"{one.spearman_uncalibrated:.3f} | {without.median_ape_uncalibrated:.1%} | {_range(errors, '.1%')} | "
                f"{_range(ranks, '.3f')} |"
            )


def _of(scores: Sequence[Score | None], name: str) -> list[float]:
    found = [getattr(score, name) for score in scores if score is not None]
    return [value for value in found if not np.isnan(value)]


def _range(values: Sequence[float], form: str) -> str:
    if not values:
        return "–"
    return f"{np.mean(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def papers(data: Path) -> Iterator[str]:
    """The rows of Megatron-LM's papers."""
    yield "| table | model | GPUs | recomputation | measured, tokens/s of a GPU | predicted | error of the step's time |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for run in read_runs(data / "published_tables"):
        found = predict(run)
        assert run.recompute is not None
        yield (
            f"| {run.table} | {run.model} | {run.gpus} | {run.recompute.name.lower()} | {run.tokens_s:.0f} | "
            f"{found.tokens_s:.0f} | {run.tokens_s / found.tokens_s - 1:+.1%} |"
        )


def ranking(data: Path) -> Iterator[str]:
    """Whether the measured best of a group is predicted among the first."""
    groups: dict[tuple[str, str, int], list[MeasuredRun]] = defaultdict(list)
    for run in read_runs(data / "training_throughput"):
        groups[run.model, run.gpu, run.gpus].append(run)
    yield "| runs of a group | groups | measured best predicted first | among the first three |"
    yield "| --- | --- | --- | --- |"
    places: dict[bool, list[int]] = {False: [], True: []}
    for runs in groups.values():
        predicted = [_predicted(run) for run in runs]
        if len(runs) > 1 and np.isfinite(predicted).all():
            best = int(np.argmax([run.tokens_s for run in runs]))
            places[len(runs) > _FIRST].append(int(np.sum(np.array(predicted) > predicted[best])))
    for larger, found in places.items():
        first, near = (int(np.sum(np.array(found) < most)) for most in (1, _FIRST))
        told = "4 and more" if larger else "2 or 3"
        yield f"| {told} | {len(found)} | {first} | {near if larger else '–'} |"


def _predicted(run: MeasuredRun) -> float:
    try:
        return predict(run).tokens_s
    except UsageError:
        return float("nan")


def search(data: Path) -> Iterator[str]:
    """The predicted gain over the default, and over what was run, for every model and GPU count: of the fastest run's job."""
    jobs: dict[tuple[str, str, int], MeasuredRun] = {}
    for run in read_runs(data / "training_throughput"):
        key = (run.model, run.gpu, run.gpus)
        if key not in jobs or run.tokens_s > jobs[key].tokens_s:
            jobs[key] = run
    yield (
        "| model | GPUs | sequence | batch | precision | layouts | gain over the default | over the measured layout | "
        "best layout |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    gains = []
    for (model, device, gpus), run in jobs.items():
        sequence, batch, kind = run.sequence, run.global_batch, run.kind
        try:
            job = _job(model, device, gpus, sequence, batch, kind)
            theirs = predict(run).tokens_s
            default = Profiled(job).predict([default_of(job)])["tokens_per_s_gpu"][0]
        except UsageError as error:
            yield f"| {model} | {gpus} {device} | {sequence} | {batch} | {kind} | – | – | – | {error} |"
            continue
        table = space_of(job).enumerate()
        assert table is not None
        scored = Profiled(job).of_columns(table.columns())["tokens_per_s_gpu"]
        best = int(np.argmax(scored))
        gains.append(scored[best] / default - 1)
        config = " ".join(f"{name}={value}" for name, value in table.config(best).items() if value not in (1, "none"))
        yield (
            f"| {model} | {gpus} {device} | {sequence} | {batch} | {kind} | {len(table)} | {gains[-1]:+.1%} | "
            f"{scored[best] / theirs - 1:+.1%} | {config} |"
        )
    yield ""
    spread = f"{min(gains):.1%} to {max(gains):.1%}"
    yield f"Median gain over the default: {np.median(gains):.1%}, over {len(gains)} jobs ({spread})."


def _job(model: str, device: str, gpus: int, sequence: int, batch: int, kind: str) -> Job:
    of = gpu(device)
    cluster = Cluster(of, gpus, kernel_times(of))
    return Job(preset(model), cluster, sequence, batch, chosen({"precision": kind}, of))


def speed() -> Iterator[str]:
    """Layouts a second, and the largest search."""
    yield "| what | number |"
    yield "| --- | --- |"
    job = _job("deepseek-v3", "h100", 1024, 4096, 8192, "bf16")
    table = space_of(job, fitting=False).enumerate()
    assert table is not None
    columns = table.columns()
    evaluator = Profiled(job)
    evaluator.of_columns(columns)
    began = time.process_time()
    rounds = 5
    for _ in range(rounds):
        evaluator.of_columns(columns)
    spent = (time.process_time() - began) / rounds
    yield f"| layouts scored in a second of one core's time ({len(table):,} in one call) | {len(table) / spent:,.0f} |"
    layouts: Layouts = job.layouts(columns)
    began = time.process_time()
    job.layouts(columns)
    yield f"| of this, to make layouts of the knobs | {(time.process_time() - began) / spent:.0%} |"
    del layouts
    for model in ("llama3-405b", "deepseek-v3"):
        began = time.perf_counter()
        job = _job(model, "h100", 1024, 8192, 2048, "bf16")
        table = space_of(job).enumerate()
        assert table is not None
        scored = Profiled(job).of_columns(table.columns())["tokens_per_s_gpu"]
        best = table.config(int(np.argmax(scored)))
        default_of(job)
        seconds = time.perf_counter() - began
        yield f"| {model} on 1,024 H100: best and default of {len(table):,} layouts that fit, s | {seconds:.2f} |"
        assert best


def real(kernels: Path) -> Iterator[str]:
    """Short runs beside their predictions."""
    times = OwnTimes.read(kernels)
    device = own_gpu(times.tables)
    here = times.tables.device == "cuda"
    model = preset("llama3-8b").of_layers(8) if here else preset("mpt-125m").of_layers(4)
    settings = {"precision": "bf16" if here else "fp32", "shard_within": "cluster"}
    gpus, sequence, batch = (1, 4096, 8) if here else (2, 128, 4)
    job = Job(model, Cluster(device, gpus, times), sequence, batch, chosen(settings, device))
    yield f"{model.name}, {batch} sequences of {sequence} tokens a step, {gpus} x {times.source}"
    yield ""
    yield "| tp | pp | micro-batch | ZeRO | recompute | step, s | predicted | error | memory, GiB | predicted |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    profiled, runs = Profiled(job, EAGER), Real(job)
    pairs = []
    for config in _real_layouts(job):
        found = profiled.predict([config])
        told = " | ".join(str(config[name]) for name in ("tp", "pp", "micro_batch", "zero", "recompute"))
        try:
            measured = runs(config).values()
        except Failure as failure:
            yield f"| {told} | {failure.kind.value}: {failure.message} | {found['step_s'][0]:.3f} | – | – | – |"
            continue
        pairs.append((measured["step_s"], float(found["step_s"][0])))
        yield (
            f"| {told} | {pairs[-1][0]:.3f} | {pairs[-1][1]:.3f} | {pairs[-1][1] / pairs[-1][0] - 1:+.0%} | "
            f"{measured['memory_gib']:.2f} | {found['memory_gib'][0]:.2f} |"
        )
    steps = np.array(pairs)
    yield ""
    errors = np.abs(steps[:, 1] / steps[:, 0] - 1)
    rank = spearmanr(steps[:, 0], steps[:, 1]).statistic
    yield f"Median error {np.median(errors):.0%}, Spearman {rank:.2f}, {len(pairs)} runs."


def _real_layouts(job: Job) -> list[Config]:
    """Of every pair of degrees: micro-batches, ZeRO's stages and recomputation one by one."""
    table = space_of(job).enumerate()
    assert table is not None
    found = []
    for config in map(table.config, range(len(table))):
        plain = (config["micro_batch"], config["zero"], config["recompute"])
        usual = (2, 1 if config["tp"] * config["pp"] < job.gpus else 0, "none")
        known = config["cp"] == config["interleave"] == 1 and config["recompute"] in ("none", "selective", "full")
        if known and sum(a != b for a, b in zip(plain, usual, strict=True)) <= 1:
            found.append(config)
    return found


def main() -> None:
    """Print the parts as Markdown."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=_WITHOUT_RUNS)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("AUTOTUNE_DATA", "../shared/data")))
    parser.add_argument("--seeds", type=int, default=10, help="draws of the calibrating rows")
    parser.add_argument("--kernels", type=Path, help="kernel times of this machine, for --part real")
    given = parser.parse_args()
    if "real" in given.part and given.kernels is None:
        parser.error(
            "--part real compares with this machine's own kernels; give --kernels FILE.json (autotune kernels --out)"
        )
    if given.seeds < 1:
        parser.error(f"--seeds is {given.seeds}; give at least 1")
    here = current_environment()
    print(f"{here.details['hardware']['cpu']['model']}, Python {platform.python_version()}")
    lines: dict[str, Callable[[], Iterator[str]]] = {
        "tables": lambda: tables(given.data, given.seeds),
        "papers": lambda: papers(given.data),
        "ranking": lambda: ranking(given.data),
        "search": lambda: search(given.data),
        "speed": speed,
        "real": lambda: real(given.kernels),
    }
    for part in given.part:
        print(f"\n## {part}\n")
        for line in lines[part]():
            print(line, flush=True)


if __name__ == "__main__":
    main()
