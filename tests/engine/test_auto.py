"""The strategy `auto`: who takes part, who gets the turns, and what it hands on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import autotune
import autotune.strategies.auto as portfolio
from autotune import Categorical, Failure, Float, Int, Ordinal, SearchSpace, Study, UsageError
from autotune.measurement import Metric
from autotune.objective import Objective
from autotune.space import Config
from autotune.store.records import TrialRecord, TrialState
from autotune.strategies import History, Suggestion, Task
from autotune.strategies.auto import Auto, AutoSettings
from autotune.strategies.bo import BayesianOptimisation
from autotune.strategies.local import LocalSearch

CHEAP = {"members": ["local", "tpe", "random"]}


def space() -> SearchSpace:
    return SearchSpace(
        [Int("x", 0, 30), Int("y", 0, 30), Ordinal("tile", [8, 16, 32]), Float("lr", 1e-4, 1e-1, log=True)],
        constraints=["x + y <= 50"],
    )


def twelve() -> SearchSpace:
    return SearchSpace([Ordinal("a", [1, 2, 4]), Categorical("b", ["x", "y"]), Int("c", 0, 2, when="b == 'x'")])


def cost(config: Config) -> float:
    if config["x"] == config["y"] + 7:
        raise Failure("oom", "too large")
    return float(abs(config["x"] - 21) + abs(config["y"] - 4) + config["tile"] / 8 + 10 * config["lr"])


def proposers(study: Study) -> list[str]:
    return [t.proposer for t in study.trials if t.label is None]


class Steps:
    """A fixed-point map with three starts, whose solutions are configurations of `space`."""

    def starts(self) -> Sequence[str]:
        return "abc"

    def initial(self, start: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.zeros(1)

    def apply(
        self, start: str, coupling: np.ndarray[Any, np.dtype[np.float64]]
    ) -> tuple[np.ndarray[Any, np.dtype[np.float64]], Config, float]:
        x = 18 + "abc".index(start)
        return coupling, {"x": x, "y": 5, "tile": 8, "lr": 0.01}, float(x)

    def refine(self, start: str, config: Config) -> tuple[Config, float]:
        return config, 0.0


def test_a_space_that_the_budget_covers_is_enumerated() -> None:
    def taking_part(**settings: Any) -> set[str]:
        study = Study.create(twelve(), strategy="auto", **settings)
        for i in range(4):
            study.tell(study.ask(), float(i))
        return set(proposers(study))

    assert taking_part(budget=12) == {"exhaustive"}
    for budget in (11, None):  # an open budget covers nothing
        assert taking_part(budget=budget) <= set(portfolio.MEMBERS)


@pytest.mark.parametrize("members", [["local", "tpe", "random"], ["bo", "random"]])
def test_every_configuration_of_a_small_space_is_found_without_a_budget_too(members: list[str]) -> None:
    study = Study.create(twelve(), strategy="auto", strategy_options={"members": members})
    with pytest.raises(autotune.SpaceExhaustedError):
        for i in range(13):
            study.tell(study.ask(), float(i))
    assert len({t.config_hash for t in study.trials}) == 12


def test_turns_follow_what_members_have_found() -> None:
    of = Task(
        space(), (Objective("value"),), (), space().default(), 3, settings=AutoSettings(members=("local", "random"))
    )
    configs = space().sample(60, seed=0)

    def asked(gaining: str | None, over: int) -> Counter[str]:
        trials = list[TrialRecord]()
        for i, config in enumerate(configs):
            proposer = "local" if i < 60 - over else "random"
            value = 100.0 * 0.9**i if proposer == gaining or i == 0 else 200.0
            trials.append(_trial(of, i, dict(config), value, proposer))
        return Counter(s.proposer for s in Auto(of).propose(History(of, tuple(trials)), 20))

    assert asked("local", 10).most_common(1)[0][0] == "local"
    assert asked(None, 0).most_common(1)[0][0] == "local"  # it is believed to be the better one
    assert asked("random", 10).most_common(1)[0][0] == "random"


def test_proposals_are_a_function_of_the_history_and_not_of_the_hour() -> None:
    of = Task(space(), (Objective("value"),), (), space().default(), 7, budget=60)
    rng = np.random.default_rng(0)
    names = ["bo", "local", "tpe", "random", "trees"]
    trials = [
        _trial(of, i, c, float(rng.random()), names[i % 5], suggest_s=0.05, evaluate_s=0.2)
        for i, c in enumerate(space().sample(25, seed=0))
    ]
    slower = [replace(t, suggest_s=t.suggest_s * 2.5, evaluate_s=0.07) for t in trials]
    first = Auto(of).propose(History(of, tuple(trials)), 4)
    lived = Auto(of)
    for n in range(20, 25):
        lived.propose(History(of, tuple(trials[:n])), 1)
    assert lived.propose(History(of, tuple(trials)), 4) == first
    assert Auto(of).propose(History(of, tuple(slower)), 4) == first


def test_the_domains_own_comes_first_and_measured_steps_around_its_answer_follow() -> None:
    study = Study.create(space(), strategy="auto", domain_map=Steps(), budget=30, seed=1)
    for _ in range(20):
        trial = study.ask()
        study.tell(trial, cost(trial.config))
    by = proposers(study)
    assert by[:3] == ["fixed-point"] * 3 and "fixed-point" not in by[3:]
    assert Counter(by[3:]).most_common(1)[0][0] == "local"
    around = next(t for t in study.trials if t.proposer == "local")
    best = study.space.encode([dict(study.trials[3].config)])[0]
    assert study.trials[3].config["x"] == 20 and (study.space.encode([dict(around.config)])[0] != best).sum() == 1


@pytest.mark.parametrize(("found_at", "centre"), [(30, "theirs"), (5, "its own")])
def test_local_search_goes_on_from_what_others_have_found_since_it_began(found_at: int, centre: str) -> None:
    of = Task(space(), (Objective("value"),), (), space().default(), 0)
    configs = space().sample(40, seed=0)
    values = {found_at: 1.0, 20: 2.0}  # somebody's, and the best of a run of local search that began at 10
    trials = [
        _trial(of, i, c, values.get(i, 9.0), "local" if 10 <= i < 25 else "tpe", notes={"run": 3} if i >= 10 else {})
        for i, c in enumerate(configs)
    ]
    step = LocalSearch(of).propose(History(of, tuple(trials)), 1)[0]
    start = configs[found_at if centre == "theirs" else 20]
    changed = space().encode([dict(step.config)])[0] != space().encode([dict(start)])[0]
    assert changed.sum() == 1 and step.notes == {"run": 3}


def test_a_batch_is_of_several_members_and_holds_nothing_twice() -> None:
    of = Task(space(), (Objective("value"),), (), space().default(), 2, settings=AutoSettings(members=("local", "tpe")))
    tried = space().sample(50, seed=0)
    stuck = tuple(_trial(of, i, config, 5.0, "tpe") for i, config in enumerate(tried))
    batch = Auto(of).propose(History(of, stuck), 40)
    assert all(space().contains(s.config) for s in batch) and {s.proposer for s in batch} == {"local", "tpe"}
    before = {space().config_hash(config) for config in tried}
    assert len(before | {space().config_hash(dict(s.config)) for s in batch}) == len(before) + 40


def test_a_member_with_nothing_left_hands_its_turn_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Spent(BayesianOptimisation):
        def propose(self, history: History, n: int) -> Sequence[Suggestion]:
            return []

    monkeypatch.setitem(portfolio._CLASSES, "bo", Spent)
    study = Study.create(space(), strategy="auto", strategy_options={"members": "bo, random"})
    assert [t.record.proposer for t in (study.ask(), *study.ask(3))] == ["default"] + ["random"] * 3


def test_notes_tell_what_was_expected_of_whom_and_keep_the_members_own() -> None:
    study = Study.create(space(), strategy="auto", strategy_options={"members": "local"})
    study.tell(study.ask(), 3.0)
    notes = study.ask().record.notes
    assert notes == {"run": 0, "prospects": {"local": 0.2}}


def test_several_objectives_leave_out_who_cannot_handle_them() -> None:
    goals = ["minimize value", "maximize x"]
    study = Study.create(space(), goals, strategy="auto", strategy_options=CHEAP)
    for _ in range(15):
        trial = study.ask()
        study.tell(trial, {"value": float(trial.config["y"]), "x": float(trial.config["x"])})
    assert set(proposers(study)) <= {"tpe", "random"} and study.pareto()
    with pytest.raises(
        UsageError, match=r"with the members local cannot handle several objectives .*; name others too"
    ):
        Study.create(space(), goals, strategy="auto", strategy_options={"members": "local"})


def test_what_is_given_reaches_the_members_that_look_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Task] = []

    class Spy(BayesianOptimisation):
        def __init__(self, task: Task) -> None:
            super().__init__(task)
            seen.append(task)

    def predictor(config: Config) -> float:
        return float(config["x"])

    monkeypatch.setitem(portfolio._CLASSES, "bo", Spy)
    earlier = Study.create(space(), name="earlier")
    earlier.tell(earlier.ask(), 1.0)
    given: dict[str, Any] = {"predictor": predictor, "transfer_from": earlier, "strategy": "auto"}
    study = Study.create(space(), strategy_options={"members": "bo,local"}, **given)
    for _ in range(3):
        study.tell(study.ask(), 1.0)
    assert (
        [len(s.trials) for s in seen[0].sources] == [1] and seen[0].predictor is not None and seen[0].settings is None
    )
    for what in ("predictor", "transfer_from"):
        one = {key: value for key, value in given.items() if key in (what, "strategy")}
        with pytest.raises(UsageError, match=r"none of which looks at .*; leave out .*, or add bo to members"):
            Study.create(space(), strategy_options={"members": "tpe, local"}, **one)


@pytest.mark.parametrize(
    ("members", "says"),
    [
        (
            ["bo", "annealing"],
            "option members.1 = 'annealing': input should be 'bo', 'trees', 'tpe', 'local', 'random'",
        ),
        ("bo,", "option members.1 = ''"),
        ([], "option members = []"),
        ("tpe, bo, tpe", "'tpe' is named twice; name each member once"),
        ("fixed-point", "the members fixed-point cannot handle a task whose domain supplies no mapping"),
        (3, "option members = 3"),
    ],
)
def test_members_that_cannot_be_are_refused_in_one_sentence(members: Any, says: str) -> None:
    with pytest.raises(UsageError) as told:
        Study.create(space(), strategy="auto", strategy_options={"members": members})
    assert says in str(told.value) and "\n" not in str(told.value)


def test_members_stay_with_the_study(tmp_path: Any) -> None:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    given: dict[str, Any] = {"space": space(), "evaluate": cost, "storage": url, "seed": 4}
    autotune.search(**given, strategy_options={"members": "local,random"}, trials=6)
    again = autotune.search(**given, trials=12)
    assert set(proposers(again.study)) <= {"local", "random"}
    assert again.study.record.strategy_options == {"members": ["local", "random"]}


def _trial(of: Task, number: int, config: Config, value: float, proposer: str, **given: Any) -> TrialRecord:
    return TrialRecord(
        id=number + 1,
        number=number,
        config=config,
        config_hash=of.space.config_hash(config),
        state=TrialState.COMPLETED,
        proposer=proposer,
        attempt=1,
        revision=number + 1,
        metrics={"value": Metric(value)},
        **given,
    )
