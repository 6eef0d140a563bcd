"""`autotune export`: a study's trials as a file for other programs."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli.common import DEFAULT_STORAGE, JsonOption, StorageOption, StudyArgument, json_text, print_json
from autotune.cli.studies import open_for_reading, trial_json
from autotune.errors import UsageError

if TYPE_CHECKING:
    from autotune.study import Study

FORMATS = ("json", "csv", "parquet", "optuna")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("export")(export)


def export(
    study: StudyArgument = None,
    storage: StorageOption = DEFAULT_STORAGE,
    format_: Annotated[
        str,
        typer.Option("--format", "-f", help="json, csv, parquet, or optuna (a storage that optuna-dashboard opens)."),
    ] = "json",
    out: Annotated[
        str | None,
        typer.Option(
            "--out", "-o", help="A file; for optuna a URL such as sqlite:///optuna.db. Standard output when not given."
        ),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Write a study's trials as JSON, CSV or Parquet, or as an Optuna storage."""
    if format_ not in FORMATS:
        raise UsageError(f"--format {format_!r} is unknown; use one of: {', '.join(FORMATS)}")
    if out is None and (json_ or format_ in ("parquet", "optuna")):
        raise UsageError("--out is missing; " + ("--json tells what was written" if json_ else f"{format_} is no text"))
    opened = open_for_reading(study, storage)
    if out is None:
        print(_text(opened, format_), end="")
        return
    if format_ == "optuna":
        from autotune.integrations.optuna_export import export_study  # noqa: PLC0415

        written = export_study(opened, out)
        hint = f"; open it with: optuna-dashboard {out}"
    else:
        written, hint = len(opened.trials), ""
        if format_ == "parquet":
            _parquet(opened, Path(out))
        else:
            _write(Path(out), lambda path: path.write_text(_text(opened, format_), encoding="utf-8"))
    if json_:
        print_json({"study": opened.name, "format": format_, "out": out, "trials": written})
    else:
        print(f"wrote {written} trials to {out}{hint}", file=sys.stderr)


def _text(study: Study, format_: str) -> str:
    return f"{_json(study)}\n" if format_ == "json" else study.frame().to_csv(index=False)


def _json(study: Study) -> str:
    record = study.record
    document = {
        "study": record.name,
        "domain": record.domain,
        "objectives": list(record.objectives),
        "constraints": list(record.constraints),
        "space": record.space,
        "default": record.default_config,
        "strategy": record.strategy,
        "strategy_options": record.strategy_options,
        "sources": [dataclasses.asdict(source) for source in record.sources],
        "seed": record.seed,
        "options": record.options,
        "profile": None if record.profile_id is None else study.store.profile(record.profile_id).payload,
        "trials": [{**trial_json(t, record), "samples": study.store.samples(t.id)} for t in study.trials],
    }
    return json_text(document)


def _parquet(study: Study, path: Path) -> None:
    try:
        import pyarrow  # noqa: F401, PLC0415
    except ImportError:
        raise UsageError(
            "--format parquet needs the package pyarrow; install it with: pip install 'autotune[parquet]'"
        ) from None
    _write(path, study.frame().to_parquet)


def _write(path: Path, write: Callable[[Path], object]) -> None:
    if not path.parent.is_dir():
        raise UsageError(f"--out {str(path)!r}: the folder {str(path.parent)!r} does not exist; create it first")
    try:
        write(path)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UsageError(f"--out {str(path)!r} cannot be written: {reason}; name another file") from None
