"""What several verbs share: options, JSON output, and values short enough for a table."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from autotune.errors import UsageError
from autotune.objective import unit_of
from autotune.space import SearchSpace
from autotune.store.engine import shown_url
from autotune.text import NOTHING, value_text

DEFAULT_STORAGE = "sqlite:///autotune.db"
INTERRUPTED = 130  # what a shell gives a command that Ctrl-C ended

StorageOption = Annotated[
    str,
    typer.Option(
        "--storage",
        envvar="AUTOTUNE_STORAGE",
        metavar="URL",
        help="Where results are kept: sqlite:///FILE or postgresql://USER@HOST/DATABASE.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
StudyArgument = Annotated[
    str | None, typer.Argument(help="Name of the study; may be left out where there is only one.")
]

_PIPED_WIDTH = 160  # a file has no width; this is what keeps a table's rows on one line


def make_console(*, stderr: bool = False) -> Console:
    """A console on standard output or error, wide where that is not a terminal."""
    stream = sys.stderr if stderr else sys.stdout
    on_terminal = stream is not None and stream.isatty()  # None where the caller closed it
    return Console(stderr=stderr, highlight=False, markup=False, width=None if on_terminal else _PIPED_WIDTH)


console = make_console()


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json_text(value))


def json_text(value: Any) -> str:
    """A JSON document. JSON has no NaN and no infinity: they become null."""
    return json.dumps(_finite(value), indent=2, default=str, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return value


def heading(metric: str) -> str:
    """A metric's column heading: its name, which ends in its unit."""
    unit = unit_of(metric)
    return metric if unit else metric.replace("_", " ")


def table(
    title: str | None, columns: Sequence[str], rows: Sequence[Sequence[str | Text]], right: Sequence[str] = ()
) -> Table:
    """A plain table; columns named in `right` are aligned to the right. Brackets in a cell are brackets, no markup."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(
            Text(column), justify="right" if column in right else "left", overflow="fold", no_wrap=column in right
        )
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    return made


def command_line(*words: str, storage: str) -> str:
    """A command of ours to copy into a shell, on this storage, whose password it does not tell."""
    return shlex.join([*program(), *words, "--storage", shown_url(storage)])


def program() -> list[str]:
    """What starts this program in the user's shell, which finds it by name only where its folder is on the path."""
    if shutil.which("autotune"):
        return ["autotune"]
    called = Path(sys.argv[0])
    return [str(called)] if called.name == "autotune" else [sys.executable, "-m", "autotune"]


def settings(given: Sequence[str], flag: str = "--set") -> dict[str, str]:
    """Read ``--set name=value`` options; values stay text, the types of a domain or a strategy make them what they are."""
    found: dict[str, str] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"{flag} {item!r} is not of the form NAME=VALUE")
        if name.strip() in found:
            raise UsageError(
                f"{flag} {name.strip()} is given twice, as {found[name.strip()]!r} and {value.strip()!r}; keep one"
            )
        found[name.strip()] = value.strip()
    return found


def share(option: str, text: str | None) -> float | None:
    """Read a relative amount, ``0.1%`` or ``0.001``."""
    if text is None:
        return None
    digits = text.strip()
    try:
        value = float(digits.removesuffix("%")) / (100.0 if digits.endswith("%") else 1.0)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise UsageError(f"{option} {text!r} is no share above 0; write it as 0.1% or 0.001")
    return value


def differences(
    space: SearchSpace, config: Mapping[str, Any], default: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    """Parameters with their value in the default and in `config`, in the order in which the space declares them."""
    names = [p.name for p in space.parameters if p.name in default or p.name in config]
    return [(name, value_text(default.get(name, NOTHING)), value_text(config.get(name, NOTHING))) for name in names]
