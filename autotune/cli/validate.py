"""`autotune validate`: how far a domain's predictions are from real runs, and their correction."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.common import (
    DEFAULT_STORAGE,
    INTERRUPTED,
    JsonOption,
    StorageOption,
    command_line,
    console,
    heading,
    make_console,
    print_json,
    program,
    settings,
    table,
)
from autotune.errors import UsageError
from autotune.interrupts import held
from autotune.text import NOTHING, number, percent

if TYPE_CHECKING:
    from autotune.validation import ValidationReport

_EXAMPLES = """
[bold]Examples[/bold]

  autotune validate moe-cache

  autotune validate moe-cache --set trace=my.moetrace.npz --runs 60 --plot agreement.html

  autotune validate moe-cache --calibration 0    (predictions as they are; nothing is corrected)

  autotune validate training-layout --data measured/ --calibrate 0.1    (beside tables of runs that others measured)
"""


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("validate", epilog=_EXAMPLES)(validate)


def validate(
    context: typer.Context,
    domain: Annotated[str, typer.Argument(help="An installed domain, see 'autotune domains'.")],
    storage: StorageOption = DEFAULT_STORAGE,
    study: Annotated[
        str | None,
        typer.Option("--study", help="Name of the study that keeps the runs; one that exists is gone on with."),
    ] = None,
    runs: Annotated[int, typer.Option("--runs", help="Configurations that judge the predictions.")] = 36,
    calibration: Annotated[
        int, typer.Option("--calibration", help="Configurations that correct them before; 0 leaves them as they are.")
    ] = 5,
    rounds: Annotated[
        int,
        typer.Option("--rounds", help="How often all are measured, in turns; medians count where a machine is noisy."),
    ] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Of the choice of configurations.")] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An option of the domain; see 'autotune domains NAME'."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep/--no-keep", help="Whether searches on this machine use the correction from now on.")
    ] = True,
    plot: Annotated[
        str | None, typer.Option("--plot", metavar="FILE.html", help="A picture of predictions beside measurements.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DIR", help="Compare with the tables of measurements in a folder; nothing is run."
        ),
    ] = None,
    calibrate: Annotated[
        float,
        typer.Option("--calibrate", help="With --data: share of each table's rows that calibrate and do not judge."),
    ] = 0.0,
    json_: JsonOption = False,
) -> None:
    """Compare a domain's predictions with real runs, and correct them by a few of these.

    Of each metric: the mean absolute percentage error (mape), the mean signed one (bias), and Spearman's rank correlation.
    The runs that correct are not among those that judge.
    """
    if data is not None:
        given_too = {"--plot": plot is not None, "--study": study is not None, "--set": bool(set_)}
        _compare(domain, data, calibrate, seed, json_, [name for name, given in given_too.items() if given])
        return
    if calibrate:
        raise UsageError("--calibrate is for tables; give --data DIR too, or --calibration N for runs on this machine")
    if plot is not None:
        _check_plot(Path(plot))
    given = settings(set_ or [])
    with held():
        from autotune.cli.live import ProgressView  # noqa: PLC0415
        from autotune.validation import validate as run_validation  # noqa: PLC0415

    said = make_console(stderr=json_)
    view = ProgressView(said, None)
    quiet = json_ and not sys.stderr.isatty()
    try:
        with view:
            report = run_validation(
                domain,
                given,
                runs=runs,
                calibration=calibration,
                seed=seed,
                storage=storage,
                study=study,
                rounds=rounds,
                save=keep,
                callback=None if quiet else view.show,
            )
    except KeyboardInterrupt:
        again = shlex.join([*program(), *context.obj])
        print(f"\nautotune: interrupted; every finished run is kept. Go on with: {again}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    if plot is not None:
        from autotune.plots import agreement  # noqa: PLC0415

        agreement(report).write_html(plot, include_plotlyjs=True)
    if json_:
        print_json(report.to_dict())
    else:
        _print(report, storage, plot)


def _compare(domain: str, folder: Path, calibrate: float, seed: int, json_: bool, unused: Sequence[str]) -> None:
    """Predictions beside tables of measurements."""
    if unused:
        raise UsageError(f"{unused[0]} has no meaning with --data, which runs nothing; leave one of them out")
    with held():
        from autotune.comparison import compare  # noqa: PLC0415

    found = compare(domain, folder, calibrate=calibrate, seed=seed)
    if json_:
        print_json(found.to_dict())
        return
    rows = [
        [table_, group, f"{s.answered} of {s.rows}", _share(s.median_ape_uncalibrated), _rank(s.spearman_uncalibrated),
         _share(s.median_ape_calibrated), _rank(s.spearman_calibrated)]
        for (table_, group), s in [*found.groups.items(), (("all tables", ""), found.overall)]
    ]  # fmt: skip
    columns = ["table", "group", "rows", "median error", "spearman", "calibrated: median error", "spearman"]
    console.print(table(None, columns, rows, right=columns[2:]))
    console.print(
        f"calibrated by {found.calibrating} other rows (seed {seed})" if found.calibrating else "not calibrated"
    )
    for name, value in found.facts.items():
        console.print(f"  {name}: {value}", soft_wrap=True)
    for row in found.unanswered:
        console.print(f"  no answer: {row.table}, line {row.line}: {row.reason}", soft_wrap=True)


def _check_plot(path: Path) -> None:
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--plot {str(path)!r} must end in .html; the picture is a page for a browser")
    if not path.parent.is_dir():
        raise UsageError(f"--plot {str(path)!r}: the folder {str(path.parent)!r} does not exist; create it first")
    try:
        import plotly  # noqa: F401, PLC0415
    except ImportError:
        raise UsageError(
            "--plot needs the package plotly; install it with: pip install 'autotune[dashboard]'"
        ) from None


def _print(report: ValidationReport, storage: str, plot: str | None) -> None:
    rows: list[Sequence[str]] = []
    for name, error in report.metrics.items():
        before, again = report.uncorrected[name], report.repeated.get(name)
        row: list[Any] = [
            heading(name),
            str(error.pairs),
            _share(error.mape),
            percent(error.bias),
            _share(error.worst),
            _rank(error.spearman),
        ]
        if report.correction is not None:
            row.append(_share(before.mape))
        if report.repeated:
            row += [NOTHING, NOTHING] if again is None else [_share(again.mape), _rank(again.spearman)]
        rows.append(row)
    columns = ["metric", "runs", "mape", "bias", "worst", "spearman"]
    if report.correction is not None:
        columns.append("mape before correction")
    if report.repeated:
        columns += ["mape of runs", "spearman of runs"]
    times = max(one.trials for one in report.compared)
    console.print(
        f"\n{len(report.compared)} configurations beside their predictions"
        + (f", medians of {times} real runs each" if times > 1 else ", one real run each")
    )
    for name, value in report.study.record.options.get("facts", {}).items():
        console.print(f"  {name}: {value}", soft_wrap=True)
    if report.failed:
        console.print(f"  {report.failed} runs gave no measurement and are left out", soft_wrap=True)
    console.print()
    console.print(table(None, columns, rows, right=columns[1:]))
    if report.repeated:
        console.print(
            "of runs: odd rounds as predictions of even ones; what differs there is the machine's, and no model's",
            soft_wrap=True,
        )
    if report.correction is not None:
        console.print(f"\ncorrected by {report.calibration} other runs:")
        for name, value in report.correction.items():
            console.print(f"  {name}: {_correction(value)}", soft_wrap=True)
        if report.saved is not None:
            console.print(f"searches on this machine use it from now on: {report.saved}", soft_wrap=True)
    if plot is not None:
        console.print(f"picture: {plot}", soft_wrap=True)
    console.print(f"every run: {command_line('trials', report.study.name, storage=storage)}", soft_wrap=True)


def _rank(value: float) -> str:
    return NOTHING if math.isnan(value) else f"{value:.3f}"


def _share(value: float) -> str:
    return NOTHING if math.isnan(value) else f"{100 * value:.1f} %"


def _correction(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name} {number(part)}" for name, part in value.items())
    return number(value) if isinstance(value, float) else str(value)
