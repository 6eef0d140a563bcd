"""Searches that were started from the page: ordinary processes of their own, which outlive the page and its server.

What is known of each is a small file in the user's state folder, so that another server of the same user finds it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs
import psutil

from autotune.store.engine import shown_url
from autotune.store.workers import OWNER_VARIABLE

FOLDER = "AUTOTUNE_STATE_DIR"
_TAIL = 16_384  # bytes of a log that a page shows
_POLL_S = 0.1
# Of this server, by log. Asking one how it ended is also what takes it off the system's list.
_children: dict[str, subprocess.Popen[bytes]] = {}
_SAME_S = 2.0  # two clocks' readings of when a process began may differ by so much


@dataclass(frozen=True)
class Worker:
    """A process that runs a search.

    Attributes:
        pid, began: the process, and when it began by the system's clock; a later process may have the same number.
        study, storage: what it searches, and where; without a password.
        command: what was run, but for the storage, which went through the environment.
        log: file with all that it says.
        asked: seconds since the epoch when it was asked for; by this program's clock, which the system's is not exactly.
    """

    pid: int
    began: float
    study: str
    storage: str
    command: tuple[str, ...]
    log: str
    asked: float = 0.0

    @property
    def process(self) -> psutil.Process | None:
        """The process while it runs."""
        child = _children.get(self.log)
        if child is not None and child.poll() is not None:
            return None
        try:
            found = psutil.Process(self.pid)
            if child is not None:  # its first thread may have ended before others have
                return found
            same = abs(found.create_time() - self.began) < _SAME_S
            return found if same and found.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None

    @property
    def failed(self) -> bool:
        """Whether it ended with an error; False where another server started it, as only that one is told."""
        child = _children.get(self.log)
        return child is not None and bool(child.poll())

    @property
    def tail(self) -> str:
        """The end of what it said."""
        try:
            with Path(self.log).open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - _TAIL))
                return file.read().decode("utf-8", "replace")
        except OSError as error:
            return f"its log cannot be read: {error.strerror}"


def folder() -> Path:
    """``$AUTOTUNE_STATE_DIR/workers``, or ``workers`` in the user's state folder."""
    return Path(os.environ.get(FOLDER) or platformdirs.user_state_dir("autotune")) / "workers"


def launch(storage: str, study: str, arguments: Sequence[str], owner: str | None = None) -> Worker:
    """Start ``autotune ARGUMENTS`` on a storage, in a session of its own.

    Args:
        owner: who asked; the user of this process when None.

    Raises:
        OSError: when the state folder cannot be written.
    """
    folder().mkdir(parents=True, exist_ok=True)
    file = folder() / f"{uuid.uuid4().hex}.json"
    log = file.with_suffix(".log")
    # -P keeps a folder of the user's that is named like one of our packages from hiding it.
    command = [sys.executable, "-P", "-m", "autotune", *arguments]
    by = {} if owner is None else {OWNER_VARIABLE: owner}
    asked = time.time()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, "AUTOTUNE_STORAGE": storage, "PYTHONUNBUFFERED": "1", **by},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        began = psutil.Process(process.pid).create_time()
    except psutil.Error:
        began = time.time()
    _children[str(log)] = process
    worker = Worker(process.pid, began, study, shown_url(storage), ("autotune", *arguments), str(log), asked)
    file.write_text(json.dumps(asdict(worker)), encoding="utf-8")
    return worker


def resume(storage: str, study: str, owner: str | None = None) -> Worker:
    """Go on with a study of a domain or a command, for whom `launch` is told."""
    return launch(storage, study, ["resume", "--", study], owner)


def wait(worker: Worker, ready: Callable[[], bool], seconds: float) -> None:
    """Until something is so, or the process has ended, or so much time has passed."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends and worker.process is not None and not ready():
        time.sleep(_POLL_S)


def known(storage: str) -> list[Worker]:
    """All that were started on a storage, the newest first."""
    found = []
    for file in folder().glob("*.json"):
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            worker = Worker(**{**values, "command": tuple(values["command"])})
        except (OSError, ValueError, TypeError, KeyError):
            continue  # another server may be writing it, or an older one wrote something else
        if worker.storage == shown_url(storage):
            found.append(worker)
    return sorted(found, key=lambda worker: -worker.began)
