"""What a peer sees: a space in plain terms, and a function that evaluates. Imports nothing of the project.

One line of JSON each way. The harness says ``{"start": {...}}``; the peer proposes ``{"config": {...}, "seconds": s}`` and is
answered ``{"status": "ok" | "failed" | "infeasible", "losses": [...]}`` or ``{"status": "stop"}``; when it ends of itself it
says ``{"end": null}``, when it breaks ``{"error": "..."}``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True)
class PlainParameter:
    """A parameter: `values` where they are listed, else the bounds of a real or whole number."""

    name: str
    kind: Literal["float", "int", "ordinal", "categorical", "bool"]
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False


@dataclass(frozen=True)
class PlainProblem:
    """What a peer is told of a problem.

    Attributes:
        name: of the problem, for caches.
        parameters: of the space.
        objectives: how many losses there are, all to be minimised.
        seed: of the run.
        budget: evaluations that will be charged.
        initial: the shared initial design.
        table: every feasible configuration, values in the order of the parameters, with its loss (None where it fails);
            only for peers that set `NEEDS_TABLE`, because their simulation takes nothing else.
    """

    name: str
    parameters: tuple[PlainParameter, ...]
    objectives: int
    seed: int
    budget: int
    initial: tuple[dict[str, Any], ...]
    table: tuple[tuple[tuple[Any, ...], float | None], ...] = ()


@dataclass(frozen=True)
class Answer:
    """The harness's answer to a proposal."""

    status: Literal["ok", "failed", "infeasible"]
    losses: tuple[float, ...] | None = None


class Stop(Exception):
    """The harness wants no more proposals."""


Evaluate = Callable[[dict[str, Any]], Answer]


class Worst:
    """The worst losses seen, for peers that learn of failures by bad values only."""

    def __init__(self, objectives: int) -> None:
        self._worst: list[float] | None = None
        self._objectives = objectives

    def see(self, losses: Sequence[float]) -> None:
        self._worst = [max(a, b) for a, b in zip(self._worst or losses, losses, strict=True)]

    def value(self) -> list[float] | None:
        """None while nothing was measured successfully."""
        return self._worst


class PeerModule(Protocol):
    """What an adapter's module offers."""

    NEEDS_TABLE: bool

    def version(self) -> str:
        """Name and version of the package; raises `ImportError` where it is not installed."""

    def refuses(self, option: str, problem: PlainProblem) -> str | None:
        """Why it cannot search such a space; None where it can."""

    def search(self, option: str, problem: PlainProblem, evaluate: Evaluate) -> None:
        """Propose by calling `evaluate` until it raises `Stop`."""
