"""The page in every state that a store can be in, drawn by Streamlit's own test harness."""

from __future__ import annotations

import json
import math
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

import autotune
import dashboard
from autotune import Failure
from autotune.store import Store
from tests.screening import Screen, full, short, space
from tests.shown_studies import make, tell_unchecked

APP = Path(dashboard.__file__).with_name("app.py")


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


@pytest.fixture
def page(storage: str, monkeypatch: pytest.MonkeyPatch) -> AppTest:
    monkeypatch.setenv("AUTOTUNE_STORAGE", storage)
    return AppTest.from_file(str(APP), default_timeout=30)


def draw(page: AppTest, study: str | None = None) -> AppTest:
    if study is not None:
        page.query_params["study"] = study
    page.run()
    assert not page.exception
    return page


def said(page: AppTest) -> str:
    """Every message on the page."""
    return "\n".join(e.value for kind in (page.info, page.warning, page.error, page.code) for e in kind)


def html(page: AppTest) -> str:
    return "\n".join(element.proto.body for element in page.get("html"))


def marks(page: AppTest) -> dict[int, Any]:
    """Height of every trial's mark in the chart by the trial's number; failures have their kind as height."""
    (chart,) = page.get("plotly_chart")
    found: dict[int, Any] = {}
    for trace in json.loads(chart.proto.spec)["data"]:
        if trace["mode"] == "markers":
            for number, y in zip(trace["customdata"], trace["y"], strict=True):
                assert number not in found
                found[number] = y
    return found


def test_without_a_store(page: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AUTOTUNE_STORAGE")
    assert "autotune dashboard --storage" in said(draw(page))


def test_store_that_does_not_exist(page: AppTest, storage: str) -> None:
    assert "does not exist" in said(draw(page))
    assert not Path(storage.removeprefix("sqlite:///")).exists()


def test_file_that_is_no_database(page: AppTest, storage: str) -> None:
    Path(storage.removeprefix("sqlite:///")).write_text("nothing that SQLite wrote " * 50)
    assert "cannot be read" in said(draw(page))


def test_store_without_a_study(page: AppTest, storage: str) -> None:
    Store(storage).close()
    assert "no study in this store yet" in said(draw(page))


def test_study_without_a_trial(page: AppTest, storage: str) -> None:
    make(storage, [])
    assert "no trial yet" in said(draw(page, "a"))
    assert not page.get("plotly_chart")


def test_study_whose_first_trial_still_runs(page: AppTest, storage: str) -> None:
    make(storage, [None])
    assert "No trial has finished" in said(draw(page, "a"))
    assert "0 completed · 1 running" in html(page)


def test_study_with_failed_trials_alone(page: AppTest, storage: str) -> None:
    make(storage, [Failure("oom", "12 GiB <b>wanted</b>"), Failure("crash", "**boom**"), Failure("oom", "again")])
    assert "Every trial failed (3 of 3)" in said(draw(page, "a"))
    assert marks(page) == {0: "oom", 1: "crash", 2: "oom"}
    assert "trial 0 failed: oom" in html(page)
    assert "again" in html(page) and "**boom**" in html(page)


def test_objective_that_is_not_a_number(page: AppTest, storage: str) -> None:
    study = make(storage, [])
    for value in (math.nan, 5.0, math.nan):
        tell_unchecked(study, {"latency_ms": value})
    assert "2 completed trials without a number" in said(draw(page, "a"))
    assert marks(page) == {1: 5.0}
    assert "latency_ms is not a number" in html(page)  # the default's


def test_other_metrics_that_are_not_numbers(page: AppTest, storage: str) -> None:
    make(storage, [{"latency_ms": 5.0, "hit_rate": math.nan}, {"latency_ms": 4.0, "hit_rate": math.inf}])
    draw(page, "a")
    assert marks(page) == {0: 5.0, 1: 4.0}
    assert "∞" in html(page) and "title='no number is stored'" in html(page)


def test_study_without_a_feasible_trial(page: AppTest, storage: str) -> None:
    make(storage, [{"latency_ms": 5.0, "vram_gib": 30.0}], constraints=["vram_gib <= 24"])
    assert "No measured trial keeps every outcome constraint" in said(draw(page, "a"))
    assert marks(page) == {0: 5.0}
    assert "breaks a constraint" in html(page)


def test_default_that_is_the_best(page: AppTest, storage: str) -> None:
    make(storage, [{"latency_ms": 5.0}, {"latency_ms": 6.0}])
    assert "The default configuration is the best" in said(draw(page, "a"))


def test_trials_of_a_cheaper_evaluator_are_told_of_and_not_shown(page: AppTest, storage: str) -> None:
    result = autotune.search(
        space(), {"short": short, "full": full}, trials=4, strategy=Screen, storage=storage, study="a"
    )
    ranked = {t.number: t.values["value"] for t in result.study.trials if t.fidelity is None}
    cheaper = len(result.study.trials) - len(ranked)
    assert cheaper > 0
    assert f"{cheaper} trials of cheaper evaluators are kept" in said(draw(page, "a"))
    assert marks(page) == ranked
    assert f"4 completed · {cheaper} short, not ranked" in html(page)
    page.query_params.clear()
    assert ">cheaper<" in html(draw(page))


def test_two_objectives_show_the_front(page: AppTest, storage: str) -> None:
    told = [{"latency_ms": a, "throughput": b} for a, b in ((10.0, 5.0), (8.0, 3.0), (9.0, 2.0))]
    make(storage, told, objectives=["minimize latency_ms", "maximize throughput"])
    draw(page, "a")
    assert marks(page) == {0: 5.0, 1: 3.0, 2: 2.0}
    assert ">Pareto front</div><div class='at-value'>2</div>" in html(page)
    draw(page_without_study(page))
    assert "2 on the front" in html(page)


def page_without_study(page: AppTest) -> AppTest:
    page.query_params.clear()
    return page


def test_three_objectives_let_the_axes_be_chosen(page: AppTest, storage: str) -> None:
    told = [
        {"latency_ms": 10.0, "throughput": 5.0, "energy_j": 2.5},
        {"latency_ms": 8.0, "throughput": 3.0, "energy_j": 1.5},
    ]
    make(storage, told, objectives=["latency_ms", "maximize throughput", "energy_j"])
    draw(page, "a")
    assert marks(page) == {0: 5.0, 1: 3.0}
    page.selectbox(key="y").select_index(2)
    draw(page)
    assert marks(page) == {0: 2.5, 1: 1.5}


def test_logarithmic_axis_is_offered_where_values_span_decades(page: AppTest, storage: str) -> None:
    make(storage, [{"latency_ms": 500.0}, {"latency_ms": 4.0}])
    draw(page, "a")
    page.toggle(key="log").set_value(True)
    draw(page)
    (chart,) = page.get("plotly_chart")
    assert json.loads(chart.proto.spec)["layout"]["yaxis"]["type"] == "log"


def test_study_that_the_address_names_wrongly(page: AppTest, storage: str) -> None:
    make(storage, [{"latency_ms": 5.0}])
    assert "not in this store" in said(draw(page, "[b](http://example.org)"))
    assert page.code[0].value == "[b](http://example.org)"
    assert "href='?study=a'" in html(page)


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "**x**", ":smile: $a$ [b](c)", "a&study=b", "ключ 'q' \"r\""]
)
def test_names_are_shown_literally(page: AppTest, storage: str, name: str) -> None:
    make(storage, [{"latency_ms": 5.0}], name=name)
    overview = html(draw(page))
    draw(page, name)
    assert name not in page.title[0].value
    assert not page.markdown or all(name not in element.value for element in page.markdown)
    for body in (overview, html(page)):
        assert "<script" not in body
    assert page.selectbox(key="study").value == name


def test_choosing_a_study_changes_the_address(page: AppTest, storage: str) -> None:
    make(storage, [{"latency_ms": 5.0}], name="a")
    make(storage, [{"latency_ms": 6.0}, {"latency_ms": 3.0}], name="b")
    draw(page)
    page.selectbox(key="study").set_value("b")
    draw(page)
    assert page.query_params["study"] in ("b", ["b"])
    assert marks(page) == {0: 6.0, 1: 3.0}


def test_store_that_vanishes_and_comes_back(page: AppTest, storage: str, tmp_path: Path) -> None:
    study = make(storage, [{"latency_ms": 5.0}])
    assert marks(draw(page, "a")) == {0: 5.0}
    study.store.close()
    for file in tmp_path.glob("runs.db*"):
        file.unlink()
    assert "does not exist" in said(draw(page))
    make(storage, [{"latency_ms": 7.0}])
    page.button(key="refresh").click()
    assert marks(draw(page)) == {0: 7.0}


def test_list_of_studies_follows_the_store(page: AppTest, storage: str) -> None:
    study = make(storage, [{"latency_ms": 8.0}])
    assert "title='8.0'" in html(draw(page))
    study.tell(study.ask(), {"latency_ms": 2.0})
    assert "title='2.0'" in html(draw(page))
    assert "+75.0 %" in html(page)


def test_page_is_drawn_while_a_search_holds_the_write_lock(page: AppTest, storage: str) -> None:
    make(storage, [{"latency_ms": 5.0}])
    writer = sqlite3.connect(storage.removeprefix("sqlite:///"), isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE studies SET seed = seed + 1")
    assert marks(draw(page, "a")) == {0: 5.0}
    writer.execute("COMMIT")
    writer.close()


def test_postgresql(page: AppTest, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make(postgres_url, [{"latency_ms": 5.0}, {"latency_ms": math.pi}, Failure("oom")])
    monkeypatch.setenv("AUTOTUNE_STORAGE", postgres_url)
    assert marks(draw(page, "a")) == {0: 5.0, 1: math.pi, 2: "oom"}


def test_server_that_is_away_does_not_give_the_password_away(page: AppTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTUNE_STORAGE", "postgresql://me:secret@127.0.0.1:1/none")
    message = said(draw(page))
    assert "cannot be opened" in message and "secret" not in message
