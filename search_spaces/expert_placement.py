"""Domain `expert-placement`: which expert of each mixture-of-experts layer lies on which GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from autotune.domain import Problem
from autotune.errors import UsageError
from autotune.explaining import Section
from autotune.exporting import Exporter
from autotune.space import Categorical, Config, Float, Ordinal, SearchSpace
from autotune.store.records import TrialRecord
from autotune.viewing import View
from evaluators.expert_placement.cluster import MAX_GPUS, Cluster
from evaluators.expert_placement.explain import explain
from evaluators.expert_placement.exporters import exporters
from evaluators.expert_placement.measure import expected_random_hops
from evaluators.expert_placement.profiled import METRICS, Placer, Profiled
from evaluators.expert_placement.routing import Routing, SplitBy, split
from evaluators.expert_placement.solvers import Task, usable
from evaluators.moe_cache.formats import load_trace
from evaluators.moe_cache.trace import RoutingTrace
from search_spaces.moe_cache import SHIPPED_TRACES

SWEEPS = (0, 1, 2, 4, 8, 16)  # of the local search; it seldom goes on after ten
_BASELINES = ("random", "popularity", "stacked", "greedy", "anti-correlation")


class Options(BaseModel):
    """What a user may set with ``--set NAME=VALUE``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trace: Annotated[str, Field(description="routing trace: a file, or the name of a shipped one")] = "tiny-moe"
    gpus: Annotated[
        int, Field(ge=2, le=MAX_GPUS, description="GPUs that share out the experts of every layer evenly")
    ] = 4
    gpus_per_node: Annotated[
        int | None,
        Field(ge=1, description="GPUs of one node, all if left out; a hop to another node costs 2 instead of 1"),
    ] = None
    train_share: Annotated[
        float, Field(gt=0, lt=1, description="share of the trace that placements are computed on; the rest judges them")
    ] = 0.5
    held_out: Annotated[
        SplitBy,
        Field(description="what is held out: the last tokens of every turn, or the last turns (other text)"),
    ] = "tokens"
    batch_tokens: Annotated[
        int, Field(ge=1, le=1_000_000, description="tokens that are computed together, for the loads")
    ] = 32
    layer_ranges: Annotated[
        int, Field(ge=1, le=16, description="ranges of layers that each have a load_weight of their own")
    ] = 4
    program_seconds: Annotated[
        float, Field(gt=0, le=86_400, description="time limit of the integer programs of one placement together")
    ] = 10.0
    seed: Annotated[int, Field(ge=0, description="of the placements that are drawn at random")] = 0


class ExpertPlacement:
    """The domain; see `docs/expert-placement.md`."""

    name = "expert-placement"
    summary = "experts of a mixture-of-experts model over GPUs: hops of tokens between them against even load"
    options = Options

    def problem(self, options: Options) -> Problem:
        """Split the trace, and lay out the search.

        Raises:
            UsageError: for a trace or numbers of GPUs that cannot be used.
        """
        trace, cluster = _trace(options.trace), _cluster(options)
        train, held_out = split(trace, options.train_share, options.held_out, options.batch_tokens)
        task = Task(train, cluster, options.seed, options.program_seconds)
        solvers = usable(task)
        hops = "hop_cost_per_token" if cluster.nodes > 1 else "hops_per_token"
        return Problem(
            space=_space(solvers, min(options.layer_ranges, trace.n_layers)),
            objectives=(f"minimize {hops}", "minimize max_load"),
            default=_plain("contiguous"),
            evaluators={"profiled": Profiled(Placer(task), held_out)},
            metrics=METRICS,
            baselines={name: _plain(name) for name in _BASELINES},
            highlights=("gpus_per_token", f"train_{hops}", "train_max_load"),
            facts=_facts(trace, cluster, train, held_out, options),
        )

    def exporters(self, options: Options) -> dict[str, Exporter]:
        """Placements for engines that people run, as the trials noted them; the trace is not read."""
        return exporters(_cluster(options), options.trace)

    def explain(self, trials: Mapping[str, TrialRecord], *, unicode: bool) -> tuple[Section, ...]:
        """What a token pays, layer by layer, and how the GPUs share the work."""
        return explain(trials, unicode=unicode)

    def views(self) -> Mapping[str, View]:
        """Pictures; they need the extra `plots`, which a search does not."""
        from evaluators.expert_placement.views import VIEWS  # noqa: PLC0415

        return VIEWS


def _cluster(options: Options) -> Cluster:
    return Cluster(options.gpus, options.gpus if options.gpus_per_node is None else options.gpus_per_node)


def _space(solvers: list[str], ranges: int) -> SearchSpace:
    return SearchSpace(
        [
            Categorical("solver", solvers),
            Ordinal("sweeps", list(SWEEPS), default=0),
            Float("load_weight", 0.0, 1.0, size=ranges, when="sweeps > 0", default=0.5),
        ]
    )


def _plain(solver: str) -> Config:
    return {"solver": solver, "sweeps": 0}


def _facts(
    trace: RoutingTrace, cluster: Cluster, train: Routing, held_out: Routing, options: Options
) -> dict[str, object]:
    chance = expected_random_hops(trace.n_layers, trace.n_experts, trace.top_k, cluster.gpus)
    where = f"{cluster.gpus} GPUs" + (f" in {cluster.nodes} nodes" if cluster.nodes > 1 else "")
    return {
        "trace": f"{trace.model}: {trace.n_layers} layers x {trace.n_experts} experts, top {trace.top_k}",
        "cluster": f"{where}, {cluster.experts_per_gpu(trace.n_experts)} experts of a layer on each",
        "split": f"placed by {train.n_tokens} tokens, judged by {held_out.n_tokens} others (by {options.held_out})",
        "random placement": f"{chance:.2f} hops per token in expectation",
        "caution": "configurations are chosen by the held-out part, so the best of many flatters itself a little",
    }


def _trace(name: str) -> RoutingTrace:
    shipped = {path.name.removesuffix(".moetrace.npz"): path for path in SHIPPED_TRACES.glob("*.moetrace.npz")}
    path = shipped.get(name, Path(name).expanduser())
    if not path.is_file():
        raise UsageError(
            f"trace {name!r} is neither a file nor a shipped trace; shipped are: {', '.join(sorted(shipped))}"
        )
    return load_trace(path)


DOMAIN = ExpertPlacement()
