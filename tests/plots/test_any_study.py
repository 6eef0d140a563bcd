"""Whatever a study holds, each picture is drawn or says in one sentence what it lacks; and nothing in it becomes markup."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from autotune import Bool, Categorical, Float, Int, Ordinal, SearchSpace
from autotune.measurement import FailureKind, Metric
from autotune.plots import VIEWS, figure
from autotune.plots.style import BLUE, GOLD, GREEN, GREY, MAGENTA, ORANGE, SVG_LIMIT, TEAL, TEXT, VIOLET, thinned
from autotune.study_view import StudyView
from autotune.viewing import NothingToShowError
from tests.plots.stored import Details, study, trial, view

SPACE = SearchSpace(
    [
        Float("rate", 1e-4, 1.0, log=True),
        Float("vector", -1.0, 1.0, size=9),
        Ordinal("tile", [8, 16, 32], size=3),
        Categorical("policy", ["lru", None, 3]),
        Categorical("layers", ["a", "b", "c", "d", "e"], size=12),
        Bool("prefetch"),
        Int("depth", 1, 4, when="prefetch"),
        Bool("flags", size=20, when="prefetch"),
    ]
)
CONFIGS = [SPACE.default(), *SPACE.sample(24, 0)]
NO_SHRINKING = (Phase.explicit, Phase.generate)  # which would draw thousands of pictures
FAST = [name for name in VIEWS if name != "importance"]
NUMBERS = st.one_of(
    st.floats(-1e3, 1e3), st.floats(allow_nan=True, allow_infinity=True), st.sampled_from([0.0, 1.0, -0.0, 1.7e308])
)


@st.composite
def studies(draw: st.DrawFn) -> StudyView:
    several = draw(st.booleans())
    objectives = ("minimize latency_ms", "maximize hits") if several else (draw(st.sampled_from(["min m", "max m"])),)
    metrics = ["latency_ms", "hits"] if several else ["m"]
    limits = draw(st.sampled_from([(), ("vram_gib <= 8",), (f"{metrics[0]} >= 0", "vram_gib >= 1")]))
    record = study(SPACE, *objectives, constraints=limits, options={"fidelities": ["short", "full"]})
    trials, said, reports = [], {}, {}
    for number in range(draw(st.integers(0, 14))):
        ended = draw(st.sampled_from(["ok", "ok", "ok", "ok", "pruned", None, *(k.value for k in FailureKind)]))
        outcome: Any = ended
        if ended == "ok":
            outcome = {name: draw(NUMBERS) for name in (*metrics, "vram_gib") if draw(st.integers(0, 9)) > 0}
        notes = {"predicted": draw(st.sampled_from([{metrics[0]: draw(NUMBERS)}, "none", {metrics[0]: "text"}, {}]))}
        made = trial(
            number,
            draw(st.sampled_from(CONFIGS)),
            outcome,
            notes=notes,
            fidelity=draw(st.sampled_from([None, None, None, "short"])),
            label="default" if number == 0 else None,
            evaluate_s=draw(st.sampled_from([None, 0.0, 2.5])),
            proposer=draw(st.sampled_from(["bo", "local"])),
            config_hash=f"{draw(st.integers(0, 20))}",
        )
        half = draw(st.sampled_from([None, 0.5, math.nan, math.inf]))
        trials.append(replace(made, metrics={k: Metric(v.value, half) for k, v in made.metrics.items()}))
        said[made.id] = {name: draw(st.lists(NUMBERS, max_size=4)) for name in metrics}
        reports[made.id] = [(step, metrics[0], draw(NUMBERS)) for step in range(draw(st.integers(0, 3)))]
    return StudyView(record, tuple(trials), Details(said, reports))


def check(shown: StudyView, kind: str) -> None:
    try:
        made = figure(shown, kind)
    except NothingToShowError as error:
        sentence = str(error)
        assert "\n" not in sentence and sentence[0].islower() and len(sentence) < 250
        return
    json.loads(made.to_json())
    assert made.data and made.layout.height > 100
    assert made.layout.paper_bgcolor is None and made.layout.template.layout.paper_bgcolor == "rgba(0,0,0,0)"


@pytest.mark.filterwarnings("error::RuntimeWarning")
@given(studies())
@settings(max_examples=8, phases=NO_SHRINKING, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_any_study_is_drawn_or_says_what_it_lacks(shown: StudyView) -> None:
    for kind in FAST:
        check(shown, kind)


@given(studies())
@settings(max_examples=3, phases=NO_SHRINKING, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_importance_of_any_study(shown: StudyView) -> None:
    check(shown, "importance")


@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize(
    "outcomes",
    [[], [None], ["oom", "crash"], [{"latency_ms": 1.0}], [{"latency_ms": math.nan}] * 9, [{"latency_ms": 2.0}] * 9],
    ids=["empty", "running", "failed", "one", "nan", "constant"],
)
def test_small_studies(kind: str, outcomes: list[Any]) -> None:
    check(view(outcomes, study(SPACE), CONFIGS, Details()), kind)


HOSTILE = "<img src=x onerror=alert(1)>"


def test_nothing_that_a_study_holds_becomes_markup() -> None:
    space = SearchSpace([Categorical("choice", [HOSTILE, "b"]), Float("x", 0.0, 1.0), Float("y", 0.0, 1.0)])
    configs = space.sample(12, 0)
    record = study(space, name=HOSTILE, options={"fidelities": [HOSTILE, "full"], "baselines": {HOSTILE: configs[1]}})
    trials = []
    for number, config in enumerate(configs):
        outcome: Any = {"latency_ms": float(number % 5), HOSTILE: 1.0 + number} if number % 4 else "oom"
        trials.append(
            trial(
                number,
                config,
                outcome,
                proposer=HOSTILE,
                notes={"predicted": {"latency_ms": 3.0, HOSTILE: 2.0}},
                failure_message=HOSTILE if outcome == "oom" else None,
                evaluate_s=1.0,
            )
        )
    told = Details(
        {t.id: {HOSTILE: [1.0, 2.0]} for t in trials}, {t.id: [(0, HOSTILE, 1.0), (1, HOSTILE, 2.0)] for t in trials}
    )
    shown = StudyView(record, tuple(trials), told)
    options = {"pareto": {"x": "latency_ms", "y": HOSTILE}, "slice": {"metric": HOSTILE}, "contour": {"x": "choice"}}
    options["rank"] = {"parameters": "choice, x"}
    drawn = 0
    for kind in VIEWS:
        made = json.loads(figure(shown, kind, **options.get(kind, {})).to_json())
        if kind == "parallel":  # Plotly shows the ticks of these axes as plain text
            for dimension in made["data"][0]["dimensions"]:
                dimension.pop("ticktext", None)
        assert "<img" not in json.dumps(made), kind
        drawn += "&lt;img" in json.dumps(made)
    assert drawn > 6


def test_ten_thousand_trials_stay_small() -> None:
    configs = SPACE.sample(400, 1)
    trials = tuple(
        trial(
            i,
            configs[i % 400],
            "oom" if i % 17 == 0 else {"latency_ms": 1.0 + (i * 7919 % 10_007) / 100, "vram_gib": (i * 31) % 10 + 0.5},
            evaluate_s=0.5,
            suggest_s=0.1,
            notes={"predicted": {"latency_ms": 5.0 + i % 11}},
        )
        for i in range(10_000)
    )
    shown = StudyView(study(SPACE, constraints=("vram_gib <= 8",)), trials)
    for kind in FAST:
        try:
            made = figure(shown, kind)
        except NothingToShowError:
            assert kind in ("reports", "samples")
            continue
        assert len(made.to_json()) < 3e6, kind
        for trace in made.data:
            many = trace.type == "scatter" and trace.mode != "lines" and len(trace.x) > SVG_LIMIT
            assert not many, (kind, trace.name)
    best = min((t for t in trials if t.values), key=lambda t: t.values["latency_ms"])
    sliced = figure(shown, "slice")
    assert best.number in set(sliced.data[0].customdata)
    assert "2000 of 9411 trials, the best among them" in sliced.layout.title.text


@given(st.integers(0, 60), st.integers(1, 40), st.data())
@settings(max_examples=40)
def test_thinning_keeps_order_bounds_and_what_is_kept(count: int, limit: int, data: st.DataObject) -> None:
    items = [[i] for i in range(count)]
    keep = data.draw(st.lists(st.sampled_from(items), max_size=limit)) if items else []
    found = thinned(items, limit, keep)
    assert found == sorted(found) and len(found) <= limit
    assert all(one in found for one in keep)
    assert len(found) == min(count, limit)


@pytest.mark.parametrize("colour", [BLUE, ORANGE, GREEN, GOLD, MAGENTA, VIOLET, TEAL, GREY, TEXT])
def test_colours_are_seen_on_light_and_on_dark(colour: str) -> None:
    least = 4.5 if colour == TEXT else 3.0
    assert min(_contrast(colour, "#ffffff"), _contrast(colour, "#000000")) >= least
    assert _contrast(colour, "#0e1117") >= 3.0


def _contrast(one: str, other: str) -> float:
    """By the Web Content Accessibility Guidelines 2.2, from 1 to 21."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)
