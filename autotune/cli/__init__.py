"""The command line. Every verb has `--json`; exit codes are 0 done, 1 the search failed, 2 bad usage."""

from __future__ import annotations

import os
import sys
from importlib.metadata import entry_points

import click
import typer

from autotune.cli import export, hardware, search, studies
from autotune.errors import AutotuneError, SearchFailedError, UsageError

COMMANDS_GROUP = "autotune.commands"
_INTERRUPTED = 130  # what a shell gives a command ended by Ctrl-C

app = typer.Typer(
    name="autotune",
    help="Find the configuration to use on this hardware: propose, measure, keep, show.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _main(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None:
    if debug:
        os.environ["AUTOTUNE_DEBUG"] = "1"


for module in (search, studies, export, hardware):
    module.register(app)


def _add_commands() -> None:
    """Verbs that packages outside the engine bring."""
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


def main() -> None:
    """Entry point of the console script."""
    _add_commands()
    try:
        code = app(standalone_mode=False)
    except KeyboardInterrupt:
        code = _INTERRUPTED
    except click.exceptions.Abort:
        code = _INTERRUPTED
    except click.ClickException as error:
        error.show()
        code = 2
    except SearchFailedError as error:
        code = _say(error, 1)
    except UsageError as error:
        code = _say(error, 2)
    except AutotuneError as error:
        code = _say(error, 1)
    except BrokenPipeError:  # `autotune trials a | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code if isinstance(code, int) else 0)


def _say(error: Exception, code: int) -> int:
    if os.environ.get("AUTOTUNE_DEBUG"):
        raise error
    print(f"autotune: {error}", file=sys.stderr)
    return code
