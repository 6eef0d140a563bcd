"""Pictures of the domain `training-layout`, drawn from stored trials alone. Needs the extra `plots`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from autotune.plots.style import BEST_TO_WORST, BLUE, GOLD, GREEN, GREY, MAGENTA, laid_out, literal
from autotune.store.records import TrialRecord
from autotune.study_view import StudyView
from autotune.text import number, plural
from autotune.viewing import View
from evaluators.pictures import STANDOFF_PX, exact, finite, of_older, remark, shown, stacked
from evaluators.training_layout.explain import MEMORY, TIMES
from evaluators.training_layout.grid import Grid, Place
from evaluators.training_layout.schedule import Pipeline, Work

_MOST_WORKS = 4000  # passes in a picture of a pipeline
_MOST_GPUS, _MOST_TEXTS, _MOST_WIDE = 512, 128, 64  # in a picture of GPUs: cells, cells with text, columns
_ROW_PX, _AXIS_PX = 26, 50
_AFTER_STEP = ("bubble_s", "data_s", "optimizer_s")  # parts of a step that no micro-batch takes
_LOST = "lost_s"

_Parts = Mapping[str, float]


def memory(view: StudyView, trial: TrialRecord | None) -> go.Figure:
    """Memory of the fullest GPU by part, against what it may hold."""
    told = {f"{part}_gib": words for part, words in MEMORY.items()}
    trials = shown(view, trial)
    parts = _parts(trials, told, "memory_gib", "its memory by part")
    limit = next((found for one in trials.values() if (found := finite(one.notes.get("memory_limit_gib")))), None)
    return stacked(parts, told, "GiB", "memory of the fullest GPU", limit)


def step_time(view: StudyView, trial: TrialRecord | None) -> go.Figure:
    """Time of a step by part; they add up to it."""
    told = {f"{part}_s": words for part, words in TIMES.items()}
    trials = shown(view, trial)
    parts = _parts(trials, told, "step_s", "its time by part")
    for label, found in parts.items():
        lost = trials[label].values["step_s"] - sum(found.values())
        if lost > 1e-9 * trials[label].values["step_s"]:
            found[_LOST] = lost
    return stacked(
        parts, {**told, _LOST: "waiting for slow GPUs, and copies that stand in for them"}, "s", "time of a step"
    )


def _parts(
    trials: Mapping[str, TrialRecord], told: Mapping[str, str], whole: str, what: str
) -> dict[str, dict[str, float]]:
    """Parts by trial; the first one has them, or there is nothing to show."""
    found = {
        label: {part: one.values[part] for part in told if part in one.values}
        for label, one in trials.items()
        if whole in one.values and _all_but(told, one.values)
    }
    first = next(iter(trials))
    if first not in found:
        raise of_older(trials[first], what)
    return found


def _all_but(told: Mapping[str, str], values: Mapping[str, float]) -> bool:
    """Whether the parts are there and numbers; of all GPUs that do not offload, some versions told no part for it."""
    return all(math.isfinite(values.get(part, math.nan)) for part in told if part != "offload_s")


def pipeline(view: StudyView, trial: TrialRecord | None) -> go.Figure:
    """What every pipeline stage does in a step; some of its stages and micro-batches where there are many."""
    label, one = next(iter(shown(view, trial).items()))
    whole, after = _pipeline_of(one)
    drawn = _of_fewer(whole)
    works = drawn.works()
    end = max(work.end_s for work in works)
    every = max(1, math.ceil(len(works) / _MOST_WORKS))
    stages = sorted({*range(0, drawn.stages, every), drawn.stages - 1})
    figure = go.Figure()
    _add_works(figure, "forward", BLUE, [w for w in works if not w.backward and w.stage in stages], drawn.chunks)
    _add_works(figure, "backward", GREEN, [w for w in works if w.backward and w.stage in stages], drawn.chunks)
    _add_idle(figure, works, stages, end)
    for name, seconds, colour in after:
        if seconds > 0.0:
            _add_bars(figure, name, colour, stages, [end] * len(stages), [seconds] * len(stages))
            end += seconds
    idle = (drawn.stages - 1) / drawn.chunks * (drawn.forward_s + drawn.backward_s)
    words = f"{literal(label)}: {plural(whole.stages, 'stage')}, micro-batches: {whole.microbatches}"
    if drawn.microbatches < whole.microbatches:
        words += f", drawn with {drawn.microbatches} of them; a stage idles {number(idle, 's')} either way"
    if len(stages) < drawn.stages:
        words += f"; {len(stages)} of the stages are shown"
    figure.update_layout(barmode="overlay", bargap=0.12)
    figure.update_xaxes(title_text="time since the step began [s]", range=[0.0, 1.01 * end])
    figure.update_yaxes(autorange="reversed", title_text="stage", type="category")
    laid_out(figure, _ROW_PX * max(3, len(stages)) + _AXIS_PX, words)
    return figure


def _pipeline_of(trial: TrialRecord) -> tuple[Pipeline, Sequence[tuple[str, float, str]]]:
    """The pipeline of a trial, and what comes after its last pass: name, seconds and colour."""
    values = trial.values
    forward, loss = (finite(trial.notes.get(name)) for name in ("forward_s", "loss_s"))
    of_passes = [f"{part}_s" for part in TIMES if f"{part}_s" not in _AFTER_STEP]
    microbatches = values.get("microbatches", math.nan)
    times = [values.get(name, 0.0 if name == "offload_s" else math.nan) for name in (*of_passes, *_AFTER_STEP)]
    if forward is None or loss is None or not all(map(math.isfinite, (*times, microbatches))) or microbatches < 1:
        raise of_older(trial, "the times of its pipeline")
    stage = sum(times[: len(of_passes)]) / microbatches
    found = Pipeline(
        stages=int(trial.config.get("pp") or 1),
        chunks=int(trial.config.get("interleave") or 1),
        microbatches=int(microbatches),
        forward_s=forward,
        backward_s=max(0.0, stage - forward - loss),
        loss_s=loss,
    )
    after = (
        ("gradients and weights, exposed", values["data_s"], MAGENTA),
        ("optimizer", values["optimizer_s"], GOLD),
    )
    return found, after


def _of_fewer(whole: Pipeline) -> Pipeline:
    """The same with so few micro-batches that the picture has no more passes than can be drawn; at least one group of them."""
    group = whole.stages if whole.chunks > 1 else 1
    most = _MOST_WORKS // (2 * whole.stages * whole.chunks)
    kept = max(group, most // group * group)
    if kept >= whole.microbatches:
        return whole
    return Pipeline(whole.stages, whole.chunks, kept, whole.forward_s, whole.backward_s, whole.loss_s)


def _add_works(figure: go.Figure, name: str, colour: str, works: Sequence[Work], chunks: int) -> None:
    """Passes of one direction; the deeper a model chunk, the paler."""
    figure.add_bar(
        name=name,
        orientation="h",
        y=[str(work.stage) for work in works],
        base=[work.begin_s for work in works],
        x=[work.end_s - work.begin_s for work in works],
        marker={
            "color": colour,
            "opacity": [1.0 - 0.5 * work.chunk / max(1, chunks - 1) for work in works],
            "line": {"width": 0.5, "color": "rgba(255,255,255,0.6)"},
        },
        hovertext=[
            f"{name}, micro-batch {work.microbatch}"
            + (f", chunk {work.chunk}" if chunks > 1 else "")
            + f"<br>stage {work.stage}: {exact(work.end_s - work.begin_s)} s, from {number(work.begin_s, 's')}"
            for work in works
        ],
        hoverinfo="text",
        showlegend=True,
    )


def _add_idle(figure: go.Figure, works: Sequence[Work], stages: Sequence[int], end: float) -> None:
    """What lies between the passes of a stage, and before and after them."""
    gaps: list[tuple[int, float, float]] = []
    for stage in stages:
        clock = 0.0
        for work in (one for one in works if one.stage == stage):
            if work.begin_s > clock + 1e-9 * end:
                gaps.append((stage, clock, work.begin_s))
            clock = work.end_s
        if end > clock * (1 + 1e-9):
            gaps.append((stage, clock, end))
    if gaps:
        _add_bars(
            figure, "idle (bubble)", GREY, [g[0] for g in gaps], [g[1] for g in gaps], [g[2] - g[1] for g in gaps], "/"
        )


def _add_bars(
    figure: go.Figure,
    name: str,
    colour: str,
    stages: Sequence[int],
    begins: Sequence[float],
    seconds: Sequence[float],
    pattern: str = "",
) -> None:
    figure.add_bar(
        name=name,
        orientation="h",
        y=[str(stage) for stage in stages],
        base=list(begins),
        x=list(seconds),
        marker={"color": colour, "opacity": 0.45 if pattern else 1.0, "pattern": {"shape": pattern, "size": 5}},
        hovertext=[f"{name}<br>stage {stage}: {exact(s)} s" for stage, s in zip(stages, seconds, strict=True)],
        hoverinfo="text",
        showlegend=True,
    )


@dataclass(frozen=True)
class _Axis:
    """A coordinate of a GPU: the field of `Place`, one letter for a cell, words, and the degree's field of `Grid`."""

    field: str
    letter: str
    told: str
    degree: str


_AXES = (
    _Axis("stage", "p", "pipeline stage", "stages"),
    _Axis("tensor", "t", "tensor-parallel part", "tensor"),
    _Axis("context", "c", "context-parallel part", "context"),
    _Axis("data", "d", "data-parallel copy", "data"),
    _Axis("expert", "e", "part of the experts", "expert"),
    _Axis("expert_tensor", "f", "tensor-parallel part of an expert", "expert_tensor"),
)


def gpus(view: StudyView, trial: TrialRecord | None) -> go.Figure:
    """GPUs node by node, coloured by pipeline stage, or by the first other axis that splits anything."""
    label, one = next(iter(shown(view, trial).items()))
    copies, node = finite(one.values.get("data_parallel")), finite(one.notes.get("gpus_per_node"))
    if copies is None or node is None or copies < 1 or node < 1:
        raise of_older(one, "how many GPUs a node has")
    grid = Grid.of(one.config, int(copies))
    axes = [axis for axis in _AXES if getattr(grid, axis.degree) > 1] or [_AXES[0]]
    rows = _rows(grid, int(node))
    places = {start: [grid.place(rank) for rank in range(start, stop)] for start, stop in rows}
    drawn = sum(map(len, places.values()))
    degree = getattr(grid, axes[0].degree)
    figure = go.Figure(
        go.Heatmap(
            y=[_row_name(start, int(node)) for start in places],
            z=[[getattr(place, axes[0].field) for place in row] for row in places.values()],
            text=[[_cell(place, axes, drawn) for place in row] for row in places.values()],
            texttemplate="%{text}",
            textfont={"size": 11},
            hovertext=[
                [_hover(start + offset, int(node), place, axes) for offset, place in enumerate(row)]
                for start, row in places.items()
            ],
            hoverinfo="text",
            colorscale=BEST_TO_WORST,
            zmin=0,
            zmax=max(1, degree - 1),
            xgap=2,
            ygap=2,
            colorbar={
                "title": {"text": axes[0].told, "side": "right"},
                "tickformat": "d",
                **({"dtick": 1} if degree <= 16 else {}),
            },
        )
    )
    shape = ", ".join(f"{axis.letter} = {axis.told} (of {getattr(grid, axis.degree)})" for axis in axes)
    figure.update_yaxes(autorange="reversed", type="category")
    figure.update_xaxes(
        title_text=f"GPU of its node<br>{shape}",
        title_standoff=STANDOFF_PX,
        tickformat="d",
        dtick=1 if node <= 16 else None,
    )
    laid_out(figure, _ROW_PX * max(4, len(rows)) + _AXIS_PX + 20)
    words = f"{label}: {plural(grid.gpus, 'GPU')}"
    if drawn < grid.gpus:
        words += f", of which {drawn} are shown: the first nodes of every pipeline stage"
    remark(figure, words)
    figure.update_layout(margin_t=44, height=figure.layout.height + 34)
    return figure


def _rows(grid: Grid, node: int) -> list[tuple[int, int]]:
    """First rank, and the one after the last, of each row: as many nodes of every stage as there is room for."""
    width = min(node, _MOST_WIDE)
    room = max(1, _MOST_GPUS // width)
    of_each = max(1, room // grid.stages)
    found: list[tuple[int, int]] = []
    for stage in range(grid.stages):
        first = stage * grid.of_stage // node * node
        start = first
        while start < min(grid.gpus, (stage + 1) * grid.of_stage) and start < first + of_each * width:
            stop = min(start + width, (start // node + 1) * node, grid.gpus)
            if not found or start >= found[-1][1]:
                found.append((start, stop))
            start = stop
    return found[:room]


def _row_name(start: int, node: int) -> str:
    within = start % node
    return f"node {start // node}" + (f", from GPU {within}" if within else "")


def _cell(place: Place, axes: Sequence[_Axis], drawn: int) -> str:
    return " ".join(f"{axis.letter}{getattr(place, axis.field)}" for axis in axes) if drawn <= _MOST_TEXTS else ""


def _hover(rank: int, node: int, place: Place, axes: Sequence[_Axis]) -> str:
    lines = [f"GPU {rank}: {rank % node} of node {rank // node}"]
    return "<br>".join([*lines, *(f"{axis.told} {getattr(place, axis.field)}" for axis in axes)])


VIEWS = {
    view.name: view
    for view in (
        View(
            "memory",
            "Memory by part",
            "What fills the fullest GPU, beside what it may hold.",
            memory,
            of_trial=True,
        ),
        View("step-time", "Time of a step by part", "Where the time of a step goes.", step_time, of_trial=True),
        View(
            "pipeline",
            "Pipeline schedule",
            "What every stage does when: forward and backward passes, and the bubbles between them.",
            pipeline,
            of_trial=True,
        ),
        View(
            "gpus",
            "GPUs by coordinate",
            "Which part of the model and of the data every GPU holds, node by node.",
            gpus,
            of_trial=True,
        ),
    )
}
