"""`autotune dashboard`: checks what can be wrong, then runs the Streamlit server until it is stopped.

The command line imports this module at every start, so everything heavy is imported inside.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import FrameType
from typing import Annotated
from urllib.parse import urlencode

import typer

from autotune.cli.common import DEFAULT_STORAGE, JsonOption, StorageOption, console, print_json
from autotune.errors import AutotuneError, UsageError

_START_S = 60.0  # a cold start on a slow disk takes some ten seconds
_STOP_S = 5.0
_LOCAL = ("127.0.0.1", "::1", "localhost")
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # addresses to bind that cannot be connected to


def dashboard(
    storage: StorageOption = DEFAULT_STORAGE,
    study: Annotated[str | None, typer.Option("--study", help="Open the page at this study.")] = None,
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the page.")] = 8501,
    host: Annotated[
        str,
        typer.Option("--host", help="Address to bind. Anything but this machine's own lets others read the results."),
    ] = "127.0.0.1",
    allow_edit: Annotated[
        bool,
        typer.Option("--allow-edit", help="Let visitors launch, stop and resume searches, and archive studies."),
    ] = False,
    password: Annotated[
        str | None,
        typer.Option(
            "--password-file",
            metavar="FILE",
            help="Ask visitors for the password in this file; $AUTOTUNE_DASHBOARD_PASSWORD does the same.",
        ),
    ] = None,
    user_header: Annotated[
        str | None,
        typer.Option(
            "--user-header",
            envvar="AUTOTUNE_DASHBOARD_USER_HEADER",
            metavar="NAME",
            help="Let in only who a reverse proxy names in this request header, such as X-Forwarded-User.",
        ),
    ] = None,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show studies, their history and their best configurations as pages in the browser."""
    _require_extra()
    from dashboard.settings import PASSWORD, Settings  # noqa: PLC0415

    settings = Settings(storage, allow_edit, _password(password) or os.environ.get(PASSWORD) or None, user_header)
    _require_study(storage, study)
    _require_port(host, port)
    reached = _EVERYWHERE.get(host, host)
    url = f"http://{f'[{reached}]' if ':' in reached else reached}:{port}/"
    if study is not None:
        url += "?" + urlencode({"study": study})
    # A signal to end this command must end the server too, so both ends run through the same clean-up.
    signal.signal(signal.SIGTERM, _terminate)
    server = subprocess.Popen(
        _command(host, port), env={**os.environ, **settings.variables()}, stdout=subprocess.DEVNULL
    )
    try:
        _wait_until_up(server, reached, port)
        if as_json:
            print_json({"url": url, "port": port, "study": study, "allow_edit": allow_edit})
        else:
            if allow_edit and host not in _LOCAL and not (settings.password or settings.user_header):
                warn = "everyone who reaches this address can run searches on this machine; set a password"
                print(f"autotune: {warn}", file=sys.stderr)
            console.print(f"dashboard at {url}  (Ctrl-C ends it)", soft_wrap=True)
        sys.stdout.flush()
        if open_browser:
            import webbrowser  # noqa: PLC0415 - only where it is asked for

            webbrowser.open(url)
        code = server.wait()
        if code:
            raise AutotuneError(f"the dashboard's server ended with exit code {code}; its own message is above")
    except KeyboardInterrupt:
        return
    finally:
        _stop(server)


def _require_extra() -> None:
    missing = [name for name in ("streamlit", "plotly") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f'the dashboard needs {" and ".join(missing)}; install with: pip install "autotune[dashboard]"'
        )


def _password(file: str | None) -> str | None:
    if file is None:
        return None
    try:
        found = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--password-file {file!r} cannot be read: {error}") from None
    if not found:
        raise UsageError(f"--password-file {file!r} is empty; write the password into it")
    return found


def _require_study(storage: str, study: str | None) -> None:
    from autotune.store import Store  # noqa: PLC0415 - sqlalchemy

    with closing(Store(storage, read_only=True)) as store:
        if study is not None:
            store.load_study(study)


def _require_port(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError):
        raise UsageError(f"--host {host!r} is not an address or a name that is known here; use 127.0.0.1") from None
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            raise UsageError(
                f"--port {port} on {host} cannot be used: {os.strerror(error.errno or 0).lower()}; choose another with --port"
            ) from None


def _command(host: str, port: int) -> list[str]:
    options = {
        "server.address": host,
        "server.port": str(port),
        "server.headless": "true",
        "server.fileWatcherType": "none",
        "runner.postScriptGC": "false",  # going over all that is kept of large studies takes longer than most drawings
        "logger.level": "warning",
        "logger.hideWelcomeMessage": "true",  # it looks up this machine's address on the internet
        "browser.gatherUsageStats": "false",
        "client.toolbarMode": "viewer",
        "client.showErrorDetails": "none",
    }
    # -P keeps a folder of the user's that is named like one of our packages from hiding it. The store's URL goes through
    # the environment, as it may hold a password and every user of the machine can read command lines.
    return [
        sys.executable, "-P", "-m", "streamlit", "run", str(Path(__file__).with_name("server.py")),
        *(f"--{name}={value}" for name, value in options.items()),
    ]  # fmt: skip


def _wait_until_up(server: subprocess.Popen[bytes], host: str, port: int) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise AutotuneError(
                f"the dashboard's server ended at once with exit code {server.returncode}; its message is above"
            )
        with suppress(OSError, HTTPException), closing(HTTPConnection(host, port, timeout=2)) as connection:
            connection.request("GET", "/_stcore/health")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise AutotuneError(f"the dashboard's server did not answer on {host}:{port} within {_START_S:g} s")


def _terminate(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _stop(server: subprocess.Popen[bytes]) -> None:
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
