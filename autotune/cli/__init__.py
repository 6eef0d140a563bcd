"""The command line. Every verb has `--json`; exit codes are 0 done, 1 the search failed, 2 bad usage."""

from __future__ import annotations

import functools
import io
import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, cast

import typer

from autotune.cli import control, export, hardware, optuna_dashboard, plot, search, studies, validate
from autotune.cli.common import INTERRUPTED
from autotune.domain import shadowing_folder
from autotune.errors import AutotuneError, UsageError

if TYPE_CHECKING:
    import click

COMMANDS_GROUP = "autotune.commands"
COMPLETING = "_AUTOTUNE_COMPLETE"  # a shell asks by this variable what may follow

# The parser's own error, which typer does not export; what it does export derives from it.
_Misuse = cast(type[typer.BadParameter], typer.BadParameter.__mro__[1])


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
    for module in (search, control, studies, plot, export, optuna_dashboard, hardware, validate):
        module.register(app)
    for point in sorted(entry_points(group=COMMANDS_GROUP), key=lambda p: p.name):
        try:
            command = point.load()
        except ImportError as error:
            hidden = shadowing_folder(point)
            why = "" if hidden is None else f"the folder {str(hidden)!r} hides autotune's package {hidden.name!r}: "
            print(f"autotune: the command {point.name!r} cannot be loaded: {why}{error}", file=sys.stderr)
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
    _open_streams()
    try:
        command = _command()
        if COMPLETING in os.environ:
            _complete(command, given)
        code = command(given, prog_name="autotune", standalone_mode=False, obj=given)
        sys.stdout.flush()
    except _Misuse as error:
        sys.exit(_explain(error))
    except AutotuneError as error:
        if "--debug" in given:
            raise
        print(f"autotune: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        print("autotune: interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except OSError as error:
        # What is left in the buffer would fail once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):  # autotune trials | head
            sys.exit(0)
        if "--debug" in given:
            raise
        about = f"{error.filename}: " if error.filename else ""
        print(f"autotune: {about}{error.strerror or error}", file=sys.stderr)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


@functools.cache
def _command() -> click.Command:
    return typer.main.get_command(make_app())


def _complete(command: click.Command, given: Sequence[str]) -> NoReturn:
    """Answers the shell; the names of studies and the like come on top of what the parser knows itself."""
    from autotune.cli.completion import complete, mend  # noqa: PLC0415 - seldom needed

    asked_by_bash = os.environ[COMPLETING] == "complete_bash"
    complete(command)
    if not asked_by_bash or mend(os.environ):
        command(list(given), prog_name="autotune", obj=given)
    sys.exit(0)


def _open_streams() -> None:
    """Streams that take any text: one that the caller closed is None, and others may know ASCII alone."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - for the process's life
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _explain(error: typer.BadParameter) -> int:
    """One line for what the parser could not use; nothing where it showed the help, as nothing was given."""
    message = " ".join(error.format_message().split())
    if message and type(error).__name__ != "NoArgsIsHelpError":
        verb = error.ctx.command_path if error.ctx else "autotune"
        print(f"autotune: {message[0].lower()}{message[1:].rstrip('.')}; see: {verb} --help", file=sys.stderr)
    return 2
