"""What every strategy must do, whatever it searches with."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from autotune import (
    STRATEGIES,
    Failure,
    FailureKind,
    Measurement,
    Metric,
    Pruned,
    SearchSpace,
    SpaceExhaustedError,
    Study,
    UsageError,
)
from autotune.space import Bool, Categorical, Config, Float, Int, Ordinal
from autotune.store import Proposal
from autotune.strategies import History, Strategy, Task
from autotune.strategies.optuna_samplers import OPTUNA_STRATEGIES

NAMES = sorted(STRATEGIES)
TRIALS = 14  # Optuna's models begin after ten
Measure = Callable[[Config], Any]


class Ladder:
    """A fixed-point map whose iterates walk through configurations of a space."""

    def __init__(self, space: SearchSpace) -> None:
        self._configs = space.sample(32, seed=1)

    def starts(self) -> Sequence[str]:
        return "abcdefghijkl"

    def initial(self, start: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        return np.array([float(ord(start))])

    def apply(
        self, start: str, coupling: np.ndarray[Any, np.dtype[np.float64]]
    ) -> tuple[np.ndarray[Any, np.dtype[np.float64]], Config, float]:
        place = int(coupling[0] * 7) % len(self._configs)
        return 0.5 * coupling + 1.0, self._configs[place], float(place)

    def refine(self, start: str, config: Config) -> tuple[Config, float]:
        return self._configs[-self._configs.index(config)], -1.0


class Thumb:
    """A rule of thumb whose constants are all that a space lists the values of."""

    def __init__(self, space: SearchSpace) -> None:
        self._space = space

    def rules(self) -> Sequence[Config]:
        return self._space.sample(3, seed=1)

    def constants(self) -> Sequence[tuple[str, Sequence[Any]]]:
        found: list[tuple[str, Sequence[Any]]] = []
        for parameter in self._space.parameters:
            if isinstance(parameter, Ordinal):
                found.append((parameter.name, parameter.values))
            elif isinstance(parameter, Categorical):
                found.append((parameter.name, parameter.choices))
        return found


# Strategies that propose no more than what a domain gives them.
GIVEN: dict[str, type[Ladder] | type[Thumb]] = {"fixed-point": Ladder, "greedy": Thumb}


def mixed() -> SearchSpace:
    return SearchSpace(
        [
            Ordinal("tp", [1, 2, 4, 8]), Ordinal("pp", [1, 2, 4, 8]), Categorical("cache", ["lru", "lfu", None]),
            Int("window", 1, 64, log=True, when="cache == 'lru'"), Float("lr", 1e-4, 1e-1, log=True),
            Bool("prefetch"), Int("depth", 1, 4, when="prefetch and cache == 'lru'"), Float("one", 2.0, 2.0),
        ],
        constraints=["tp * pp <= 8", "window % tp == 0"],
    )  # fmt: skip


def vectors() -> SearchSpace:
    return SearchSpace([Float("budget", 0, 10, size=6), Int("n", 0, 5, size=3)], ["sum(budget) <= 12", "sum(n) == 6"])


def small() -> SearchSpace:
    return SearchSpace([Ordinal("a", [1, 2, 4]), Categorical("b", ["x", "y"]), Int("c", 0, 2, when="b == 'x'")])


def single() -> SearchSpace:
    return SearchSpace([Ordinal("a", [3]), Categorical("b", ["x"]), Int("c", 2, 2), Float("d", 0.5, 0.5)])


SPACES = {"mixed": mixed, "vectors": vectors, "small": small}


def cost(config: Config) -> float:
    total = 0.0
    for value in config.values():
        for one in value if isinstance(value, list) else [value]:
            total += one if isinstance(one, (int, float)) else len(str(one))
    return total


def two(config: Config) -> dict[str, float]:
    return {"value": cost(config), "other": math.sin(cost(config))}


def fragile(config: Config) -> float:
    if cost(config) % 3 < 1:
        raise Failure("oom", "too large")
    return cost(config)


def broken(config: Config) -> float:
    raise Failure("crash", "always")


def halted(config: Config) -> float:
    """Half of what is measured is pruned: of these, half of the value was reported."""
    if cost(config) % 4 < 2:
        raise ended(cost(config) / 2.0)
    return cost(config)


def ended(value: float) -> Pruned:
    """A trial that was ended when it had spent so much."""
    return Pruned("behind", {"step": 3, "values": {"value": value}, "at_least": {"value": value}, "progress": value})


def study_of(name: str, space: SearchSpace, objectives: Any = "value", **settings: Any) -> Study:
    given = GIVEN[name](space) if name in GIVEN else None
    return Study.create(space, objectives, strategy=name, domain_map=given, **settings)


def supports(name: str, space: SearchSpace, objectives: Any = "value") -> bool:
    """Whether the strategy takes this task; where it does not, that it says so in one sentence."""
    has = STRATEGIES[name].capabilities
    several = isinstance(objectives, list) and not has.several_objectives
    if not several and (has.infinite_spaces or space.is_finite):
        return True
    with pytest.raises(UsageError, match=rf"strategy '{name}' cannot handle .*; choose another") as told:
        study_of(name, space, objectives)
    assert "\n" not in str(told.value)
    return False


def step(study: Study, measure: Measure, n: int | None = None) -> int:
    """Ask, evaluate and tell; returns how many."""
    asked = study.ask() if n is None else study.ask(n)
    trials = asked if isinstance(asked, list) else [asked]
    for trial in trials:
        try:
            study.tell(trial, measure(trial.config))
        except (Failure, Pruned) as outcome:
            study.tell(trial, outcome)
    return len(trials)


def run(study: Study, measure: Measure, trials: int = TRIALS, n: int | None = None) -> None:
    try:
        while len(study.trials) < trials:
            step(study, measure, n)
    except SpaceExhaustedError:
        pass


def check(study: Study) -> None:
    """Feasible, and each configuration once."""
    hashes = [t.config_hash for t in study.trials]
    assert len(set(hashes)) == len(hashes)
    for trial in study.trials:
        assert study.space.explain(dict(trial.config)) == []
        assert trial.config_hash == study.space.config_hash(dict(trial.config))


def configs(strategy: Strategy, history: History, n: int = 1) -> list[Config]:
    return [s.config for s in strategy.propose(history, n)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", SPACES)
def test_proposals_are_feasible_and_new(name: str, kind: str) -> None:
    space = SPACES[kind]()
    if supports(name, space):
        study = study_of(name, space)
        run(study, cost)
        check(study)
        assert len(study.trials) > 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("measure", [cost, fragile, broken, halted])
def test_a_strategy_made_anew_from_the_history_goes_on_as_the_one_that_lived_it(name: str, measure: Measure) -> None:
    space = mixed()
    if not supports(name, space):
        space = small()
    study = study_of(name, space, budget=TRIALS, seed=5)
    task, lived = study._task, STRATEGIES[name](study._task)
    for round_ in range(7):
        history = study.history
        proposed = configs(lived, history, 2)
        # The one that is made anew sees what the store holds, as another process would.
        reread = History(task, tuple(study.store.trials(study.record.id)))
        assert configs(STRATEGIES[name](task), reread, 2) == proposed, f"after {len(history.trials)} trials"
        assert configs(lived, history, 2) == proposed, "asked twice"
        try:
            step(study, measure, n=1 + round_ % 3)
        except SpaceExhaustedError:
            break


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_proposes_the_same_and_resuming_changes_nothing(name: str) -> None:
    space = mixed() if STRATEGIES[name].capabilities.infinite_spaces else small()
    whole = study_of(name, space, seed=3)
    run(whole, fragile)
    again = study_of(name, space, seed=3)
    run(again, fragile, 7)
    resumed = Study.load("study", again.store, domain_map=again._task.domain_map)
    run(resumed, fragile)
    assert [t.config for t in resumed.trials] == [t.config for t in whole.trials]
    assert [t.notes for t in resumed.trials] == [t.notes for t in whole.trials]


@pytest.mark.parametrize("name", [n for n in NAMES if n not in GIVEN])
def test_another_seed_searches_elsewhere(name: str) -> None:
    space = mixed() if STRATEGIES[name].capabilities.infinite_spaces else small()
    tried = []
    for seed in (0, 1):
        study = study_of(name, space, seed=seed)
        run(study, cost, 8)
        tried.append([t.config for t in study.trials])
    assert tried[0][0] == tried[1][0]  # the default
    assert tried[0] != tried[1]


@pytest.mark.parametrize("name", ["tpe", "gp", "local", "auto", "nsga2", "cmaes"])
def test_what_was_told_last_changes_what_is_proposed_next(name: str) -> None:
    # A population (50 in NSGA-II) is the longest that a strategy may go without looking.
    before, after = {"nsga2": (56, 56), "cmaes": (13, 12)}.get(name, (13, 4))
    space = SearchSpace([Float("x", 0, 1), Float("y", 0, 1)])
    tried = []
    for sign in (1.0, -1.0):
        study = study_of(name, space)
        run(study, lambda c: c["x"] + c["y"], before)
        run(study, lambda c, sign=sign: 10 * sign * c["x"], before + after)  # type: ignore[misc]
        tried.append([t.config for t in study.trials])
    assert tried[0][:before] == tried[1][:before]
    assert tried[0][before:] != tried[1][before:]


@pytest.mark.parametrize("name", NAMES)
def test_pending_trials_are_never_proposed_again(name: str) -> None:
    space = mixed() if STRATEGIES[name].capabilities.infinite_spaces else small()
    study = study_of(name, space)
    run(study, cost, 5)
    begun = []
    for n in (1, 3):
        begun += study.ask(n)
    check(study)
    for trial in begun:
        study.tell(trial, cost(trial.config))
    run(study, cost, len(study.trials) + 2, n=2)
    check(study)


def too_large(config: Config) -> float:
    """A limit on memory that no constraint tells of, just beyond the best; it forbids more than half of the space."""
    width = {"fp8": 1, "bf16": 2, "fp32": 4}[config["dtype"]]
    if config["batch"] * config["stages"] * width > 48:
        raise Failure("oom", "too large")
    return float(100.0 / config["batch"] ** 0.5 + abs(math.log2(config["tile"] / 64)) + config["stages"] ** 0.5)


@pytest.mark.parametrize("name", ["auto", "bo", "trees"])  # the portfolio, some of whose members do not learn, included
def test_failures_teach_where_not_to_go(name: str) -> None:
    space = SearchSpace(
        [
            Ordinal("batch", [1, 2, 4, 8, 16, 32, 64, 128]), Ordinal("stages", [1, 2, 3, 4, 5, 6]),
            Ordinal("tile", [16, 32, 64, 128]), Categorical("dtype", ["bf16", "fp8", "fp32"]),
        ]
    )  # fmt: skip

    def failing(name: str) -> float:
        study = study_of(name, space)
        run(study, too_large, 60)
        return float(np.mean([t.failure_kind is not None for t in study.trials[20:]]))

    assert failing("random") > 0.5
    assert failing(name) <= 0.2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", list(FailureKind))
def test_a_history_of_nothing_but_failures_still_gets_proposals(name: str, kind: FailureKind) -> None:
    space = mixed() if STRATEGIES[name].capabilities.infinite_spaces else small()
    study = study_of(name, space)

    def fail(config: Config) -> float:
        raise Failure(kind)

    for _ in range(12 if kind is FailureKind.OOM else 4):
        try:
            step(study, fail)
        except SpaceExhaustedError:
            assert name == "exhaustive" or name in GIVEN
    check(study)
    assert study.best is None and study.pareto() == []


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("goals", ["value", ["minimize value", "maximize other"]])
def test_pruned_trials_are_never_proposed_again_and_never_ranked(name: str, goals: Any) -> None:
    space = mixed() if STRATEGIES[name].capabilities.infinite_spaces else small()
    if not supports(name, space, goals):
        return
    study = study_of(name, space, goals, constraints=["value <= 1e6"])

    def measure(config: Config) -> dict[str, float]:
        halted(config)
        return two(config)

    run(study, measure, 12, n=3)
    check(study)
    pruned = {t.number for t in study.trials if t.state == "pruned"}
    assert pruned == {t.number for t in study.trials if cost(dict(t.config)) % 4 < 2}
    assert not pruned & {t.number for t in study.history.ranked}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, 1e308])
def test_a_history_of_nothing_but_pruned_trials_still_gets_proposals(name: str, value: float) -> None:
    space = mixed() if STRATEGIES[name].capabilities.infinite_spaces else small()
    study = study_of(name, space)

    def prune(config: Config) -> float:
        if not value and len(study.trials) == 4:
            return 0.0  # one is measured, and what the others spent says nothing beside it
        raise ended(value)

    for _ in range(11):
        try:
            step(study, prune)
        except SpaceExhaustedError:
            assert name == "exhaustive" or name in GIVEN
    check(study)
    assert study.history.failed == ()


@pytest.mark.parametrize("name", NAMES)
def test_extreme_values_do_not_stop_a_strategy(name: str) -> None:
    space = small() if not STRATEGIES[name].capabilities.infinite_spaces else mixed()
    study = study_of(name, space, constraints=["slo <= 1"])
    values = [1e308, -1e308, 0.0, 5e-324, 1e-300, 1.0]

    def measure(config: Config) -> dict[str, float]:
        count = len(study.trials)
        return {"value": values[count % 6], "slo": [0.0, math.inf, math.nan, 2.0][count % 4]}

    run(study, measure)
    check(study)


@pytest.mark.parametrize("name", NAMES)
def test_a_space_of_one_point_gives_that_point_and_ends(name: str) -> None:
    study = study_of(name, single())
    assert study.ask().config == {"a": 3, "b": "x", "c": 2, "d": 0.5}
    with pytest.raises(SpaceExhaustedError, match="nothing left to propose after 1 trials of 1 feasible"):
        study.ask()


@pytest.mark.parametrize("name", [n for n in NAMES if n not in GIVEN])
def test_a_small_space_is_exhausted_and_said_to_be(name: str) -> None:
    space = small()
    assert space.size == 12
    study = study_of(name, space, budget=20)
    run(study, cost, 50)
    check(study)
    assert len(study.trials) == 12
    with pytest.raises(SpaceExhaustedError, match="after 12 trials of 12 feasible"):
        study.ask()
    assert study.best is not None and study.best.values["value"] == min(cost(t.config) for t in study.trials)


@pytest.mark.parametrize("name", NAMES)
def test_a_hundred_dimensions(name: str) -> None:
    space = SearchSpace(
        [Float(f"x{i}", 0, 1) for i in range(40)] + [Int("n", 0, 3, size=40)] + [Bool(f"b{i}") for i in range(20)]
    )
    if supports(name, space):
        study = study_of(name, space)
        run(study, cost, 12)
        check(study)
        assert len(study.trials) >= (3 if name in GIVEN else 12)


@pytest.mark.parametrize("name", NAMES)
def test_several_objectives_are_handled_or_refused(name: str) -> None:
    space = mixed() if STRATEGIES[name].capabilities.infinite_spaces else small()
    goals = ["minimize value", "maximize other"]
    if supports(name, space, goals):
        study = study_of(name, space, goals)
        run(study, two)
        check(study)
        assert study.pareto()
        with pytest.raises(UsageError, match=r"2 objectives; use pareto\(\)"):
            _ = study.best


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_holds_different_configurations_and_at_most_as_many_as_asked(name: str) -> None:
    space = mixed() if STRATEGIES[name].capabilities.infinite_spaces else small()
    study = study_of(name, space)
    sizes = []
    for _ in range(3):
        try:
            sizes.append(step(study, cost, n=5))
        except SpaceExhaustedError:
            assert name in GIVEN
    check(study)
    assert max(sizes) <= 5


def test_strategies_say_what_they_lack() -> None:
    space = mixed()
    with pytest.raises(UsageError, match="strategy 'fixed-point' needs a domain that supplies a mapping"):
        Study.create(space, strategy="fixed-point")
    with pytest.raises(UsageError, match="strategy 'greedy' needs a domain that supplies a rule of thumb"):
        Study.create(space, strategy="greedy")
    with pytest.raises(UsageError, match=r"strategy 'tpes' is unknown \(did you mean 'tpe'\?\); known are: auto, "):
        Study.create(space, strategy="tpes")
    with pytest.raises(UsageError, match="strategy 'local' cannot handle several objectives"):
        Study.create(space, ["a", "b"], strategy="local")


def test_a_sampler_of_the_callers_own_is_a_strategy() -> None:
    import optuna

    study = Study.create(mixed(), strategy=optuna.samplers.TPESampler(seed=1, multivariate=True))
    run(study, fragile)
    check(study)
    assert {t.proposer for t in study.trials[1:]} == {"TPESampler"}
    with pytest.raises(
        UsageError, match=r"made with 'TPESampler', a strategy that the caller supplied; pass strategy="
    ):
        Study.load("study", study.store)
    resumed = Study.load("study", study.store, strategy="local")
    run(resumed, cost, TRIALS + 3)
    check(resumed)


def test_local_search_finds_the_best_of_a_rugged_space() -> None:
    space = SearchSpace([Int("x", 0, 30), Int("y", 0, 30)])
    best = {}
    for name in ("local", "random"):
        found = []
        for seed in range(3):
            study = study_of(name, space, seed=seed)
            run(study, lambda c: (c["x"] - 23) ** 2 + 3 * abs(c["y"] - 4) + 5 * (c["x"] % 2), 70)
            assert study.best is not None
            found.append(study.best.values["value"])
        best[name] = float(np.median(found))
    assert best["local"] < best["random"]


def test_the_task_is_what_the_study_was_made_with() -> None:
    seen: list[Task] = []

    class Spy(STRATEGIES["random"]):  # type: ignore[misc,valid-type]
        name = "spy"

        def __init__(self, task: Task) -> None:
            super().__init__(task)
            seen.append(task)

    space = small()
    Study.create(
        space, ["maximize a"], constraints=["b <= 2"], strategy=Spy, seed=9, budget=4, default={"a": 4, "b": "y"}
    )
    task = seen[-1]
    assert (task.seed, task.budget, task.default) == (9, 4, {"a": 4, "b": "y"})
    assert [str(o) for o in task.objectives] == ["maximize a"] and [str(c) for c in task.constraints] == ["b <= 2"]


@pytest.mark.parametrize("name", NAMES)
def test_a_strategy_that_knows_nothing_of_fidelities_is_not_misled_by_cheaper_trials(name: str) -> None:
    """The same search, once with trials of a cheaper fidelity in between that somebody else proposed."""
    space = mixed() if STRATEGIES[name].capabilities.infinite_spaces else small()
    tried = []
    for cheaper in (False, True):
        study = study_of(name, space, seed=2, fidelities=("short", "full"))
        for round_ in range(TRIALS):
            if cheaper and round_ % 2:
                _measure_cheaply(study, space.sample(1, seed=round_)[0], -1000.0 - round_)
            try:
                step(study, cost)
            except SpaceExhaustedError:
                break
        counted = study.history.counted
        hashes = [t.config_hash for t in counted]
        assert len(set(hashes)) == len(hashes) == len(study.trials) - len(study.history.at("short").trials)
        tried.append([t.config for t in counted])
    # The others draw by `History.rng`, which depends on how many trials there are.
    if name in {"exhaustive", *GIVEN, *(strategy.name for strategy in OPTUNA_STRATEGIES)}:
        assert tried[0] == tried[1]


def _measure_cheaply(study: Study, config: Config, value: float) -> None:
    text = study.space.canonical_json(config)
    wanted = Proposal(config, text, study.space.config_hash(config), "other", fidelity="short")
    begun = study.store.begin_trials(study.record.id, [wanted], worker_id="elsewhere:1:1.00", lease_s=60)
    assert begun is not None
    if begun[0] is not None:
        study.store.finish(study.record.id, begun[0], Measurement({"value": Metric(value)}))
