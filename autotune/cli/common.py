"""What several verbs share: options, JSON output, and values short enough for a table."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from autotune.errors import UsageError
from autotune.objective import unit_of

DEFAULT_STORAGE = "sqlite:///autotune.db"

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
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else _PIPED_WIDTH)


console = make_console()


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    print(json.dumps(value, indent=2, default=str, allow_nan=False))


def short(value: Any) -> str:
    """A parameter's value on a line: a vector by its range, a float by four digits."""
    if isinstance(value, (list, tuple)):
        distinct = set(value) if all(isinstance(v, (int, float, str, bool)) for v in value) else set()
        if len(distinct) == 1:
            return f"{short(value[0])} ×{len(value)}"
        if len(value) > 4 and all(isinstance(v, (int, float)) for v in value):
            return f"{short(min(value))}…{short(max(value))} ({len(value)} values)"
        return ", ".join(short(v) for v in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    return str(value)


def number(value: float | None) -> str:
    """Four significant digits, without an exponent where people would not write one."""
    if value is None or math.isnan(value):
        return "–"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        digits = 4 - 1 - (math.floor(math.log10(abs(value))) if value else 0)
        return f"{value:.{max(0, digits)}f}".rstrip("0").rstrip(".") if digits > 0 else f"{value:.0f}"
    return f"{value:.3e}"


def percent(gain: float | None) -> str:
    """A relative gain with its sign, ``+12.3 %``."""
    return "–" if gain is None else f"{gain * 100:+.1f} %"


def heading(metric: str) -> str:
    """A metric's column heading: its name, which ends in its unit."""
    unit = unit_of(metric)
    return metric if unit else metric.replace("_", " ")


def table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> Table:
    """A plain table; columns named in `right` are aligned to the right."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(
            column, justify="right" if column in right else "left", overflow="fold", no_wrap=column in right
        )
    for row in rows:
        made.add_row(*row)
    return made


def settings(given: Sequence[str]) -> dict[str, str]:
    """Read ``--set name=value`` options; values stay text, the domain's types turn them into what they are."""
    found: dict[str, str] = {}
    for item in given:
        name, equals, value = item.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"--set {item!r} is not of the form NAME=VALUE")
        found[name.strip()] = value.strip()
    return found


def differences(config: Mapping[str, Any], default: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Parameters with their value in the default and in `config`, in the order of the default's."""
    names = [*default, *(name for name in config if name not in default)]
    return [(name, short(default.get(name, "–")), short(config.get(name, "–"))) for name in names]
