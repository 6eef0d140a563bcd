"""Several evaluators of one problem in one search: which measures what, what is ranked, what is counted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from optuna import load_study

import autotune
from autotune import Failure, Problem, Progress, SpaceExhaustedError, Store, Study, Suggestion, UsageError
from autotune.integrations.optuna_export import export_study
from autotune.result import Result
from autotune.stopping import CHEAPER_PER_TRIAL
from autotune.store import TrialState
from autotune.store.queries import standing
from autotune.strategies import History, Strategy
from tests.screening import Screen, full, short, space

BOTH = {"short": short, "full": full}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'runs.db'}"


class OnlyShort(Strategy):
    """Never gets to the evaluator that counts."""

    name, summary = "only-short", "for this test"

    def propose(self, history: History, n: int) -> list[Suggestion]:
        table = self.task.space.enumerate()
        assert table is not None
        seen = history.at("short").hashes
        fresh = (c for c in map(table.config, range(len(table))) if self.task.space.config_hash(c) not in seen)
        return [Suggestion(c, self.name, {}, "short") for c, _ in zip(fresh, range(n), strict=False)]


def test_each_trial_is_measured_by_its_evaluator_and_only_the_last_ones_are_ranked() -> None:
    measured: Counter[str] = Counter()

    def counting(name: str) -> Any:
        def evaluate(config: dict[str, Any]) -> float:
            measured[name] += 1
            return BOTH[name](config)

        return evaluate

    result = autotune.search(space(), {name: counting(name) for name in BOTH}, trials=6, strategy=Screen, seed=1)
    trials = result.study.trials
    assert measured["full"] == 6
    assert measured == Counter(t.fidelity or "full" for t in trials)
    assert all(t.values["value"] == BOTH[t.fidelity or "full"](dict(t.config)) for t in trials)
    assert trials[0].fidelity is None and trials[0].label == "default"
    assert result.default is not None and result.default.metrics == {"value": full(space().default())}
    counted = [t for t in trials if t.fidelity is None]
    assert result.best is not None
    assert result.best.metrics["value"] == min(t.values["value"] for t in counted) >= 1.0
    assert result.trials["completed"] == 6 and result.stop_reason == "the budget of 6 trials is spent"
    assert {name: spent.completed for name, spent in result.fidelities.items()} == dict(measured)
    assert list(result.fidelities) == ["short", "full"]


def test_what_each_fidelity_took_is_told(url: str) -> None:
    def fails(config: dict[str, Any]) -> float:
        if config["threads"] % 2:
            raise Failure("oom")
        return short(config)

    result = autotune.search(space(), {"short": fails, "full": full}, trials=4, strategy=Screen, storage=url)
    told = json.loads(json.dumps(result.to_dict()))["fidelities"]
    trials = result.study.trials
    for name in ("short", "full"):
        own = [t for t in trials if (t.fidelity or "full") == name]
        states = Counter(t.state for t in own)
        assert told[name] == {
            "trials": len(own),
            "completed": states[TrialState.COMPLETED],
            "failed": states[TrialState.FAILED],
            "pruned": 0,
            "seconds": round(sum(t.evaluate_s or 0.0 for t in own), 4),
        }
    assert told["short"]["failed"] > 0 and result.trials["failed"] == 0 and result.trials["failures"] == {}
    assert Result.of(Study.view(result.study.store, result.study.record)).fidelities == result.fidelities


def test_a_configuration_is_measured_once_at_each_fidelity() -> None:
    study = Study.create(space(), fidelities=("short", "full"), strategy=Screen)
    for _ in range(30):
        trial = study.ask()
        study.tell(trial, BOTH[trial.fidelity or "full"](trial.config))
    keys = Counter((t.config_hash, t.fidelity) for t in study.trials)
    assert max(keys.values()) == 1
    at_both = {h for h, f in keys if f is None} & {h for h, f in keys if f == "short"}
    assert len(at_both) >= 5


def test_a_history_looks_at_the_fidelity_that_counts() -> None:
    study = Study.create(
        space(), fidelities=("short", "full"), strategy=Screen, baselines={"wide": {"tile": 8, "threads": 8}}
    )
    for _ in range(12):
        trial = study.ask()
        if trial.fidelity and trial.number % 3 == 0:
            study.tell(trial, Failure("crash"))
        else:
            study.tell(trial, BOTH[trial.fidelity or "full"](trial.config))
    pending = study.ask()
    history = study.history
    cheap, counted = history.at("short"), history.at("full")
    assert {t.number for t in cheap.trials} | {t.number for t in counted.trials} == set(range(13))
    assert cheap.trials == cheap.counted and counted.trials == counted.counted == history.counted
    for name in ("completed", "failed", "pending", "hashes", "ranked", "best", "pareto"):
        assert getattr(counted, name) == getattr(history, name), name
    assert cheap.failed and not history.failed
    assert {t.number for t in cheap.pending} | {t.number for t in history.pending} == {pending.number}
    assert history.best is not None and history.best.fidelity is None
    assert cheap.best is not None and cheap.best.values["value"] < history.best.values["value"]
    looked_at = cheap.completed[0]
    assert cheap.find(looked_at.config) == looked_at
    assert study.baselines["wide"] is not None and study.baselines["wide"].fidelity is None
    assert [t.fidelity for t in study.trials[:2]] == [None, None]
    with pytest.raises(UsageError, match="fidelity 'half' is unknown in this study; it has: short, full"):
        history.at("half")


def test_costs_are_as_declared_else_what_trials_took() -> None:
    def told(costs: dict[str, float], seconds: dict[str, float]) -> Study:
        study = Study.create(space(), fidelities=("short", "middle", "full"), strategy=Screen, costs=costs)
        for _ in range(4):
            trial = study.ask()
            study.tell(trial, 1.0, evaluate_s=seconds.get(trial.fidelity or "full"))
        return study

    timed = told({}, {"short": 0.5, "full": 4.0}).history
    assert [timed.cost(f) for f in ("short", "middle", "full", None)] == [0.125, None, 1.0, 1.0]
    assert (timed.seconds("short"), timed.seconds("middle"), timed.seconds(None)) == (0.5, None, 4.0)
    assert told({}, {}).history.cost("short") is None
    declared = told({"short": 1, "middle": 2, "full": 20}, {"short": 9.0, "full": 4.0}).history
    assert [declared.cost(f) for f in ("short", "middle", "full")] == [0.05, 0.1, 1.0]
    assert told({"short": 0.2}, {}).history.cost("short") == 0.2


def test_cheaper_trials_are_bounded_so_that_a_search_ends() -> None:
    result = autotune.search(space(), BOTH, trials=3, strategy=OnlyShort)
    assert result.stop_reason == "the budget of 30 cheaper trials, 10 for each of 3, is spent with 1 of these measured"
    assert result.trials["total"] == 1 and result.fidelities["short"].trials == 3 * CHEAPER_PER_TRIAL
    further = autotune.search(space(), BOTH, trials=9, strategy=OnlyShort)
    assert further.fidelities["short"].trials == space().size == 32
    assert (
        further.stop_reason
        == "nothing left to propose after 1 trials of 32 feasible configurations and 32 cheaper ones"
    )


@pytest.mark.parametrize("alone", [True, False])
def test_batches_keep_to_the_bounds(alone: bool) -> None:
    study = Study.create(space(), fidelities=("short", "full"), strategy=OnlyShort)
    assert [t.fidelity for t in study.ask(4, up_to=1)] == [None]
    with pytest.raises(SpaceExhaustedError, match="the budget of 1 trials is spent"):
        study.ask(up_to=1)
    study._dispatcher.alone = alone
    assert len(study.ask(40, up_to=2)) == 2 * CHEAPER_PER_TRIAL
    assert Counter(t.fidelity for t in study.trials) == {None: 1, "short": 2 * CHEAPER_PER_TRIAL}
    with pytest.raises(SpaceExhaustedError, match="the budget of 20 cheaper trials"):
        study.ask(up_to=2)


def test_several_workers_keep_to_the_bounds_together(url: str) -> None:
    one = Study.create(space(), fidelities=("short", "full"), strategy=Screen, storage=url)
    two = Study.load("study", url, strategy=Screen)
    assert two.history.task.fidelities == ("short", "full")
    asked = 0
    for study in (one, two) * 40:
        try:
            trial = study.ask(up_to=5)
        except SpaceExhaustedError:
            break
        study.tell(trial, BOTH[trial.fidelity or "full"](trial.config))
        asked += 1
    counted = Counter(t.fidelity for t in one.trials)
    assert counted[None] == 5 and asked == sum(counted.values()) == len(two.trials)
    assert len({(t.config_hash, t.fidelity) for t in one.trials}) == asked


def test_progress_counts_trials_of_the_fidelity_that_counts() -> None:
    seen: list[Progress] = []
    result = autotune.search(space(), BOTH, trials=4, strategy=Screen, callback=seen.append)
    assert [p.trial.number for p in seen] == list(range(len(result.study.trials)))
    assert [p.counts["total"] for p in seen] == [
        sum(t.fidelity is None for t in result.study.trials[: n + 1]) for n in range(len(seen))
    ]
    assert all(p.best is not None and p.best.fidelity is None for p in seen) and seen[-1].gain == result.gain
    assert seen[-1].remaining_s == 0.0 and seen[-1].budget == 4


def test_a_study_of_several_fidelities_is_gone_on_with(url: str) -> None:
    settings: dict[str, Any] = {"strategy": Screen, "storage": url, "seed": 3, "costs": {"short": 0.1}}
    first = autotune.search(space(), BOTH, trials=3, **settings)
    again = autotune.search(space(), BOTH, trials=5, **settings)
    whole = autotune.search(space(), BOTH, trials=5, **{**settings, "storage": "sqlite://"})
    assert [(t.config, t.fidelity) for t in again.study.trials] == [(t.config, t.fidelity) for t in whole.study.trials]
    assert first.trials["total"] == 3 and again.trials["total"] == 5
    record = again.study.record
    assert record.fidelities == ("short", "full")
    assert (record.options["evaluator"], record.options["costs"]) == ("full", {"short": 0.1})


def test_an_interrupted_trial_is_measured_by_its_own_evaluator_when_the_study_goes_on(url: str) -> None:
    def interrupted(config: dict[str, Any]) -> float:
        raise KeyboardInterrupt

    settings: dict[str, Any] = {"trials": 3, "strategy": Screen, "storage": url}
    with pytest.raises(KeyboardInterrupt):
        autotune.search(space(), {"short": interrupted, "full": full}, **settings)
    record = Store(url).load_study("study")
    assert [(t.state, t.fidelity) for t in Store(url).trials(record.id)] == [("completed", None), ("waiting", "short")]
    trial = autotune.search(space(), BOTH, **settings).study.trials[1]
    assert (trial.state, trial.fidelity, trial.values["value"]) == ("completed", "short", short(dict(trial.config)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"evaluate": full}, "has the setting 'evaluator' 'full', not 'given'"),
        ({"evaluate": {"full": full}}, "has the fidelities short, full, not none"),
        ({"evaluate": {"full": full, "short": short}}, "has the setting 'evaluator' 'full', not 'short'"),
        ({"evaluate": {"half": short, "full": full}}, "has the fidelities short, full, not half, full"),
        ({"costs": {"short": 0.5}}, "has the costs none, not {'short': 0.5}"),
    ],
)
def test_other_evaluators_need_another_study(url: str, changes: dict[str, Any], says: str) -> None:
    given: dict[str, Any] = {"space": space(), "evaluate": BOTH, "trials": 2, "strategy": Screen, "storage": url}
    autotune.search(**given)
    with pytest.raises(UsageError) as told:
        autotune.search(**{**given, **changes})
    assert says in str(told.value) and "choose another study name" in str(told.value)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"evaluate": {}}, "evaluate is {}; give a callable"),
        ({"evaluate": {"short": 3, "full": full}}, "evaluator 'short' is 3; give a callable"),
        ({"evaluate": {"": short, "full": full}}, "fidelity '' cannot be used"),
        ({"evaluator": ["short", "short"]}, "evaluator is ['short', 'short']; name each once"),
        ({"evaluator": []}, "evaluator is []; name each once"),
        ({"evaluator": 3}, "evaluator is 3; give it as text"),
        ({"evaluator": ["short", "half"]}, "evaluator 'half' is unknown here; this domain has: short, full"),
        ({"costs": {"half": 1.0}}, "costs name 'half', which is no fidelity of this search; known are: short, full"),
        ({"costs": {"short": 0}}, "the cost of 'short' is 0; give a number above 0"),
        ({"costs": 3}, "costs is 3; give a mapping"),
        ({"evaluate": full, "costs": {"full": 1.0}}, "there is one evaluator, whose cost is 1"),
    ],
)
def test_bad_fidelities_are_one_sentence_and_write_nothing(url: str, changes: dict[str, Any], says: str) -> None:
    given: dict[str, Any] = {"space": space(), "evaluate": BOTH, "strategy": Screen, "storage": url}
    with pytest.raises(UsageError) as told:
        autotune.search(**{**given, **changes})
    assert says in str(told.value) and "\n" not in str(told.value)
    assert not Path(url.removeprefix("sqlite:///")).exists()


def test_a_strategy_that_names_no_fidelity_of_the_study_is_told_so() -> None:
    class Lost(Strategy):
        """Proposes at a fidelity of its own."""

        name, summary = "lost", "for this test"

        def propose(self, history: History, n: int) -> list[Suggestion]:
            return [Suggestion({"tile": 8, "threads": 1}, self.name, {}, "half")]

    study = Study.create(space(), strategy=Lost)
    study.tell(study.ask(), 1.0)
    with pytest.raises(UsageError, match="fidelity 'half' is unknown in this study; it has one evaluator"):
        study.ask()


def test_one_evaluator_is_stored_as_ever(url: str) -> None:
    result = autotune.search(space(), full, trials=2, strategy="random", storage=url)
    assert result.fidelities == {} and result.to_dict()["fidelities"] is None
    assert {t.fidelity for t in result.study.trials} == {None}
    assert set(result.study.record.options) == {"evaluator", "facts", "highlights", "baselines"}
    assert result.study.record.budget == {"trials": 2}
    assert result.frame()["fidelity"].isna().all()
    one = autotune.search(space(), {"full": full}, trials=2, strategy="random", storage="sqlite://")
    assert one.study.record.options["evaluator"] == "full" and one.fidelities == {}


def test_a_problem_says_what_its_evaluators_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {"profiled": 1.0, "short": 5.0, "real": 50.0}
    problem = Problem(
        space(), ("value",), space().default(), {"profiled": short, "short": short, "real": full}, costs=costs
    )
    monkeypatch.setattr(autotune.loop, "domain_problem", lambda name, options: problem)
    result = autotune.search("toy", evaluator=["profiled", "real"], trials=2, strategy=Screen)
    assert result.study.record.options["costs"] == {"profiled": 1.0, "real": 50.0}
    assert result.study.history.cost("profiled") == 0.02
    alone = autotune.search("toy", evaluator="real", trials=2, strategy="random")
    assert alone.study.record.fidelities == () and "costs" not in alone.study.record.options
    usual = autotune.search("toy", trials=2, strategy="random")
    assert usual.study.record.options["evaluator"] == "profiled" and usual.fidelities == {}


def test_another_study_learns_from_the_trials_that_count_alone() -> None:
    earlier = autotune.search(space(), BOTH, trials=3, strategy=Screen, study="earlier").study
    later = Study.create(space(), storage=earlier.store, name="later", strategy="bo", transfer_from="earlier")
    (source,) = later.history.task.sources
    assert [t.number for t in source.trials] == [t.number for t in earlier.history.completed]
    assert later.record.sources[0].trials == 3


def test_tables_and_exports_mark_the_evaluator_and_rank_none_but_the_last(url: str, tmp_path: Path) -> None:
    result = autotune.search(space(), BOTH, trials=3, strategy=Screen, storage=url)
    trials = result.study.trials
    assert list(result.frame()["fidelity"]) == [t.fidelity or "full" for t in trials]
    out = f"sqlite:///{tmp_path / 'optuna.db'}"
    assert export_study(result.study, out) == len(trials)
    copy = load_study(study_name="study", storage=out)
    assert result.best is not None
    assert copy.best_trial.user_attrs["number"] == result.best.number
    marked = {t.user_attrs["number"]: (t.user_attrs["fidelity"], t.state.name) for t in copy.trials}
    assert marked == {t.number: ("short", "PRUNED") if t.fidelity else ("full", "COMPLETE") for t in trials}
    reached = standing(Store(url), result.study.record)
    assert (reached.best, reached.gain) == (result.best.metrics["value"], result.gain)
