"""All pictures of a study by name: the engine's own, with their options, and those of its domain."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from autotune.errors import UsageError
from autotune.options import parse_options
from autotune.store.records import StudyRecord, TrialRecord
from autotune.viewing import View, domain_views

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from autotune.study_view import StudyView


class NoOptions(BaseModel):
    """Of a picture that has none."""

    model_config = ConfigDict(extra="forbid")


class HistoryOptions(NoOptions):
    """Of `history`."""

    log: bool = Field(False, description="whether the objective has a logarithmic axis")
    pruned: bool = Field(True, description="whether pruned trials have a row in the strip below")


class MetricOptions(NoOptions):
    """Of pictures of one metric."""

    metric: str | None = Field(None, description="which metric; the first objective when left out")


class TopOptions(MetricOptions):
    """Of `parallel` and `slice`."""

    top: int = Field(12, ge=1, le=60, description="how many parameters to show, the most important ones")


class ParallelOptions(TopOptions):
    """Of `parallel`."""

    top: int = Field(10, ge=1, le=60, description="how many parameters to show, the most important ones")


class ImportanceOptions(TopOptions):
    """Of `importance`."""

    top: int = Field(15, ge=1, le=60, description="how many parameters to show, the most important ones")


class PairOptions(MetricOptions):
    """Of `contour`."""

    x: str | None = Field(None, description="parameter across; the most important when left out")
    y: str | None = Field(None, description="parameter up; the second most important when left out")


class RankOptions(MetricOptions):
    """Of `rank`."""

    parameters: str | None = Field(None, description="two to four parameters with commas between; the most important")


class ParetoOptions(NoOptions):
    """Of `pareto`."""

    x: str | None = Field(None, description="metric across; the first objective when left out")
    y: str | None = Field(None, description="metric up; the second objective, or a constrained metric, when left out")


@dataclass(frozen=True)
class Picture(View):
    """A view of the engine, which may take options.

    Attributes:
        options: their model.
        function: that draws it, as ``module:name`` under `autotune.plots`; imported when it is first drawn.
    """

    options: type[BaseModel] = NoOptions
    function: str = field(default="", repr=False)

    @classmethod
    def of(
        cls,
        name: str,
        function: str,
        title: str,
        summary: str,
        options: type[BaseModel] = NoOptions,
        *,
        of_trial: bool = False,
        slow: bool = False,
    ) -> Self:
        """A picture that is drawn by the function at ``module:name``."""
        draw = _drawing(function, {}, of_trial=of_trial)
        return cls(name, title, summary, draw, of_trial, slow, options, function)

    def with_options(self, given: Mapping[str, Any]) -> Callable[[StudyView, TrialRecord | None], go.Figure]:
        """As `draw`, under these options.

        Raises:
            UsageError: for options that cannot be used.
        """
        parsed = parse_options(self.options, given, f"picture {self.name!r}")
        return _drawing(self.function, parsed.model_dump(), of_trial=self.of_trial)


def _drawing(
    function: str, options: Mapping[str, Any], *, of_trial: bool
) -> Callable[[StudyView, TrialRecord | None], go.Figure]:
    module, _, name = function.partition(":")

    def draw(view: StudyView, trial: TrialRecord | None) -> go.Figure:
        try:
            import_module("plotly.graph_objects")
        except ImportError:
            raise UsageError(
                "pictures need the package plotly; install it with: pip install 'autotune[plots]'"
            ) from None
        found = getattr(import_module(f"autotune.plots.{module}"), name)
        return found(view, trial, **options) if of_trial else found(view, **options)

    return draw


_PICTURES = (
    Picture.of(
        "history",
        "history:history",
        "History",
        "The objective of every trial in order, with the best so far as a line and what failed in the strip below.",
        HistoryOptions,
    ),
    Picture.of(
        "failures",
        "history:failures",
        "Failures by cause",
        "How many trials failed by each cause over the search; point at a mark below for its message.",
    ),
    Picture.of(
        "importance",
        "importance:importance",
        "Parameter importance",
        "How much each parameter decides about the metric by three methods; where they agree, trust them.",
        ImportanceOptions,
        slow=True,
    ),
    Picture.of(
        "parallel",
        "parameters:parallel",
        "Parallel coordinates",
        "Each trial is a line through its parameters to its metric; blue lines are the best, orange ones the worst.",
        ParallelOptions,
    ),
    Picture.of(
        "slice",
        "parameters:slices",
        "Slices",
        "The metric over each parameter alone; later trials are orange, so that the search's focus is seen.",
        TopOptions,
    ),
    Picture.of(
        "contour",
        "pairs:contour",
        "Contour",
        "The metric over two parameters, smoothed over the trials near by; blue is better, blank is where nobody looked.",
        PairOptions,
    ),
    Picture.of(
        "rank",
        "pairs:rank",
        "Ranks over pairs",
        "Each pair of the most important parameters, every trial coloured by its rank from best (blue) to worst (orange).",
        RankOptions,
    ),
    Picture.of(
        "pareto",
        "pareto:pareto",
        "Trade-off",
        "Two metrics against each other; the front joins what nothing beats in both, and limits shade what keeps them.",
        ParetoOptions,
    ),
    Picture.of(
        "agreement",
        "predicted:agreement",
        "Predicted against measured",
        "What a predictor or a cheaper evaluator said beside what was measured; marks on the dotted line were exact.",
    ),
    Picture.of(
        "time",
        "spending:time",
        "Where the time went",
        "Seconds spent on proposing and on evaluating, summed above and trial by trial below.",
    ),
    Picture.of(
        "portfolio",
        "spending:portfolio",
        "Who proposed what",
        "One row for each proposer with its trials in order; a star is a trial that was the best so far.",
    ),
    Picture.of(
        "reports",
        "progress:reports",
        "Reports of running trials",
        "What each trial reported of itself step by step, coloured by how it ended; the best one is thicker.",
        MetricOptions,
    ),
    Picture.of(
        "samples",
        "progress:samples",
        "Samples of a trial",
        "Every single measurement of one trial in order, with the median and its confidence interval as lines.",
        of_trial=True,
    ),
)
VIEWS: Mapping[str, View] = MappingProxyType({picture.name: picture for picture in _PICTURES})
"""The engine's pictures by name."""


def views_of(study: StudyRecord) -> Mapping[str, View]:
    """The engine's pictures and those of the study's domain, by name; a domain may replace one of the engine's.

    Raises:
        UsageError: when the domain is not installed.
    """
    return {**VIEWS, **domain_views(study)}


def options_of(view: View) -> type[BaseModel]:
    """The model of a picture's options."""
    return view.options if isinstance(view, Picture) else NoOptions


def figure(view: StudyView, kind: str, trial: int | None = None, **options: Any) -> go.Figure:
    """Draw a picture of a study.

    Args:
        kind: its name, see `views_of`.
        trial: number of the trial to be shown, by pictures of a trial; the best when None.
        options: of the picture; texts become what its options are.

    Raises:
        UsageError: for a kind, a trial or an option that does not exist.
        NothingToShowError: where the study does not have what the picture needs; the sentence says what.
    """
    chosen = _view(view.study, kind)
    shown = None if trial is None else _trial(view, trial)
    if shown is not None and not chosen.of_trial:
        raise UsageError(f"picture {kind!r} is one of a whole study, so trial = {trial} has no meaning; leave it out")
    if isinstance(chosen, Picture):
        return chosen.with_options(options)(view, shown)
    parse_options(NoOptions, options, f"picture {kind!r}")
    return chosen.draw(view, shown)


def _view(study: StudyRecord, kind: str) -> View:
    if kind in VIEWS:
        try:
            return views_of(study)[kind]
        except UsageError:  # the domain is not installed, which the engine's own pictures do not need
            return VIEWS[kind]
    known = views_of(study)
    if kind not in known:
        close = difflib.get_close_matches(kind, known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UsageError(f"picture {kind!r} is unknown{hint}; study {study.name!r} has: {', '.join(known)}")
    return known[kind]


def _trial(view: StudyView, number: int) -> TrialRecord:
    found = next((t for t in view.trials if t.number == number), None)
    if found is None:
        has = f"it has trials 0 to {view.trials[-1].number}" if view.trials else "it has none yet"
        raise UsageError(f"study {view.study.name!r} has no trial {number}; {has}")
    return found
