"""`study.plot_history()` and its like: the pictures of a study as its methods. Plotly is imported when one is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from autotune.store import Store


class Plotting:
    """What a study draws. Every method returns a Plotly figure, and raises `UsageError` where it has nothing to show."""

    store: Store
    name: str

    def plot(self, kind: str, trial: int | None = None, **options: Any) -> go.Figure:
        """The picture of that name, the engine's or the domain's, as the study is now.

        Args:
            kind: see `autotune.plots.views_of`.
            trial: number of the trial to be shown, by pictures of a trial; the best when None.
            options: of the picture.

        Raises:
            UsageError: for a kind, a trial or an option that does not exist, and where there is nothing to show.
        """
        from autotune.plots.catalogue import figure  # noqa: PLC0415 - importing a study is to stay light
        from autotune.study_view import StudyView  # noqa: PLC0415

        return figure(StudyView.read(self.store, self.name), kind, trial, **options)

    def plot_history(self, *, log: bool = False, pruned: bool = True) -> go.Figure:
        """The objective by trial, with the incumbent and what failed; see `autotune.plots.history.history`."""
        return self.plot("history", log=log, pruned=pruned)

    def plot_failures(self) -> go.Figure:
        """Failed trials by cause over the search."""
        return self.plot("failures")

    def plot_importance(self, metric: str | None = None, top: int = 15) -> go.Figure:
        """Which parameters matter, by PED-ANOVA, fANOVA and SHAP; see `autotune.plots.importance.importance`."""
        return self.plot("importance", metric=metric, top=top)

    def plot_parallel(self, metric: str | None = None, top: int = 10) -> go.Figure:
        """Parallel coordinates of the `top` most important parameters."""
        return self.plot("parallel", metric=metric, top=top)

    def plot_slice(self, metric: str | None = None, top: int = 12) -> go.Figure:
        """A metric over each of the `top` most important parameters alone."""
        return self.plot("slice", metric=metric, top=top)

    def plot_contour(self, x: str | None = None, y: str | None = None, metric: str | None = None) -> go.Figure:
        """A metric over two parameters, the two most important ones when left out."""
        return self.plot("contour", x=x, y=y, metric=metric)

    def plot_rank(self, parameters: str | None = None, metric: str | None = None) -> go.Figure:
        """Ranks of trials over pairs of parameters, which are named with commas between."""
        return self.plot("rank", parameters=parameters, metric=metric)

    def plot_pareto(self, x: str | None = None, y: str | None = None) -> go.Figure:
        """Two metrics against each other, with the front and the region that keeps the outcome constraints."""
        return self.plot("pareto", x=x, y=y)

    def plot_agreement(self) -> go.Figure:
        """Predicted against measured."""
        return self.plot("agreement")

    def plot_time(self) -> go.Figure:
        """Seconds spent on proposing, evaluating and storing."""
        return self.plot("time")

    def plot_portfolio(self) -> go.Figure:
        """Who proposed which trial, and how often that was the best so far."""
        return self.plot("portfolio")

    def plot_reports(self, metric: str | None = None) -> go.Figure:
        """Intermediate reports of trials by step."""
        return self.plot("reports", metric=metric)

    def plot_samples(self, trial: int | None = None) -> go.Figure:
        """Every sample of one trial, the best one when left out."""
        return self.plot("samples", trial)
