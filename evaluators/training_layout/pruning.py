"""What was pruned from a job's layouts before any was scored, and why."""

from __future__ import annotations

import math
import re

from autotune.space import SearchSpace
from evaluators.training_layout.job import Job
from evaluators.training_layout.knobs import layouts_of, parameters_of, rules_of, space_of

GIB = 2**30


def pruned(job: Job) -> list[str]:
    """Sentences for people: how many combinations there are, which rule refuses how many by itself, how many exist, and how
    many of those memory refuses."""
    table = layouts_of(job, space_of(job, fitting=False))
    found = []
    combinations = math.prod(parameter.n_values for parameter in parameters_of(job))
    found.append(f"{combinations:,} combinations of the knobs' values, of which {len(table):,} are layouts that exist")
    found += [f"{told}: {share:.1%} are refused by it alone" for told, share in _shares(job).items()]
    gpu, host = job.needed(table.columns())
    full, crowded = gpu > job.memory_bytes, host > job.host_bytes
    found.append(
        f"memory of a GPU, {job.memory_bytes / GIB:.1f} GiB: {int(full.sum()):,} of the {len(table):,} need more"
    )
    if crowded.any():
        found.append(f"memory of the host, {job.host_bytes / GIB:.0f} GiB a GPU: {int(crowded.sum()):,} need more")
    found.append(f"{int((~full & ~crowded).sum()):,} are left, all of which were scored")
    return found


def _shares(job: Job) -> dict[str, float]:
    """The share of all combinations that each rule refuses, by what the rule is for; those that refuse none are left out."""
    parameters = {parameter.name: parameter for parameter in parameters_of(job)}
    found = {}
    for told, rule in rules_of(job).items():
        # A rule refuses the same share of the combinations of the knobs that it names.
        names = [name for name in re.findall(r"[a-z_]+", rule) if name in parameters]
        some = [parameter for name, parameter in parameters.items() if name in names and parameter.when is None]
        if len(some) < len(set(names)):
            continue
        table = SearchSpace(some, [rule]).enumerate()
        kept = 0 if table is None else len(table)
        share = 1.0 - kept / math.prod(parameter.n_values for parameter in some)
        if share:
            found[told] = share
    return found
