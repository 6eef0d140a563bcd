"""What pictures hold is what the store holds: small studies whose figures are known by hand."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest

from autotune import Categorical, Float, Int, SearchSpace, UsageError
from autotune.measurement import Metric
from autotune.plots import VIEWS, figure
from autotune.plots.coordinates import coordinates
from autotune.viewing import NothingToShowError
from tests.plots.stored import Details, study, trial, view
from tests.shown_studies import SPACE

XY = SearchSpace([Float("x", 0.0, 1.0), Float("y", 0.0, 1.0)])


def traces(made: Any) -> dict[str, Any]:
    return {trace.name: trace for trace in made.data}


def marks(made: Any) -> dict[int, Any]:
    """What is drawn for each trial, in a picture of one mark for each."""
    found: dict[int, Any] = {}
    for trace in made.data:
        if getattr(trace, "mode", "") == "markers" and trace.customdata is not None:
            for number, x, y in zip(trace.customdata, trace.x, trace.y, strict=True):
                assert number not in found
                found[int(number)] = (x, y)
    return found


def test_history_marks_every_trial_that_ended() -> None:
    shown = view([{"latency_ms": 5.0}, "oom", {"latency_ms": 7.0}, "pruned", {"latency_ms": 3.0}, None])
    made = figure(shown, "history")
    assert marks(made) == {0: (0, 5.0), 1: (1, "oom"), 2: (2, 7.0), 3: (3, "pruned"), 4: (4, 3.0)}
    incumbent = traces(made)["incumbent"]
    assert list(zip(incumbent.x, incumbent.y, strict=True)) == [(0.0, 5.0), (4.0, 3.0), (4.5, 3.0)]
    assert marks(figure(shown, "history", pruned=False)).keys() == {0, 1, 2, 4}
    assert figure(shown, "history", log="yes").layout.yaxis.type == "log"


def test_history_has_half_widths_and_the_default_of_a_study_that_maximises() -> None:
    record = study(SPACE, "maximize throughput")
    metrics = [Metric(4.0, 0.5), Metric(6.0), Metric(5.0, 0.25)]
    trials = tuple(
        replace(trial(i, SPACE.default(), {}, label="default" if i == 0 else None), metrics={"throughput": m})
        for i, m in enumerate(metrics)
    )
    made = figure(replace(view([], record), trials=trials), "history")
    errors = {
        int(n): e
        for t in made.data
        if t.mode == "markers"
        for n, e in zip(t.customdata, t.error_y.array or [], strict=False)
    }
    assert errors[2] == 0.25 and errors.get(1, 0.0) == 0.0
    assert list(traces(made)["incumbent"].y) == [4.0, 6.0, 6.0]
    assert set(traces(made)["default 4"].y) == {4.0}


def test_failures_are_counted_by_cause() -> None:
    made = figure(view(["oom", {"latency_ms": 1.0}, "crash", "oom"]), "failures")
    bars = {trace.name: list(trace.y) for trace in made.data if trace.type == "bar"}
    assert bars == {"oom: 2 of 4 trials": [1, 0, 0, 1], "crash: 1 of 4 trials": [0, 0, 1, 0]}
    assert marks(made) == {0: (0, "oom"), 2: (2, "crash"), 3: (3, "oom")}
    assert any("its crash" in text for trace in made.data for text in trace.hovertext or ())


def test_importance_finds_the_parameter_that_decides_by_three_methods() -> None:
    configs = XY.sample(60, 1)
    shown = view([{"latency_ms": 10 * c["x"] + 0.01 * c["y"]} for c in configs], study(XY), configs)
    made = figure(shown, "importance")
    assert {t.name for t in made.data} == {f"{m}, from 60 trials" for m in ("PED-ANOVA", "fANOVA", "SHAP")}
    for trace in made.data:
        shares = dict(zip(trace.y, trace.x, strict=True))
        assert shares["x"] > 0.75
        assert sum(shares.values()) == pytest.approx(1.0)


def test_importance_of_a_parameter_that_maximises_is_the_same() -> None:
    configs = XY.sample(40, 2)
    both = [
        figure(view([{"m": sign * c["x"]} for c in configs], study(XY, objective), configs), "importance")
        for sign, objective in ((1.0, "minimize m"), (-1.0, "maximize m"))
    ]
    for one, other in zip(both[0].data, both[1].data, strict=True):
        assert list(one.x) == pytest.approx(list(other.x))


def test_importance_needs_trials_that_differ() -> None:
    with pytest.raises(NothingToShowError, match=r"7 trials .* needs 8"):
        figure(view([{"latency_ms": float(i)} for i in range(7)]), "importance")
    with pytest.raises(NothingToShowError, match="all 9 trials have the same latency_ms"):
        figure(view([{"latency_ms": 2.0}] * 9), "importance")


def test_parallel_coordinates_hold_every_value() -> None:
    configs = [{"x": 0.25, "y": 1.0}, {"x": 0.5, "y": 0.5}, {"x": 0.75, "y": 0.0}]
    made = figure(view([{"latency_ms": v} for v in (3.0, 1.0, 2.0)], study(XY), configs), "parallel")
    axes = {d.label: list(d["values"]) for d in made.data[0].dimensions}
    assert axes == {"x": [0.0, 0.5, 1.0], "y": [1.0, 0.5, 0.0], "latency_ms [ms]": [3.0, 1.0, 2.0]}
    assert list(made.data[0].line.color) == [1.0, 0.0, 0.5]  # ranks
    ticks = next(d.ticktext for d in made.data[0].dimensions if d.label == "x")
    assert ticks[0] == "0.25" and ticks[-1] == "0.75"


def test_an_inactive_parameter_passes_below_its_axis() -> None:
    space = SearchSpace([Categorical("kind", ["a", "b"]), Int("depth", 1, 4, when="kind == 'b'")])
    configs = [{"kind": "a"}, {"kind": "b", "depth": 1}, {"kind": "b", "depth": 3}]
    made = figure(view([{"latency_ms": float(i)} for i in range(3)], study(space), configs), "parallel")
    depth = next(d for d in made.data[0].dimensions if d.label == "depth")
    assert depth.ticktext[0] == "inactive"
    assert list(depth["values"]) == pytest.approx([depth.tickvals[0], 0.0, 1.0])
    assert depth.tickvals[0] < 0.0
    sliced = figure(view([{"latency_ms": float(i)} for i in range(3)], study(space), configs), "slice")
    assert list(traces(sliced)["depth"].x) == [1.0, 3.0] and list(traces(sliced)["depth"].y) == [1.0, 2.0]


def test_vectors_become_their_elements_or_their_mean_and_spread() -> None:
    space = SearchSpace(
        [
            Float("few", 0.0, 1.0, size=2),
            Float("many", 0.0, 8.0, size=8),
            Categorical("policies", ["lru", "lfu"], size=10),
        ]
    )
    config = {"few": [0.25, 0.5], "many": [1.0] * 4 + [3.0] * 4, "policies": ["lru"] * 7 + ["lfu"] * 3}
    found = {c.name: float(c.values[0]) for c in coordinates(study(space), [trial(0, config, {})])}
    assert found == {
        "few[0]": 0.25,
        "few[1]": 0.5,
        "many (mean)": 2.0,
        "many (spread)": 2.0,
        "policies (share of lfu)": 0.3,
    }


def test_contour_of_chosen_parameters() -> None:
    configs = XY.sample(30, 3)
    shown = view([{"latency_ms": c["x"]} for c in configs], study(XY), configs)
    made = figure(shown, "contour", x="y", y="x")
    assert (made.layout.xaxis.title.text, made.layout.yaxis.title.text) == ("y", "x")
    assert marks(made) == {i: (c["y"], c["x"]) for i, c in enumerate(configs)}
    surface = made.data[0].z
    rows = [row[[math.isfinite(v) for v in row]].mean() for row in (surface[3], surface[-4])]
    assert rows[0] < rows[1]  # the metric grows upwards
    with pytest.raises(UsageError, match="did you mean 'x'"):
        figure(shown, "contour", x="xx")
    with pytest.raises(UsageError, match="choose two"):
        figure(shown, "contour", x="x", y="x")


def test_ranks_go_from_the_best_to_the_worst() -> None:
    configs = [{"x": i / 4, "y": i % 2 / 2} for i in range(4)]
    shown = view([{"m": v} for v in (1.0, 4.0, 2.0, 3.0)], study(XY, "maximize m"), configs)
    made = figure(shown, "rank", parameters="x, y")
    assert list(made.data[0].marker.color) == pytest.approx([1.0, 0.0, 2 / 3, 1 / 3])
    assert marks(made) == {i: (c["x"], c["y"]) for i, c in enumerate(configs)}


def test_the_front_and_the_region_that_keeps_the_limits() -> None:
    record = study(SPACE, "minimize latency_ms", "maximize throughput", constraints=("latency_ms <= 9",))
    told = [(10.0, 5.0), (8.0, 3.0), (9.0, 2.0), (7.0, 1.0)]
    shown = view([{"latency_ms": a, "throughput": b} for a, b in told], record)
    made = figure(shown, "pareto")
    found = traces(made)
    assert list(found["Pareto front"].customdata) == [1, 3]
    assert list(found["infeasible"].customdata) == [0]
    assert list(found["dominated"].customdata) == [2]
    assert list(zip(found["front"].x, found["front"].y, strict=True)) == [(7.0, 1.0), (8.0, 3.0)]
    region = made.layout.shapes[-2]
    assert region.x1 == 9.0 and region.x0 < 7.0 and region.y0 < 1.0 and region.y1 > 5.0
    assert "keeps latency_ms &lt;= 9" in found
    with pytest.raises(UsageError, match="did you mean 'throughput'"):
        figure(shown, "pareto", y="troughput")


def test_a_study_of_one_objective_trades_it_for_what_is_limited_or_chosen() -> None:
    told = [{"latency_ms": 5.0, "vram_gib": 9.0, "hits": 0.5}, {"latency_ms": 6.0, "vram_gib": 7.0, "hits": 0.6}]
    made = figure(view(told, study(SPACE, constraints=("vram_gib <= 8",))), "pareto")
    assert marks(made) == {0: (5.0, 9.0), 1: (6.0, 7.0)}
    assert marks(figure(view(told), "pareto", x="hits", y="vram_gib")) == {0: (0.5, 9.0), 1: (0.6, 7.0)}
    with pytest.raises(NothingToShowError, match="one objective and no outcome constraint"):
        figure(view(told), "pareto")


def test_predictions_beside_measurements_and_cheaper_evaluators() -> None:
    record = study(SPACE, options={"fidelities": ["short", "full"]})
    counted = trial(1, SPACE.default(), {"latency_ms": 4.0}, config_hash="h", notes={"predicted": {"latency_ms": 5.0}})
    cheap = trial(0, SPACE.default(), {"latency_ms": 3.0}, config_hash="h", fidelity="short")
    made = figure(replace(view([], record), trials=(cheap, counted)), "agreement")
    pairs = [(list(t.x), list(t.y)) for t in made.data if t.mode == "markers"]
    assert pairs == [([5.0], [4.0]), ([3.0], [4.0])]
    assert "median error 25 %" in made.layout.annotations[0].text and "by short" in made.layout.annotations[1].text


def test_time_adds_up() -> None:
    trials = tuple(
        trial(i, SPACE.default(), {"latency_ms": 1.0}, suggest_s=0.5, evaluate_s=e)
        for i, e in enumerate((2.0, 3.0, None))
    )
    made = figure(replace(view([], study(SPACE, store_s=0.75)), trials=trials), "time")
    found = traces(made)
    assert list(found["suggest 1.5 s"].y) == [0.5, 1.0, 1.5]
    assert list(found["evaluate 5 s"].y) == [2.0, 5.0, 5.0]
    assert list(found["store 0.75 s"].y) == [0.75]


def test_portfolio_tells_who_proposed_and_who_won() -> None:
    outcomes: list[dict[str, float]] = [{"latency_ms": v} for v in (5.0, 6.0, 4.0)]
    trials = tuple(
        trial(i, SPACE.default(), o, proposer=who)
        for i, (o, who) in enumerate(zip(outcomes, ("default", "bo", "bo"), strict=True))
    )
    made = figure(replace(view([]), trials=trials), "portfolio")
    assert list(traces(made)["was the best so far"].customdata) == [0, 2]
    rows = list(made.layout.yaxis.categoryarray)
    assert rows == ["bo<br>2 trials, 66.7 %, 1 ★", "default<br>1 trial, 33.3 %, 1 ★"]


def test_reports_and_samples() -> None:
    details = Details(
        samples={100: {"latency_ms": [2.0, 3.0, 4.0]}},
        reports={100: [(0, "loss", 2.0), (1, "loss", 1.0)], 101: [(0, "loss", 3.0), (1, "loss", math.nan)]},
    )
    shown = view([{"latency_ms": 3.0}, "pruned"], details=details)
    curves = traces(figure(shown, "reports"))
    assert list(curves["completed: 1"].y)[:2] == [2.0, 1.0] and list(curves["pruned: 1"].y)[:1] == [3.0]
    assert list(curves["best, trial 0"].x) == [0, 1]
    assert list(traces(figure(shown, "samples"))["samples"].y) == [2.0, 3.0, 4.0]
    assert set(traces(figure(shown, "samples", 0))["median"].y) == {3.0}
    with pytest.raises(NothingToShowError, match="trial 1 has no samples"):
        figure(shown, "samples", 1)
    with pytest.raises(UsageError, match="did you mean 'loss'"):
        figure(shown, "reports", metric="los")


def test_what_does_not_exist_is_told_with_what_does() -> None:
    shown = view([{"latency_ms": 1.0}])
    with pytest.raises(UsageError, match=r"'histroy' is unknown \(did you mean 'history'\?\)"):
        figure(shown, "histroy")
    with pytest.raises(UsageError, match="no trial 7; it has trials 0 to 0"):
        figure(shown, "samples", 7)
    with pytest.raises(UsageError, match="whole study"):
        figure(shown, "history", 0)
    with pytest.raises(UsageError, match=r"option 'logs' is unknown \(did you mean 'log'\?\)"):
        figure(shown, "history", logs=True)


def test_every_picture_says_what_it_is() -> None:
    for name, one in VIEWS.items():
        assert one.name == name and one.title
        assert one.summary.endswith(".") and 40 < len(one.summary) < 140


def test_a_study_can_be_used_without_loading_what_draws() -> None:
    code = "import sys, autotune; from autotune.plots import VIEWS; print({'plotly', 'kaleido', 'shap'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
