"""What a process that torchrun starts does besides its work: meet the others, hand over what it found, die with its owner.

    torchrun ... -m MODULE FOLDER OWNER

The folder holds ``told.json``, with the `device` to work on. The first process leaves ``result.json`` in it, those that have
met the others ``started-N``, and those that fail ``error-N.json``. OWNER is the process that waits for the result.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import distributed as dist

_LOOK_S = 0.5  # how often to look whether those who want the result still live


def serve(work: Callable[[Mapping[str, Any]], Any]) -> None:
    """Let all processes do the work, and the first write what it returned there.

    Args:
        work: takes what was told, returns what is JSON-able.
    """
    folder, owner = Path(sys.argv[1]), int(sys.argv[2])
    live_with(owner)
    rank = os.environ["RANK"]
    try:
        told = json.loads((folder / "told.json").read_text())
        _meet(told["device"])
        (folder / f"started-{rank}").touch()
        found = work(told)
        if rank == "0":
            (folder / "result.json").write_text(json.dumps(found))
        dist.destroy_process_group()
    except Exception as error:
        traceback.print_exc()
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        said = {"at": time.time(), "type": type(cause).__name__, "message": str(cause)}
        (folder / f"error-{rank}.json").write_text(json.dumps(said))
        sys.stderr.flush()
        # Tearing groups down would wait for processes that will never come.
        os._exit(1)


def live_with(owner: int) -> None:
    """End this process as soon as its parent, or the owner, whose child that is, has ended."""
    parent = os.getppid()
    try:
        wanted = psutil.Process(owner)
        orphaned = psutil.Process(parent).ppid() != owner
    except psutil.NoSuchProcess:
        orphaned = True
    if orphaned:
        os._exit(1)

    def watch() -> None:
        while os.getppid() == parent and wanted.is_running() and wanted.status() != psutil.STATUS_ZOMBIE:
            time.sleep(_LOOK_S)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _meet(device: str) -> None:
    if device == "cuda":
        local = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(local)
        dist.init_process_group("nccl", device_id=local)
    else:
        dist.init_process_group("gloo")
