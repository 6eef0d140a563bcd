"""Start the processes of a run by torchrun, and end them all, whatever happens; what failed as a typed failure."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.execution.process import Limits, SessionProcess, describe_exit, last_line, says_out_of_memory
from autotune.measurement import Failure, FailureKind

WORKER = "evaluators.training_layout.real.worker"
_ROOT = Path(__file__).resolve().parents[3]
_KEEP_BYTES = 1 << 18  # tracebacks of some dozens of processes
_NOTE_CHARACTERS = 4096
_KILLED = re.compile(r"Signal \d+ \((SIG\w+)\) received by PID")
_OUT_OF_MEMORY = ("OutOfMemoryError", "MemoryError")
# What an error of starting says, and what helps.
_WAYS_OUT = (
    (r"No module named", f"install it for {sys.executable}"),
    (r"Address already in use|EADDRINUSE", "another program took the port meanwhile; run again"),
    (
        r"[Tt]imed? ?out|[Rr]endezvous|[Cc]onnect|resolve",
        "let processes of this machine connect to each other on 127.0.0.1",
    ),
    (r"CUDA|NCCL|nccl", "check that nvidia-smi lists the GPUs and that the installed torch is built for their driver"),
)


def launch(module: str, told: Mapping[str, Any], processes: int, limit_s: float, threads: int) -> Any:
    """What the work of a module (see `process.serve`) returned.

    Args:
        module: that every process runs.
        told: what it is told; JSON-able, with the `device` to work on.
        processes: how many.
        limit_s: seconds until all of it is ended, the start of the processes included.
        threads: of each process.

    Raises:
        Failure: `oom`; `timeout`; `infra` where the processes did not start or meet; `crash` for any other error of theirs.
            What they printed last is its note.
    """
    with tempfile.TemporaryDirectory(prefix="autotune-run-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        (folder / "told.json").write_text(json.dumps(told))
        process = SessionProcess(command(module, processes, folder), env=_environment(threads), keep_bytes=_KEEP_BYTES)
        late = False
        try:
            process.supervise(process.exits_within, Limits(time_s=limit_s))
        except Failure:
            late = True
        finally:
            code = process.end()
        result = folder / "result.json"
        if code == 0 and not late and result.exists():
            return json.loads(result.read_text())
        output = process.stderr.text().strip()
        failure = _late(folder, limit_s) if late else _failure(folder, code, output)
        if output:
            failure.add_note(output[-_NOTE_CHARACTERS:])
        raise failure


def command(module: str, processes: int, folder: Path) -> list[str]:
    """The command line of torchrun. A port of this machine that is free is chosen, and nothing is started again."""
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--nnodes", "1", "--nproc-per-node", str(processes), "--max-restarts", "0"),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"),
        *("-m", module, str(folder), str(os.getpid())),
    ]


def _environment(threads: int) -> Mapping[str, str]:
    found = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    # All processes are of this machine, whose name need not resolve to an address.
    found.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if str(_ROOT) != sysconfig.get_path("purelib"):
        found["PYTHONPATH"] = os.pathsep.join([*filter(None, [found.get("PYTHONPATH")]), str(_ROOT)])
    return found


def _late(folder: Path, limit_s: float) -> Failure:
    if any(folder.glob("started-*")):
        return Failure(
            FailureKind.TIMEOUT, f"the run gave no result within {limit_s:g} s; give it longer, or fewer layers"
        )
    return Failure(
        FailureKind.INFRA,
        f"the processes of the run did not meet within {limit_s:g} s; give it longer, and {_WAYS_OUT[2][1]}",
    )


def _failure(folder: Path, code: int, output: str) -> Failure:
    errors = [json.loads(path.read_text()) for path in folder.glob("error-*.json")]
    errors.sort(key=lambda error: float(error["at"]))  # the others' are of connections to the first that failed
    for error in errors:
        if error["type"] in _OUT_OF_MEMORY or says_out_of_memory(error["message"]):
            return Failure(FailureKind.OOM, f"a process of the run ran out of memory: {_first_line(error['message'])}")
    # Those that torchrun itself ends, when another has failed, get SIGTERM.
    killed = set(_KILLED.findall(output)) - {signal.SIGTERM.name}
    if signal.SIGKILL.name in killed:
        return Failure(
            FailureKind.OOM, "a process of the run was killed (SIGKILL), as the system does when memory runs out"
        )
    if killed:
        return Failure(FailureKind.CRASH, f"a process of the run was killed by {', '.join(sorted(killed))}")
    if code < 0:
        return Failure(FailureKind.INFRA, f"torchrun {describe_exit(code)}, not by the run; run again")
    said = f"{errors[0]['type']}: {_first_line(errors[0]['message'])}" if errors else _last_error(output)
    if any(folder.glob("started-*")):
        return Failure(FailureKind.CRASH, f"a process of the run failed with {said}")
    ended = said or f"torchrun {describe_exit(code)}"
    helps = next((way for pattern, way in _WAYS_OUT if re.search(pattern, said)), "see what it printed, in the note")
    return Failure(FailureKind.INFRA, f"the processes of the run did not start ({ended}); {helps}")


def _first_line(message: str) -> str:
    """Of an error's text: PyTorch puts where it was raised below it."""
    return last_line(next((line for line in message.splitlines() if line.strip()), ""))


def _last_error(output: str) -> str:
    """The last line that is an error's, of what several processes printed."""
    lines = re.findall(r"^(?:\S+: )?((?:\w+\.)*\w*(?:Error|Exception)\b.*|.*No module named.*)$", output, re.MULTILINE)
    return last_line("\n".join(line for line in lines if "ChildFailedError" not in line))
