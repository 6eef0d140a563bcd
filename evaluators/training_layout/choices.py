"""Settings of a training job that are fixed, or searched over where several values are given, separated by commas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from autotune.errors import UsageError
from evaluators.choices import Choice, Knob, knob, one_of, real, whole
from evaluators.training_layout.gpus import CLUSTER, Gpu
from evaluators.training_layout.layouts import Context

ADAM8 = "adam8bit"
# Bytes per parameter: Adam's two moments and the master copy in float32; and with moments in 8 bits (arXiv:2110.02861).
OPTIMIZER_BYTES: Mapping[str, float] = MappingProxyType({"adam": 12.0, ADAM8: 6.0})
CONTEXTS: Mapping[str, Context] = MappingProxyType(
    {"ring": Context.RING, "ulysses": Context.ULYSSES, "tokenring": Context.TOKEN_RING}
)


def _levels(text: str) -> str:
    names = text.split("/")
    if len(names) not in (1, 3) or not all(name in ("pair", "node", "rack", CLUSTER) for name in names):
        raise ValueError(
            "use a link level (pair, node, rack, cluster), or three, for weights, gradients and optimizer states: "
            "node/node/cluster"
        )
    return text


_CHOICES = (
    Choice(
        "precision",
        one_of("bf16", "fp8", "fp8-block", "mxfp8", "fp4", "fp32"),
        "number format of the matrix products: bf16, fp8, fp8-block, mxfp8, fp4; or fp32 of everything",
        "bf16",
    ),
    Choice(
        "optimizer",
        one_of(*OPTIMIZER_BYTES),
        "adam keeps 12 bytes a parameter in float32, adam8bit 6, with moments in 8 bits",
        "adam",
    ),
    Choice(
        "context",
        one_of(*CONTEXTS),
        "how context parallelism works: ring, ulysses, tokenring",
        "ring,ulysses",
        "cp > 1",
    ),
    Choice(
        "shard_within",
        _levels,
        "over which GPUs ZeRO spreads: a link level (pair, node, rack, cluster), or three, for weights, gradients and "
        "optimizer states: node/node/cluster; every level of the GPU's systems if left out",
        "",
        "zero >= 1",
    ),
    Choice(
        "offload_states",
        one_of("none", "host", "ssd"),
        "where optimizer states lie: none (on the GPU), host, ssd",
        "none",
    ),
    Choice(
        "offload_activations",
        real(0.0, 1.0),
        "share of the kept activations that wait in host memory",
        "0",
    ),
    Choice(
        "overlap",
        one_of("standard", "t3", "ladder", "co2", "fuyou"),
        "what hides what: standard; t3: reduce-scatters behind the products before them; ladder: tensor-parallel traffic "
        "behind the next block; co2: gradients behind the next local steps; fuyou: an offloaded optimizer behind the backward "
        "pass",
        "standard",
    ),
    Choice(
        "sparsity",
        real(0.0, 1.0, below=True),
        "share of the weights that are pruned, whose gradients and states are not kept (SAMO)",
        "0",
    ),
    Choice(
        "local_steps",
        whole(1, 10_000),
        "steps between synchronisations of shard groups (DiLoCo)",
        "1",
    ),
    Choice(
        "moe_pipeline",
        whole(1, 64),
        "parts that a layer's tokens are cut into on their way through experts (FSMoE)",
        "1",
        "ep > 1",
    ),
    Choice(
        "gradient_slices",
        whole(0, 64),
        "slices of gradients that are reduced in the gaps of the experts' pipeline (FSMoE); 0: none",
        "0",
        "ep > 1",
    ),
    Choice(
        "length_groups",
        one_of("static", "dynamic"),
        "with lengths: static gives every document the whole context-parallel group, dynamic as many GPUs as it needs "
        "(ByteScale)",
        "static",
    ),
    Choice(
        "redundancy",
        whole(0, 64),
        "straggling copies that need not be waited for, each at the price of as much work again (gradient coding, ICML 2017)",
        "0",
    ),
)
CHOICES: Mapping[str, Choice] = MappingProxyType({choice.name: choice for choice in _CHOICES})
OF_EXPERTS = ("moe_pipeline", "gradient_slices")


def chosen(texts: Mapping[str, str | None], gpu: Gpu) -> dict[str, tuple[Any, ...]]:
    """The values of every setting; the first of each is the usual one.

    Args:
        texts: of options, None where left out.

    Raises:
        UsageError: for an unknown setting or value.
    """
    unknown = set(texts) - set(CHOICES)
    if unknown:
        raise UsageError(f"setting {sorted(unknown)[0]!r} is unknown; use {', '.join(CHOICES)}")
    found = {}
    for name, choice in CHOICES.items():
        text = texts.get(name)
        usual = choice.usual or ",".join(_usual_levels(gpu))
        found[name] = choice.values(usual if text is None else text)
    return found


def _usual_levels(gpu: Gpu) -> list[str]:
    """Everything over the whole cluster, or over one level; and states over the cluster with all else over the nearest level,
    as on Frontier (three levels) and with ZeRO++'s secondary shards."""
    nearest = next(iter(gpu.levels))
    return [CLUSTER, *reversed(gpu.levels), f"{nearest}/{nearest}/{CLUSTER}"]


def knobs(settings: Mapping[str, tuple[Any, ...]], experts: bool) -> list[Knob]:
    """The settings that have several values, as parameters."""
    return [
        knob(CHOICES[name], values, CHOICES[name].when)
        for name, values in settings.items()
        if len(values) > 1 and (experts or name not in OF_EXPERTS)
    ]


def shard_levels(value: str) -> Sequence[str]:
    """The levels over which weights, gradients and states are spread."""
    names = value.split("/")
    return names * 3 if len(names) == 1 else names
