"""The page of a study in every state that a study and its store can be in."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from streamlit.testing.v1.element_tree import ButtonGroup

import autotune
from autotune import Failure
from autotune.store import Store
from dashboard import settings
from tests.dashboard.drawing import charts, draw, drawn, html, marks, rows, said
from tests.screening import Screen, full, short, space
from tests.shown_studies import make, tell_unchecked

PAGES = ("studies", "study", "trial", "compare", "launch", "hardware")


def file(storage: str) -> Path:
    return Path(storage.removeprefix("sqlite:///"))


# ---------------------------------------------------------------- stores


@pytest.mark.parametrize("name", PAGES)
def test_without_a_store(name: str, storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(settings.STORAGE)
    assert "autotune dashboard --storage" in said(drawn(name))


@pytest.mark.parametrize("name", PAGES)
def test_store_that_does_not_exist(name: str, storage: str) -> None:
    assert "does not exist" in said(drawn(name))
    assert not file(storage).exists()


@pytest.mark.parametrize("name", PAGES)
def test_file_that_is_no_database(name: str, storage: str) -> None:
    file(storage).write_text("nothing that SQLite wrote " * 50)
    assert "cannot be read" in said(drawn(name))


def test_store_that_a_newer_version_wrote(storage: str) -> None:
    make(storage, [{"latency_ms": 5.0}]).store.close()
    with sa.create_engine(storage).begin() as newer:
        newer.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    told = said(drawn("study", study="a"))
    assert "cannot be read" in told and "newer" in told


@pytest.mark.parametrize("name", ["studies", "study", "trial", "compare"])
def test_store_without_a_study(name: str, storage: str) -> None:
    Store(storage).close()
    assert "no study in this store yet" in said(drawn(name))


def test_store_that_vanishes_and_comes_back(storage: str, tmp_path: Path) -> None:
    study = make(storage, [{"latency_ms": 5.0}])
    shown = drawn("study", study="a")
    assert marks(shown) == {0: 5.0}
    study.store.close()
    for part in tmp_path.glob("runs.db*"):
        part.unlink()
    assert "does not exist" in said(draw(shown))
    make(storage, [{"latency_ms": 7.0}])
    assert marks(draw(shown)) == {0: 7.0}


def test_page_is_drawn_while_a_search_holds_the_write_lock(storage: str) -> None:
    make(storage, [{"latency_ms": 5.0}])
    writer = sqlite3.connect(file(storage), isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("UPDATE studies SET seed = seed + 1")
    assert marks(drawn("study", study="a")) == {0: 5.0}
    writer.execute("COMMIT")
    writer.close()


def test_postgresql(storage: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make(postgres_url, [{"latency_ms": 5.0}, {"latency_ms": math.pi}, Failure("oom")])
    monkeypatch.setenv(settings.STORAGE, postgres_url)
    assert marks(drawn("study", study="a")) == {0: 5.0, 1: math.pi, 2: "oom"}
    assert f"title='{math.pi}'" in html(drawn("studies"))
    shown = drawn("study", study="a", section="Trials", by="latency_ms", falling="true")
    assert [row[3] for row in rows(shown, "trials")][:2] == ["5 ms", "3.142 ms"]
    assert "0 to 2" in said(drawn("trial", study="a", trial="9"))
    assert "No machine has measured" in said(drawn("hardware"))


def test_server_that_is_away_does_not_give_the_password_away(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.STORAGE, "postgresql://me:secret@127.0.0.1:1/none")
    told = said(drawn("studies"))
    assert "cannot be opened" in told and "secret" not in told


# ---------------------------------------------------------------- what a study holds


def test_study_without_a_trial(storage: str) -> None:
    make(storage, [])
    shown = drawn("study", study="a")
    assert "no trial yet" in said(shown) and not charts(shown)


def test_study_whose_first_trial_still_runs(storage: str) -> None:
    make(storage, [None])
    shown = drawn("study", study="a")
    assert "No trial has finished" in said(shown) and "0 completed · 1 running" in html(shown)


def test_study_with_failed_trials_alone(storage: str) -> None:
    make(storage, [Failure("oom", "12 GiB <b>wanted</b>"), Failure("crash", "**boom**"), Failure("oom", "again")])
    shown = drawn("study", study="a")
    assert "Every trial failed (3 of 3)" in said(shown)
    assert marks(shown) == {0: "oom", 1: "crash", 2: "oom"}
    assert "trial 0 failed: oom" in html(shown)
    failures = drawn("study", study="a", section="Failures")
    assert "again" in html(failures) and "**boom**" in html(failures)
    assert "nothing feasible was measured" in said(drawn("study", study="a", section="Take away"))


def test_study_without_a_failure_says_so(storage: str) -> None:
    make(storage, [{"latency_ms": 5.0}])
    assert "No trial failed" in said(drawn("study", study="a", section="Failures"))


def test_objective_that_is_not_a_number(storage: str) -> None:
    study = make(storage, [])
    for value in (math.nan, 5.0, math.nan):
        tell_unchecked(study, {"latency_ms": value})
    shown = drawn("study", study="a")
    assert "2 completed trials without a number" in said(shown)
    assert marks(shown) == {1: 5.0}
    assert "latency_ms is not a number" in html(shown)  # the default's


def test_other_metrics_that_are_not_numbers(storage: str) -> None:
    make(storage, [{"latency_ms": 5.0, "hit_rate": math.nan}, {"latency_ms": 4.0, "hit_rate": math.inf}])
    shown = drawn("study", study="a")
    assert marks(shown) == {0: 5.0, 1: 4.0}
    assert "∞" in html(shown) and "title='no number is stored'" in html(shown)
    drawn("trial", study="a", trial="0")


def test_study_without_a_feasible_trial(storage: str) -> None:
    make(storage, [{"latency_ms": 5.0, "vram_gib": 30.0}], constraints=["vram_gib <= 24"])
    shown = drawn("study", study="a")
    assert "No measured trial keeps every outcome constraint" in said(shown)
    assert marks(shown) == {0: 5.0}
    assert "breaks a constraint" in html(shown)
    assert "nothing feasible was measured" in said(drawn("study", study="a", section="Take away"))


def test_default_that_is_the_best(storage: str) -> None:
    make(storage, [{"latency_ms": 5.0}, {"latency_ms": 6.0}])
    assert "The default configuration is the best" in said(drawn("study", study="a"))


def test_trials_of_a_cheaper_evaluator_are_told_of_and_not_ranked(storage: str) -> None:
    result = autotune.search(
        space(), {"short": short, "full": full}, trials=4, strategy=Screen, storage=storage, study="a"
    )
    ranked = {t.number: t.values["value"] for t in result.study.trials if t.fidelity is None}
    cheaper = len(result.study.trials) - len(ranked)
    assert cheaper > 0
    shown = drawn("study", study="a")
    assert f"{cheaper} trials of cheaper evaluators are kept" in said(shown)
    assert marks(shown) == ranked
    assert f"4 completed · {cheaper} short, not ranked" in html(shown)
    assert ">cheaper<" in html(drawn("studies"))


def test_two_objectives_show_the_front(storage: str) -> None:
    told = [{"latency_ms": a, "throughput": b} for a, b in ((10.0, 5.0), (8.0, 3.0), (9.0, 2.0))]
    make(storage, told, objectives=["minimize latency_ms", "maximize throughput"])
    shown = drawn("study", study="a")
    assert marks(shown) == {0: 5.0, 1: 3.0, 2: 2.0}
    assert ">Pareto front</div><div class='at-value'>2</div>" in html(shown)
    assert "2 on the front" in html(drawn("studies"))


def test_three_objectives_let_the_axes_be_chosen(storage: str) -> None:
    told = [
        {"latency_ms": 10.0, "throughput": 5.0, "energy_j": 2.5},
        {"latency_ms": 8.0, "throughput": 3.0, "energy_j": 1.5},
    ]
    make(storage, told, objectives=["latency_ms", "maximize throughput", "energy_j"])
    assert marks(drawn("study", study="a")) == {0: 5.0, 1: 3.0}
    chosen = drawn("study", study="a", section="Pictures", picture="Trade-off")
    chosen.selectbox(key="pareto y").set_value("energy_j")
    assert marks(draw(chosen)) == {0: 2.5, 1: 1.5}


def test_axis_of_the_history_can_be_logarithmic(storage: str) -> None:
    make(storage, [{"latency_ms": 500.0}, {"latency_ms": 4.0}])
    shown = drawn("study", study="a", section="Pictures", picture="History")
    shown.selectbox(key="history log").set_value("true")
    (chart,) = charts(draw(shown))
    assert chart["layout"]["yaxis"]["type"] == "log"


def test_pictures_that_a_study_has_nothing_for_say_so(storage: str) -> None:
    make(storage, [{"latency_ms": 5.0}])
    shown = drawn("study", study="a", section="Pictures", picture="Predicted against measured")
    assert "nothing to be drawn here yet" in said(shown) and not charts(shown)


# ---------------------------------------------------------------- addresses, names, and what is chosen


def test_study_that_the_address_names_wrongly(storage: str) -> None:
    make(storage, [{"latency_ms": 5.0}])
    make(storage, [{"latency_ms": 5.0}], name="b")
    shown = drawn("study", study="[c](http://example.org)")
    assert "not in this store" in said(shown)
    assert shown.code[0].value == "[c](http://example.org)"
    assert not html(shown)
    (box,) = shown.selectbox
    assert sorted(box.options) == ["a", "b"]


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "**x**", ":smile: $a$ [b](c)", "a&study=b", "ключ 'q' \"r\""]
)
def test_names_are_shown_literally(storage: str, name: str) -> None:
    make(storage, [{"latency_ms": 5.0}], name=name)
    pages = [drawn("studies"), drawn("compare", studies=name)]
    pages += [drawn("study", study=name, section=section) for section in ("Overview", "Trials")]
    pages += [drawn("trial", study=name, trial="0")]
    for shown in pages:
        assert "<script" not in html(shown)
        interpreted = [*shown.markdown, *shown.title, *shown.subheader, *shown.header, *shown.caption, *shown.info]
        assert all(name not in element.value for element in interpreted)
    assert pages[2].selectbox[0].value == name


def test_choosing_a_study_changes_the_address(storage: str) -> None:
    make(storage, [{"latency_ms": 5.0}], name="a")
    make(storage, [{"latency_ms": 6.0}, {"latency_ms": 3.0}], name="b")
    shown = drawn("study")
    assert not html(shown)
    shown.selectbox[0].set_value("b")
    assert marks(draw(shown)) == {0: 6.0, 1: 3.0}
    assert shown.query_params["study"] in ("b", ["b"])


def test_what_is_chosen_survives_new_trials(storage: str) -> None:
    study = make(storage, [{"latency_ms": 5.0}, {"latency_ms": 4.0}])
    shown = drawn("study", study="a")
    (sections,) = shown.get("segmented_control")
    assert isinstance(sections, ButtonGroup)
    sections.set_value("Trials")
    draw(shown)
    shown.selectbox(key="by").set_value("latency_ms")
    assert "2 of 2 trials" in said(draw(shown))
    study.tell(study.ask(), {"latency_ms": 3.0})
    assert "3 of 3 trials" in said(draw(shown))
    assert [row[3] for row in rows(shown, "trials")] == ["3 ms", "4 ms", "5 ms"]


def test_trials_are_filtered_and_shown_by_pages(storage: str) -> None:
    make(storage, [Failure("oom"), *({"latency_ms": float(n)} for n in range(60))])
    shown = drawn("study", study="a", section="Trials")
    assert "50 of 61 trials" in said(shown)
    assert ">failed: oom<" in html(shown)
    shown.number_input(key="trials page").set_value(2)
    assert "11 of 61 trials" in said(draw(shown))
    shown.multiselect(key="states").set_value(["failed"])
    assert "1 of 1 trial" in said(draw(shown))
