"""What pages show of trials that were pruned."""

from __future__ import annotations

import pytest

from autotune import Failure, Pruned, Study
from tests.dashboard.drawing import drawn, html, marks, said
from tests.shown_studies import make


def told(storage: str, *outcomes: object) -> Study:
    study = make(storage, [])
    for outcome in outcomes:
        trial = study.ask()
        study.report(trial, 3, {"latency_ms": 1e-6})  # better than all, and no measurement
        study.tell(trial, outcome)  # type: ignore[arg-type]
    return study


def test_pruned_trials_are_counted_and_listed_and_never_ranked(storage: str) -> None:
    told(storage, 5.0, Pruned("bound: <b>too slow</b>"), Failure("oom"), 4.0)
    shown = drawn("study", study="a")
    assert marks(shown) == {0: 5.0, 1: "pruned", 2: "oom", 3: 4.0}
    assert ">4</div>" in html(shown) and "2 completed · 1 failed · 1 pruned" in html(shown)
    assert ">best</div><div class='at-value'" in html(shown) and "latency_ms, trial 3" in html(shown)
    assert "bound: &lt;b&gt;too slow&lt;/b&gt;" in html(drawn("study", study="a", section="Failures"))
    assert ">pruned<" in html(drawn("studies"))
    trial = drawn("trial", study="a", trial="1")
    assert "ended early" in said(trial) and "bound: <b>too slow</b>" in said(trial)


def test_a_study_without_a_measurement_but_pruned_trials(storage: str) -> None:
    told(storage, Pruned("behind"), Pruned("behind"))
    shown = drawn("study", study="a")
    assert "No trial has finished with a measurement yet" in said(shown)
    assert "0 completed · 2 pruned" in html(shown) and "trial 0 is pruned" in html(shown)


def test_a_list_without_pruned_trials_has_no_column_of_them(storage: str) -> None:
    make(storage, [5.0])
    assert ">pruned<" not in html(drawn("studies"))


@pytest.mark.parametrize("count", [20, 21])
def test_many_pruned_trials_are_listed_from_the_newest(storage: str, count: int) -> None:
    told(storage, 5.0, *(Pruned(f"rule {n:03d}") for n in range(count)))
    shown = drawn("study", study="a", section="Failures")
    assert f"rule {count - 1:03d}" in html(shown) and ("rule 000" in html(shown)) == (count == 20)
    assert ("The newest 20 of 21" in said(shown)) == (count == 21)
