"""`bo` with a cheaper evaluator and with noise: what is asked first and what again, and that neither misleads for long."""

from __future__ import annotations

from collections import Counter

import numpy as np

import autotune
from autotune import Float, Measurement, Metric, Ordinal, SearchSpace
from autotune.space import Config


def space() -> SearchSpace:
    return SearchSpace([Ordinal(name, [1, 2, 4, 8, 16, 32, 64]) for name in "xyz"], ["x * y * z <= 4096"])


def cost(config: Config) -> float:
    """Best, 1.0, at x=16, y=4, z=2."""
    x, y, z = (np.log2(config[name]) for name in "xyz")
    return float(1.0 + (x - 4) ** 2 + 0.5 * (y - 2) ** 2 + 0.25 * (z - 1) ** 2)


def similar(config: Config) -> float:
    return 20.0 * cost(config) ** 0.8 + 3.0 * float(np.log2(config["z"]))


def opposite(config: Config) -> float:
    return -cost(config)


def result(cheap: object, trials: int) -> autotune.Result:
    return autotune.search(
        space(),
        {"short": cheap, "full": cost},
        strategy="bo",
        trials=trials,
        seed=1,
        costs={"short": 0.05, "full": 1.0},
    )  # type: ignore[arg-type]


def test_a_cheaper_evaluator_is_asked_first_and_saves_full_ones() -> None:
    found = result(similar, 5)
    assert found.best is not None
    assert found.best.metrics["value"] == 1.0
    spent = {name: one.trials for name, one in found.fidelities.items()}
    assert spent["full"] == 5
    assert spent["short"] >= 16


def test_a_misleading_evaluator_is_not_asked_for_long() -> None:
    found = result(opposite, 25)
    assert found.best is not None
    assert found.best.metrics["value"] <= 1.25
    # The design, and few more: what it says is of no use.
    assert found.fidelities["short"].trials <= 40


def test_what_is_dear_is_not_asked_first() -> None:
    found = autotune.search(
        space(), {"short": similar, "full": cost}, strategy="bo", trials=10, seed=1, costs={"short": 0.9, "full": 1.0}
    )
    assert found.fidelities["short"].trials == 0


def test_with_noise_the_good_ones_are_measured_again() -> None:
    rng = np.random.default_rng(0)

    def noisy(config: Config) -> Measurement:
        value = 1.0 + (config["a"] - 0.3) ** 2 + float(rng.normal(0.0, 0.05))
        return Measurement({"value": Metric(value, half_width=0.1)})

    study = autotune.Study.create(SearchSpace([Float("a", 0.0, 1.0)]), strategy="bo", seed=0)
    for _ in range(30):
        trial = study.ask()
        study.tell(trial, noisy(trial.config))
    repeats = Counter(t.config_hash for t in study.history.completed)
    assert repeats.most_common(1)[0][1] >= 2
    assert len(repeats) >= 8
    best = study.best
    assert best is not None
    assert abs(best.config["a"] - 0.3) < 0.2


def test_exact_values_are_never_measured_again() -> None:
    study = autotune.Study.create(space(), strategy="bo", seed=0)
    for _ in range(20):
        trial = study.ask()
        study.tell(trial, cost(trial.config))
    assert len({t.config_hash for t in study.history.completed}) == 20
