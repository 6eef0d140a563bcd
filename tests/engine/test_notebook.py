"""Results and studies as Python shows them, trials as a table, and callbacks of a search."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import autotune
from autotune import Categorical, Failure, Float, Int, Progress, Pruned, Result, SearchSpace, Store, Study, UsageError
from autotune.notebook import element
from tests.shown_studies import BASELINES, SPACE, make, tell_unchecked


class Page(HTMLParser):
    """The elements of a piece of HTML, each closed in turn, and its texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(self.texts)


def rows(html: str) -> dict[str, list[str]]:
    """Rows of the table by their first cell."""
    found = re.findall(r"<tr>(.*?)</tr>", html)
    cells = [[Page(cell).text for cell in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in found]
    return {row[0]: row[1:] for row in cells}


def test_a_result_shows_the_best_beside_the_default() -> None:
    study = make(
        "sqlite://", [8.0, 4.0, {"latency_ms": 2.0, "hit_rate": 0.5}, Failure("oom"), None], baselines=BASELINES
    )
    html = Result.of(study)._repr_html_()
    shown = rows(html)
    assert shown[""] == ["default (trial 0)", "best (trial 2)", "gain"]
    assert shown["latency_ms"] == ["8 ms", "2 ms", "+75.0 %"]
    best = study.trials[2].config
    assert shown["prefetch"][:2] == ["no", "yes"] and shown["depth"][:2] == ["–", str(best["depth"])]
    text = Page(html).text
    assert "3 parameters as in the default" in text and "policy = lru" in text
    assert "policy" not in shown
    assert "Gain over uniform lfu +50.0 %" in text
    assert "5 trials: 3 completed, 1 running, 1 failed (1 oom)" in text


def test_a_study_shows_what_its_store_has_now() -> None:
    study = make("sqlite://", [8.0], name="live")
    assert "1 trial: 1 completed" in Page(study._repr_html_()).text
    make_more = Study.load("live", study.store)
    make_more.tell(make_more.ask(), 2.0)
    page = Page(study._repr_html_())
    assert "2 trials: 2 completed" in page.text and "+75.0 %" in page.text


def test_elements_are_plain_ones_that_follow_the_page() -> None:
    html = make("sqlite://", [8.0, 4.0, Failure("oom")])._repr_html_()
    page = Page(html)
    assert page.tags <= {"div", "strong", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "p"}
    assert page.attributes <= {"style", "scope"}
    colours = re.findall(r"(?:color|background):([^;\"]+)", html)
    assert set(colours) <= {"inherit", "transparent"} and "#" not in "".join(re.findall(r'style="(.*?)"', html))


@given(st.text(), st.text(), st.text())
def test_an_element_holds_any_text_and_any_attribute(inside: str, after: str, attribute: str) -> None:
    made = element("p", element("b", inside), after, title=attribute)
    page = Page(made)
    assert page.tags == {"p", "b"} and page.attributes == {"title"}
    assert "".join(page.texts) == inside + after


@pytest.mark.parametrize("text", ["&amp;", "'\" onload=x", "</div>", "${x}"])
def test_no_text_becomes_html(text: str) -> None:
    space = SearchSpace(
        [Categorical("choice", ["plain", f"<b>{text}"], default="plain"), Int("count", 0, 9, default=1)]
    )
    study = Study.create(
        space,
        name=f"<script>{text}",
        strategy="random",
        baselines={f"<u>{text}": {**space.default(), "choice": f"<b>{text}"}},
    )
    study.tell(study.ask(), 2.0)
    study.tell(study.ask(), 1.0)
    study.tell(study.ask(), Failure("crash", f"<em>{text}</em>"))
    result = Result.of(study)
    study.store.set_study_state(study.record.id, "done", f"<img src=x onerror={text}>")
    for html in (study._repr_html_(), result._repr_html_()):
        page = Page(html)
        assert not page.tags & {"script", "b", "i", "u", "em", "img"}
        assert f"<b>{text}" in "".join(page.texts) and f"study <script>{text}" in page.texts


def test_a_vector_is_seen_as_bars_and_a_long_one_as_numbers() -> None:
    space = SearchSpace([Float("short", 0.0, 1.0, size=4, default=0.5), Float("long", 0.0, 1.0, size=100, default=0.5)])
    study = Study.create(
        space, strategy="random", baselines={"ramp": {"short": [0.0, 0.25, 0.5, 1.0], "long": [0.1] * 50 + [0.2] * 50}}
    )
    study.tell(study.ask(), 2.0)
    study.tell(study.ask(), 1.0)
    shown = rows(study._repr_html_())
    assert shown["short"][:2] == ["0.5 ×4", "▁▃▅█  0 … 1, mean 0.4375"]
    assert shown["long"][1] == "0.1 … 0.2, mean 0.15"


def test_several_objectives_show_their_front() -> None:
    outcomes = [{"latency_ms": 5.0, "rate": 0.5}, {"latency_ms": 4.0, "rate": 0.4}, {"latency_ms": 9.0, "rate": 0.1}]
    study = make("sqlite://", outcomes, objectives=["latency_ms", "maximize rate"])
    shown = rows(study._repr_html_())
    assert shown["trial 0"] == ["5 ms", "0.5"] and shown["trial 1"] == ["4 ms", "0.4"] and "trial 2" not in shown
    assert "2 configurations on the Pareto front" in repr(Result.of(study))


@pytest.mark.parametrize(
    "outcomes", [[], [Failure("oom", "no"), Failure("crash")], [Pruned("slow")]], ids=["empty", "failed", "pruned"]
)
def test_a_study_without_a_measurement_says_so(outcomes: list[Any]) -> None:
    study = make("sqlite://", outcomes)
    assert "Nothing feasible was measured yet." in Page(study._repr_html_()).text
    assert "nothing feasible" in repr(Result.of(study))


def test_a_default_that_failed_and_metrics_that_are_no_numbers() -> None:
    study = make("sqlite://", [Failure("oom")], constraints=["vram_gib <= 24"])
    tell_unchecked(study, {"latency_ms": float("nan"), "vram_gib": 1.0})
    tell_unchecked(study, {"latency_ms": 3.0, "vram_gib": 20.0})
    shown = rows(study._repr_html_())
    assert shown["latency_ms"] == ["–", "3 ms", "–"] and shown["vram_gib"] == ["–", "20 GiB", ""]
    assert "The default configuration has no measurement." in Page(study._repr_html_()).text


def test_a_lost_database_is_a_sentence_in_place(tmp_path: Path) -> None:
    path = tmp_path / "lost.db"
    study = make(f"sqlite:///{path}", [8.0, 4.0], name="<gone>")
    result = Result.of(study)
    study.store.close()
    path.write_bytes(b"no database at all" * 1000)
    for beside in tmp_path.glob("lost.db-*"):
        beside.unlink()
    page = Page(study._repr_html_())
    assert "study <gone>" in page.texts and "could not be read" in page.text
    assert "+50.0 %" in Page(result._repr_html_()).text  # as it was when it was made
    assert repr(study) == f"Study('<gone>' in sqlite:///{path}: minimize latency_ms)"


def test_one_line_tells_of_a_result() -> None:
    result = Result.of(make("sqlite://", [8.0, 2.0, Failure("oom")]))
    assert repr(result) == (
        "Result('a': best trial 1, latency_ms 2 ms, +75.0 % over the default · 3 trials: 2 completed, 1 failed (1 oom))"
    )


# ------------------------------------------------------------------------ table


def test_a_table_keeps_types_where_values_are_missing() -> None:
    study = make("sqlite://", [Failure("oom", "too big"), 5.0, {"latency_ms": 4.0, "rate": 0.5}, Pruned("slow"), None])
    tell_unchecked(study, {"latency_ms": float("nan")})
    frame = study.frame()
    assert list(frame.columns[:7]) == [
        "number",
        "state",
        "label",
        "proposer",
        "fidelity",
        "failure_kind",
        "failure_message",
    ]
    assert list(frame.columns[-4:]) == ["suggest_s", "evaluate_s", "created_at", "finished_at"]
    for name in ("latency_ms", "rate", "suggest_s", "evaluate_s"):
        assert frame[name].dtype == float
    for name in ("created_at", "finished_at"):
        assert isinstance(frame[name].dtype, pd.DatetimeTZDtype)
    assert list(frame.latency_ms.isna()) == [True, False, False, True, True, True]
    assert frame["config.threads"].dtype.kind == "i" and frame["config.prefetch"].dtype == bool
    assert frame["config.budget"][0] == [0.5] * 8
    # What the documentation shows: a vector by element, and the best.
    wide = pd.DataFrame(frame["config.budget"].tolist(), index=frame["number"])
    assert wide.shape == (6, 8)
    assert list(frame[frame.state == "completed"].nsmallest(1, "latency_ms").number) == [2]


def test_a_table_of_no_trials_has_its_columns() -> None:
    frame = make("sqlite://", []).frame()
    assert frame.empty and frame[frame.state == "completed"].latency_ms.mean() is not None
    assert {f"config.{name}" for name in SPACE.default()} <= set(frame.columns)
    assert isinstance(frame.created_at.dtype, pd.DatetimeTZDtype)


# -------------------------------------------------------------------- callbacks

LINE = SearchSpace([Int("x", 0, 50, default=40)])


def off(config: dict[str, Any]) -> float:
    return float(abs(config["x"] - 7))


class Listener:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.ends: list[Result | None] = []

    def __call__(self, progress: Progress) -> None:
        self.numbers.append(progress.trial.number)

    def finish(self, result: Result | None) -> None:
        self.ends.append(result)


def test_several_callbacks_are_called_in_turn_and_told_of_the_end() -> None:
    turns: list[tuple[str, int]] = []
    listener = Listener()
    given_ = [
        lambda p: turns.append(("first", p.trial.number)),
        listener,
        lambda p: turns.append(("last", p.trial.number)),
    ]
    result = autotune.search(LINE, off, trials=3, strategy="random", callback=given_)
    assert turns == [(who, number) for number in range(3) for who in ("first", "last")]
    assert listener.numbers == [0, 1, 2] and listener.ends == [result]


def test_an_error_of_a_callback_keeps_the_trial_and_ends_the_search_in_order(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    listener = Listener()

    def breaks(progress: Progress) -> None:
        if progress.trial.number == 2:
            assert Store(url).trials(1)[2].state == "completed"  # stored before anybody is told
            raise ValueError("my own")

    with pytest.raises(ValueError, match="my own") as caught:
        autotune.search(LINE, off, trials=6, storage=url, strategy="random", callback=[breaks, listener])
    (note,) = caught.value.__notes__
    assert "callback" in note and "trial 2 of study 'study'" in note
    assert listener.numbers == [0, 1] and listener.ends == [None]
    record = Store(url).load_study("study")
    assert (record.state, record.stop_reason) == ("failed", "the search was broken off by an error")
    assert [t.state for t in Store(url).trials(1)] == ["completed"] * 3
    assert autotune.search(LINE, off, trials=6, storage=url, strategy="random").trials["completed"] == 6


def test_ctrl_c_in_a_callback_is_the_users() -> None:
    store = Store()

    def press(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        autotune.search(LINE, off, trials=6, storage=store, strategy="random", callback=press)
    assert store.load_study("study").stop_reason == "interrupted by the user"


@pytest.mark.parametrize("wrong", [3, [print, 3], "print", Listener], ids=str)
def test_what_cannot_be_called_is_refused_before_anything_is_written(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"callback .* cannot be called"):
        autotune.search(LINE, off, trials=2, storage=f"sqlite:///{tmp_path / 'a.db'}", callback=wrong)
    assert not list(tmp_path.iterdir())
