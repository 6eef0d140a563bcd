"""How a training script is started on all GPUs, in lines of a comment."""

from __future__ import annotations

from evaluators.training_layout.exporters.subject import Subject

# Arguments are read from the file without their comments; some hold characters of a shell's file name patterns.
_ARGUMENTS = "$(grep -v '^#' THIS_FILE)"


def nodes(subject: Subject) -> tuple[int, int]:
    """Machines, and the GPUs of each."""
    each = next(part for part in range(min(subject.node_gpus, subject.gpus), 0, -1) if subject.gpus % part == 0)
    return subject.gpus // each, each


def torchrun(subject: Subject) -> str:
    """The launcher's part of the command, up to the script."""
    machines, gpus = nodes(subject)
    meeting = "" if machines == 1 else " --rdzv-backend=c10d --rdzv-endpoint=FIRST_NODE:29500"
    return f"torchrun --nnodes={machines} --nproc-per-node={gpus}{meeting}"


def launched(subject: Subject, script: str, yours: str) -> list[str]:
    """The command for every node, without expansion of file names.

    Args:
        yours: what the user adds to the arguments of the file.
    """
    return ["on every node:", f"  (set -f; {torchrun(subject)} {script} {_ARGUMENTS} {yours})"]
