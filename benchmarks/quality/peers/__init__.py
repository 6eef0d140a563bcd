"""Searchers of other projects. Each runs in a process of its own, in whatever interpreter has it installed, and speaks JSON
lines over its pipes, so that none of them can conflict with what the project itself depends on.

Modules in this package other than `client` import nothing of the project: they run where it is not installed.
"""

from __future__ import annotations

# By name: the module here that adapts it, and the option that it is given.
PEERS: dict[str, tuple[str, str]] = {
    "optuna:tpe": (f"{__name__}.optuna_peer", "tpe"),
    "optuna:gp": (f"{__name__}.optuna_peer", "gp"),
    "optuna:cmaes": (f"{__name__}.optuna_peer", "cmaes"),
    "optuna:nsga2": (f"{__name__}.optuna_peer", "nsga2"),
    "smac": (f"{__name__}.smac_peer", ""),
    "ax": (f"{__name__}.ax_peer", ""),
    "kernel_tuner:genetic_algorithm": (f"{__name__}.kernel_tuner_peer", "genetic_algorithm"),
    "kernel_tuner:dual_annealing": (f"{__name__}.kernel_tuner_peer", "dual_annealing"),
    "kernel_tuner:greedy_ils": (f"{__name__}.kernel_tuner_peer", "greedy_ils"),
    "kernel_tuner:bayes_opt": (f"{__name__}.kernel_tuner_peer", "bayes_opt"),
    "hebo": (f"{__name__}.hebo_peer", ""),
}
