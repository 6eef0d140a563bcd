"""A local Hugging Face mixture-of-experts checkpoint as a `RoutedModel`: router outputs by forward hooks.

Nothing here names a model family. transformers 5 gives all of them one shape: in the feed-forward block of a decoder
layer a router (`gate` or `router`) stands beside `experts` and returns ``(logits, weights, indices)``, whose last two
are what the experts are called with; a norm (`post_attention_layernorm`) comes before. What a checkpoint does otherwise
is refused with a sentence, never guessed. The tests hold it for Mixtral, Qwen2-MoE, Qwen3-MoE, DeepSeek-V2 and V3,
OLMoE, gpt-oss and Granite-MoE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from autotune.errors import UsageError
from evaluators.moe_cache.recording.loop import PassRecord, pass_record

_ROUTERS = ("gate", "router")
_NORM = "post_attention_layernorm"


@dataclass
class RoutedLayer:
    """One decoder layer with experts, and what its hooks saw in the last pass.

    Attributes:
        index: position among all decoder layers.
        block: the feed-forward block that `router` and `experts` are parts of.
        preceding: decoder layers without experts between the previous routed layer and this one.
    """

    index: int
    layer: nn.Module
    block: nn.Module
    router: nn.Module
    experts: nn.Module
    norm: nn.Module | None
    preceding: list[nn.Module] = field(default_factory=list)
    hidden: Tensor | None = None
    normed: Tensor | None = None
    chosen: tuple[Tensor, Tensor] | None = None

    @property
    def n_experts(self) -> int:
        weight = getattr(self.router, "weight", None)
        if not isinstance(weight, Tensor) or weight.dim() != 2:
            raise UsageError(
                f"the router of layer {self.index} ({type(self.router).__name__}) has no weight matrix; "
                "its family is not supported by trace recording"
            )
        return int(weight.shape[0])

    def attach(self) -> None:
        """Register the hooks; they stay for the life of the model."""
        self.router.register_forward_hook(self._saw_router)
        if self.norm is not None:
            self.norm.register_forward_hook(self._saw_norm)

    def _saw_norm(self, _module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        self.hidden, self.normed = inputs[0].flatten(0, -2), output.flatten(0, -2)

    def _saw_router(self, _module: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        self.chosen = self.choice_of(output)
        if self.norm is not None and (self.normed is None or not torch.equal(self.normed, inputs[0].flatten(0, -2))):
            raise UsageError(
                f"layer {self.index}: the router ({type(self.router).__name__}) does not read the output of {_NORM}, "
                "so predictions cannot be recorded; set depths to 0"
            )

    def choice_of(self, output: object) -> tuple[Tensor, Tensor]:
        """Experts and weights, both ``(N, k)``, of a router's output."""
        if isinstance(output, tuple) and len(output) == 3 and all(isinstance(part, Tensor) for part in output):
            _, weights, experts = output
            if weights.shape == experts.shape and not experts.is_floating_point() and not experts.is_complex():
                return experts, weights
        raise UsageError(
            f"layer {self.index}: the router ({type(self.router).__name__}) does not return (logits, weights, "
            'indices); trace recording needs transformers 5 or newer: pip install -U "autotune[hf]"'
        )


class HuggingFaceRoutedModel:
    """A loaded causal language model as the recording loop sees it.

    Args:
        model: a transformers causal language model in evaluation mode.
        name: of the trace.
        predictions: hook the norms too, so that `forward` can predict later layers.

    Raises:
        UsageError: when it has no routed layers, or layers of different shape.
    """

    def __init__(self, model: nn.Module, name: str, predictions: bool) -> None:
        self.name = name
        self._model = model
        config: Any = model.config
        # Of a model that sees images too, the part that speaks.
        self._config: Any = config.get_text_config()
        self._layers = routed_layers(model, predictions)
        self._cache: Any = None
        self.n_experts = self._layers[0].n_experts
        for layer in self._layers:
            if layer.n_experts != self.n_experts:
                raise UsageError(
                    f"layer {layer.index} has {layer.n_experts} experts, but layer {self._layers[0].index} has "
                    f"{self.n_experts}; a trace needs the same number in every layer"
                )
            layer.attach()

    @property
    def layer_indices(self) -> tuple[int, ...]:
        """Which decoder layers the trace's layers are."""
        return tuple(layer.index for layer in self._layers)

    @property
    def context(self) -> int | None:
        limit = getattr(self._config, "max_position_embeddings", None)
        return int(limit) if limit else None

    @cached_property
    def end_tokens(self) -> frozenset[int]:
        generation = getattr(self._model, "generation_config", None)
        ends = getattr(generation, "eos_token_id", None)
        ends = getattr(self._config, "eos_token_id", None) if ends is None else ends
        return frozenset() if ends is None else frozenset([ends] if isinstance(ends, int) else ends)

    @cached_property
    def expert_bytes(self) -> tuple[int, ...]:
        """Bytes of one expert of each routed layer, in the precision in which the model was loaded."""
        return tuple(_bytes(layer.experts) // layer.n_experts for layer in self._layers)

    @cached_property
    def dense_bytes(self) -> tuple[int, ...]:
        """Bytes that each routed layer needs for every token, experts apart.

        Decoder layers without experts count to the next routed layer, or to the last one where none follows.
        """
        return tuple(
            _bytes(layer.layer) - _bytes(layer.experts) + sum(_bytes(other) for other in layer.preceding)
            for layer in self._layers
        )

    def begin_turn(self) -> None:
        self._cache = None

    def forward(self, tokens: Sequence[int], depths: int) -> PassRecord:
        device = next(self._model.parameters()).device
        output = self._model(
            input_ids=torch.tensor([list(tokens)], device=device), past_key_values=self._cache, use_cache=True
        )
        self._cache = output.past_key_values
        choices = [layer.chosen for layer in self._layers]
        silent = [layer.index for layer in self._layers if layer.chosen is None]
        if silent:
            raise UsageError(
                f"the router of layer {silent[0]} was not called; trace recording does not support this model"
            )
        record = pass_record(output.logits[0, -1].float(), [c for c in choices if c is not None], self._predict, depths)
        for layer in self._layers:
            layer.chosen = layer.hidden = layer.normed = None
        return record

    def _predict(self, layer: int, depth: int) -> Tensor:
        """The residual stream after attention `depth` routed layers earlier, through this layer's norm and router."""
        target, earlier = self._layers[layer], self._layers[layer - depth]
        assert target.norm is not None and earlier.hidden is not None
        # `forward` alone: calling the modules would run the hooks and overwrite what the layers really saw.
        normed = target.norm.forward(earlier.hidden)
        return target.choice_of(target.router.forward(normed))[0]


def routed_layers(model: nn.Module, predictions: bool) -> list[RoutedLayer]:
    """The decoder layers that have a router beside experts.

    Raises:
        UsageError: when there are none, or when predictions are wanted and a layer lacks the norm before its router.
    """
    found: list[RoutedLayer] = []
    waiting: list[nn.Module] = []
    for index, layer in enumerate(_decoder_layers(model)):
        block = next((m for m in layer.modules() if _router_name(m) is not None), None)
        if block is None:
            waiting.append(layer)
            continue
        name = _router_name(block)
        assert name is not None
        norm = getattr(layer, _NORM, None)
        if predictions and norm is None:
            raise UsageError(
                f"layer {index} ({type(layer).__name__}) has no {_NORM}, so predictions cannot be recorded; "
                "set depths to 0"
            )
        router, experts = block.get_submodule(name), block.get_submodule("experts")
        found.append(RoutedLayer(index, layer, block, router, experts, norm if predictions else None, waiting))
        waiting = []
    if not found:
        raise UsageError(
            f"{type(model).__name__} has no mixture-of-experts layer (a {' or '.join(_ROUTERS)} beside experts); "
            "give the folder of a mixture-of-experts checkpoint"
        )
    found[-1].preceding.extend(waiting)
    return found


def _decoder_layers(model: nn.Module) -> list[nn.Module]:
    for path in ("model.layers", "model.language_model.layers"):
        try:
            layers = model.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(layers, nn.ModuleList):
            return list(layers)
    raise UsageError(
        f"{type(model).__name__} keeps no decoder layers under model.layers; trace recording does not support "
        "this family"
    )


def _router_name(module: nn.Module) -> str | None:
    children = {name for name, _ in module.named_children()}
    return next((name for name in _ROUTERS if name in children), None) if "experts" in children else None


def _bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())
