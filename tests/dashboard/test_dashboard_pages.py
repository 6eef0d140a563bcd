"""The list of studies, a trial, several studies side by side, machines, what to take away, and what changes a store."""

from __future__ import annotations

import itertools
import json
from contextlib import closing
from pathlib import Path

import pytest

import autotune
from autotune import Failure, Measurement, Metric
from autotune.store import Store
from autotune.store.records import Profile
from dashboard import actions, workers
from dashboard.settings import Settings
from dashboard.visit import Visit
from tests.dashboard.drawing import charts, draw, drawn, html, numbers, rows, said
from tests.machine import made_profile
from tests.shown_studies import make


def told(values: dict[str, float], **rest: object) -> Measurement:
    return Measurement({name: Metric(value) for name, value in values.items()}, **rest)  # type: ignore[arg-type]


# ---------------------------------------------------------------- studies


def names(shown: object) -> list[str]:
    return [row[0] for row in rows(shown, "studies")]  # type: ignore[arg-type]


def test_studies_are_found_and_sorted(storage: str) -> None:
    make(storage, [{"latency_ms": 8.0}, {"latency_ms": 2.0}], name="fast")
    make(storage, [{"latency_ms": 8.0}, {"latency_ms": 7.0}, {"latency_ms": 6.0}], name="Slow one")
    make(storage, [], name="empty", strategy="tpe")
    assert names(drawn("studies", order="gain")) == ["fast", "Slow one", "empty"]
    assert names(drawn("studies", order="name")) == ["empty", "fast", "Slow one"]
    assert names(drawn("studies", order="trials")) == ["Slow one", "fast", "empty"]
    assert names(drawn("studies", order="created")) == ["empty", "Slow one", "fast"]
    shown = drawn("studies", find="SLOW")
    assert names(shown) == ["Slow one"] and "1 of 3 studies" in said(shown)
    assert names(drawn("studies", find="tpe running")) == ["empty"]
    assert names(drawn("studies", find="no such study")) == []


def test_list_of_studies_follows_the_store(storage: str) -> None:
    study = make(storage, [{"latency_ms": 8.0}])
    shown = drawn("studies")
    assert rows(shown, "studies")[0][8] == "8 ms"
    study.tell(study.ask(), {"latency_ms": 2.0})
    assert rows(draw(shown), "studies")[0][8:10] == ["2 ms", "+75.0 %"]


@pytest.mark.parametrize("name", ["studies", "study"])
def test_a_page_is_shown_though_the_store_never_rests(storage: str, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    make(storage, [{"latency_ms": 8.0}])
    marks = itertools.count()
    monkeypatch.setattr("dashboard.visit._mark", lambda *_: next(marks))
    assert "8 ms" in html(drawn(name, study="a"))
    assert next(marks) == 1  # looked at once, for what was drawn


def test_archived_studies_are_left_out_until_asked_for(storage: str) -> None:
    old = make(storage, [{"latency_ms": 8.0}], name="old")
    make(storage, [{"latency_ms": 8.0}], name="new")
    old.store.archive(old.record.id)
    shown = drawn("studies")
    assert names(shown) == ["new"] and "1 of 2 studies, 1 archived" in said(shown)
    assert sorted(names(drawn("studies", archived="true"))) == ["new", "old"]


# ---------------------------------------------------------------- a trial


@pytest.mark.parametrize("kind", ["invalid", "oom", "timeout", "crash", "nan"])
def test_a_failure_is_told_with_its_message_and_what_it_means(storage: str, kind: str) -> None:
    make(storage, [{"latency_ms": 5.0}, Failure(kind, "<b>no</b> **room**", log="the end\nof the log")])
    shown = drawn("trial", study="a", trial="1")
    (error,) = shown.error
    assert error.value.startswith(f"It failed ({kind}). ") and len(error.value) > 40
    assert "<b>no</b> **room**" in [box.value for box in shown.code]
    assert "the end\nof the log" in said(shown) and "<b>no" not in html(shown)


def test_how_near_a_trial_was_to_its_limits(storage: str) -> None:
    limits = ["vram_gib <= 10", "hit_rate >= 0.5", "energy_j <= 0", "seen_s <= 3"]
    values = {"latency_ms": 5.0, "vram_gib": 9.5, "hit_rate": 0.9, "energy_j": 2.0}
    make(storage, [{**values, "seen_s": 1.0}], constraints=limits)
    shown = rows(drawn("trial", study="a", trial="0"), "limits")
    assert [row[0] for row in shown] == limits
    assert [row[2:] for row in shown[:2]] == [["+5.0 %", "near the limit"], ["+80.0 %", "kept"]]
    assert [row[3] for row in shown[2:]] == ["broken", "kept"]


def test_samples_log_files_machine_and_notes_of_a_trial(storage: str, tmp_path: Path) -> None:
    (tmp_path / "trace.txt").write_text("kept")
    samples = (5.0, 5.5, 4.5)
    study = make(storage, [])
    study.tell(
        study.ask(),
        Measurement(
            {"latency_ms": Metric(5.0, 0.5, samples=samples)},
            {"why": "<i>chosen</i>"},
            "a line\n<script>alert(1)</script>",
            {"trace": tmp_path / "trace.txt"},
        ),
    )
    shown = drawn("trial", study="a", trial="0")
    assert [list(trace["y"]) for chart in charts(shown) for trace in chart["data"] if len(trace["y"]) == 3] == [
        list(samples)
    ]
    (row,) = rows(shown, "artifacts")
    assert row[0] == "trace" and row[1].endswith("trace.txt") and len(row[2]) == 16
    assert "<script>alert(1)</script>" in said(shown) and "<script" not in html(shown)
    assert "<i>chosen</i>" in said(shown) and "<i>chosen" not in html(shown)
    assert rows(shown, "comparison")[0][2] == "5 ± 0.5 ms"


@pytest.mark.parametrize("number", ["7", "-1", "x", "1e9", "<b>", "٣"])
def test_a_trial_that_is_not_there_is_named(storage: str, number: str) -> None:
    make(storage, [{"latency_ms": 5.0}, {"latency_ms": 4.0}])
    shown = drawn("trial", study="a", trial=number)
    assert "trials 0 to 1" in said(shown) and shown.code[0].value == number
    assert "Trial 1 of a" in html(shown)  # the best one


def test_a_trial_that_still_runs_and_a_study_without_one(storage: str) -> None:
    make(storage, [None])
    make(storage, [], name="b")
    assert "running" in html(drawn("trial", study="a", trial="0"))
    assert "no trial yet" in said(drawn("trial", study="b"))


# ---------------------------------------------------------------- side by side


def test_studies_side_by_side(storage: str) -> None:
    for name, last in (("one", 2.0), ("two", 4.0)):
        make(storage, [{"latency_ms": 8.0}, Failure("oom"), {"latency_ms": last}], name=name)
    shown = drawn("compare", studies="one")
    assert "at least two" in said(shown)
    shown.multiselect(key="studies").set_value(["one", "two"])
    draw(shown)
    assert [row[:1] + row[3:] for row in rows(shown, "compared")] == [
        ["one", "3", "1", "2 ms", "+75.0 %", "trial 2"],
        ["two", "3", "1", "4 ms", "+50.0 %", "trial 2"],
    ]
    (chart,) = charts(shown)
    assert {trace["y"][-1] for trace in chart["data"] if trace["y"]} >= {2.0, 4.0}
    by_name = {row[0]: row[1:] for row in rows(shown, "configurations")}
    assert set(by_name) >= {"budget", "policy", "threads"}
    assert "at-bars" in html(shown)  # the vector


def test_studies_of_different_objectives_have_no_common_picture(storage: str) -> None:
    make(storage, [{"latency_ms": 8.0}], name="one")
    make(storage, [{"throughput": 8.0}], name="two", objectives="maximize throughput")
    make(storage, [{"latency_ms": 8.0, "energy_j": 1.0}], name="three", objectives=["latency_ms", "energy_j"])
    make(storage, [Failure("oom")], name="four")
    shown = drawn("compare")
    shown.multiselect(key="studies").set_value(["one", "two", "three", "four"])
    draw(shown)
    assert "different objectives" in said(shown) and not charts(shown)
    assert [row[0] for row in rows(shown, "compared")] == ["one", "two", "three", "four"]


# ---------------------------------------------------------------- machines


def test_a_store_without_a_machine(storage: str) -> None:
    make(storage, [])
    assert "No machine has measured" in said(drawn("hardware"))


def test_a_machine_with_its_profile(storage: str) -> None:
    profile = made_profile()
    seen = profile.environment
    kept = Profile(seen.fingerprint, seen.details, "links", json.loads(profile.to_json()))
    make(storage, [{"latency_ms": 5.0}], profile=kept)
    shown = drawn("hardware")
    assert profile.environment.fingerprint in html(shown)
    link, compute = charts(shown)
    (entry,) = profile.links
    rates = [x / 2**30 / (ms / 1e3) for x, ms in zip(entry.curve.x, entry.curve.ms, strict=True)]
    (drawn_rates,) = [trace["y"] for trace in link["data"] if "depth" in trace["name"]]
    assert numbers(drawn_rates) == pytest.approx(rates)
    assert compute["data"]


# ---------------------------------------------------------------- take away


def test_the_best_configuration_is_taken_away_as_json(storage: str) -> None:
    study = make(storage, [{"latency_ms": 5.0}, {"latency_ms": 3.0}, {"latency_ms": 4.0}], name="my / study")
    shown = drawn("study", study="my / study", section="Take away")
    assert shown.selectbox(key="format").options == ["json"]
    assert shown.selectbox(key="export trial").value == 1
    assert json.loads(shown.code[-1].value) == study.trials[1].config
    shown.selectbox(key="export trial").set_value(2)
    assert json.loads(draw(shown).code[-1].value) == study.trials[2].config


def test_formats_of_a_domain_their_options_and_what_they_cannot_express(storage: str) -> None:
    autotune.search(
        "expert-placement", options={"program_seconds": "0.2"}, trials=4, strategy="random", storage=storage, study="a"
    )
    shown = drawn("study", study="a", section="Take away", format="sglang")
    assert shown.selectbox(key="format").options == ["json", "plan", "sglang", "vllm"]
    layers = len(json.loads(shown.code[-1].value)["physical_to_logical_map"])
    shown.text_input(key="export sglang dense_layers").set_value("0, 3")
    assert len(json.loads(draw(shown).code[-1].value)["physical_to_logical_map"]) == layers + 2
    shown.text_input(key="export sglang dense_layers").set_value("many")
    told = said(draw(shown))
    assert "cannot be written yet" in told and "option dense_layers.0 = 'many'" in told
    shown.selectbox(key="format").set_value("vllm")
    assert "What this format cannot express" in said(draw(shown))
    shown.selectbox(key="format").set_value("plan")
    assert json.loads(draw(shown).code[-1].value)


def test_a_domain_that_is_gone_leaves_the_rest(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study = make(storage, [{"latency_ms": 5.0}, {"latency_ms": 3.0}])
    with closing(Store(storage)) as store, store._write() as connection:
        connection.exec_driver_sql("UPDATE studies SET domain = 'no-longer-installed'")
    for section in ("Overview", "Pictures", "Trials", "Failures"):
        drawn("study", study="a", section=section)
    shown = drawn("study", study="a", section="Take away")
    assert "no-longer-installed" in said(shown)
    assert json.loads(shown.code[-1].value) == study.trials[1].config
    drawn("trial", study="a", trial="0")


# ---------------------------------------------------------------- what changes a store


def keys(shown: object) -> set[str]:
    return {button.key for button in shown.button}  # type: ignore[attr-defined]


def test_without_permission_nothing_can_be_changed(storage: str) -> None:
    make(storage, [{"latency_ms": 5.0}])
    assert keys(drawn("studies")) == set()
    assert keys(drawn("study", study="a")) == {"refresh"}
    shown = drawn("launch")
    assert "--allow-edit" in said(shown) and keys(shown) == set() and not shown.text_input


def test_studies_are_archived_and_taken_out_again(editing: str) -> None:
    study = make(editing, [{"latency_ms": 5.0}])
    shown = drawn("studies")
    for archived in (True, False):
        shown.multiselect(key="to archive").set_value(["a"])
        shown = draw(shown)
        shown.button(key="archive").click()
        shown = draw(shown)
        assert (study.store.load_study("a").archived_at is not None) == archived
        assert names(shown) == ([] if archived else ["a"])


def test_a_study_is_asked_to_stop_once(editing: str) -> None:
    study = make(editing, [{"latency_ms": 5.0}])
    study.store.set_study_state(study.record.id, "running")
    shown = drawn("study", study="a")
    shown.button(key="stop").click()
    shown = draw(shown)
    request = study.store.stop_request(study.record.id)
    assert request is not None and request.by == "the dashboard"
    assert shown.button(key="stop").disabled


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("trials", "many", "trials are 'many'"),
        ("trials", "0", "trials"),
        ("timeout", "-3", "timeout"),
        ("seed", "x", "seed"),
        ("option expert-placement gpus", "four", "gpus = 'four'"),
        ("option expert-placement gpus_per_node", "0", "gpus_per_node = '0'"),
    ],
)
def test_what_cannot_be_launched_is_one_sentence(editing: str, key: str, value: str, words: str) -> None:
    make(editing, [])
    shown = drawn("launch", domain="expert-placement")
    shown.text_input(key=key).set_value(value)
    next(button for button in shown.button if button.label == "Launch").click()
    draw(shown)
    assert [error.value for error in shown.error] == ["This cannot be launched:"]
    assert words in shown.code[0].value and "\n" not in shown.code[0].value
    assert workers.known(editing) == []


def test_what_only_the_domain_refuses_is_told_where_it_was_asked_for(editing: str) -> None:
    make(editing, [])
    shown = drawn("launch", domain="expert-placement")
    shown.text_input(key="option expert-placement gpus").set_value("7")
    next(button for button in shown.button if button.label == "Launch").click()
    draw(shown)
    assert [error.value for error in shown.error] == ["This was launched, and ended at once:"]
    assert "cannot be shared out evenly over gpus=7" in shown.code[0].value


def test_what_is_launched_belongs_to_whom_the_proxy_names(editing: str) -> None:
    make(editing, [])
    worker = workers.launch(
        editing, "theirs", ["search", "expert-placement", "--study", "theirs", "--trials", "1"], "Ada"
    )
    workers.wait(worker, lambda: False, 60.0)
    assert worker.process is None and not worker.failed, worker.tail
    with closing(Store(editing, read_only=True)) as store:
        assert store.load_study("theirs").owner == "Ada"


def test_a_search_that_has_not_begun_is_ended_and_one_that_has_is_asked(editing: str) -> None:
    study = make(editing, [{"latency_ms": 5.0}])
    study.store.set_study_state(study.record.id, "running")  # as an earlier search left it
    visit = Visit(Settings.read(), study.store)
    worker = workers.launch(editing, "a", ["studies"])
    assert not actions.has_begun(visit, worker)
    actions.stop_worker(visit, worker)
    assert study.store.stop_request(study.record.id) is None
    workers.wait(worker, lambda: False, 60.0)
    assert worker.process is None
    study.store.begin_search(study.store.load_study("a"))
    assert actions.has_begun(visit, worker)
    actions.stop_worker(visit, worker)
    request = study.store.stop_request(study.record.id)
    assert request is not None and request.by == "the dashboard"


def test_every_domain_has_a_form_with_all_of_its_options(editing: str) -> None:
    make(editing, [])
    from autotune.domain import domain_names, load_domain

    shown = drawn("launch")
    for name in domain_names():
        shown.selectbox(key="domain").set_value(name)
        draw(shown)
        fields = {field.key for field in (*shown.text_input, *shown.selectbox)}
        assert {f"option {name} {option}" for option in load_domain(name).options.model_fields} <= fields
