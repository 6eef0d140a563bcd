"""`autotune optuna-dashboard`: studies in optuna-dashboard, live, and without a copy of them."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from autotune.cli.common import DEFAULT_STORAGE, JsonOption, StorageOption, print_json

_HELP = """Open the studies of a database in optuna-dashboard, which shows new trials as they come. Nothing is written.

Example:

  autotune optuna-dashboard --storage sqlite:///runs.db --port 8081
"""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("optuna-dashboard", help=_HELP)(optuna_dashboard)


def optuna_dashboard(
    storage: StorageOption = DEFAULT_STORAGE,
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; others can reach it where it is no local one.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 takes a free one.")] = 8081,
    json_: JsonOption = False,
) -> None:
    """Open the studies of a database in optuna-dashboard."""
    from autotune.integrations.optuna_dashboard import make_dashboard_server  # noqa: PLC0415 - it loads Optuna

    with make_dashboard_server(storage, host, port) as server:
        shown = f"[{host}]" if ":" in host else host
        url = f"http://{shown}:{server.server_port}/"
        if json_:
            print_json({"url": url, "port": server.server_port})
            sys.stdout.flush()
        else:
            print(f"optuna-dashboard: {url}  (stop it with Ctrl-C)", file=sys.stderr)
        try:
            server.serve_forever()
        except KeyboardInterrupt:  # the one way to end it
            print(file=sys.stderr)
