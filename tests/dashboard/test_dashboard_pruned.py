"""What the page shows of trials that were pruned."""

from __future__ import annotations

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from test_dashboard_app import draw, html, marks, page, page_without_study, said, storage  # noqa: F401 - fixtures

from autotune import Failure, Pruned, Study
from tests.shown_studies import make


def told(storage: str, *outcomes: object) -> Study:  # noqa: F811
    study = make(storage, [])
    for outcome in outcomes:
        trial = study.ask()
        study.report(trial, 3, {"latency_ms": 1e-6})  # better than all, and no measurement
        study.tell(trial, outcome)  # type: ignore[arg-type]
    return study


def test_pruned_trials_are_counted_and_listed_and_never_ranked(page: AppTest, storage: str) -> None:  # noqa: F811
    told(storage, 5.0, Pruned("bound: <b>too slow</b>"), Failure("oom"), 4.0)
    shown = html(draw(page, "a"))
    assert marks(page) == {0: 5.0, 2: "oom", 3: 4.0}
    assert ">4</div>" in shown and "2 completed · 1 failed · 1 pruned" in shown
    assert "bound: &lt;b&gt;too slow&lt;/b&gt;" in shown
    assert "1 pruned, not shown" in "\n".join(c.value for c in page.caption)
    assert ">best</div><div class='at-value'" in shown and "latency_ms, trial 3" in shown
    listed = html(draw(page_without_study(page)))
    assert ">pruned<" in listed


def test_a_study_without_a_measurement_but_pruned_trials(page: AppTest, storage: str) -> None:  # noqa: F811
    told(storage, Pruned("behind"), Pruned("behind"))
    assert "No trial has finished with a measurement yet" in said(draw(page, "a"))
    assert "0 completed · 2 pruned" in html(page) and "trial 0 is pruned" in html(page)


def test_a_list_without_pruned_trials_has_no_column_of_them(page: AppTest, storage: str, tmp_path: Path) -> None:  # noqa: F811
    make(storage, [5.0])
    assert ">pruned<" not in html(draw(page))


@pytest.mark.parametrize("count", [20, 21])
def test_many_pruned_trials_are_listed_from_the_newest(page: AppTest, storage: str, count: int) -> None:  # noqa: F811
    told(storage, 5.0, *(Pruned(f"rule {n:03d}") for n in range(count)))
    shown = html(draw(page, "a"))
    assert f"rule {count - 1:03d}" in shown and ("rule 000" in shown) == (count == 20)
    assert any("The newest 20 of 21" in c.value for c in page.caption) == (count == 21)
