"""`autotune plot` and `autotune report`: a study's pictures as files, and one page with all that is known of its result."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.common import (
    DEFAULT_STORAGE,
    JsonOption,
    StorageOption,
    StudyArgument,
    command_line,
    print_json,
    settings,
)
from autotune.cli.studies import open_for_reading
from autotune.errors import UsageError

if TYPE_CHECKING:
    from autotune.viewing import View

_FORMATS = ("png", "svg", "html")
_PLOT = """Draw a picture of a study into a file.

Without --kind, list the pictures of the study with their options. An html file works offline; svg and png are drawn by Chrome
or Chromium on this machine. A file that exists is written over.

Examples:

  autotune plot demo

  autotune plot demo --kind history --out history.html

  autotune plot demo --kind contour --set x=threads --set y=depth --out contour.svg

  autotune plot demo --kind samples --trial 3 --out samples.png
"""
_REPORT = """Write one page with a study's result, its pictures, its failures, and how to repeat it.

The page holds all it needs, so that it can be mailed and read offline. A file that exists is written over.

Example:

  autotune report demo --out report.html
"""


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command("plot", help=_PLOT)(plot)
    app.command("report", help=_REPORT)(report)


def plot(
    study: StudyArgument = None,
    storage: StorageOption = DEFAULT_STORAGE,
    kind: Annotated[
        str | None, typer.Option("--kind", "-k", help="Which picture; all are listed when not given.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A file whose name ends in .png, .svg or .html.")
    ] = None,
    trial: Annotated[
        int | None, typer.Option("--trial", help="Number of the trial, for pictures of one; the best if left out.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="An option of the picture.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Draw a picture of a study into a file."""
    options = settings(set_ or ())
    opened = open_for_reading(study, storage)
    if kind is None:
        if out is not None or trial is not None or options:
            raise UsageError("--kind is missing; autotune plot without --out, --trial and --set lists the kinds")
        _list(opened.name, _views(opened.record), json_=json_)
        return
    if out is None and not json_:
        raise UsageError(
            "--out is missing; name a file that ends in .png, .svg or .html, or give --json for the figure"
        )
    format_ = None if out is None else _format(out)
    figure = opened.plot(kind, trial, **options)
    told: dict[str, Any] = {
        "study": opened.name,
        "kind": kind,
        "trial": trial,
        "out": None if out is None else str(out),
    }
    if out is None or format_ is None:
        print_json({**told, "figure": json.loads(figure.to_json())})
        return
    from autotune.plots import image  # noqa: PLC0415 - this verb should start fast

    _write(out, image(figure, format_))
    if json_:
        print_json(told)
    else:
        print(f"wrote {kind} of {opened.name} to {out}", file=sys.stderr)


def report(
    study: StudyArgument = None,
    storage: StorageOption = DEFAULT_STORAGE,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A file whose name ends in .html.")] = None,
    json_: JsonOption = False,
) -> None:
    """Write one page with a study's result, its pictures, its failures, and how to repeat it."""
    opened = open_for_reading(study, storage)
    if out is None:
        raise UsageError("--out is missing; name the file to write, such as report.html")
    if out.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--out {str(out)!r} does not end in .html, which is what a report is; name it so")
    _check_folder(out)
    from autotune.html_report import write_report  # noqa: PLC0415 - this verb should start fast

    made = write_report(opened, lambda *words: command_line(*words, storage=opened.store.url))
    _write(out, made.html.encode())
    if json_:
        print_json({"study": opened.name, "out": str(out), "pictures": made.pictures, "left_out": made.left_out})
    else:
        print(f"wrote {out} with {len(made.pictures)} pictures", file=sys.stderr)


def _views(record: Any) -> dict[str, View]:
    from autotune.plots import VIEWS, views_of  # noqa: PLC0415

    try:
        return dict(views_of(record))
    except UsageError as error:
        print(f"autotune: the domain's own pictures are not listed: {error}", file=sys.stderr)
        return dict(VIEWS)


def _list(study: str, views: dict[str, View], *, json_: bool) -> None:
    from autotune.plots.catalogue import options_of  # noqa: PLC0415

    if json_:
        print_json(
            [
                {
                    "kind": name,
                    "title": view.title,
                    "summary": view.summary,
                    "of_trial": view.of_trial,
                    "options": options_of(view).model_json_schema(),
                }
                for name, view in views.items()
            ]
        )
        return
    width = max(map(len, views), default=0)
    print(f"pictures of {study}, drawn with --kind KIND --out FILE:")
    for name, view in views.items():
        print(f"  {name:<{width}}  {view.summary}" + (" (--trial N)" if view.of_trial else ""))
        for option, about in options_of(view).model_fields.items():
            print(f"  {'':<{width}}  --set {option}=...  {about.description}")


def _format(out: Path) -> str:
    found = out.suffix.lower().lstrip(".")
    if found not in _FORMATS:
        raise UsageError(f"--out {str(out)!r} does not end in .png, .svg or .html; its ending says what is drawn")
    _check_folder(out)
    return found


def _check_folder(out: Path) -> None:
    if not out.parent.is_dir():
        raise UsageError(f"--out {str(out)!r}: the folder {str(out.parent)!r} does not exist; create it first")


def _write(out: Path, content: bytes) -> None:
    try:
        out.write_bytes(content)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UsageError(f"--out {str(out)!r} cannot be written: {reason}; name another file") from None
