"""Domain `moe-cache`: how a mixture-of-experts model that does not fit in fast memory should use what there is."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from autotune.domain import Problem
from autotune.errors import UsageError
from autotune.explaining import Section
from autotune.exporting import Exporter
from autotune.hardware import HardwareProfile, TierPair, load_named, load_or_measure
from autotune.space import Categorical, Config, Float, Int, SearchSpace
from autotune.store import Profile, TrialRecord
from autotune.validation import Validation
from autotune.viewing import View
from evaluators.moe_cache.batching import batched
from evaluators.moe_cache.correction import Correction
from evaluators.moe_cache.explain import explain
from evaluators.moe_cache.exporters import Subject, exporters
from evaluators.moe_cache.formats import load_trace
from evaluators.moe_cache.machine import LayerWork, costs_of
from evaluators.moe_cache.model_config import from_config_json
from evaluators.moe_cache.model_shape import ModelShape
from evaluators.moe_cache.plan import MAX_CPU_THRESHOLD_TOKENS, MAX_PREFETCH_DEPTH, Costs, Ints
from evaluators.moe_cache.policies import LCP_OMEGA, LCP_RHO
from evaluators.moe_cache.predict import offered
from evaluators.moe_cache.presets import PRESETS, preset
from evaluators.moe_cache.profiled import METRICS, MIB, Profiled
from evaluators.moe_cache.real import Real
from evaluators.moe_cache.replay import token_counts
from evaluators.moe_cache.solver import SEARCHED_POLICIES, CacheSolver, Memory
from evaluators.moe_cache.trace import RoutingTrace
from evaluators.moe_cache.validation import METRICS as VALIDATED
from evaluators.moe_cache.validation import configurations, correcting, load_correction, named
from evaluators.moe_cache.workload import Workload

SHIPPED_TRACES = Path(__file__).parent.parent / "evaluators" / "moe_cache" / "traces"
THIS_MACHINE = "this machine"
_VALIDATED_BUDGET = 0.75  # of all expert bytes, of which the configurations to compare take shares
_MAX_CONTEXT = 10_000_000  # positions; no model reads more, and more would not fit when this machine is measured


class Options(BaseModel):
    """What a user may set with ``--set NAME=VALUE``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trace: Annotated[str, Field(description="routing trace: a file, or the name of a shipped one")] = "tiny-moe"
    model: Annotated[
        str | None,
        Field(description="preset or config.json of the trace's model; found by the trace's name if left out"),
    ] = None
    bits: Annotated[
        float | None,
        Field(
            gt=0,
            le=32,
            allow_inf_nan=False,
            description="bits per expert weight; the trace's or the model's own if left out",
        ),
    ] = None
    budget_gib: Annotated[
        float | None,
        Field(gt=0, allow_inf_nan=False, description="fast memory for experts, staging buffers included"),
    ] = None
    budget_fraction: Annotated[
        float, Field(gt=0, le=2, description="the same as a share of all expert bytes, where budget_gib is left out")
    ] = 0.25
    hardware: Annotated[
        str, Field(description="a hardware profile by name or file; this machine is measured if left out")
    ] = THIS_MACHINE
    tier: Annotated[
        Literal["auto", "ram<-disk", "gpu<-host"], Field(description="memory tiers to measure on this machine")
    ] = "auto"
    context: Annotated[
        int, Field(ge=1, le=_MAX_CONTEXT, description="cached positions that attention reads per token")
    ] = 512
    batch: Annotated[
        int, Field(ge=1, description="sequences that are decoded together, cut out of the trace's generated tokens")
    ] = 1
    max_prefetch_depth: Annotated[
        int, Field(ge=0, le=MAX_PREFETCH_DEPTH, description="layers ahead to look at most")
    ] = MAX_PREFETCH_DEPTH
    corrected: Annotated[
        bool, Field(description="correct predictions by what 'autotune validate' learned of this machine")
    ] = True
    remeasure: Annotated[bool, Field(description="measure this machine again")] = False
    scale: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="share of the model's width (experts and attention heads) to hold and compute, for real runs on a "
            "machine that is too small for all of it",
        ),
    ] = 1.0
    link_mib_s: Annotated[
        float | None,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="hold the link to at most so many MiB/s, in predictions and real runs; for one that others use too, or "
            "whose own speed changes too much to compare runs",
        ),
    ] = None
    scratch: Annotated[
        str | None,
        Field(description="folder on the disk that real runs keep the experts on; the cache folder if left out"),
    ] = None

    @model_validator(mode="after")
    def _one_machine(self) -> Options:
        if self.hardware != THIS_MACHINE and (self.remeasure or self.tier != "auto"):
            raise ValueError("hardware names a profile, so tier and remeasure have nothing to measure; leave them out")
        return self


class MoeCache:
    """The domain; see `docs/moe-cache.md`."""

    name = "moe-cache"
    summary = "expert caches of a mixture-of-experts model: budget and split per layer, eviction, prefetch"
    options = Options

    def problem(self, options: Options) -> Problem:
        """Load the trace, measure or load the machine, and lay out the search.

        Raises:
            UsageError: for a trace, model, budget or machine that cannot be used.
        """
        return _problem(_Setup.of(options))

    def validation(self, options: Options, runs: int, calibration: int, seed: int) -> Validation:
        """Real runs over budgets, splits, policies and prefetching, beside what the profiled evaluator says of them."""
        if not {"budget_gib", "budget_fraction"} & options.model_fields_set:
            options = options.model_copy(update={"budget_fraction": _VALIDATED_BUDGET})
        options = options.model_copy(update={"corrected": False})
        setup = _Setup.of(options)
        problem = _problem(setup)
        made = [
            list(configurations(problem.space, problem.default, setup.memory, count, seed + offset))
            for offset, count in enumerate((calibration, runs))
        ]
        return Validation(
            problem=problem,
            options=options.model_dump(mode="json", exclude_unset=True),
            evaluator="real",
            calibration=named(made[0], "calibration"),
            checks=named(made[1], "check"),
            metrics=VALIDATED,
            correct=correcting(
                setup.trace,
                setup.costs,
                setup.profile,
                setup.work,
                options.link_mib_s,
                keep=options.hardware == THIS_MACHINE,
            ),
        )

    def exporters(self, options: Options) -> dict[str, Exporter]:
        """Configurations for engines that people run; reads the trace, measures nothing."""

        def subject() -> Subject:
            if options.scale < 1:
                raise UsageError(
                    f"the study was made at scale={options.scale:g} of the model's width, and no engine runs that; "
                    "export one of the whole model"
                )
            trace, model, expert_bytes, total = _workload(options)
            return Subject(model, trace.model, expert_bytes, token_counts(trace.passes()), total)

        return exporters(subject)

    def workload(self, options: Options, profile: Mapping[str, Any]) -> Workload:
        """What plans are judged by, on a profile as a study stored it; measures nothing.

        Raises:
            UsageError: for a trace, model or budget that cannot be used, and for a profile that lacks the model's shapes.
        """
        routing = _trace(options.trace)
        _, model, expert_bytes, total = _workload(options)
        kept = profile.get("correction")
        found = Workload(
            routing=routing,
            batch=options.batch,
            model=model,
            work=LayerWork.of(model, options.context),
            profile=HardwareProfile.from_dict({name: part for name, part in profile.items() if name != "correction"}),
            correction=None if kept is None else Correction.from_dict(kept["correction"]),
            expert_bytes=expert_bytes,
            budget_bytes=total,
            max_prefetch_depth=options.max_prefetch_depth,
            link_mib_s=options.link_mib_s,
        )
        _check_budget(found.memory, expert_bytes)
        return found

    def explain(self, trials: Mapping[str, TrialRecord], *, unicode: bool) -> tuple[Section, ...]:
        """Where the time goes, and every layer's budget, split and hit rate."""
        return explain(trials, unicode=unicode)

    def views(self) -> Mapping[str, View]:
        """Pictures; they need the extra `plots`, which a search does not."""
        from evaluators.moe_cache.views import VIEWS  # noqa: PLC0415

        return VIEWS


def _workload(options: Options) -> tuple[RoutingTrace, ModelShape, Ints, int]:
    """The trace, its model, ``(L,)`` bytes of an expert, and the bytes of fast memory."""
    trace = batched(_trace(options.trace), options.batch)
    model = _model(options.model, trace).scaled(options.scale)
    expert_bytes = _expert_bytes(trace, model, options)
    return trace, model, expert_bytes, _budget(options, trace, expert_bytes)


@dataclass(frozen=True)
class _Setup:
    """What options resolve to: the workload, the machine, and what things cost on it.

    Attributes:
        correction: what `costs` are corrected by, as it was kept; None where they are those of the hardware profile.
    """

    options: Options
    trace: RoutingTrace
    bits: float
    expert_bytes: Ints
    memory: Memory
    work: LayerWork
    profile: HardwareProfile
    costs: Costs
    correction: Mapping[str, Any] | None

    @classmethod
    def of(cls, options: Options) -> _Setup:
        trace, model, expert_bytes, total = _workload(options)
        memory = Memory(total, trace.widest_decode * int(expert_bytes.max()))
        _check_budget(memory, expert_bytes)
        work = LayerWork.of(model, options.context)
        profile = _profile(options, work)
        costs = costs_of(profile, work, expert_bytes, int(trace.passes().pass_tokens.max()))
        costs = costs.held_to(options.link_mib_s)
        known = options.corrected and options.hardware == THIS_MACHINE
        found = load_correction(profile, work, options.link_mib_s) if known else None
        if found is not None:
            costs = Correction.from_dict(found["correction"]).of(costs)
        bits = model.expert_bits if options.bits is None else options.bits
        return cls(options, trace, bits, expert_bytes, memory, work, profile, costs, found)

    @property
    def real(self) -> Real:
        scratch = None if self.options.scratch is None else Path(self.options.scratch).expanduser()
        return Real(
            self.trace,
            self.work,
            self.bits,
            self.expert_bytes,
            self.profile.tiers,
            self.profile.best_depth,
            scratch,
            self.options.link_mib_s,
        )


def _problem(setup: _Setup) -> Problem:
    trace, costs, memory, options = setup.trace, setup.costs, setup.memory, setup.options
    profile = setup.profile.only(setup.work.shapes)
    default = _uniform(trace, costs, memory, "lru")
    evaluator = Profiled(trace, costs)
    max_depth = _max_depth(options, memory)
    solver = CacheSolver(trace, costs, memory, max_prefetch_depth=max_depth)
    return Problem(
        space=_space(trace, costs, memory, max_depth),
        objectives=("minimize token_latency_ms",),
        default=default,
        evaluators={"profiled": evaluator, "real": setup.real},
        metrics=METRICS,
        highlights=("tokens_per_s", "hit_rate", "exposed_transfer_ms", "moved_mib"),
        baselines=_baselines(trace, costs, memory),
        domain_map=solver,
        predictor=evaluator.predict,
        predicted=("real",),
        profile=Profile(
            profile.environment.fingerprint,
            profile.environment.to_dict(),
            f"hardware:{profile.tier_pair}",
            {**profile.to_dict(), **({"correction": dict(setup.correction)} if setup.correction else {})},
        ),
        facts={
            "trace": f"{trace.model}: {trace.n_layers} layers x {trace.n_experts} experts, top {trace.top_k}, "
            f"{trace.decode_tokens} decode tokens" + (f" in batches of {options.batch}" if options.batch > 1 else ""),
            "budget": f"{memory.total_bytes / MIB:.1f} MiB of {_all_experts(trace, costs) / MIB:.1f} MiB of experts",
            "hardware": _machine_name(profile),
            **({"link": f"held to {options.link_mib_s:g} MiB/s"} if options.link_mib_s else {}),
            **({"scale": f"{options.scale:g} of the model's width"} if options.scale < 1 else {}),
            **({"correction": _told(setup.correction)} if setup.correction else {}),
            "caution": "policy static places by the popularity in this very trace, and all is tuned on it; test on another",
        },
    )


def _told(correction: Mapping[str, Any]) -> str:
    runs = correction["correction"]["runs"]
    return f"predictions corrected by {runs} real runs on this machine, {correction['made_at'][:10]}"


def _space(trace: RoutingTrace, costs: Costs, memory: Memory, max_depth: int) -> SearchSpace:
    layers = trace.n_layers
    whole_layer = int(costs.expert_bytes.max()) * trace.n_experts
    most = min(whole_layer, memory.for_caches(0)) / MIB
    parameters = [
        Float("budget_mib", 0.0, most, size=layers),
        Float("theta", 0.0, 1.0, size=layers, default=[1.0] * layers),
        Categorical("policy", list(SEARCHED_POLICIES)),
        Float("lcp_rho", 0.01, 1.0, when="policy == 'lcp'", default=LCP_RHO),
        Float("lcp_omega", 1.0, 4096.0, log=True, when="policy == 'lcp'", default=LCP_OMEGA),
        Int("prefetch_depth", 0, max_depth, default=0),
    ]
    if max_depth:
        predictors = [predictor.value for predictor in offered(trace)]
        parameters.append(Categorical("predictor", predictors, when="prefetch_depth > 0"))
    if costs.cpu_expert_ms is not None:
        parameters.append(Int("cpu_threshold_tokens", 0, MAX_CPU_THRESHOLD_TOKENS, default=0))
    # Every layer ahead that is fetched for needs staging buffers of its own, out of the same memory.
    staging, total = memory.staging_bytes / MIB, memory.total_bytes / MIB
    return SearchSpace(parameters, [f"sum(budget_mib) + {staging!r} * (1 + prefetch_depth) <= {total!r}"])


def _uniform(
    trace: RoutingTrace, costs: Costs, memory: Memory, policy: str, theta: float = 1.0, depth: int = 0
) -> Config:
    share = memory.for_caches(depth) // trace.n_layers / MIB
    config: Config = {
        "budget_mib": [share] * trace.n_layers,
        "theta": [theta] * trace.n_layers,
        "policy": policy,
        "prefetch_depth": depth,
    }
    if depth:
        config["predictor"] = offered(trace)[0].value
    if policy == "lcp":
        config |= {"lcp_rho": LCP_RHO, "lcp_omega": LCP_OMEGA}
    if costs.cpu_expert_ms is not None:
        config["cpu_threshold_tokens"] = 0
    return config


def _baselines(trace: RoutingTrace, costs: Costs, memory: Memory) -> dict[str, Config]:
    """What people do besides the default: uniform budgets, least recently used, whole experts, no prefetch."""
    found = {
        "uniform LFU": _uniform(trace, costs, memory, "lfu"),
        "cache-only (LCP)": _uniform(trace, costs, memory, "lcp"),
        "popularity placement": _uniform(trace, costs, memory, "static"),
    }
    if memory.for_caches(1) >= 0:
        found["prefetch-only"] = _uniform(trace, costs, memory, "lru", theta=0.0, depth=1)
    return found


def _max_depth(options: Options, memory: Memory) -> int:
    """No deeper than the staging buffers fit."""
    return max(d for d in range(options.max_prefetch_depth + 1) if memory.for_caches(d) >= 0)


def _trace(name: str) -> RoutingTrace:
    shipped = {path.name.removesuffix(".moetrace.npz"): path for path in SHIPPED_TRACES.glob("*.moetrace.npz")}
    if name in shipped:
        return load_trace(shipped[name])
    if not Path(name).expanduser().is_file():
        raise UsageError(
            f"trace {name!r} is neither a file nor a shipped trace; shipped are: {', '.join(sorted(shipped))}"
        )
    trace = load_trace(Path(name).expanduser())
    if trace.decode_tokens == 0:
        raise UsageError(f"trace {name!r} has no decode token, so there is no token latency; record some generation")
    return trace


def _model(name: str | None, trace: RoutingTrace) -> ModelShape:
    if name is None:
        found = [model for key, model in PRESETS.items() if key in trace.model.lower()]
        if not found:
            raise UsageError(
                f"model: no preset fits the trace's model {trace.model!r}; give --set model=NAME ({', '.join(PRESETS)}) "
                "or the path of its config.json"
            )
        model = max(found, key=lambda m: len(m.name))
    elif name.endswith(".json") or Path(name).is_dir():
        path = Path(name)
        model = from_config_json(path / "config.json" if path.is_dir() else path)
    else:
        model = preset(name)
    if (model.n_layers, model.n_experts) != (trace.n_layers, trace.n_experts):
        raise UsageError(
            f"model {model.name} has {model.n_layers} layers of {model.n_experts} experts, but the trace has "
            f"{trace.n_layers} of {trace.n_experts}; give the model that the trace was recorded from"
        )
    return model


def _expert_bytes(trace: RoutingTrace, model: ModelShape, options: Options) -> Ints:
    if options.bits is None and trace.expert_bytes is not None:
        return np.asarray(np.rint(trace.expert_bytes * options.scale), dtype=np.int64)
    return np.full(trace.n_layers, model.expert_bytes(options.bits), dtype=np.int64)


def _all_experts(trace: RoutingTrace, costs: Costs) -> int:
    return int(costs.expert_bytes.sum()) * trace.n_experts


def _budget(options: Options, trace: RoutingTrace, expert_bytes: Ints) -> int:
    if options.budget_gib is not None:
        return round(options.budget_gib * 2**30)
    return round(options.budget_fraction * int(expert_bytes.sum()) * trace.n_experts)


def _check_budget(memory: Memory, expert_bytes: Ints) -> None:
    one = int(expert_bytes.max())
    if memory.for_caches(0) < one:
        need = (memory.staging_bytes + one) / MIB
        raise UsageError(
            f"budget of {memory.total_bytes / MIB:.2f} MiB holds no expert: staging buffers for one pass's experts take "
            f"{memory.staging_bytes / MIB:.2f} MiB and one expert {one / MIB:.2f} MiB; give budget_gib of at least "
            f"{need / 1024:.4f}"
        )


def _profile(options: Options, work: LayerWork) -> HardwareProfile:
    if options.hardware != THIS_MACHINE:
        return load_named(options.hardware)
    pair = TierPair.detect() if options.tier == "auto" else TierPair.parse(options.tier)
    profile = load_or_measure(
        pair,
        work.shapes,
        remeasure=options.remeasure,
        progress=lambda step: print(
            f"measuring this machine, once: {step.number}/{step.total} {step.what}", file=sys.stderr, flush=True
        ),
    )
    used = (f"link at depth {profile.best_depth}", *map(str, work.shapes))
    for warning in filter(lambda text: text.startswith(used), profile.warnings()):
        print(f"autotune: {warning}", file=sys.stderr)
    return profile


def _machine_name(profile: HardwareProfile) -> str:
    hardware = profile.environment.details.get("hardware", {})
    parts = [gpu.get("name", "GPU") for gpu in hardware.get("gpus", [])]
    parts += [name for name in [hardware.get("cpu", {}).get("model")] if name]
    return f"{profile.name} ({', '.join([*parts, profile.tier_pair])})"


DOMAIN = MoeCache()
