"""What `bo` makes of predictors, earlier studies and cheaper evaluators, and that bad ones do no harm for long."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from autotune import Objective, Ordinal, SearchSpace, Source
from autotune.measurement import Metric
from autotune.space import Config
from autotune.store.records import TrialRecord, TrialState
from autotune.strategies import History, Task, resolve
from autotune.strategies.bo.guides import translate

Cost = Callable[[Config], float]


def space(values: Sequence[int] = (1, 2, 4, 8, 16, 32)) -> SearchSpace:
    return SearchSpace(
        [Ordinal("x", list(values)), Ordinal("y", list(values)), Ordinal("z", [1, 2, 3, 4, 5, 6])], ["x * y <= 256"]
    )


def cost(config: Config) -> float:
    """Best at x=8, y=4, z=5."""
    x, y, z = (float(config[name]) for name in "xyz")
    return 1.0 + abs(np.log2(x / 8)) + 0.7 * abs(np.log2(y / 4)) + 0.3 * abs(z - 5) + (2.0 if x * y > 128 else 0.0)


def record(of: SearchSpace, number: int, config: Config, value: float) -> TrialRecord:
    return TrialRecord(
        id=number + 1, number=number, config=config, config_hash=of.config_hash(config), state=TrialState.COMPLETED,
        proposer="test", attempt=1, revision=number, metrics={"value": Metric(value)},
    )  # fmt: skip


def task(of: SearchSpace, **more: object) -> Task:
    given = Task(of, (Objective.parse("value"),), (), {"x": 1, "y": 1, "z": 1}, seed=3, budget=30)
    return replace(given, **more)  # type: ignore[arg-type]


def run(given: Task, evaluate: Cost, trials: int) -> list[TrialRecord]:
    strategy = resolve("bo")(given)
    known = [record(given.space, 0, dict(given.default), evaluate(dict(given.default)))]
    while len(known) < trials:
        config = dict(strategy.propose(History(given, tuple(known)), 1)[0].config)
        known.append(record(given.space, len(known), config, evaluate(config)))
    return known


def best(trials: Sequence[TrialRecord]) -> float:
    return min(t.values["value"] for t in trials)


class Knows:
    """A predictor that gives the cost by another scale and offset."""

    def predict(self, configs: Sequence[Config]) -> Mapping[str, npt.NDArray[np.float64]]:
        return {"value": np.array([40.0 * cost(c) + 7.0 for c in configs])}


class Misleads:
    def predict(self, configs: Sequence[Config]) -> Mapping[str, npt.NDArray[np.float64]]:
        return {"value": np.array([9.0 - cost(c) for c in configs])}


def test_a_good_predictor_finds_the_best_at_once() -> None:
    given = task(space(), predictor=Knows())
    assert best(run(given, cost, 3)) == 1.0


def test_a_misleading_predictor_is_given_up() -> None:
    given = task(space(), predictor=Misleads())
    trials = run(given, cost, 25)
    assert best(trials) == 1.0


def test_an_earlier_study_on_another_scale_finds_the_best_at_once() -> None:
    own = space()
    earlier = [record(own, i, c, 100.0 * cost(c)) for i, c in enumerate(own.sample(60, 0))]
    source = Source("other gpu", own, (Objective.parse("value"),), tuple(earlier))
    assert best(run(task(own, sources=(source,)), cost, 8)) <= 1.3


def test_an_earlier_study_of_other_values_speaks_through_the_nearest() -> None:
    earlier = space((1, 4, 16))
    rows = translate(space(), [{"x": 16, "y": 4, "z": 2, "unknown": 3}, {"x": 1000, "y": 1}])
    assert rows.tolist() == [[0.8, 0.4, 0.2], [1.0, 0.0, rows[1, 2]]]
    source = Source(
        "coarse", earlier, (Objective.parse("value"),),
        tuple(record(earlier, i, c, cost(c)) for i, c in enumerate(earlier.sample(30, 0))),
    )  # fmt: skip
    assert best(run(task(space(), sources=(source,)), cost, 15)) == 1.0


def test_a_shuffled_study_does_no_harm_for_long() -> None:
    own = space()
    configs = own.sample(80, 0)
    values = np.random.default_rng(0).permutation([cost(c) for c in configs])
    source = Source(
        "shuffled", own, (Objective.parse("value"),),
        tuple(record(own, i, c, float(v)) for i, (c, v) in enumerate(zip(configs, values, strict=True))),
    )  # fmt: skip
    assert best(run(task(own, sources=(source,)), cost, 30)) == 1.0


def test_a_source_without_the_metric_says_nothing() -> None:
    own = space()
    silent = Source(
        "silent", own, (Objective.parse("value"),),
        tuple(replace(record(own, i, c, 1.0), metrics={"other": Metric(1.0)}) for i, c in enumerate(own.sample(5, 0))),
    )  # fmt: skip
    with_source, without = (run(task(own, sources=s), cost, 12) for s in ((silent,), ()))
    assert [t.config for t in with_source] == [t.config for t in without]


@pytest.mark.parametrize("silent", [0.5, 1.0])
def test_a_predictor_that_is_often_silent_is_used_where_it_speaks(silent: float) -> None:
    class Sometimes:
        def predict(self, configs: Sequence[Config]) -> Mapping[str, npt.NDArray[np.float64]]:
            values = np.array([cost(c) if (c["x"] * c["y"] + c["z"]) % 10 >= 10 * silent else np.nan for c in configs])
            return {"value": values} if np.isfinite(values).any() else {}

    assert best(run(task(space(), predictor=Sometimes()), cost, 25)) == 1.0
