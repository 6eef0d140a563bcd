"""How a running search is shown: one live panel on a terminal, plain lines where output is piped."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from autotune.loop import Progress
from autotune.store import TrialRecord, TrialState
from autotune.text import number, percent, value_text

_CONFIG_PARTS = 6  # parameters of the incumbent that fit on a line


class ProgressView:
    """Shows each `Progress`. Use as a context manager."""

    def __init__(self, console: Console, total: int | None) -> None:
        self._console = console
        self._total = total
        self._live = Live(console=console, refresh_per_second=4, transient=True) if console.is_terminal else None

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
        if self._live is not None:
            self._live.update(self._panel(progress))
        else:
            self._console.print(self._line(progress), soft_wrap=True)

    def _of(self, progress: Progress) -> str:
        return f"{progress.trial.number + 1}" + (f"/{progress.budget}" if progress.budget else "")

    def _line(self, progress: Progress) -> str:
        incumbent = (
            "none yet" if progress.best is None else f"{_loss(progress, progress.best)} (trial {progress.best.number})"
        )
        return (
            f"trial {self._of(progress)}  {_outcome(progress, progress.trial)}  best {incumbent}  "
            f"gain {percent(progress.gain)}  {progress.elapsed_s:.1f} s"
        )

    def _panel(self, progress: Progress) -> Table:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold")
        grid.add_column()
        left = "" if progress.remaining_s is None else f", about {progress.remaining_s:.0f} s left"
        grid.add_row("trial", f"{self._of(progress)}   ({progress.elapsed_s:.0f} s{left})")
        grid.add_row("last", f"{_outcome(progress, progress.trial)}  [dim]{progress.trial.proposer}[/dim]")
        if progress.best is not None:
            gain = f"   {percent(progress.gain)} over the default" if progress.gain is not None else ""
            grid.add_row("best", f"{_loss(progress, progress.best)}   trial {progress.best.number}{gain}")
            parts = [f"{k}={value_text(v)}" for k, v in list(progress.best.config.items())[:_CONFIG_PARTS]]
            grid.add_row("", "[dim]" + "  ".join(parts) + "[/dim]")
        failures = progress.counts["failures"]
        if failures:
            grid.add_row("failed", "  ".join(f"{kind} {count}" for kind, count in sorted(failures.items())))
        return grid


def _loss(progress: Progress, trial: TrialRecord) -> str:
    return "  ".join(f"{o.metric} {number(trial.values[o.metric])}" for o in progress.study.objectives)


def _outcome(progress: Progress, trial: TrialRecord) -> str:
    if trial.state is TrialState.COMPLETED:
        return _loss(progress, trial)
    return f"failed: {trial.failure_kind}" + (f" ({trial.failure_message})" if trial.failure_message else "")
