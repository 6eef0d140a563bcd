"""`autotune trace generate`: one checkpoint, one plan, one prompt, with offloaded experts and beside that without."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autotune.errors import UsageError
from autotune.hardware import TierPair, current_environment, scratch_folder
from autotune.hardware.cache import load_cached
from evaluators.moe_cache.plan import CachePlan
from evaluators.moe_cache.plan_file import PlanFile
from evaluators.moe_cache.policies import Policy
from evaluators.moe_cache.predict import Predictor
from evaluators.moe_cache.recording.checkpoint import Codec
from evaluators.moe_cache.runtime.generate import Generated, Offloaded, OffloadedModel, check_plan, generate
from evaluators.moe_cache.runtime.offloadable import OffloadableModel, load_offloadable
from evaluators.moe_cache.trace import DECODE

MIB = 2**20


@dataclass(frozen=True, eq=False)
class Comparison:
    """A generation under a plan, and the same without offloading; None where that was not asked for.

    Attributes:
        resident_bytes: of all weights but the routed experts'.
        expert_bytes: of all routed experts.
    """

    plan: CachePlan
    codec: Codec
    tiers: str
    offloaded: Offloaded
    resident: Generated | None
    resident_bytes: int
    expert_bytes: int

    @property
    def text(self) -> str:
        return self.codec.decode(self.offloaded.generated.tokens)

    @property
    def parts_at(self) -> int | None:
        """The first token that differs from the generation without offloading; None where there is none."""
        if self.resident is None:
            return None
        ours, theirs = self.offloaded.generated.tokens, self.resident.tokens
        pairs = enumerate(zip(ours, theirs, strict=False))
        differing = next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
        return None if ours == theirs else differing

    @property
    def logit_difference(self) -> float | None:
        """The largest difference of a logit, over the passes whose input is the same in both."""
        if self.resident is None:
            return None
        same = len(self.resident.tokens) if self.parts_at is None else self.parts_at + 1
        ours, theirs = self.offloaded.generated.logits[:same], self.resident.logits[:same]
        return float((ours - theirs).abs().max())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; times in ms, memory in MiB."""
        run, counters = self.offloaded, self.offloaded.counters
        decoded = len(run.generated.latency_ms) - 1
        return {
            "text": self.text,
            "tokens": list(run.generated.tokens),
            "tiers": self.tiers,
            "offloaded": {
                **_times(run.generated),
                "hit_rate": run.hit_rate,
                "hit_rate_all": run.hit_rate_all,
                "moved_mib": float(counters.moved[DECODE]) / MIB / decoded if decoded else None,
                "exposed_transfer_ms": float(counters.idle_s[DECODE].sum()) * 1e3 / decoded if decoded else None,
                "prefetches_used": int(counters.used.sum()),
                "prefetches_started": int(counters.started.sum()),
                "experts_mib": run.fast_bytes / MIB,
                "weights_mib": (run.fast_bytes + self.resident_bytes) / MIB,
            },
            "resident": None
            if self.resident is None
            else {
                **_times(self.resident),
                "experts_mib": self.expert_bytes / MIB,
                "weights_mib": (self.expert_bytes + self.resident_bytes) / MIB,
            },
            "same_tokens": None if self.resident is None else self.parts_at is None,
            "parts_at_token": self.parts_at,
            "largest_logit_difference": self.logit_difference,
        }


def compare(
    checkpoint: Path,
    given: PlanFile,
    prompt: str,
    n_tokens: int,
    *,
    tier: str = "auto",
    scratch: Path | None = None,
    as_bytes: bool = False,
    resident: bool = True,
    progress: Callable[[str], None] | None = None,
) -> Comparison:
    """Load a checkpoint, generate with its experts in fast memory, move them to the slow tier, and generate under the plan.

    The first generation's routing is what the policy `belady` and the predictor `oracle` look ahead in.

    Args:
        checkpoint: a folder written by ``save_pretrained``, or the tiny model's file.
        resident: also generate without offloading, which takes the memory of the whole model.
        progress: told what begins.

    Raises:
        UsageError: for what cannot be loaded or run, and a plan of another model.
    """
    tell = progress or (lambda _what: None)
    plan = given.plan
    pair = TierPair.detect() if tier == "auto" else TierPair.parse(tier)
    if pair.fast_device == "cuda" and not torch.cuda.is_available():
        raise UsageError("tier gpu<-host needs a CUDA device and torch sees none here; use tier ram<-disk")
    foreseen = plan.prefetch_depth > 0 and plan.predictor == Predictor.RECORDED
    model, codec = load_offloadable(checkpoint, predictions=foreseen, as_bytes=as_bytes)
    _check(model, given)
    check_plan(plan, model, pair)
    looks_ahead = plan.policy == Policy.BELADY or (plan.prefetch_depth > 0 and plan.predictor == Predictor.ORACLE)
    if looks_ahead and not resident:
        raise UsageError("the plan looks into the future, which the run without offloading tells; let it run too")
    tokens = codec.encode(prompt)
    whole: Generated | None = None
    if resident:
        tell("generating without offloading")
        model.to(pair.fast_device)
        whole = generate(model, tokens, n_tokens)
    expert_bytes = model.layout.nbytes * model.n_layers * model.n_experts
    tell(f"moving {expert_bytes / MIB:.0f} MiB of experts to the slow tier")
    with OffloadedModel(model, pair, scratch, _parallel_reads(pair, scratch)) as offloaded:
        tell("generating under the plan")
        run = offloaded.generate(
            plan, tokens, n_tokens, popularity=given.popularity, oracle=None if whole is None else whole.trace
        )
    return Comparison(plan, codec, pair.name, run, whole, model.resident_bytes, expert_bytes)


def _check(model: OffloadableModel, given: PlanFile) -> None:
    layout = model.layout
    shape = (model.n_layers, model.n_experts, model.top_k)
    given.check_model(model.name, shape, (layout.hidden, layout.inter), layout.nbytes)


def _parallel_reads(pair: TierPair, scratch: Path | None) -> int:
    """As this machine's profile found best; one at a time where nobody measured it."""
    if pair.slow_device is not None:
        return 1
    profile = load_cached(current_environment(scratch_folder(scratch)), pair)
    return 1 if profile is None else profile.best_depth


def _times(generated: Generated) -> dict[str, float | None]:
    decode = generated.latency_ms[1:]
    return {
        "tokens_per_s": generated.tokens_per_s,
        "token_latency_ms": float(decode.mean()) if decode.size else None,
        "token_latency_p50_ms": float(np.percentile(decode, 50)) if decode.size else None,
        "prefill_ms": float(generated.latency_ms[0]),
    }
