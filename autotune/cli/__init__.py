"""The command line. Every verb has `--json`; exit codes are 0 done, 1 the search failed, 2 bad usage."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from typing import Annotated, NoReturn

import typer

from autotune.cli import export, hardware, search, studies
from autotune.errors import AutotuneError, UsageError

COMMANDS_GROUP = "autotune.commands"


def make_app() -> typer.Typer:
    """All verbs: the engine's own, and those that packages outside it bring by entry point."""
    app = typer.Typer(
        name="autotune",
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_main)
    for module in (search, studies, export, hardware):
        module.register(app)
    for point in sorted(entry_points(group=COMMANDS_GROUP), key=lambda p: p.name):
        try:
            command = point.load()
        except ImportError as error:
            print(f"autotune: the command {point.name!r} cannot be loaded: {error}", file=sys.stderr)
            continue
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=point.name)
        else:
            app.command(point.name)(command)
    return app


def _version(wanted: bool) -> None:
    if wanted:
        from autotune import __version__  # noqa: PLC0415 - the package itself does not need its version

        print(f"autotune {__version__}")
        raise typer.Exit


def _main(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    """Find the configuration to use on this hardware: propose, measure, keep, show."""
    del debug, version  # `main` reads the one, its callback acts on the other


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Entry point of the console script; ends the process with the exit code.

    Args:
        arguments: instead of the process's own.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        make_app()(given, prog_name="autotune")  # ends the process itself, with 2 for what it cannot parse
    except AutotuneError as error:
        if "--debug" in given:
            raise
        print(f"autotune: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except BrokenPipeError:  # autotune trials | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(0)
