"""`autotune export`: a study's trials, or its best configuration, as a file for other programs."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.common import (
    DEFAULT_STORAGE,
    JsonOption,
    StorageOption,
    StudyArgument,
    json_text,
    print_json,
    settings,
)
from autotune.cli.studies import open_for_reading, trial_json
from autotune.errors import UsageError

if TYPE_CHECKING:
    from autotune.exporting import Exported
    from autotune.study import Study

FORMATS = ("json", "csv", "parquet", "optuna")

_EXAMPLES = """
Of all trials: json, csv, parquet, or optuna (a storage that optuna-dashboard opens).

Of one configuration, the best or --trial N: the formats of the study's domain, which --format list tells.
What the other program cannot express is told on standard error, and in the file where the format has comments.

Examples:

  autotune export demo --format csv --out trials.csv

  autotune export demo --format list

  autotune export demo --format llama.cpp --out llama.args

  autotune export demo --format moe-infinity --set gpu_gib=24 --trial 3 --out moe-infinity.json
"""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("export", help=f"Write a study's trials, or its best configuration, for other programs.\n{_EXAMPLES}")(
        export
    )


def export(
    study: StudyArgument = None,
    storage: StorageOption = DEFAULT_STORAGE,
    format_: Annotated[
        str,
        typer.Option("--format", "-f", help="json, csv, parquet or optuna; or one of the domain's, see --format list."),
    ] = "json",
    out: Annotated[
        str | None,
        typer.Option(
            "--out", "-o", help="A file; for optuna a URL such as sqlite:///optuna.db. Standard output when not given."
        ),
    ] = None,
    trial: Annotated[
        int | None,
        typer.Option("--trial", help="Number of the trial whose configuration to write; the best if left out."),
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="An option of a domain's format.")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Write a study's trials, or its best configuration, for other programs."""
    opened = open_for_reading(study, storage)
    given = settings(set_ or ())
    if format_ == "list":
        _list(opened, json_=json_)
    elif format_ in FORMATS:
        if trial is not None or given:
            raise UsageError(
                f"--format {format_} writes all trials, so --trial and --set have no meaning; leave them out"
            )
        _export_trials(opened, format_, out, json_=json_)
    else:
        _export_config(opened, format_, out, trial, given, json_=json_)


def _list(study: Study, *, json_: bool) -> None:
    from autotune.exporting import exporters_of  # noqa: PLC0415

    found = exporters_of(study.record)
    if json_:
        options = {name: one.options.model_json_schema() for name, one in found.items()}
        configs = [{"format": name, "summary": one.summary, "options": options[name]} for name, one in found.items()]
        print_json({"trials": list(FORMATS), "configuration": configs})
        return
    print(f"of all trials: {', '.join(FORMATS)}")
    print("of one configuration:" + ("" if found else " none"))
    width = max(map(len, found), default=0)
    for name, one in found.items():
        print(f"  {name:<{width}}  {one.summary}")
        for option, about in one.options.model_fields.items():
            default = "required" if about.is_required() else f"default {about.default}"
            print(f"  {'':<{width}}  --set {option}=...  {about.description} ({default})")


def _export_config(
    study: Study, format_: str, out: str | None, trial: int | None, options: dict[str, str], *, json_: bool
) -> None:
    from autotune.exporting import chosen, export_config, exporters_of  # noqa: PLC0415

    known = exporters_of(study.record)
    if format_ not in known:
        own = ", ".join(known) or "none"
        raise UsageError(
            f"--format {format_!r} is unknown; of all trials: {', '.join(FORMATS)}; of one configuration: {own}"
        )
    record = chosen(study, trial)
    stem = "autotune" if out is None else Path(out).stem
    exported = export_config(study.record, format_, record, options, stem)
    if out is None and exported.attachments:
        raise UsageError(f"--out is missing; {format_} writes {', '.join(exported.attachments)} beside its file")
    written = [] if out is None else _write_all(exported, Path(out))
    for sentence in exported.cannot:
        print(f"autotune: not expressed: {sentence}", file=sys.stderr)
    if json_:
        print_json(
            {
                "study": study.name,
                "format": format_,
                "trial": record.number,
                "out": out,
                "files": written,
                "cannot": list(exported.cannot),
                **({"text": exported.text} if out is None else {}),
            }
        )
    elif out is None:
        print(exported.text, end="")
    else:
        print(f"wrote trial {record.number} to {', '.join(written)}", file=sys.stderr)


def _write_all(exported: Exported, path: Path) -> list[str]:
    """Write the file and what belongs beside it; their names."""
    parts = {path: exported.text.encode(), **{path.parent / n: data for n, data in exported.attachments.items()}}
    for where, data in parts.items():
        _write(where, partial(Path.write_bytes, data=data))
    return [str(where) for where in parts]


def _export_trials(opened: Study, format_: str, out: str | None, *, json_: bool) -> None:
    if out is None and (json_ or format_ in ("parquet", "optuna")):
        raise UsageError("--out is missing; " + ("--json tells what was written" if json_ else f"{format_} is no text"))
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
    document: dict[str, Any] = {
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
