"""Measured training runs, read from tables that projects publish: what was run, and the tokens per second of a GPU.

Known by their columns, whatever the file is called: llm-foundry's benchmark of MPT models under FSDP, the performance
summaries of Megatron-Bridge, and two tables of Megatron-LM's papers (arXiv:2104.04473, table 1; arXiv:2205.05198, table 5).
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from autotune.errors import UsageError
from evaluators.training_layout.gpus import GPUS
from evaluators.training_layout.layouts import Recompute

_Row = Mapping[str, str]
_FOUNDRY = {"Model", "SeqLen (T)", "# GPUs", "GPU", "MicroBatchSize", "GradAccum", "Throughput (T/s/GPU)"}
_BRIDGE = {"System", "#-GPUs", "Precision", "GBS", "MBS", "Sequence Length", "TP", "PP", "CP", "Tokens / sec / GPU"}
_WEAK_SCALING = {"params_B", "heads", "hidden", "layers", "tp", "pp", "gpus", "batch", "tflops_per_gpu"}
_ITERATIONS = {"model", "gpus", "tp", "pp", "interleave", "batch", "micro_batch", "recompute", "iter_s"}
_KINDS = {
    "bf16": "bf16",
    "fp8": "fp8",
    "fp8cs": "fp8",
    "fp8ds": "fp8",
    "fp8mx": "mxfp8",
    "mxfp8": "mxfp8",
    "nvfp4": "fp4",
}


@dataclass(frozen=True)
class MeasuredRun:
    """One run of somebody's.

    Attributes:
        table: file that it stands in.
        line: of the file.
        group: what it is compared within: the kind of GPU.
        model: its name, as `presets.preset` takes it.
        gpu: name of the GPU.
        gpus, sequence, global_batch, micro_batch: of the run.
        kind: number format of the products.
        tp, pp, cp, ep, interleave: degrees.
        sharded: GPUs over which weights, gradients and states are spread; 0 spreads the states alone, 1 nothing.
        recompute: what every layer computes anew; None where the table does not say.
        sequence_parallel, fused_attention: of the run.
        network_bytes_s: of one GPU, where the table says so.
        tokens_s: tokens per second of one GPU.
        stack: what it was trained with.
        release: of that.
    """

    table: str
    line: int
    group: str
    model: str
    gpu: str
    gpus: int
    sequence: int
    global_batch: int
    micro_batch: int
    kind: str
    tokens_s: float
    tp: int = 1
    pp: int = 1
    cp: int = 1
    ep: int = 1
    interleave: int = 1
    sharded: int = 0
    recompute: Recompute | None = None
    sequence_parallel: bool = True
    fused_attention: bool = True
    network_bytes_s: float = 0.0
    stack: str = ""
    release: str = ""

    @property
    def dp(self) -> int:
        return self.gpus // (self.tp * self.pp * self.cp)


def read_runs(folder: Path) -> list[MeasuredRun]:
    """All runs of all tables in a folder.

    Raises:
        UsageError: when there is no such folder, no table in it whose columns are known, or a number that is none.
    """
    if not folder.is_dir():
        raise UsageError(f"--data {str(folder)!r} is no folder; give one with tables of measured training runs (CSV)")
    found: list[MeasuredRun] = []
    seen = []
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            columns = set(reader.fieldnames or ())
            parse = next((parse for known, parse in _FORMATS if columns >= known), None)
            seen.append(path.name)
            if parse is not None:
                for line, row in enumerate(reader, start=2):
                    found += parse(path, line, row)
    if not found:
        raise UsageError(
            f"--data {str(folder)!r} has no table of measured runs that is known by its columns (it has: "
            f"{', '.join(seen) or 'no CSV file'}); see docs/training-layout.md for the formats"
        )
    return found


def _weak_scaling(path: Path, line: int, row: _Row) -> Iterator[MeasuredRun]:
    """GPT models on A100, every layer computed anew, states not spread; operations counted by the paper's own formula."""
    gpus, batch, layers, hidden = (_whole(path, line, row, name) for name in ("gpus", "batch", "layers", "hidden"))
    sequence, vocab = 2048, 51_200
    # Section 5.1 and appendix: four passes a layer, one of them again.
    flops = (
        96.0 * batch * sequence * layers * hidden**2 * (1 + sequence / (6 * hidden) + vocab / (16 * layers * hidden))
    )
    step = flops / (1e12 * gpus * _positive(path, line, row, "tflops_per_gpu"))
    tp, pp = (_whole(path, line, row, name) for name in ("tp", "pp"))
    yield MeasuredRun(
        path.name, line, "a100", f"gpt3-{row['params_B']}b", "a100", gpus, sequence, batch, _micro_batch(batch, gpus // (tp *
        pp)), "bf16", batch * sequence / gpus / step, tp=tp, pp=pp, sharded=1, recompute=Recompute.FULL,
        sequence_parallel=False, fused_attention=False, stack="megatron-lm",
    )  # fmt: skip


def _iterations(path: Path, line: int, row: _Row) -> Iterator[MeasuredRun]:
    gpus, batch = (_whole(path, line, row, name) for name in ("gpus", "batch"))
    full = row["recompute"] == "full"
    yield MeasuredRun(
        path.name, line, "a100", f"gpt3-{row['model']}", "a100", gpus, 2048, batch, _whole(path, line, row, "micro_batch"),
        "bf16", batch * 2048 / gpus / _positive(path, line, row, "iter_s"), tp=_whole(path, line, row, "tp"),
        pp=_whole(path, line, row, "pp"), interleave=_whole(path, line, row, "interleave"), sharded=1,
        recompute=Recompute.FULL if full else Recompute.SELECTIVE, sequence_parallel=not full, fused_attention=False,
        stack="megatron-lm",
    )  # fmt: skip


def _micro_batch(batch: int, copies: int) -> int:
    """The table does not say; as large as 4, the paper's best for such models (section 5.4.2), where it divides."""
    return next(micro for micro in (4, 2, 1) if batch // copies % micro == 0)


def _foundry(path: Path, line: int, row: _Row) -> Iterator[MeasuredRun]:
    gpu = _gpu(row["GPU"])
    gpus = _whole(path, line, row, "# GPUs")
    micro = _whole(path, line, row, "MicroBatchSize")
    strategy = row.get("Sharding Strategy", "FULL_SHARD").upper()
    speed = re.search(r"(\d+)\s*Gbps", row.get("section", ""))
    yield MeasuredRun(
        table=path.name,
        line=line,
        group=gpu,
        model=f"mpt-{row['Model']}",
        gpu=gpu,
        gpus=gpus,
        sequence=_whole(path, line, row, "SeqLen (T)"),
        global_batch=gpus * micro * _whole(path, line, row, "GradAccum"),
        micro_batch=micro,
        kind="fp8" if "fp8" in row.get("Precision", "").lower() else "bf16",
        tokens_s=_positive(path, line, row, "Throughput (T/s/GPU)"),
        sharded=gpus if strategy == "FULL_SHARD" else 0,
        recompute=_checkpointed(row.get("Activation Checkpointing", "False")),
        # Of a node of eight, one way.
        network_bytes_s=float(speed.group(1)) * 1e9 / 8 / 8 if speed else 0.0,
        stack="llm-foundry",
    )


def _bridge(path: Path, line: int, row: _Row) -> Iterator[MeasuredRun]:
    """One run, or two where a cell gives a second number in brackets: of the precision, or the degrees, in brackets."""
    twice = any(
        "(" in row[name] for name in ("Precision", "TP", "PP", "CP", "VP", "Tokens / sec / GPU") if row.get(name)
    )
    section, system = row.get("model_section", ""), row["System"]
    if section.lower().startswith("system"):
        system, section = section.partition(":")[2], row.get("Model", "")
    gpu = _gpu(system)
    for which in (0, 1)[: 1 + twice]:
        cells = {name: _either(text, which) for name, text in row.items() if isinstance(text, str)}
        if "(" not in row["Tokens / sec / GPU"] and which:
            break

        def number(name: str, default: int, cells: _Row = cells) -> int:
            return _whole(path, line, cells, name) if cells.get(name) else default

        kind = _KINDS.get(_plain(cells["Precision"]) or "fp8", "fp8")
        yield MeasuredRun(
            table=path.name,
            line=line,
            group=gpu,
            model=section,
            gpu=gpu,
            gpus=number("#-GPUs", 0),
            sequence=number("Sequence Length", 0),
            global_batch=number("GBS", 0),
            micro_batch=number("MBS", 1),
            kind="fp8" if kind == "mxfp8" and gpu.startswith("h") else kind,
            tokens_s=_positive(path, line, cells, "Tokens / sec / GPU"),
            tp=number("TP", 1),
            pp=number("PP", 1),
            cp=number("CP", 1),
            ep=number("EP", 1),
            interleave=number("VP", 1),
            sharded=number("FSDP", 0),
            stack="megatron-bridge",
            release=row.get("release", ""),
        )


def _gpu(text: str) -> str:
    """The known GPU that a table's name begins with (``DGX-H100``, ``a100_80gb``, ``GB200 NVL72``), else that name."""
    plain = re.sub(r"^(nvidia|dgx|hgx)+", "", _plain(text))
    known = [name for name in GPUS if plain.startswith(_plain(name))]
    return max(known, key=len) if known else plain


def _checkpointed(text: str) -> Recompute:
    return Recompute.FULL if text.strip().lower() == "true" else Recompute.NONE


def _either(text: str, which: int) -> str:
    """Of ``a (b)`` one of the two; of anything else itself."""
    found = re.fullmatch(r"\s*([^()]+?)\s*\(([^()]+)\)\s*", text)
    return text if found is None else found.group(1 + which).strip()


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _number(path: Path, line: int, row: _Row, name: str) -> float:
    text = (row.get(name) or "").replace(",", "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value < 0:
        raise UsageError(f"{path.name}, line {line}: {name} is {row.get(name)!r}; it must be a number of at least 0")
    return value


def _whole(path: Path, line: int, row: _Row, name: str) -> int:
    return int(_number(path, line, row, name))


def _positive(path: Path, line: int, row: _Row, name: str) -> float:
    value = _number(path, line, row, name)
    if not value:
        raise UsageError(f"{path.name}, line {line}: {name} is {row.get(name)!r}; it must be above 0")
    return value


_FORMATS = ((_FOUNDRY, _foundry), (_BRIDGE, _bridge), (_WEAK_SCALING, _weak_scaling), (_ITERATIONS, _iterations))
