"""How a running search is shown: one live panel on a terminal, plain lines where output is piped."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from autotune.loop import Progress
from autotune.store import TrialRecord, TrialState
from autotune.text import number, percent, value_text

_CONFIG_PARTS = 6  # parameters of the incumbent that fit on a line


class ProgressView:
    """Shows each `Progress`. Use as a context manager."""

    def __init__(self, console: Console, total: int | None) -> None:
        self._console = console
        self._total = total
        self._latest: Progress | None = None
        self._told_at = time.monotonic()
        # A terminal that cannot move its cursor would show nothing until the end.
        movable = console.is_terminal and not console.is_dumb_terminal
        self._live = (
            Live(get_renderable=self._panel, console=console, refresh_per_second=4, transient=True) if movable else None
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, progress: Progress) -> None:
        """Show one more trial."""
        self._latest, self._told_at = progress, time.monotonic()
        if self._live is None:
            self._console.print(self._line(progress), soft_wrap=True)

    def _of(self, progress: Progress) -> str:
        study, trial = progress.study.record, progress.trial
        if not study.fidelities:
            return f"{trial.number + 1}" + (f"/{progress.budget}" if progress.budget else "")
        counted = f"{progress.counts['total']}" + (f"/{progress.budget}" if progress.budget else "")
        return f"{trial.number + 1} on {study.evaluator_of(trial)}  ({counted} on {study.fidelities[-1]})"

    def _line(self, progress: Progress) -> str:
        incumbent = (
            "none yet" if progress.best is None else f"{_loss(progress, progress.best)} (trial {progress.best.number})"
        )
        return (
            f"trial {self._of(progress)}  {_outcome(progress, progress.trial)}  best {incumbent}  "
            f"gain {percent(progress.gain)}  {progress.elapsed_s:.1f} s"
        )

    def _panel(self) -> Table:
        """What the terminal shows now; drawn anew four times a second, so that a long trial is seen to be alive."""
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold", no_wrap=True)
        grid.add_column(overflow="ellipsis")  # no_wrap here would take the room of the headings
        progress, since = self._latest, time.monotonic() - self._told_at
        if progress is None:
            budget = f" of {self._total}" if self._total else ""
            grid.add_row("trial", _line(f"the first{budget} has not ended yet   ({since:.0f} s)"))
            return grid
        left = "" if progress.remaining_s is None else f", about {max(0.0, progress.remaining_s - since):.0f} s left"
        grid.add_row("trial", _line(f"{self._of(progress)}   ({progress.elapsed_s + since:.0f} s{left})"))
        grid.add_row("last", _line(_outcome(progress, progress.trial), (f"  {progress.trial.proposer}", "dim")))
        if progress.best is not None:
            gain = f"   {percent(progress.gain)} over the default" if progress.gain is not None else ""
            grid.add_row("best", _line(f"{_loss(progress, progress.best)}   trial {progress.best.number}{gain}"))
            parts = [f"{k}={value_text(v)}" for k, v in list(progress.best.config.items())[:_CONFIG_PARTS]]
            grid.add_row("", _line(("  ".join(parts), "dim")))
        if progress.counts["pruned"]:
            grid.add_row("pruned", _line(f"{progress.counts['pruned']}"))
        failures = progress.counts["failures"]
        if failures:
            grid.add_row("failed", _line("  ".join(f"{kind} {count}" for kind, count in sorted(failures.items()))))
        return grid


def _line(*parts: str | tuple[str, str]) -> Text:
    """One line, cut where the terminal ends."""
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _loss(progress: Progress, trial: TrialRecord) -> str:
    return "  ".join(f"{o.metric} {number(trial.values[o.metric])}" for o in progress.study.objectives)


def _outcome(progress: Progress, trial: TrialRecord) -> str:
    if trial.state is TrialState.COMPLETED:
        return _loss(progress, trial)
    if trial.state is TrialState.PRUNED:
        return "pruned" + (f" ({trial.failure_message})" if trial.failure_message else "")
    return f"failed: {trial.failure_kind}" + (f" ({trial.failure_message})" if trial.failure_message else "")
