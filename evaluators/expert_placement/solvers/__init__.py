"""Solvers of placements, by name."""

from __future__ import annotations

from collections.abc import Callable

from evaluators.expert_placement.solvers.alternating import alternating
from evaluators.expert_placement.solvers.balancing import anti_correlation, greedy
from evaluators.expert_placement.solvers.base import NoSolutionError, Solution, Task
from evaluators.expert_placement.solvers.contiguous import contiguous
from evaluators.expert_placement.solvers.exact import can_be_exact, exact
from evaluators.expert_placement.solvers.exflow import bisection, can_bisect, exflow
from evaluators.expert_placement.solvers.integer_program import size
from evaluators.expert_placement.solvers.popularity import popularity, stacked
from evaluators.expert_placement.solvers.shuffled import shuffled

SOLVERS: dict[str, Callable[[Task], Solution]] = {
    "contiguous": contiguous,
    "random": shuffled,
    "popularity": popularity,
    "stacked": stacked,
    "greedy": greedy,
    "anti-correlation": anti_correlation,
    "alternating": alternating,
    "exact": exact,
    "exflow": exflow,
    "exflow-bisection": bisection,
}
_MAX_VARIABLES = 50_000  # of an integer program; HiGHS finds nothing of use in larger ones within a minute


def usable(task: Task) -> list[str]:
    """The solvers that can place this task's experts; integer programs only where they are not hopelessly large."""
    affinity, cluster = task.routing.affinity, task.cluster
    ruled_out = set()
    if not can_be_exact(task.routing.n_experts, cluster):
        ruled_out.add("exact")
    if size(affinity, max(cluster.nodes, cluster.gpus_per_node)) > _MAX_VARIABLES:
        ruled_out.add("exflow")
    # With two GPUs both are one and the same program.
    if not can_bisect(cluster) or cluster.gpus == 2 or size(affinity, 2) > _MAX_VARIABLES:
        ruled_out.add("exflow-bisection")
    return [name for name in SOLVERS if name not in ruled_out]


__all__ = ["SOLVERS", "NoSolutionError", "Solution", "Task", "usable"]
