"""What searches: our strategies by name, uniform random search, and peers in processes of their own."""

from __future__ import annotations

import abc
import datetime as dt
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

import autotune
from autotune.errors import UsageError
from autotune.measurement import Metric
from autotune.space import Config
from autotune.store.records import TrialRecord, TrialState
from autotune.strategies import STRATEGIES, History, Strategy, Task, resolve
from autotune.strategies.optuna_samplers import OptunaStrategy
from benchmarks.quality import transfer
from benchmarks.quality.peers import PEERS
from benchmarks.quality.peers.client import PeerClient
from benchmarks.quality.problem import Problem
from benchmarks.quality.session import BudgetSpentError, Reply, Session
from benchmarks.quality.variants import VARIANTS

UNIFORM = "uniform"
_EPOCH = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
EVALUATION_S = 1.0  # what an evaluation is said to have taken, for strategies that weigh it against their own time


class Searcher(abc.ABC):
    """Runs sessions. `version` says what ran, with the version of the package."""

    name: str
    version: str

    @abc.abstractmethod
    def refuses(self, problem: Problem) -> str | None:
        """Why it cannot search that problem; None where it can."""

    @abc.abstractmethod
    def search(self, session: Session) -> None:
        """Propose until the session is over."""

    def close(self) -> None:  # noqa: B027 - most hold nothing
        """Let go of what it holds."""


class StrategySearcher(Searcher):
    """One of `autotune.strategies`, driven as a study drives it, without a store.

    Args:
        name: of a strategy or a variant of one; ``NAME+KIND`` gives it earlier studies (see `transfer`).
        problems: of the benchmark, which earlier studies are of.
    """

    def __init__(self, name: str, problems: Sequence[Problem] = ()) -> None:
        self.name = name
        self.version = f"autotune {autotune.__version__}"
        strategy, _, self._kind = name.partition("+")
        self._strategy = VARIANTS.get(strategy) or resolve(strategy)
        self._problems = problems
        if issubclass(self._strategy, OptunaStrategy):
            self.version += f", optuna {version('optuna')}"

    def refuses(self, problem: Problem) -> str | None:
        has = self._strategy.capabilities
        if problem.several and not has.several_objectives:
            return "one objective only"
        if not problem.space.is_finite and not has.infinite_spaces:
            return "finite spaces only"
        if self._kind and not transfer.has_sources(self._kind, problem, self._problems):
            return "no other problem to learn from"
        return None

    def search(self, session: Session) -> None:
        problem = session.problem
        earlier = transfer.sources(self._kind, problem, self._problems, session.seed) if self._kind else ()
        task = Task(
            space=problem.space,
            objectives=problem.objectives,
            constraints=(),
            default=session.initial[0] if session.initial else problem.space.default(),
            seed=session.seed,
            budget=session.settings.budget,
            sources=earlier,
        )
        run_strategy(self._strategy(task), session)


def run_strategy(strategy: Strategy, session: Session) -> list[TrialRecord]:
    """Let a strategy propose until the session is over; the trials as a store would have them."""
    problem, trials = session.problem, list[TrialRecord]()
    try:
        for config in session.initial:
            trials.append(_trial(problem, len(trials), config, "design", 0.0, session.submit(config, 0.0)))
        while True:
            begun = time.perf_counter()
            proposed = strategy.propose(History(strategy.task, tuple(trials)), 1)
            seconds = time.perf_counter() - begun
            if not proposed:
                return trials
            suggestion = proposed[0]
            reply = session.submit(dict(suggestion.config), seconds)
            trials.append(
                _trial(
                    problem,
                    len(trials),
                    suggestion.config,
                    suggestion.proposer,
                    seconds,
                    reply,
                    suggestion.notes,
                )
            )
    except BudgetSpentError:
        return trials


def _trial(
    problem: Problem,
    number: int,
    config: Config,
    proposer: str,
    seconds: float,
    reply: Reply,
    notes: Mapping[str, Any] | None = None,
) -> TrialRecord:
    if reply.status == "infeasible":
        raise UsageError(f"strategy {proposer!r} proposed {config!r}, which the known constraints forbid")
    at = _EPOCH + dt.timedelta(seconds=number)
    return TrialRecord(
        id=number + 1,
        number=number,
        config=config,
        config_hash=problem.space.config_hash(dict(config)),
        state=TrialState.COMPLETED if reply.failure is None else TrialState.FAILED,
        proposer=proposer,
        attempt=1,
        revision=2 * number + 2,
        failure_kind=None if reply.failure is None else reply.failure.kind,
        failure_message=None if reply.failure is None else reply.failure.message,
        metrics={name: Metric(value) for name, value in reply.metrics.items()},
        suggest_s=seconds,
        evaluate_s=EVALUATION_S,
        notes=dict(notes or {}),
        created_at=at,
        finished_at=at + dt.timedelta(milliseconds=500),
    )


class Uniform(Searcher):
    """Random search without replacement, uniform over the feasible set: what the score calls 0."""

    name = UNIFORM
    version = "uniform over the feasible set"

    def refuses(self, problem: Problem) -> str | None:
        return None

    def search(self, session: Session) -> None:
        rng = np.random.default_rng([session.seed, 3])
        table = session.problem.space.enumerate()
        try:
            for config in session.initial:
                session.submit(config, 0.0)
            if table is not None:
                for place in rng.permutation(len(table)):
                    session.submit(table.config(int(place)), 0.0)
            while True:
                for config in session.problem.space.sample(session.settings.budget, rng):
                    session.submit(config, 0.0)
        except BudgetSpentError:
            return


class PeerSearcher(Searcher):
    """A searcher of another project, in a process of its own (see `peers`)."""

    def __init__(self, name: str, client: PeerClient) -> None:
        self.name, self._client = name, client
        self.version = client.version

    def refuses(self, problem: Problem) -> str | None:
        return self._client.refuses(problem)

    def search(self, session: Session) -> None:
        self._client.search(session)

    def close(self) -> None:
        self._client.close()


def resolve_searcher(name: str, pythons: Sequence[str], problems: Sequence[Problem] = ()) -> Searcher | str:
    """The searcher of a name, or one sentence on why it cannot be had here.

    Args:
        name: a strategy, `uniform`, or a peer such as ``optuna:tpe``.
        pythons: interpreters in which peers are looked for, in order.
        problems: of the benchmark, for searchers that learn from earlier studies.

    Raises:
        UsageError: for a name that nobody has.
    """
    if name == UNIFORM:
        return Uniform()
    if name in PEERS:
        found = PeerClient.start(name, pythons)
        return PeerSearcher(name, found) if isinstance(found, PeerClient) else found
    strategy, _, kind = name.partition("+")
    if strategy in {*STRATEGIES, *VARIANTS} and kind in ("", *transfer.SOURCES):
        return StrategySearcher(name, problems)
    known = ", ".join([UNIFORM, *sorted(STRATEGIES), *VARIANTS, *(f"bo+{kind}" for kind in transfer.SOURCES), *PEERS])
    raise UsageError(f"searcher {name!r} is unknown; known are: {known}")


def is_ours(name: str) -> bool:
    """Whether a searcher is this project's own; adapters of Optuna's samplers are Optuna's algorithms and count as peers."""
    plain = name.partition("+")[0]
    strategy = VARIANTS.get(plain) or STRATEGIES.get(plain)
    return strategy is not None and not issubclass(strategy, OptunaStrategy)
