"""`autotune kernels`: what this machine takes for the parts of a training step.

The command line imports this module at every start, so everything heavy is imported inside.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.common import JsonOption, print_json
from autotune.errors import AutotuneError, UsageError


def kernels(
    out: Annotated[Path, typer.Option("--out", metavar="FILE.json", help="File to write.")],
    device: Annotated[
        str | None, typer.Option("--device", help="cpu or cuda; GPUs where there are some if left out.")
    ] = None,
    processes: Annotated[
        int,
        typer.Option("--processes", min=1, help="On CPUs: processes of a run, each of which has a share of the cores."),
    ] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer shapes and repeats, for a first look.")] = False,
    json_: JsonOption = False,
) -> None:
    """Measure matrix products, attention, memory and collectives of this machine, for predictions of training layouts.

    Examples:

      autotune kernels --out my-gpu.json

      autotune search training-layout --set kernels=my-gpu.json --set hardware=h100

      autotune kernels --device cpu --processes 2 --out cpu.json

      autotune search training-layout --set kernels=cpu.json --set hardware=own --set precision=fp32 --set gpus=2
    """
    if not out.parent.is_dir():
        raise UsageError(f"--out {str(out)!r}: there is no folder {str(out.parent)!r}; make it first")
    if device not in (None, "cpu", "cuda"):
        raise UsageError(f"--device {device!r} is unknown; use cpu or cuda")
    import torch  # noqa: PLC0415

    from autotune.hardware.cache import write_atomically  # noqa: PLC0415
    from autotune.measurement import Failure  # noqa: PLC0415
    from evaluators.training_layout.own_tables import OwnTimes, measure  # noqa: PLC0415

    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = measure(device=chosen, processes=processes, quick=quick, report=_show)
        write_atomically(out, found.model_dump_json(indent=1) + "\n")
    except Failure as failure:
        raise AutotuneError(f"collectives could not be measured: {failure.message}") from failure
    except OSError as error:
        raise UsageError(f"--out {str(out)!r} cannot be written: {error.strerror or error}") from None
    if json_:
        print_json({"file": str(out), "source": OwnTimes(found, out.name).source, "formats": list(found.gemm)})
    else:
        print(f"{OwnTimes(found, out.name).source}: written to {out}")


def _show(what: str) -> None:
    print(f"measuring {what}", file=sys.stderr)
