"""What the page says about a study equals what the engine says about it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune import Failure, Result, Study, Suggestion
from autotune.store import Store, TrialState
from autotune.store.queries import measured_values, standing
from autotune.strategies import History, Strategy
from autotune.study_view import StudyView, parameters
from tests.shown_studies import BASELINES, SPACE, make, tell_unchecked

_outcomes = st.lists(
    st.one_of(
        st.none(),
        st.sampled_from(["oom", "crash", "timeout"]).map(Failure),
        st.fixed_dictionaries({"latency_ms": st.integers(-3, 5).map(float), "vram_gib": st.integers(0, 9).map(float)}),
    ),
    max_size=12,
)


def _view(store: Store, name: str = "a") -> StudyView:
    study = store.load_study(name)
    return StudyView(study, tuple(store.trials(study.id)))


@settings(max_examples=40, deadline=None)
@given(_outcomes, st.sampled_from(["minimize", "maximize"]))
def test_best_gain_baselines_and_counts_are_the_engines(outcomes: list[object], direction: str) -> None:
    store = Store("sqlite://")
    study = make(
        store, outcomes, objectives=f"{direction} latency_ms", constraints=["vram_gib <= 6"], baselines=BASELINES
    )
    result, view = Result.of(study), _view(store)
    assert (view.best.number if view.best else None) == (result.best.number if result.best else None)
    assert view.gain == result.gain
    assert {s.value: n for s, n in view.states.items()} == {s.value: result.trials[s.value] for s in TrialState}
    assert {kind: len(found) for kind, found in view.failures.items()} == result.trials["failures"]
    shown = {n: t.number for n, t in view.baselines.items() if t is not None and t.state is TrialState.COMPLETED}
    assert shown == {name: outcome.number for name, outcome in result.baselines.items()}
    marks = (*view.feasible, *view.infeasible, *view.unusable, *view.failed)
    ended = [t.number for t in view.trials if t.state in (TrialState.COMPLETED, TrialState.FAILED)]
    assert sorted(t.number for t in marks) == ended


@settings(max_examples=25, deadline=None)
@given(_outcomes)
def test_pareto_front_is_the_engines(outcomes: list[object]) -> None:
    store = Store("sqlite://")
    study = make(store, outcomes, objectives=["minimize latency_ms", "maximize vram_gib"])
    assert [t.number for t in _view(store).pareto] == [t.number for t in study.pareto()]


@settings(max_examples=25, deadline=None)
@given(_outcomes)
def test_the_list_of_studies_agrees_with_the_page_of_a_study(outcomes: list[object]) -> None:
    store = Store("sqlite://")
    study = make(store, outcomes, constraints=["vram_gib <= 6"])
    view, goals = _view(store), study.record.goals
    lean = measured_values(store, study.record.id, goals.metrics)
    assert {t.number: dict(t.values) for t in lean} == {t.number: t.values for t in view.completed}
    reached = standing(store, study.record)
    assert reached.best == (view.best.values[goals.first.metric] if view.best else None)
    assert reached.gain == view.gain


def test_incumbents_skip_infeasible_unmeasured_and_failed_trials() -> None:
    store = Store("sqlite://")
    told = [
        {"latency_ms": 10.0, "vram_gib": 1.0},
        {"latency_ms": 4.0, "vram_gib": 9.0},  # infeasible
        Failure("oom"),
        {"latency_ms": 8.0, "vram_gib": 1.0},
        {"latency_ms": 8.0, "vram_gib": 1.0},  # not better
        {"latency_ms": 7.0, "vram_gib": math.nan},  # nothing is known of the constraint
    ]
    study = make(store, told, constraints=["vram_gib <= 6"])
    tell_unchecked(study, {"latency_ms": math.nan, "vram_gib": 1.0})
    tell_unchecked(study, {"latency_ms": 2.0, "vram_gib": 6.0})
    view = _view(store)
    assert [t.number for t in view.incumbents] == [0, 3, 7]
    assert [t.number for t in view.infeasible] == [1, 5]
    assert [t.number for t in view.unusable] == [6]
    assert view.gain == pytest.approx(0.8)


def test_a_baseline_that_is_the_default_shares_its_trial() -> None:
    store = Store("sqlite://")
    same = make(Store("sqlite://"), []).record.default_config
    make(store, [{"latency_ms": 3.0}], baselines={"as usual": same})
    baseline = _view(store).baselines["as usual"]
    assert baseline is not None and baseline.number == 0


def test_parameters_that_differ_come_apart_from_those_that_do_not() -> None:
    changed, same = parameters({"a": 1, "b": [1, 2], "d": 4}, {"a": 1, "b": [1, 3], "c": "x"})
    assert changed == [("b", [1, 3], [1, 2]), ("c", "x", None), ("d", None, 4)]
    assert same == [("a", 1, 1)]


class _Scripted(Strategy):
    """Proposes places of the feasible set at fidelities, again where they were measured before."""

    name, summary = "scripted", "for this test"
    lines: tuple[tuple[int, str | None], ...] = ()

    def propose(self, history: History, n: int) -> list[Suggestion]:
        configs = self.task.space.sample(3, seed=1)
        begun = len(history.trials) - 1  # the default comes first
        return [Suggestion(configs[p], self.name, {}, f, replicate=True) for p, f in self.lines[begun : begun + n]]


_lines = st.lists(st.tuples(st.integers(0, 2), st.sampled_from([None, None, "short"]), st.integers(1, 9)), max_size=10)


@settings(max_examples=40, deadline=None)
@given(_lines)
def test_replicates_and_cheaper_trials_are_ranked_as_by_the_engine(lines: list[tuple[int, str | None, int]]) -> None:
    store = Store("sqlite://")
    strategy = type("Scripted", (_Scripted,), {"lines": tuple((place, fidelity) for place, fidelity, _ in lines)})
    study = Study.create(SPACE, "ms", storage=store, name="a", strategy=strategy, fidelities=("short", "full"))
    for value in (5.0, *(float(v) for _, _, v in lines)):
        trial = study.ask()
        study.tell(trial, 0.01 * value if trial.fidelity else value)
    result, view = Result.of(study), _view(store)
    assert view.best is not None and result.best is not None
    assert (view.best.number, view.best.values) == (result.best.number, dict(result.best.metrics))
    assert view.gain == result.gain and view.incumbents[-1] == view.best
    assert [t.number for t in view.pareto] == [o.number for o in result.pareto]
    reached = standing(store, study.record)
    assert (reached.best, reached.gain) == (view.best.values["ms"], view.gain)
    assert len(view.feasible) == result.trials["completed"] == result.fidelities["full"].trials
    apart = sum(fidelity == "short" for _, fidelity, _ in lines)
    assert sum(map(len, view.cheaper.values())) == apart == store.studies()[0].cheaper
