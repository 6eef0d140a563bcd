"""Measuring a configuration again: how replicates become one record, and that what is ranked is that record."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import autotune
from autotune import Measurement, Metric, SpaceExhaustedError, Store, Study, Suggestion
from autotune.replicates import merge_metrics
from autotune.result import Result
from autotune.store.queries import standing
from autotune.strategies import History, Strategy
from tests.screening import Sure, full, space

NORMAL = 1.959963984540054


def test_replicates_that_agree_are_weighted_by_their_precision() -> None:
    merged = merge_metrics([Metric(10.0, 1.0), Metric(10.5, 2.0)])
    assert merged.value == pytest.approx((10.0 + 10.5 / 4) / 1.25)
    assert merged.half_width == pytest.approx(1 / math.sqrt(1 + 1 / 4))


def test_replicates_that_disagree_are_known_no_better_than_they_scatter() -> None:
    merged = merge_metrics([Metric(5.0, 0.01), Metric(6.0, 0.01)])
    assert merged.value == pytest.approx(5.5)
    assert merged.half_width == pytest.approx(NORMAL * 0.5)  # standard error of two values one apart
    exact = merge_metrics([Metric(5.0, 0.0), Metric(6.0, 0.0), Metric(7.0, 1.0)])
    assert exact.value == pytest.approx(6.0)
    assert exact.half_width == pytest.approx(NORMAL / math.sqrt(3))


def test_without_every_half_width_the_mean_is_plain() -> None:
    assert merge_metrics([Metric(1.0), Metric(2.0, 0.1), Metric(6.0, 0.1)]) == Metric(3.0)


def test_one_alone_stays_as_it_is_and_nan_says_nothing() -> None:
    assert merge_metrics([Metric(2.0, 0.5, (1.0, 2.0, 3.0))]) == Metric(2.0, 0.5)
    assert merge_metrics([Metric(math.nan), Metric(2.0, 0.5)]) == Metric(2.0, 0.5)
    assert math.isnan(merge_metrics([Metric(math.nan), Metric(math.nan)]).value)
    assert merge_metrics([Metric(math.inf, 1.0), Metric(2.0, 0.5)]) == Metric(math.inf)


@pytest.mark.parametrize("width", [None, 0.0, 1e300, 1.7e308])
def test_the_mean_of_numbers_near_the_largest_is_a_number(width: float | None) -> None:
    merged = merge_metrics([Metric(1.6e308, width), Metric(1.7e308, width), Metric(1.5e308, width)])
    assert merged.value == pytest.approx(1.6e308)
    assert (merged.half_width is None) == (width is None)


_widths = st.floats(0.0, 1e150)
_metrics = st.lists(st.builds(Metric, st.floats(-1e150, 1e150), _widths), min_size=2, max_size=6)


@given(_metrics)
def test_the_mean_lies_among_the_replicates_whatever_their_order(metrics: list[Metric]) -> None:
    merged = merge_metrics(metrics)
    values = [m.value for m in metrics]
    slack = 1e-12 * max(map(abs, values))
    assert min(values) - slack <= merged.value <= max(values) + slack
    assert merged.half_width is not None and merged.half_width >= 0.0
    again = merge_metrics(metrics[::-1])
    assert again.value == pytest.approx(merged.value, rel=1e-9, abs=slack)
    assert again.half_width == pytest.approx(merged.half_width, rel=1e-9, abs=slack)


@given(st.floats(-1e3, 1e3), st.floats(1e-6, 1e3), st.integers(2, 9))
def test_equal_replicates_narrow_the_half_width_by_the_root_of_their_number(value: float, width: float, n: int) -> None:
    merged = merge_metrics([Metric(value, width)] * n)
    assert merged.value == pytest.approx(value) and merged.half_width == pytest.approx(width / math.sqrt(n))


# In a study


class Script(Strategy):
    """Proposes what it was given, in order."""

    name, summary = "script", "for this test"
    lines: tuple[Suggestion, ...] = ()

    def propose(self, history: History, n: int) -> list[Suggestion]:
        done = len(history.trials) - 1  # the default is not ours
        return list(self.lines[done : done + n])


def script(*lines: tuple[int, bool]) -> type[Strategy]:
    suggestions = tuple(
        Suggestion({"tile": 8, "threads": threads}, "script", replicate=again) for threads, again in lines
    )
    return type("Scripted", (Script,), {"lines": suggestions})


def tell_all(study: Study, values: list[float], half_width: float | None = None) -> None:
    for value in values:
        study.tell(study.ask(), Measurement({"value": Metric(value, half_width)}))


def test_a_lucky_replicate_does_not_win() -> None:
    study = Study.create(space(), strategy=script((1, False), (2, False), (1, True)))
    tell_all(study, [20.0, 5.0, 8.0, 15.0])
    assert [t.config["threads"] for t in study.trials] == [4, 1, 2, 1]
    assert study.trials[1].config_hash == study.trials[3].config_hash
    assert study.best is not None and (study.best.number, study.best.values) == (2, {"value": 8.0})
    assert [(t.number, t.values["value"], t.replicates) for t in study.history.ranked] == [
        (2, 8.0, 1),
        (1, 10.0, 2),
        (0, 20.0, 1),
    ]
    assert [t.values["value"] for t in study.history.completed] == [20.0, 5.0, 8.0, 15.0]
    assert [t.number for t in study.pareto()] == [2]
    result = Result.of(study)
    assert result.best is not None and result.best.number == 2 and result.gain == pytest.approx(0.6)
    reached = standing(study.store, study.record)
    assert (reached.best, reached.gain) == (8.0, pytest.approx(0.6))


def test_a_replicated_best_keeps_its_first_number_and_says_how_often_it_was_measured() -> None:
    study = Study.create(space(), strategy=script((1, False), (1, True), (1, True)))
    tell_all(study, [20.0, 5.0, 6.0, 7.0], half_width=1.0)
    result = Result.of(study)
    assert result.best is not None
    assert (result.best.number, result.best.metrics, result.best.replicates) == (1, {"value": 6.0}, 3)
    best = study.history.best
    assert best is not None and best.metrics["value"].half_width == pytest.approx(NORMAL / math.sqrt(3))


def test_the_gain_is_over_all_measurements_of_the_default() -> None:
    class Default(Strategy):
        """The default again, then another."""

        name, summary = "default-again", "for this test"

        def propose(self, history: History, n: int) -> list[Suggestion]:
            again = len(history.trials) == 1
            return [Suggestion({"tile": 16, "threads": 4 if again else 1}, self.name, replicate=again)]

    study = Study.create(space(), strategy=Default)
    tell_all(study, [10.0, 30.0, 15.0])
    assert study.default is not None and study.default.values == {"value": 20.0}
    assert study.best is not None and study.best.number == 2
    assert study.history.gain(study.best) == pytest.approx(0.25)
    assert standing(study.store, study.record).gain == pytest.approx(0.25)


def test_only_a_replicate_may_repeat_a_configuration() -> None:
    study = Study.create(space(), strategy=script((1, False), (1, False)))
    tell_all(study, [20.0, 5.0])
    with pytest.raises(SpaceExhaustedError):
        study.ask()


def test_replicates_pass_among_several_workers_too(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    one = Study.create(space(), storage=url, strategy=Sure)
    two = Study.load("study", url, strategy=Sure)
    tell_all(one, [20.0])
    tell_all(two, [10.0])
    tell_all(one, [12.0])
    assert [t.number for t in one.trials] == [0, 1, 2]
    assert len({t.config_hash for t in two.trials}) == 1
    assert one.best is not None and one.best.values == {"value": 14.0}


def test_replicates_are_spent_from_the_budget() -> None:
    result = autotune.search(space(), full, trials=4, strategy=Sure)
    assert result.stop_reason == "the budget of 4 trials is spent" and result.trials["completed"] == 4
    assert result.best is not None and result.best.replicates == 4
    assert json.loads(json.dumps(result.to_dict()))["best"]["number"] == 0
    assert [f"{n}" for n in result.frame()["number"]] == ["0", "1", "2", "3"]


def test_a_batch_may_hold_several_replicates_but_nothing_else_twice() -> None:
    class Batch(Strategy):
        """Three times the same."""

        name, summary = "batch", "for this test"
        again: bool = False

        def propose(self, history: History, n: int) -> list[Suggestion]:
            return [Suggestion({"tile": 8, "threads": 1}, self.name, replicate=self.again)] * 3

    for again, others in itertools.product((False, True), (False, True)):
        store = Store("sqlite://")
        study = Study.create(space(), storage=store, strategy=type("Batch", (Batch,), {"again": again}))
        tell_all(study, [1.0])
        if others:  # then what is known here is not all that there is
            study._dispatcher.alone = False
        assert len(study.ask(3)) == (3 if again else 1), (again, others)


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-5, 5)), max_size=12))
def test_merged_is_one_record_of_each_configuration_by_its_first_trial(told: list[tuple[int, float]]) -> None:
    study = Study.create(space(), strategy=script(*((threads + 1, True) for threads, _ in told)))
    tell_all(study, [100.0, *(value for _, value in told)])
    goals: Any = study.history.task.goals
    merged = goals.merge(study.trials)
    by_config: dict[str, list[float]] = {}
    for trial in study.trials:
        by_config.setdefault(trial.config_hash, []).append(trial.values["value"])
    assert [t.config_hash for t in merged] == list(by_config)
    assert [t.number for t in merged] == sorted(t.number for t in merged)
    assert {t.config_hash: t.values["value"] for t in merged} == {
        key: pytest.approx(sum(values) / len(values)) for key, values in by_config.items()
    }
    assert [t.replicates for t in merged] == [len(values) for values in by_config.values()]
