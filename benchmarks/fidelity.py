"""What a cheaper evaluator is worth, and by which rule it is asked: the gate of strategy `bo` against the knowledge gradient.

    python benchmarks/fidelity.py                              the table
    python benchmarks/fidelity.py --seeds 2 --budget 10 --rules alone,gate

A recorded kernel is searched on one GPU, where an evaluation costs 1, while the same kernel on another GPU may be asked for
0.1: siblings that agree more or less, and one whose values were dealt out anew at random and which says nothing. And Hartmann's
function, with a cheaper one that is shifted and noisy.

Rules: `alone` is `bo` without the cheaper evaluator, `gate` is `bo` with it, `knowledge gradient` is BoTorch's multi-fidelity
Gaussian process, with the gain of the best posterior mean at full fidelity per cost computed exactly over a shortlist.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, the package itself is not on the path

import numpy as np  # noqa: E402
import numpy.typing as npt  # noqa: E402

from autotune import Failure, Study  # noqa: E402
from autotune.space import Config  # noqa: E402
from benchmarks.quality.problem import Problem  # noqa: E402
from benchmarks.quality.suites import load  # noqa: E402

Floats = npt.NDArray[np.float64]

CHEAP = 0.1  # of the cost of an evaluation that counts
DESIGN = 16  # cheap measurements that the knowledge gradient begins with, as `bo` does
FIRST = 4  # and so many full ones
_ALTERNATIVES = 128  # configurations whose posterior means may become the best
_ASKED = 64  # configurations that may be asked for, at either fidelity
_POOL = 1_500  # feasible configurations that either are taken from
_REFIT = 5  # measurements between two fits of hyperparameters


@dataclass(frozen=True)
class Pair:
    """A problem and what is cheaper to ask: a loss, or `Failure` where the cheaper one has none."""

    name: str
    full: Problem
    cheap: Callable[[Config, np.random.Generator], float]


def pairs(data: Path) -> Iterator[Pair]:
    kernels = {p.name: p for p in load(data, ["kernels"])}
    for target, other in (
        ("convolution_a100", "convolution_a4000"),
        ("convolution_w6600", "convolution_a100"),
        ("dedispersion_w7800", "dedispersion_mi250x"),
    ):
        if target in kernels and other in kernels:
            yield Pair(f"{target} from {other.partition('_')[2]}", kernels[target], _of(kernels[other]))
    if "convolution_a4000" in kernels:
        yield Pair("convolution_a4000 from noise", kernels["convolution_a4000"], _dealt(kernels["convolution_a4000"]))
    hartmann = load(data, ["smooth"], ["hartmann6*"])[0]
    yield Pair("hartmann6 from a shifted one", hartmann, _shifted(hartmann))


def _of(other: Problem) -> Callable[[Config, np.random.Generator], float]:
    def cheap(config: Config, rng: np.random.Generator) -> float:
        if not other.space.contains(config):
            raise Failure("invalid", "not on that GPU")
        other.evaluate(config, rng)  # fails where it failed
        return float(other.truth(config)[0])

    return cheap


def _dealt(same: Problem) -> Callable[[Config, np.random.Generator], float]:
    values = same.valid[:, 0]
    return lambda config, _rng: float(values[int(same.space.config_hash(config)[:12], 16) % len(values)])


def _shifted(same: Problem) -> Callable[[Config, np.random.Generator], float]:
    def cheap(config: Config, rng: np.random.Generator) -> float:
        moved = {name: min(value + 0.05, 1.0) for name, value in config.items()}
        return float(same.truth(moved)[0]) + float(rng.normal(0.0, 0.1))

    return cheap


class Run:
    """What was spent, and the best true loss so far; evaluations by fidelity.

    Args:
        pair: what is searched.
        seed: of the noise.
        budget: cost that may be spent.
    """

    def __init__(self, pair: Pair, seed: int, budget: float) -> None:
        self.pair, self.budget, self.spent, self.cheap = pair, budget, 0.0, 0
        self.best: list[tuple[float, float]] = []
        self._rng = np.random.default_rng([seed, 7])

    @property
    def over(self) -> bool:
        return self.spent >= self.budget - 1e-9

    def measure(self, config: Config, *, cheap: bool) -> float:
        """The loss; raises `Failure`, which costs as much."""
        self.spent += CHEAP if cheap else 1.0
        if cheap:
            self.cheap += 1
            return self.pair.cheap(config, self._rng)
        problem = self.pair.full
        problem.evaluate(config, self._rng)  # fails where it failed
        loss = float(problem.truth(config)[0])
        self.best.append((self.spent, min([loss, *(b for _, b in self.best[-1:])])))
        return loss

    def fraction(self, cost: float) -> float:
        """Of the optimum, when so much was spent."""
        found = [b for at, b in self.best if at <= cost + 1e-9]
        return float(self.pair.full.fraction(found[-1])) if found else 0.0


def by_bo(run: Run, seed: int, *, gated: bool) -> None:
    given = {"fidelities": ("cheap", "full"), "costs": {"cheap": CHEAP, "full": 1.0}} if gated else {}
    study = Study.create(run.pair.full.space, "value", strategy="bo", seed=seed, **given)  # type: ignore[arg-type]
    while not run.over:
        trial = study.ask()
        try:
            study.tell(trial, run.measure(dict(trial.config), cheap=trial.fidelity == "cheap"))
        except Failure as failure:
            study.tell(trial, failure)


def by_knowledge_gradient(run: Run, seed: int) -> None:
    from autotune.strategies.bo.features import FeatureMap  # noqa: PLC0415 - heavy imports, of this rule alone
    from autotune.strategies.bo.knowledge_gradient import log_knowledge_gradient  # noqa: PLC0415

    space, rng = run.pair.full.space, np.random.default_rng([seed, 8])
    features = FeatureMap(space)
    pool = space.sample(_POOL, seed)
    columns = features(space.encode(pool))
    known = _Known(columns)
    for place in range(DESIGN + FIRST):
        known.ask(run, pool, place, cheap=place < DESIGN)
    while not run.over:
        model = known.model()
        mean = model.mean(columns)
        near = np.argsort(mean)
        alternatives = np.union1d(near[:_ALTERNATIVES], sorted(known.full))
        asked = np.union1d(near[: _ASKED // 2], rng.permutation(len(pool))[: _ASKED // 2])
        scores, wanted = [], []
        for cheap in (True, False):
            new = np.array([i for i in asked if i not in (known.cheap if cheap else known.full)], dtype=np.intp)
            if len(new):
                slopes = model.slopes(columns[new], columns[alternatives], cheap=cheap)
                gain = log_knowledge_gradient(-mean[alternatives], slopes)
                scores += (gain - np.log(CHEAP if cheap else 1.0)).tolist()
                wanted += [(int(i), cheap) for i in new]
        place, cheap = wanted[int(np.argmax(scores))]
        known.ask(run, pool, place, cheap=cheap)


class _Known:
    """What the knowledge gradient has measured, by place in the pool."""

    def __init__(self, columns: Floats) -> None:
        self._columns = columns
        self.cheap: set[int] = set()
        self.full: set[int] = set()
        self._rows: list[tuple[int, float, float]] = []  # place, fidelity, loss
        self._model: _FidelityModel | None = None

    def ask(self, run: Run, pool: list[Config], place: int, *, cheap: bool) -> None:
        (self.cheap if cheap else self.full).add(place)
        try:
            loss = run.measure(pool[place], cheap=cheap)
        except Failure:
            # The worst that was seen, as is usual where a model knows no failures.
            loss = max((row[2] for row in self._rows if row[1] == (0.0 if cheap else 1.0)), default=float("nan"))
        if np.isfinite(loss):
            self._rows.append((place, 0.0 if cheap else 1.0, loss))

    def model(self) -> _FidelityModel:
        places, fidelity, losses = (np.array(column) for column in zip(*self._rows, strict=True))
        y = np.log(losses) if (losses > 0).all() else losses
        x = np.column_stack([self._columns[places.astype(np.intp)], fidelity])
        fresh = self._model is None or len(y) % _REFIT == 0
        self._model = _FidelityModel(x, y, None if fresh else self._model)
        return self._model


class _FidelityModel:
    """BoTorch's `SingleTaskMultiFidelityGP` (Wu, Toscano-Palmerin, Frazier and Wilson, UAI 2019) with a fidelity of 0 or 1."""

    def __init__(self, x: Floats, y: Floats, like: _FidelityModel | None) -> None:
        import torch  # noqa: PLC0415 - heavy
        from botorch.fit import fit_gpytorch_mll  # noqa: PLC0415
        from botorch.models.gp_regression_fidelity import SingleTaskMultiFidelityGP  # noqa: PLC0415
        from botorch.models.transforms import Standardize  # noqa: PLC0415
        from gpytorch.mlls import ExactMarginalLogLikelihood  # noqa: PLC0415

        self._torch = torch
        self.gp: Any = SingleTaskMultiFidelityGP(
            torch.from_numpy(x), torch.from_numpy(y)[:, None], data_fidelities=[x.shape[1] - 1],
            outcome_transform=Standardize(m=1),
        )  # fmt: skip
        if like is None:
            fit_gpytorch_mll(ExactMarginalLogLikelihood(self.gp.likelihood, self.gp))
        else:
            kept = {k: v for k, v in like.gp.state_dict().items() if not k.startswith("outcome_transform")}
            self.gp.load_state_dict(kept, strict=False)
        self.gp.eval()

    def _at(self, columns: Floats, fidelity: float) -> Floats:
        return np.column_stack([columns, np.full(len(columns), fidelity)])

    def mean(self, columns: Floats) -> Floats:
        """Of the loss at full fidelity, shape ``(m,)``."""
        with self._torch.no_grad():
            found: Floats = self.gp.posterior(self._torch.from_numpy(self._at(columns, 1.0))).mean[:, 0].numpy()
        return found

    def slopes(self, asked: Floats, alternatives: Floats, *, cheap: bool) -> Floats:
        """How far means at full fidelity move with a measurement, shape ``(asked, alternatives)``."""
        rows = np.concatenate([self._at(asked, 0.0 if cheap else 1.0), self._at(alternatives, 1.0)])
        with self._torch.no_grad():
            posterior = self.gp.posterior(self._torch.from_numpy(rows))
            matrix = posterior.distribution.covariance_matrix.numpy()
            noise = float(self.gp.likelihood.noise.mean()) * float(self.gp.outcome_transform.stdvs.mean()) ** 2
        n = len(asked)
        deviation = np.sqrt(np.maximum(np.diag(matrix)[:n], 0.0) + noise)
        slopes: Floats = -matrix[:n, n:] / deviation[:, None]  # of gains
        return slopes


RULES: Mapping[str, Callable[[Run, int], None]] = {
    "alone": lambda run, seed: by_bo(run, seed, gated=False),
    "gate": lambda run, seed: by_bo(run, seed, gated=True),
    "knowledge gradient": by_knowledge_gradient,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--rules", default=",".join(RULES))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--budget", type=float, default=30.0, help="cost of a run, in full evaluations")
    options = parser.parse_args()
    rules = options.rules.split(",")
    marks = [round(options.budget * share) for share in (1 / 3, 2 / 3, 1)]
    print("| problem | rule | " + " | ".join(f"at cost {m}" for m in marks) + " | full, cheap | s |")
    print("| --- | --- |" + " --- |" * (len(marks) + 2))
    means: dict[str, list[list[float]]] = {rule: [] for rule in rules}
    for pair in pairs(options.data):
        for rule in rules:
            found, counts, begun = [], [], time.perf_counter()
            for seed in range(options.seeds):
                run = Run(pair, seed, options.budget)
                RULES[rule](run, seed)
                found.append([run.fraction(m) for m in marks])
                counts.append((run.spent - CHEAP * run.cheap, run.cheap))
            mean = np.mean(found, axis=0)
            means[rule].append(mean.tolist())
            full, cheap = np.mean(counts, axis=0)
            seconds = (time.perf_counter() - begun) / options.seeds
            cells = " | ".join(f"{x:.3f}" for x in mean)
            print(f"| {pair.name} | {rule} | {cells} | {full:.0f}, {cheap:.0f} | {seconds:.1f} |", flush=True)
    for rule in rules:
        cells = " | ".join(f"**{x:.3f}**" for x in np.mean(means[rule], axis=0))
        print(f"| mean | {rule} | {cells} | | |")


if __name__ == "__main__":
    main()
