"""Whole models whose routed experts somebody else can compute: the tiny model, and Hugging Face checkpoints.

Their own forward pass stays as it is; the experts of every feed-forward block are taken out of it and handed over.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from autotune.errors import UsageError
from evaluators.moe_cache.recording.checkpoint import Codec, byte_codec, check_folder, load_codec, load_model
from evaluators.moe_cache.recording.hugging_face import HuggingFaceRoutedModel, RoutedLayer
from evaluators.moe_cache.recording.loop import RoutedModel
from evaluators.moe_cache.recording.tiny_moe import TinyMoE
from evaluators.moe_cache.recording.tiny_recording import TinyRoutedModel, load_tiny
from evaluators.moe_cache.runtime.layout import ExpertLayout, feed_forward

# ``(layer, hidden, experts, weights)`` to the layer's routed output: T x h, T x k and T x k to T x h.
Compute = Callable[[int, Tensor, Tensor, Tensor], Tensor]

# How far two ways to compute one expert may differ, relative to its output: rounding of bfloat16 stays below.
_ROUNDING = 0.05


class OffloadableModel(RoutedModel, Protocol):
    """A model that can be run one pass at a time, with its own experts or with somebody else's."""

    @property
    def n_layers(self) -> int: ...

    @property
    def top_k(self) -> int: ...

    @property
    def layout(self) -> ExpertLayout:
        """How an expert lies in memory."""

    @property
    def resident_bytes(self) -> int:
        """Bytes of all weights but those of the routed experts."""

    def expert(self, layer: int, index: int) -> Tensor:
        """A copy of one expert, ``inter x 3 x hidden``; only before `hand_over`."""

    def hand_over(self, compute: Compute) -> None:
        """Let `compute` do all routed experts from now on, and free those held here."""

    def to(self, device: str) -> None:
        """Move the weights."""

    def predict(self, layer: int, distance: int) -> Tensor:
        """``(T, k)`` experts that `layer` would choose for the running pass's activations `distance` layers before it."""


class OffloadableTiny(TinyRoutedModel):
    """The tiny model.

    Args:
        predictions: keep what `predict` needs.
    """

    def __init__(self, model: TinyMoE, predictions: bool = True) -> None:
        super().__init__(model)
        config = model.config
        self.n_layers, self.top_k = config.n_layers, config.top_k
        self.layout = ExpertLayout(config.hidden_size, config.expert_intermediate_size, model.head.weight.dtype)
        self.resident_bytes = _bytes(model) - sum(self.expert_bytes) * config.n_experts
        self._hidden: list[Tensor | None] = [None] * config.n_layers
        if predictions:
            for layer, block in enumerate(model.layers()):
                block.moe_norm.register_forward_pre_hook(self._keep(layer))

    def _keep(self, layer: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            self._hidden[layer] = inputs[0]

        return hook

    def expert(self, layer: int, index: int) -> Tensor:
        moe = self._model.layers()[layer].moe
        gate, up = moe.gate_up[index].detach().t().chunk(2)
        return self.layout.pack(gate, up, moe.down[index].detach().t())

    def hand_over(self, compute: Compute) -> None:
        for layer, block in enumerate(self._model.layers()):
            block.moe.computed = _of_layer(compute, layer)
            del block.moe.gate_up, block.moe.down

    def to(self, device: str) -> None:
        self._model.to(device)

    def predict(self, layer: int, distance: int) -> Tensor:
        block, hidden = self._model.layers()[layer], self._hidden[layer - distance]
        assert hidden is not None
        # `forward` alone: calling the norm would run its hook.
        return block.moe.route(block.moe_norm.forward(hidden))[1]


class OffloadableHuggingFace(HuggingFaceRoutedModel):
    """A loaded causal language model of the Hugging Face library.

    Args:
        predictions: hook the norms too, so that `predict` works.

    Raises:
        UsageError: for experts that differ in size or are no plain SwiGLU.
    """

    def __init__(self, model: nn.Module, name: str, predictions: bool = True) -> None:
        super().__init__(model, name, predictions)
        self.n_layers = len(self._layers)
        layouts = [_layout(layer) for layer in self._layers]
        for routed, layout in zip(self._layers, layouts, strict=True):
            if layout != layouts[0]:
                raise UsageError(
                    f"experts differ in size: {layouts[0].nbytes} bytes in layer {self._layers[0].index} and {layout.nbytes} "
                    f"in layer {routed.index}; the runtime holds experts of one size"
                )
        self.layout = layouts[0]
        for routed in self._layers:
            _check_experts(routed, self.layout)
        self.top_k = _top_k(self._layers[0], self.layout)
        self.resident_bytes = _bytes(model) - sum(self.expert_bytes) * self.n_experts

    def expert(self, layer: int, index: int) -> Tensor:
        return _packed(self._layers[layer].experts, index, self.layout)

    def hand_over(self, compute: Compute) -> None:
        for layer, routed in enumerate(self._layers):
            routed.experts = _Elsewhere(_of_layer(compute, layer))
            routed.block.experts = routed.experts

    def to(self, device: str) -> None:
        self._model.to(device)

    def predict(self, layer: int, distance: int) -> Tensor:
        return self._predict(layer, distance)


class _Elsewhere(nn.Module):
    """Stands where a block's experts stood."""

    def __init__(self, compute: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self._compute = compute

    def forward(self, hidden: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        return self._compute(hidden, experts, weights)


def load_offloadable(checkpoint: Path, *, predictions: bool, as_bytes: bool = False) -> tuple[OffloadableModel, Codec]:
    """A checkpoint's folder, or the tiny model's file of weights, in the computer's own memory.

    Args:
        predictions: prepare for `OffloadableModel.predict`.
        as_bytes: feed UTF-8 bytes instead of the checkpoint's tokens.

    Raises:
        UsageError: for what cannot be loaded or offloaded.
    """
    if checkpoint.is_file():
        return OffloadableTiny(load_tiny(checkpoint), predictions), byte_codec()
    check_folder(checkpoint)
    codec = byte_codec() if as_bytes else load_codec(checkpoint)
    model = load_model(checkpoint, "cpu", "auto")
    return OffloadableHuggingFace(model, checkpoint.resolve().name, predictions), codec


def _of_layer(compute: Compute, layer: int) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def one(hidden: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        return compute(layer, hidden, experts, weights)

    return one


def _layout(routed: RoutedLayer) -> ExpertLayout:
    """From the two stacked matrices, ``N x 2f x h`` and ``N x h x f``, that transformers 5 gives experts."""
    gate_up, down = (getattr(routed.experts, name, None) for name in ("gate_up_proj", "down_proj"))
    if isinstance(gate_up, Tensor) and isinstance(down, Tensor) and gate_up.dim() == down.dim() == 3:
        inter, hidden = gate_up.shape[1] // 2, gate_up.shape[2]
        whole = len(list(routed.experts.parameters())) == 2
        if whole and gate_up.is_floating_point() and tuple(down.shape) == (len(gate_up), hidden, inter):
            return ExpertLayout(hidden, inter, gate_up.dtype)
    raise _not_plain(routed)


def _not_plain(routed: RoutedLayer) -> UsageError:
    return UsageError(
        f"the experts of layer {routed.index} ({type(routed.experts).__name__}) are no plain SwiGLU, which is all that the "
        "runtime computes; offloading does not support this family"
    )


def _packed(experts: nn.Module, index: int, layout: ExpertLayout) -> Tensor:
    parts: Any = experts
    gate, up = parts.gate_up_proj[index].detach().chunk(2)
    return layout.pack(gate, up, parts.down_proj[index].detach())


@torch.no_grad()
def _check_experts(routed: RoutedLayer, layout: ExpertLayout) -> None:
    """Compute a token both ways: another activation, or other places of its matrices, would show."""
    generator = torch.Generator().manual_seed(0)
    weight: Any = routed.experts.gate_up_proj
    x = torch.randn(1, layout.hidden, generator=generator).to(weight.device, layout.dtype)
    index = torch.zeros((1, 1), dtype=torch.int64, device=weight.device)
    theirs = routed.experts(x, index, torch.ones((1, 1), dtype=layout.dtype, device=weight.device)).float()
    ours = feed_forward(_packed(routed.experts, 0, layout), x).float()
    if not (ours - theirs).norm() <= _ROUNDING * theirs.norm():
        raise _not_plain(routed)


@torch.no_grad()
def _top_k(routed: RoutedLayer, layout: ExpertLayout) -> int:
    weight: Any = routed.router.weight
    # `forward` alone, past the hooks: this is no pass of the model.
    output = routed.router.forward(torch.zeros((1, layout.hidden), dtype=layout.dtype, device=weight.device))
    return int(routed.choice_of(output)[0].shape[1])


def _bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())
