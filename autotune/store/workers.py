"""Who holds a lease: the identity of a process, and whether that process is gone."""

from __future__ import annotations

import getpass
import os
import socket

import psutil

from autotune.checks import is_name

OWNER_VARIABLE = "AUTOTUNE_OWNER"
_NAME_LENGTH = 255  # what every database can index


def user_name() -> str | None:
    """Who works here: $AUTOTUNE_OWNER, else the name of the user; None where neither is known or can be stored."""
    given = os.environ.get(OWNER_VARIABLE, "").strip()
    if not given:
        try:
            given = getpass.getuser()
        except (OSError, KeyError, ImportError):  # a container may run as a user without a name
            return None
    return given if is_name(given, _NAME_LENGTH) else None


def worker_name() -> str:
    """Identity of this process as a lease holder: host, process and the process's start, as numbers are reused."""
    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.2f}"


def is_dead(worker_id: str | None) -> bool:
    """Whether a lease holder is known to be gone: it ran on this host and its process does not exist any more."""
    rest, _, started = (worker_id or "").rpartition(":")
    host, _, number = rest.rpartition(":")
    if host != socket.gethostname() or not number.isdigit():
        return False
    try:
        return f"{psutil.Process(int(number)).create_time():.2f}" != started
    except psutil.NoSuchProcess:
        return True
