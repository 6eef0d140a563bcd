"""Process meshes of a run, and a model's chunks made on them: split, recomputed and spread.

Tensor parallelism is DTensor's styles with sequence parallelism, and the loss is computed on split logits; recomputation is
PyTorch's checkpoint wrapper; what data parallelism holds and sends is FSDP2:

- zero 0: weights, gradients and optimizer states whole everywhere (a mesh of replicas x 1); gradients reduced once a step.
- zero 1: weights gathered once a step and kept, whole gradients added up over micro-batches, scattered once a step.
- zero 2: the same, but gradients scattered after every micro-batch; in a pipeline, which adds them up, as zero 1.
- zero 3: weights given back after each block's forward and backward pass; in a pipeline given back after forward passes only.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_module
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    parallelize_module,
)
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from evaluators.training_layout.real.experts import FeedForward, Held, RoutedExperts
from evaluators.training_layout.real.network import Block, Transformer
from evaluators.training_layout.real.run import Run

_aten, _collectives = torch.ops.aten, torch.ops._c10d_functional
# What selective recomputation keeps: products, attention, and what came over links. Norms and activations are made anew.
_KEPT = [
    _aten.mm.default,
    _aten._grouped_mm.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _collectives.reduce_scatter_tensor.default,
    _collectives.all_to_all_single.default,
]


class Meshes:
    """The processes of a run by their places. Neighbours are tensor-parallel, then context-, then data-parallel, then stages.

    FSDP2 wants its mesh and that of tensor parallelism cut from one; context parallelism and experts, whose tensors it does
    not see split, have meshes of their own.

    Attributes:
        pipeline, tensor, context: along these degrees.
        dense: replicas of dense weights, by groups of shards.
        experts: replicas of experts, likewise.
        held: this process's part of every layer's experts.
        data_rank: number of this process among the data-parallel.
    """

    def __init__(self, run: Run) -> None:
        def mesh(**sizes: int) -> DeviceMesh:
            return init_device_mesh(run.device, tuple(sizes.values()), mesh_dim_names=tuple(sizes))

        dense = mesh(pipeline=run.pp, groups=run.replicas // run.shards, shards=run.shards, tensor=run.tp)
        places = mesh(pipeline=run.pp, data=run.dp, context=run.cp, tensor=run.tp)
        self.pipeline, self.tensor, self.dense = dense["pipeline"], dense["tensor"], _spreading(dense)
        self.context = places["context"]
        self.data_rank = places.get_local_rank("data")
        self.experts: DeviceMesh | None = None
        self.held = Held()
        if run.shape.n_experts:
            shards = math.gcd(run.shards, run.expert_replicas)
            groups = run.expert_replicas // shards
            # Tensor-parallel parts of an expert lie next to each other, as those of dense weights do.
            root = mesh(pipeline=run.pp, groups=groups, shards=shards, ep=run.ep, etp=run.etp)
            self.experts = _spreading(root)
            group = root.get_group("ep") if run.ep > 1 else None
            self.held = Held(run.ep, root.get_local_rank("ep"), run.etp, root.get_local_rank("etp"), group)


def _spreading(root: DeviceMesh) -> DeviceMesh:
    """The mesh for FSDP2: shards, repeated over groups of them if there are several."""
    return root["shards"] if root["groups"].size() == 1 else root["groups", "shards"]


def make_chunk(run: Run, meshes: Meshes, chunk: int) -> Transformer:
    """One model chunk, block by block: each is spread before the next is made, so that no process ever holds them all."""
    with torch.device(run.device):
        part = Transformer(run.shape, run.sequence, first=chunk == 0, last=chunk == run.chunks - 1)
    spread = run.processes > 1 or _dtype(run) != torch.float32
    if run.tp > 1:
        _split_ends(part, meshes.tensor)
    if run.shape.tied and run.chunks == 1:
        part.tie()
    for layer in run.layers_of(chunk):
        expert = layer >= run.shape.n_layers - run.shape.expert_layers
        with torch.device(run.device):
            block = Block(run.shape, layer, meshes.held if expert else None)
        if run.tp > 1:
            _split_block(block, meshes.tensor)
        routed = block.feed_forward.inner if isinstance(block.feed_forward.inner, RoutedExperts) else None
        placed = _recomputed(block, run.recompute) if run.recomputed(layer) else block
        if spread:
            if routed is not None:
                assert meshes.experts is not None
                _spread(routed.experts, meshes.experts, run)
            _spread(placed, meshes.dense, run)
        part.blocks[str(layer)] = placed
    if spread:
        if part.embedding is not None and not run.shape.tied:
            _spread(part.embedding, meshes.dense, run)
        # The last norm and the projection are at work at the end of the forward and the start of the backward pass.
        _spread(part, meshes.dense, run, keep=True)
    return part


def dtype_name(run: Run) -> str:
    """What products are computed in, for people."""
    if _dtype(run) == torch.bfloat16:
        return "bfloat16 with float32 master weights"
    return "float32, products in TF32" if run.device == "cuda" else "float32"


def _dtype(run: Run) -> torch.dtype:
    # Processors without matrix units for it compute bfloat16 more slowly than float32.
    return torch.bfloat16 if run.device == "cuda" and run.precision == "bf16" else torch.float32


def _spread(module: nn.Module, mesh: DeviceMesh, run: Run, *, keep: bool = False) -> None:
    policy = MixedPrecisionPolicy(param_dtype=_dtype(run), reduce_dtype=torch.float32)
    fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=run.zero == 3 and not keep)


def _recomputed(block: Block, how: str) -> nn.Module:
    if how == "full":
        wrapped: nn.Module = checkpoint_wrapper(block, preserve_rng_state=False)
        return wrapped
    keep: dict[str, Any] = {
        "preserve_rng_state": False,
        "context_fn": functools.partial(create_selective_checkpoint_contexts, _KEPT),
    }
    if not isinstance(block.feed_forward.inner, RoutedExperts):
        selective: nn.Module = checkpoint_wrapper(block, **keep)
        return selective
    # Kept values are found by counting calls, among which those that gather the weights of experts must not be.
    block.attention = checkpoint_wrapper(block.attention, **keep)
    block.feed_forward.inner.experts.again = functools.partial(checkpoint, use_reentrant=False, **keep)
    return block


def _split_ends(part: Transformer, mesh: DeviceMesh) -> None:
    plan: dict[str, Any] = {}
    if part.embedding is not None:
        plan["embedding"] = RowwiseParallel(input_layouts=Replicate(), output_layouts=Shard(1))
    if part.norm is not None:
        plan["norm"] = SequenceParallel()
        # Logits stay split: whole ones would be the largest tensor of the step.
        plan["head"] = ColwiseParallel(input_layouts=Shard(1), output_layouts=Shard(-1), use_local_output=False)
    parallelize_module(part, mesh, plan)


def _split_block(block: Block, mesh: DeviceMesh) -> None:
    plan: dict[str, Any] = {
        "attention.norm": SequenceParallel(),
        "attention.inner": PrepareModuleInput(
            input_layouts=(Shard(1), None), desired_input_layouts=(Replicate(), None)
        ),
        "attention.inner.queries": ColwiseParallel(),
        "attention.inner.keys": ColwiseParallel(),
        "attention.inner.values": ColwiseParallel(),
        "attention.inner.out": RowwiseParallel(output_layouts=Shard(1)),
        "feed_forward.norm": SequenceParallel(),
    }
    blocks: dict[str, FeedForward] = {}
    inner = block.feed_forward.inner
    if isinstance(inner, FeedForward):
        blocks["feed_forward.inner"] = inner
    elif isinstance(inner, RoutedExperts):
        distribute_module(inner.router, mesh)
        if inner.shared is not None:
            blocks["feed_forward.inner.shared"] = inner.shared
    for name, dense in blocks.items():
        plan[name] = PrepareModuleInput(input_layouts=(Shard(1),), desired_input_layouts=(Replicate(),))
        widening = ("up", "gate") if dense.gate is not None else ("up",)
        plan |= {f"{name}.{product}": ColwiseParallel() for product in widening}
        plan[f"{name}.down"] = RowwiseParallel(output_layouts=Shard(1))
    parallelize_module(block, mesh, plan)
