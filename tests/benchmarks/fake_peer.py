"""A peer that follows the protocol, or breaks as its option says. It runs in a process of its own."""

from __future__ import annotations

import os

from benchmarks.quality.peers.protocol import Evaluate, PlainProblem

NEEDS_TABLE = False


def version() -> str:
    return "fake 1.0"


def refuses(option: str, problem: PlainProblem) -> str | None:
    return "one objective only" if problem.objectives > 1 else None


def search(option: str, problem: PlainProblem, evaluate: Evaluate) -> None:
    """The initial design, one forbidden configuration, then six of the recorded toy space in order."""
    print("a peer may print without breaking the protocol")
    for config in problem.initial:
        evaluate(config)
    if option == "break":
        raise RuntimeError("out of ideas")
    if option == "die":
        os._exit(3)
    assert len(problem.table) == (10 if option == "table" else 0)
    assert evaluate({"block": 64, "unroll": 2, "layout": "row"}).status == "infeasible"
    for block in problem.parameters[0].values:
        for layout in ("row", "column"):
            answer = evaluate({"block": block, "unroll": 1, "layout": layout})
            assert answer.losses is not None and answer.losses[0] > 0
