"""Pictures of the domains: drawn from real searches, from stored trials alone, with the numbers that are stored."""

from __future__ import annotations

import itertools
import json
import math
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

import autotune
from autotune import FailureKind, Metric
from autotune.store import Store
from autotune.store.records import TrialRecord, TrialState
from autotune.study_view import StudyView
from autotune.viewing import NothingToShowError, View, domain_views
from evaluators.moe_cache.formats import save_trace
from evaluators.moe_cache.trace import DECODE, PREFILL, RoutingTrace
from evaluators.training_layout.profiled import Profiled
from tests.expert_placement.instances import write_trace
from tests.machine import write_profile
from tests.training_layout.jobs import job

NAMES = {
    "moe-cache": {"layers", "token-time", "timeline", "fixed-point"},
    "training-layout": {"memory", "step-time", "pipeline", "gpus"},
    "compression": {"accuracy-time", "accuracy-traffic", "devices"},
    "expert-placement": {"loads", "load-map", "hops"},
}
OF_STUDIES = {"fixed-point"}  # pictures of a study as a whole
WITHOUT_NOTES = {"layers", "token-time", "memory", "step-time"}  # drawn from configuration and metrics alone


def _short_trace(path: Path) -> Path:
    rng = np.random.default_rng(0)
    picks = np.stack([[rng.permutation(32)[:4] for _ in range(8)] for _ in range(28)]).astype(np.int16)
    phase = np.array([PREFILL] * 4 + [DECODE] * 24, dtype=np.int8)
    trace = RoutingTrace(
        "tiny-moe", n_experts=32, top_k=4, experts=picks, turn=np.zeros(28, dtype=np.int32), phase=phase
    )
    save_trace(trace, path)
    return path


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, StudyView]]:
    """A searched study of every domain, read from a store as any page reads it."""
    folder = tmp_path_factory.mktemp("views")
    url = f"sqlite:///{folder}/studies.db"
    searches: Mapping[str, dict[str, Any]] = {
        "moe-cache": {
            "options": {
                "hardware": str(write_profile(folder)),
                "trace": str(_short_trace(folder / "short.moetrace.npz")),
            },
            "strategy": "fixed-point",
        },
        "training-layout": {
            "options": {"kernels": "peak", "gpus": 16, "model": "mixtral-8x7b", "global_batch": 16, "memory_gib": 75}
        },
        "compression": {
            "options": {"rounds": 5, "repeats": 1, "devices": 8, "target_accuracy": 0.2, "accuracy_drop": 100},
            "trials": 3,
        },
        "expert-placement": {
            "options": {"trace": str(write_trace(folder / "made.moetrace.npz")), "gpus": 4, "program_seconds": 2.0},
            "trials": 3,
        },
    }
    for domain, settings in searches.items():
        autotune.search(domain, storage=url, study=domain, **{"trials": 6, **settings})
    store = Store(url)
    yield {domain: StudyView.read(store, domain) for domain in searches}
    store.close()


@pytest.fixture
def moe(views: dict[str, StudyView]) -> StudyView:
    return views["moe-cache"]


@pytest.fixture
def layout(views: dict[str, StudyView]) -> StudyView:
    return views["training-layout"]


@pytest.fixture
def trained(views: dict[str, StudyView]) -> StudyView:
    return views["compression"]


@pytest.fixture
def placed(views: dict[str, StudyView]) -> StudyView:
    return views["expert-placement"]


def draw(view: StudyView, name: str, trial: TrialRecord | None = None) -> go.Figure:
    figure = domain_views(view.study)[name].draw(view, trial)
    json.loads(figure.to_json())
    return figure


def drawn(figure: go.Figure, of: str) -> list[Any]:
    """Traces by the beginning of their names."""
    return [trace for trace in figure.data if (trace.name or "").startswith(of)]


def best(view: StudyView) -> TrialRecord:
    assert view.best is not None
    return view.best


def default(view: StudyView) -> TrialRecord:
    assert view.default is not None
    return view.default


def every(views: Mapping[str, StudyView]) -> Iterator[tuple[StudyView, View]]:
    for study in views.values():
        for view in domain_views(study.study).values():
            yield study, view


# ---------------------------------------------------------------- all of them


def test_every_domain_brings_its_pictures_and_all_are_drawn_of_the_best_trial(views: dict[str, StudyView]) -> None:
    assert {domain: set(domain_views(view.study)) for domain, view in views.items()} == NAMES
    for study, view in every(views):
        assert view.of_trial is (view.name not in OF_STUDIES)
        assert "\n" not in view.title + view.summary
        assert view.summary.endswith(".")
        figure = draw(study, view.name)
        assert figure.data, view.name
        assert figure.layout.template.layout.paper_bgcolor == "rgba(0,0,0,0)"
        titles = [axis.title.text for axis in (*figure.select_xaxes(), *figure.select_yaxes())]
        assert any(titles), view.name
        for trace in figure.data:
            assert trace.hoverinfo == "text", view.name
            assert np.shape(trace.hovertext) == np.shape(trace.z if trace.type == "heatmap" else trace.x)


def test_a_trial_without_notes_is_refused_in_a_sentence_or_drawn_from_what_it_has(views: dict[str, StudyView]) -> None:
    for study, view in every(views):
        bare = replace(best(study), notes={})
        older = replace(study, trials=tuple(replace(t, notes={}) for t in study.trials), store=None)
        if view.name in WITHOUT_NOTES:
            assert draw(older, view.name, bare).data
            continue
        with pytest.raises(NothingToShowError) as raised:
            view.draw(older, bare)
        sentence = str(raised.value)
        assert "\n" not in sentence
        assert sentence.startswith(f"trial {bare.number} " if view.of_trial else f"study {study.study.name!r} ")


@pytest.mark.parametrize("nonsense", ["x", [None], {"a": []}])
def test_notes_of_another_program_are_refused_alike(views: dict[str, StudyView], nonsense: object) -> None:
    for study, view in every(views):
        odd = replace(best(study), notes=dict.fromkeys(_noted(study), nonsense))
        strange = replace(study, trials=tuple(replace(t, notes=odd.notes) for t in study.trials), store=None)
        try:
            draw(strange, view.name, odd)
        except NothingToShowError as error:
            assert "\n" not in str(error)


def _noted(study: StudyView) -> set[str]:
    return {name for trial in study.trials for name in trial.notes}


@pytest.mark.parametrize("state", [TrialState.FAILED, TrialState.PRUNED, TrialState.RUNNING, TrialState.WAITING])
def test_a_trial_that_measured_nothing_is_refused_in_a_sentence(views: dict[str, StudyView], state: TrialState) -> None:
    for study, view in every(views):
        if not view.of_trial:
            continue
        unfinished = replace(
            best(study), id=-1, state=state, metrics={}, notes={}, failure_kind=FailureKind.OOM, failure_message="a\nb"
        )
        with pytest.raises(NothingToShowError, match=rf"^trial {unfinished.number} .*name a") as raised:
            view.draw(study, unfinished)
        assert "\n" not in str(raised.value)


def test_a_study_without_a_best_trial_says_so(views: dict[str, StudyView]) -> None:
    for study, view in every(views):
        with pytest.raises(NothingToShowError, match=f"^study {study.study.name!r} has no "):
            view.draw(replace(study, trials=()), None)


def test_metrics_that_are_no_numbers_are_refused_or_left_out(views: dict[str, StudyView]) -> None:
    for study, view in every(views):
        trial = best(study)
        broken = replace(trial, metrics={name: Metric(math.nan) for name in trial.metrics})
        try:
            draw(study, view.name, broken)
        except NothingToShowError as error:
            assert "\n" not in str(error)


def test_nothing_of_a_name_is_read_as_html(views: dict[str, StudyView]) -> None:
    hostile = "<script>alert(1)</script><b>x"
    trained, moe = views["compression"], views["moe-cache"]
    by_class = {f"{name}{hostile}": row for name, row in best(trained).notes["devices"].items()}
    renamed = replace(best(trained), notes={**best(trained).notes, "devices": by_class})
    named = replace(trained, study=replace(trained.study, options={"baselines": {hostile: trained.trials[1].config}}))
    begun = replace(moe, trials=tuple(replace(t, notes={**t.notes, "start": hostile}) for t in moe.trials))
    figures = (draw(trained, "devices", renamed), draw(named, "accuracy-time"), draw(begun, "fixed-point"))
    for figure in figures:
        text = figure.to_json().replace("\\u003c", "<")
        assert "&lt;script&gt;" in text
        assert set(re.findall(r"<[^>]*>", text)) <= {"<br>"}


def test_a_search_imports_no_plotly() -> None:
    code = (
        "import sys, autotune\n"
        "options = {'gpus': 2, 'kernels': 'peak', 'layers': 2, 'global_batch': 2}\n"
        "found = autotune.search('training-layout', options=options, trials=1)\n"
        "assert found.best and 'plotly' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# ---------------------------------------------------------------- moe-cache


def test_layers_are_those_of_the_trial_and_the_default(moe: StudyView) -> None:
    figure = draw(moe, "layers")
    for trial in (best(moe), default(moe)):
        rows = drawn(figure, f"trial {trial.number} ")
        assert [list(trace.y) for trace in rows] == [
            list(trial.config["budget_mib"]),
            list(trial.config["theta"]),
            trial.notes["layer_hit_rate"],
            trial.notes["layer_exposed_ms"],
        ]
    assert "slots for" in figure.data[0].hovertext[0]
    assert len(draw(moe, "layers", default(moe)).data) == 4  # the default beside itself is one


def test_the_parts_of_a_pass_add_up_to_the_token_latency(moe: StudyView) -> None:
    figure = draw(moe, "token-time")
    for row, trial in enumerate((best(moe), default(moe))):
        assert sum(trace.x[row] for trace in figure.data) == pytest.approx(trial.values["token_latency_ms"])


def test_the_timeline_is_one_pass_of_the_replay(moe: StudyView) -> None:
    """Each lane does one thing at a time, and compute's spans fill the pass, as nothing else takes time on this machine."""
    figure = draw(moe, "timeline")
    for axis, trial in (("y", best(moe)), ("y2", default(moe))):
        note = trial.notes["timeline"]
        lanes: dict[str, list[tuple[float, float]]] = {}
        for trace in figure.data:
            if trace.yaxis == axis:
                for lane, begin, length in zip(trace.y, trace.base, trace.x, strict=True):
                    lanes.setdefault(lane, []).append((begin, begin + length))
        assert sum(end - begin for begin, end in lanes["compute"]) == pytest.approx(note["ms"], rel=1e-3)
        tick = 2 * note["tick_ms"]
        for spans in lanes.values():
            ordered = sorted(spans)
            assert all(after[0] >= before[1] - tick for before, after in itertools.pairwise(ordered))
        assert max(end for _, end in lanes["compute"]) == pytest.approx(note["ms"], rel=1e-3)
        assert len(json.dumps(note)) < 4096
    assert best(moe).notes["timeline"]["pass"] == default(moe).notes["timeline"]["pass"]
    assert "decode pass" in figure.layout.title.text


def test_the_fixed_point_shows_the_residuals_that_its_trials_noted(moe: StudyView) -> None:
    """One run as it was searched, which converged at once, and one of several iterations beside it."""
    (found,) = (trial for trial in moe.trials if "residuals" in trial.notes)
    several = {"residuals": [0.7, 0.02, 0.0], "losses": [5.5, 5.0, 4.75], "iteration": 2, "predicted": 4.75}
    proposed = (found, replace(found, number=99, notes={**found.notes, **several}))
    figure = draw(replace(moe, trials=proposed), "fixed-point")
    one, other = (trace for trace in figure.data if trace.yaxis == "y")
    # A residual of 0 lies at the bottom of the logarithmic axis, and is told exactly.
    assert (list(one.y), list(other.y)) == ([0.002], [0.7, 0.02, 0.002])
    assert one.hovertext[0].endswith("residual 0")
    losses = [list(trace.y) for trace in figure.data if trace.yaxis == "y2" and trace.mode == "lines+markers"]
    assert losses == [found.notes["losses"], several["losses"]]
    stars = [trace for trace in figure.data if trace.marker.symbol == "star"]
    assert [(trace.x[0], trace.y[0]) for trace in stars] == [
        (trial.notes["iteration"], trial.notes["predicted"]) for trial in proposed
    ]


def test_the_fixed_point_of_another_strategy_is_told_to_be_missing(moe: StudyView) -> None:
    others = replace(moe, trials=tuple(trial for trial in moe.trials if "residuals" not in trial.notes))
    with pytest.raises(NothingToShowError, match="--strategy fixed-point"):
        draw(others, "fixed-point")


# ---------------------------------------------------------------- training-layout


def test_the_parts_of_memory_and_time_add_up_to_what_is_stored(layout: StudyView) -> None:
    for name, metric in (("memory", "memory_gib"), ("step-time", "step_s")):
        figure = draw(layout, name)
        for row, trial in enumerate((best(layout), default(layout))):
            assert sum(trace.x[row] for trace in figure.data) == pytest.approx(trial.values[metric]), name
    (limit,) = draw(layout, "memory").layout.shapes
    assert limit.x0 == limit.x1 == best(layout).notes["memory_limit_gib"] == pytest.approx(75.0)


def test_what_failures_and_stragglers_cost_is_a_part_of_the_step(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/spread.db"
    options = {"gpus": 16, "kernels": "peak", "straggler_spread": 0.1, "layers": 4}
    autotune.search("training-layout", storage=url, study="spread", trials=1, options=options)
    store = Store(url)
    view = StudyView.read(store, "spread")
    store.close()
    figure = draw(view, "step-time")
    (lost,) = drawn(figure, "waiting for slow GPUs")
    assert lost.x[0] > 0
    assert sum(trace.x[0] for trace in figure.data) == pytest.approx(best(view).values["step_s"])


def _with(layout: StudyView, **changed: Any) -> TrialRecord:
    """The best trial, with other degrees."""
    trial = best(layout)
    return replace(trial, config={**trial.config, **changed})


def test_a_pipeline_s_picture_ends_when_the_step_does(layout: StudyView) -> None:
    evaluate = Profiled(job("llama3-8b", 16))
    usual: dict[str, Any] = {"tp": 2, "cp": 1, "pp": 4, "micro_batch": 1, "zero": 1, "recompute": "selective"}
    for config in ({**usual, "interleave": 1}, {**usual, "interleave": 2}):
        measured = evaluate(config)
        trial = replace(best(layout), id=-1, config=config, metrics=measured.metrics, notes=measured.notes)
        figure = draw(layout, "pipeline", trial)
        ends = [b + x for trace in figure.data for b, x in zip(trace.base, trace.x, strict=True)]
        assert max(ends) == pytest.approx(measured.values()["step_s"])
        values = measured.values()
        for direction in ("forward", "backward"):
            (works,) = drawn(figure, direction)
            assert len(works.x) == config["pp"] * config["interleave"] * values["microbatches"]
        (idle,) = drawn(figure, "idle")
        of_last = [x for x, stage in zip(idle.x, idle.y, strict=True) if stage == str(config["pp"] - 1)]
        assert sum(of_last) == pytest.approx(values["bubble_s"])


def test_a_long_pipeline_is_drawn_in_part_and_says_so(layout: StudyView) -> None:
    trial = _with(layout, pp=64, interleave=2)
    long = replace(trial, metrics={**trial.metrics, "microbatches": Metric(1024.0)})
    figure = draw(layout, "pipeline", long)
    assert "drawn with 64 of them" in figure.layout.title.text
    assert "of the stages are shown" in figure.layout.title.text
    assert sum(len(trace.x) for trace in drawn(figure, "forward")) < 4000


def test_every_gpu_has_its_own_coordinates(layout: StudyView) -> None:
    trial = best(layout)
    figure = draw(layout, "gpus")
    (cells,) = figure.data
    told = [text for row in cells.hovertext for text in row]
    assert len(told) == 16
    places = [text.split("<br>", 1)[1] for text in told]
    degrees = {name: int(trial.config.get(name) or 1) for name in ("tp", "cp", "pp")}
    dense = {re.sub(r"<br>(part of the experts|tensor-parallel part of an expert) \d+", "", place) for place in places}
    assert len(dense) == 16
    assert math.prod(degrees.values()) * trial.values["data_parallel"] == 16
    assert [len(row) for row in cells.z] == [trial.notes["gpus_per_node"]] * (16 // trial.notes["gpus_per_node"])


def test_thousands_of_gpus_are_drawn_in_part_from_every_stage(layout: StudyView) -> None:
    trial = _with(layout, tp=8, cp=1, pp=16, ep=1, etp=1)
    many = replace(trial, metrics={**trial.metrics, "data_parallel": Metric(64.0)})
    figure = draw(layout, "gpus", many)
    (cells,) = figure.data
    shown = [value for row in cells.z for value in row]
    assert len(shown) == 512
    assert {stage: shown.count(stage) for stage in range(16)} == dict.fromkeys(range(16), 32)
    assert "8192 GPUs, of which 512 are shown" in figure.layout.title.text


# ---------------------------------------------------------------- compression


@pytest.mark.parametrize(("name", "metric"), [("accuracy-time", "time_s"), ("accuracy-traffic", "traffic_mib")])
def test_accuracy_is_drawn_against_what_was_spent(trained: StudyView, name: str, metric: str) -> None:
    figure = draw(trained, name)
    named = {trace.name: trace for trace in figure.data if trace.mode == "lines+markers"}
    measured = {trial.number: trial for trial in trained.completed}
    assert f"trial {best(trained).number} (" in next(iter(named))
    assert any(label.startswith("default") or "default" in label for label in named)
    assert len(named) > 2  # baselines too
    for label, trace in named.items():
        (number,) = re.findall(r"trial (\d+)", label)
        if (trial := measured.get(int(number))) is not None:
            assert list(trace.x) == trial.notes["curve"][metric]
            assert list(trace.y) == trial.notes["curve"]["accuracy"]
            (star,) = [t for t in figure.data if t.mode == "markers" and t.name == label]
            assert star.x[0] == trial.values[metric]


def test_a_trial_that_was_ended_is_drawn_as_it_reported(trained: StudyView) -> None:
    trial = best(trained)
    ended = replace(trial, state=TrialState.PRUNED, metrics={}, notes={})
    assert trained.store is not None
    reports = trained.store.reports_of([trial.id])[trial.id]
    figure = draw(trained, "accuracy-time", ended)
    assert list(figure.data[0].y) == [value for _, metric, value in reports if metric == "accuracy"]
    assert list(figure.data[0].x) == [value for _, metric, value in reports if metric == "time_s"]
    assert figure.data[0].line.dash == "dot"


def test_costs_by_class_of_device_are_those_of_the_trial(trained: StudyView) -> None:
    trial = best(trained)
    figure = draw(trained, "devices")
    for words, part in (("downloads", "download_mib"), ("waiting", "waiting_s"), ("energy", "energy_j")):
        (bars,) = drawn(figure, words)
        mine = [x for x, label in zip(bars.x, bars.y[1], strict=True) if label.startswith(f"trial {trial.number} ")]
        assert mine == [row[part] for row in trial.notes["devices"].values()]


# ---------------------------------------------------------------- expert-placement


def test_hops_add_up_to_the_metric_and_loads_are_those_of_the_trial(placed: StudyView) -> None:
    figure = draw(placed, "hops")
    for trial in (best(placed), default(placed)):
        (bars,) = drawn(figure, f"trial {trial.number} ")
        assert sum(bars.y) == pytest.approx(trial.values["hop_cost_per_token"], rel=1e-4)
    by_gpu, by_layer = drawn(draw(placed, "loads"), f"trial {best(placed).number} ")
    noted = best(placed).notes["layers"]
    assert list(by_gpu.y) == pytest.approx(np.mean(noted["gpu_load"], axis=0))
    assert list(by_layer.y) == noted["max_load"]
    one, other = draw(placed, "load-map").data
    assert [list(row) for row in one.z] == noted["gpu_load"]
    assert [list(row) for row in other.z] == default(placed).notes["layers"]["gpu_load"]


def test_a_layer_that_no_batch_counts_in_has_no_bar(placed: StudyView) -> None:
    trial = best(placed)
    noted = trial.notes["layers"]
    layers = {**noted, "max_load": [None, *noted["max_load"][1:]], "gpu_load": [[None] * 4, *noted["gpu_load"][1:]]}
    skipped = replace(trial, notes={**trial.notes, "layers": layers})
    by_gpu, by_layer = drawn(draw(placed, "loads", skipped), f"trial {trial.number} ")
    assert math.isnan(by_layer.y[0])
    assert list(by_gpu.y) == pytest.approx(np.mean(noted["gpu_load"][1:], axis=0))
    draw(placed, "load-map", skipped)
