"""llama.cpp: experts of whole layers on GPU or CPU, and, since October 2026, a cache for those on the CPU.

Checked with `tools/server/README.md` of ggml-org/llama.cpp (master, October 2026): ``--override-tensor PATTERN=BUFFER``,
``--n-cpu-moe``, ``--n-gpu-layers``, ``--moe-cache-mib``; with `common/common.h` for the names of expert tensors that
``--n-cpu-moe`` itself matches; and with `src/llama-moe-cache.cpp` for what the cache does: one least-recently-used list of
whole experts, shared by all layers on a device whose expert tensors have the same layout, and only for layers that keep all
of their experts on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autotune.errors import UsageError
from autotune.exporting import Exported, NoOptions
from autotune.space import Config
from autotune.text import plural
from evaluators.engines.arguments import commented
from evaluators.moe_cache.exporters.subject import MIB, Subject, losses
from evaluators.moe_cache.plan import CachePlan
from evaluators.moe_cache.policies import Policy
from evaluators.moe_cache.profiled import plan_of

NAME = "llama.cpp"
SUMMARY = "--override-tensor: experts of whole layers on the GPU or the CPU"
CACHE_NAME = "llama.cpp-cache"
CACHE_SUMMARY = "--moe-cache-mib (builds since October 2026): one LRU cache of experts for all layers"

_EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"  # fused and separate matrices, weights and biases


def write(config: Config, subject: Subject, options: NoOptions, stem: str) -> Exported:
    """Arguments for ``llama-server`` or ``llama-cli`` that keep the experts of whole layers on the GPU."""
    del options, stem
    plan = plan_of(config)
    resident = whole_layers(plan, subject)
    cpu = [layer for layer in range(subject.n_layers) if layer not in resident]
    cannot = (
        *losses(
            plan,
            subject,
            policy={"static": _WHOLE_LAYERS, "dynamic": _WHOLE_LAYERS},
            split="all of an expert or nothing of it is on the GPU",
            prefetch=_NO_PREFETCH,
            cpu="where the experts on the CPU are computed is llama.cpp's choice, by the size of the batch",
        ),
        _budgets(plan, subject, resident),
    )
    arguments = [_all_layers(subject), *_to_cpu([subject.decoder_layers[layer] for layer in cpu])]
    return Exported(
        commented(
            f"llama.cpp: experts of {len(resident)} of {subject.n_layers} layers on the GPU",
            (_USE, *_in_short(subject, cpu)),
            cannot,
            arguments,
        ),
        ".args",
        cannot,
    )


def write_cache(config: Config, subject: Subject, options: NoOptions, stem: str) -> Exported:
    """Arguments that keep experts on the CPU and cache the recently used ones on the GPU.

    Raises:
        UsageError: when the budgets hold fewer experts than a token uses, with which llama.cpp refuses to start.
    """
    del options, stem
    plan = plan_of(config)
    held = subject.whole_experts(plan)
    resident = {layer for layer in range(subject.n_layers) if held[layer] == subject.n_experts}
    cpu = [layer for layer in range(subject.n_layers) if layer not in resident]
    cached = [plan.budget_bytes[layer] for layer in cpu if plan.theta[layer] > 0]
    mib = sum(cached) // MIB
    one = int(subject.expert_bytes.max())
    # One slot more than it uses is allocated.
    need = (subject.model.top_k + 1) * one
    if cpu and mib * MIB < need:
        raise UsageError(
            f"format {CACHE_NAME!r}: the caches have {sum(cached) / MIB:.1f} MiB, and llama.cpp starts its cache with "
            f"{need / MIB:.1f} MiB or more (the {subject.model.top_k} experts of a token and one); export it for {NAME}"
        )
    lru = "llama.cpp's cache evicts the least recently used expert"
    cannot = losses(
        plan,
        subject,
        policy={} if plan.policy == Policy.LRU else {"static": lru, "dynamic": lru},
        split="whole experts are cached",
        prefetch=_NO_PREFETCH,
        cpu="a missing expert is always loaded",
    )
    if cpu:
        shares = sorted({plan.budget_bytes[layer] for layer in cpu})
        cannot += (
            f"budgets by layer ({shares[0] / MIB:.1f} to {shares[-1] / MIB:.1f} MiB): {plural(len(cpu), 'layer')} share one "
            f"cache of {mib} MiB, and what is used least recently leaves, of whatever layer",
        )
    arguments = [_all_layers(subject), *_to_cpu([subject.decoder_layers[layer] for layer in cpu])]
    if cpu:
        arguments.append(f"--moe-cache-mib {mib}")
    title = f"llama.cpp: experts of {len(cpu)} of {subject.n_layers} layers on the CPU, with a cache on the GPU"
    return Exported(commented(title, (_USE, *_in_short(subject, cpu)), cannot, arguments), ".args", cannot)


_USE = "llama-server --model MODEL.gguf $(grep -v '^#' THIS_FILE)"
_WHOLE_LAYERS = "experts do not come and go, and all of a layer's experts lie in one place"
_NO_PREFETCH = "llama.cpp predicts no experts, so nothing is fetched ahead"


def whole_layers(plan: CachePlan, subject: Subject) -> frozenset[int]:
    """Layers whose experts all stay on the GPU, within the bytes of all caches together.

    First those whose own budget holds all of them; what the others have goes to the layers with the largest budgets, of equal
    ones to the last, so that those on the CPU are the first, as ``--n-cpu-moe`` has them.
    """
    size = subject.expert_bytes * subject.n_experts
    budget = np.where(np.asarray(plan.theta) > 0, np.minimum(plan.budget_bytes, size), 0)
    left = int(budget.sum())
    chosen = set()
    for layer in sorted(range(subject.n_layers), key=lambda i: (budget[i] >= size[i], budget[i], i), reverse=True):
        if budget[layer] > 0 and size[layer] <= left:
            chosen.add(layer)
            left -= int(size[layer])
    return frozenset(chosen)


def _budgets(plan: CachePlan, subject: Subject, resident: frozenset[int]) -> str:
    used = sum(int(subject.expert_bytes[layer]) * subject.n_experts for layer in resident)
    total = sum(plan.budget_bytes)
    return (
        f"budgets by layer: {total / MIB:.1f} MiB of caches became {plural(len(resident), 'whole layer')} of {used / MIB:.1f} "
        "MiB, those with the largest budgets"
    )


def _all_layers(subject: Subject) -> str:
    """All decoder layers and the output on the GPU; the experts are then moved off by tensor."""
    return f"--n-gpu-layers {subject.model.n_decoder_layers + 1}"


def _to_cpu(blocks: Sequence[int]) -> list[str]:
    """One override for the experts of these blocks, in the naming ``blk.N.ffn_up_exps.weight`` of GGUF files."""
    return [rf"--override-tensor blk\.({'|'.join(map(str, blocks))}){_EXPERTS}=CPU"] if blocks else []


def _in_short(subject: Subject, cpu: Sequence[int]) -> tuple[str, ...]:
    """The usual option for it, where the layers on the CPU are the first ones."""
    if list(cpu) != list(range(len(cpu))):
        return ()
    first = subject.decoder_layers[cpu[-1]] + 1 if cpu else 0
    return (f"--override-tensor says the same as: --n-cpu-moe {first}",) if cpu else ()
