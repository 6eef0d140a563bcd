"""A real PostgreSQL server for tests: made in a temporary folder, on a free port, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

USER = "autotune"


class PostgresMissingError(Exception):
    """No PostgreSQL server is installed."""


def _programs() -> Path:
    """The folder of initdb and pg_ctl: on PATH, else the newest of Debian's versioned ones."""
    found = shutil.which("initdb")
    if found and shutil.which("pg_ctl"):
        return Path(found).parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name), reverse=True)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "pg_ctl").exists():
            return folder
    raise PostgresMissingError(
        "these tests run on a real PostgreSQL server, and initdb and pg_ctl were not found; install one, on Debian and "
        "Ubuntu with: apt-get install postgresql"
    )


def _owner() -> pwd.struct_passwd | None:
    """Whom the server runs as; None for ourselves. PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise PostgresMissingError("PostgreSQL refuses to run as root, and there is no user 'postgres' or 'nobody' to be")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def server() -> Iterator[str]:
    """A running server with its default durability (fsync on); gives the URL of its database ``postgres``."""
    programs, owner = _programs(), _owner()
    root = Path(tempfile.mkdtemp(prefix="autotune-pg-"))
    as_owner = {} if owner is None else {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
    if owner is not None:
        os.chown(root, owner.pw_uid, owner.pw_gid)
    data, log = root / "data", root / "log"

    def run(program: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(programs / program), *arguments],
            cwd=root, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            env={**os.environ, "LC_ALL": "C"}, **as_owner,  # type: ignore[call-overload]
        )  # fmt: skip
        if done.returncode:
            written = log.read_text() if log.exists() else ""
            raise RuntimeError(f"{program} failed:\n{done.stdout.decode(errors='replace')}\n{written}")

    try:
        # The folder is thrown away, so only what the server itself writes has to be safe.
        run("initdb", "-D", str(data), "-U", USER, "--auth=trust", "--encoding=UTF8", "--locale=C", "--no-sync")
        port = _free_port()
        options = f"-p {port} -k {root} -c listen_addresses=127.0.0.1"
        # The log takes the server's output, or pg_ctl's pipe would stay open as long as the server lives.
        run("pg_ctl", "-D", str(data), "-l", str(log), "-w", "-t", "60", "-o", options, "start")
        try:
            yield f"postgresql://{USER}@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(root, ignore_errors=True)
