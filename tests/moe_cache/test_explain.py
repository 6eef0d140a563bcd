"""What `autotune show` tells of a cache configuration, from stored trials alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import autotune
from autotune.explaining import Section, explain
from autotune.measurement import Metric
from autotune.store.records import TrialRecord, TrialState
from autotune.text import bar
from evaluators.moe_cache.explain import breakdown, layers_of
from evaluators.moe_cache.explain import explain as explain_trials
from tests.machine import write_profile


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> autotune.Study:
    folder = tmp_path_factory.mktemp("explain")
    hardware = str(write_profile(folder))
    how: dict[str, Any] = {"options": {"hardware": hardware}, "storage": f"sqlite:///{folder}/a.db", "study": "a"}
    return autotune.search("moe-cache", trials=9, strategy="random", **how).study


def sections(study: autotune.Study, **how: Any) -> dict[str, Section]:
    return {part.name: part for part in explain(study, **how)}


def trial(values: dict[str, float], **notes: Any) -> TrialRecord:
    config = {"budget_mib": [1.0, 3.0], "theta": [1.0, 0.5], "policy": "lru", "prefetch_depth": 0}
    metrics = {name: Metric(value) for name, value in values.items()}
    return TrialRecord(1, 0, config, "hash", TrialState.COMPLETED, "made", 1, 1, metrics=metrics, notes=notes)


def test_the_parts_of_every_trial_add_up_to_its_latency(study: autotune.Study) -> None:
    assert len(study.trials) == 9
    for one in study.trials:
        parts = breakdown(one)
        assert parts is not None and all(part >= 0.0 for part in parts.values())
        assert sum(parts.values()) == pytest.approx(one.values["token_latency_ms"], rel=1e-9)


def test_layers_add_up_to_the_exposed_time(study: autotune.Study) -> None:
    for one in study.trials:
        exposed = [layer.exposed_ms for layer in layers_of(one)]
        assert None not in exposed
        assert sum(exposed) == pytest.approx(one.values["exposed_transfer_ms"], abs=1e-3)  # type: ignore[arg-type]


def test_best_and_default_are_told_side_by_side(study: autotune.Study) -> None:
    time = sections(study)["time"].data
    assert list(time) == ["best", "default"]
    best = study.best
    assert best is not None
    assert time["best"]["trial"] == best.number and time["default"]["trial"] == 0
    assert time["best"]["token_latency_ms"] == best.values["token_latency_ms"]
    layers = sections(study)["layers"].data["best"]
    assert [layer["budget_mib"] for layer in layers] == list(best.config["budget_mib"])
    assert [layer["slots"] for layer in layers] == best.notes["slots"]
    assert {layer["experts"] for layer in layers} == {32}


@pytest.mark.parametrize("unicode", [True, False])
def test_text_fits_a_terminal_of_80_columns(study: autotune.Study, unicode: bool) -> None:
    found = sections(study, unicode=unicode)
    lines = [line for part in found.values() for line in (part.title, *part.lines)]
    assert max(map(len, lines)) <= 80
    assert all(line.isascii() for line in lines) is not unicode
    # A heading and eight layers; a heading, five parts, the latency, and what each of both moved.
    assert (len(found["layers"].lines), len(found["time"].lines)) == (9, 9)


def test_a_trial_of_a_version_before_is_explained_as_far_as_it_tells() -> None:
    old = trial({"token_latency_ms": 2.0, "exposed_transfer_ms": 1.0}, layer_hit_rate=[0.25, 0.5])
    time, layers = explain_trials({"best": old}, unicode=False)
    assert "measure them again" in time.lines[0]
    assert time.data["best"]["parts"] is None
    assert [layer["hit_rate"] for layer in layers.data["best"]] == [0.25, 0.5]
    assert [layer["slots"] for layer in layers.data["best"]] == [None, None]
    assert explain_trials({}, unicode=True) == ()


def test_time_is_split_by_why_the_link_was_waited_for() -> None:
    parts = {
        "dense_ms": 1.0,
        "expert_compute_ms": 2.0,
        "exposed_transfer_ms": 3.0,
        "exposed_late_ms": 1.0,
        "cpu_wait_ms": 0.5,
    }
    found = breakdown(trial({"token_latency_ms": 6.5, **parts}))
    assert found == {
        "dense_ms": 1.0, "expert_compute_ms": 2.0, "exposed_demand_ms": 2.0, "exposed_late_ms": 1.0, "cpu_wait_ms": 0.5,
        "overhead_ms": 0.0,
    }  # fmt: skip
    assert sum(found.values()) == 6.5


@pytest.mark.parametrize(
    ("value", "unicode", "shown"),
    [
        (0.0, True, "    "),
        (1.0, True, "████"),
        (0.5, True, "██  "),
        (0.28125, True, "█▏  "),
        (2.0, True, "████"),
        (0.5, False, "##  "),
        (None, True, "    "),
    ],
)
def test_bars(value: float | None, unicode: bool, shown: str) -> None:
    assert bar(value, 1.0, 4, unicode=unicode) == shown
    assert bar(value, 0.0, 4, unicode=unicode) == "    "


def test_a_study_without_a_domain_has_no_explanation(tmp_path: Path) -> None:
    space = autotune.SearchSpace([autotune.Int("x", 0, 3)])
    result = autotune.search(space, lambda config: float(config["x"]), trials=3)
    assert explain(result.study) == ()


@pytest.mark.parametrize(("batch", "title", "moved"), [(1, "of a token", "per token"), (4, "of each of 4", "per pass")])
def test_what_is_decoded_together_is_told_as_a_pass(batch: int, title: str, moved: str, tmp_path: Path) -> None:
    options = {"hardware": str(write_profile(tmp_path)), "batch": batch}
    study = autotune.search("moe-cache", options=options, trials=1, strategy="random").study
    time = sections(study)["time"]
    assert title in time.title
    assert any(moved in line for line in time.lines)
