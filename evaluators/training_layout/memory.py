"""Memory of the fullest GPU under a layout, by component, in bytes.

Activations follow Korthikanti et al. (arXiv:2205.05198, sections 4 and 5 and appendix B), term by term, so that the same
count serves grouped queries, gates, experts and attention kernels that keep no scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evaluators.training_layout.layouts import Floats, Ints, Layouts, Recompute
from evaluators.training_layout.shape import TransformerShape

HALF = 2.0  # bytes of a number in bfloat16
WHOLE = 4.0  # and in float32
_LOGIT = 4.0  # the loss is computed in float32


@dataclass(frozen=True)
class Batch:
    """What is trained on.

    Attributes:
        sequence: tokens of a sequence.
        fused_attention: whether the attention kernel keeps no scores (FlashAttention, arXiv:2205.14135).
        number_bytes: of an activation: 2, or 4 where all is computed in float32.
        product_bytes: of a number that a matrix product keeps for its backward pass: as many, or 1 where it multiplies bytes.
        imbalance: tokens of the fullest expert-parallel GPU over the mean.
    """

    sequence: int
    fused_attention: bool = True
    number_bytes: float = HALF
    product_bytes: float = HALF
    imbalance: float = 1.0


@dataclass(frozen=True, eq=False)
class Memory:
    """Bytes of the fullest GPU of every layout, ``(n,)`` each.

    Attributes:
        weights, gradients, optimizer: of what the GPU holds of the model.
        gathered: weights of the blocks at work where all GPUs hold but shards of them.
        activations: kept for the backward pass, over all micro-batches in flight.
        working: of the layer that is computed anew, and of the loss.
        host: of host memory for the GPU, that offloaded states (but those on an SSD) and activations take.
        stage: pipeline stage that is the fullest.
    """

    weights: Floats
    gradients: Floats
    optimizer: Floats
    gathered: Floats
    activations: Floats
    working: Floats
    host: Floats
    stage: Ints

    @property
    def total(self) -> Floats:
        """Of the GPU."""
        return self.weights + self.gradients + self.optimizer + self.gathered + self.activations + self.working


def memory(model: TransformerShape, layouts: Layouts, batch: Batch) -> Memory:
    """Memory of the fullest GPU: of the first pipeline stage, which has the embedding and the most micro-batches in flight, or
    of the last, which has the output projection and the loss.

    What libraries and the driver take is not in it.
    """
    first, last = (_of_stage(model, layouts, batch, stage) for stage in (np.zeros_like(layouts.pp), layouts.pp - 1))
    fuller = last.total > first.total
    return Memory(
        **{
            name: np.where(fuller, getattr(last, name), getattr(first, name))
            for name in ("weights", "gradients", "optimizer", "gathered", "activations", "working", "host", "stage")
        }
    )


def _of_stage(model: TransformerShape, layouts: Layouts, batch: Batch, stage: Ints) -> Memory:
    lay = layouts
    dense, experts = stage_parameters(model, lay, stage)

    def held(per_parameter: Floats, shards: Ints) -> Floats:
        return per_parameter * spread_parameters(lay, dense, experts, shards)

    layers = model.n_layers / lay.pp
    # Two blocks, the one at work and the next, are whole where weights are spread.
    blocks = np.minimum(2.0 / layers, 1.0)
    gathered = np.where(lay.weight_shards > 1, lay.weight_bytes * blocks * (dense + experts), 0.0)
    tokens = lay.micro_batch * batch.sequence / lay.cp
    kept = activation_bytes(model, lay, batch)
    whole = activation_bytes(model, lay, batch, kept=False)
    in_flight = microbatches_in_flight(lay, stage)
    ends = np.where(stage == 0, _embedding_bytes(model, lay), 0.0) * in_flight
    loss = np.where(stage == lay.pp - 1, _loss_bytes(model, lay, batch), 0.0)
    activations = tokens * (kept * layers * in_flight + ends)
    states = held(lay.optimizer_bytes, lay.optimizer_shards)
    again = np.where(lay.recompute == Recompute.FULL, whole - kept, 0.0)
    return Memory(
        weights=held(lay.weight_bytes, lay.weight_shards),
        gradients=held(lay.gradient_bytes, lay.gradient_shards),
        optimizer=states * (1.0 - lay.offloaded_states),
        gathered=gathered,
        activations=activations * (1.0 - lay.offloaded_activations),
        working=tokens * (again + loss),
        host=np.where(lay.states_on_ssd, 0.0, states * lay.offloaded_states) + activations * lay.offloaded_activations,
        stage=stage,
    )


def stage_parameters(model: TransformerShape, layouts: Layouts, stage: Ints) -> tuple[Floats, Floats]:
    """``(n,)`` parameters on a GPU of that stage before any sharding: dense ones, and routed experts.

    Layers are shared out evenly. Norms and routers lie on every tensor-parallel GPU; a model whose output projection is its
    embedding holds it twice where the two are on different stages.
    """
    lay = layouts
    alike = model.norm_parameters + model.expert_layers * model.router_parameters
    split = model.layer_parameters - model.expert_layers * model.router_parameters
    ends = np.where(stage == 0, model.embedding_parameters, 0.0) / lay.tp
    head = np.where((lay.pp > 1) | (not model.tied), model.vocab * model.hidden, 0)
    ends += np.where(stage == lay.pp - 1, head, 0.0) / lay.tp
    dense = (split / lay.tp + alike) / lay.pp + ends
    return dense, model.routed_parameters / (lay.ep * lay.etp * lay.pp)


def spread_parameters(layouts: Layouts, dense: Floats, experts: Floats, shards: Ints) -> Floats:
    """``(n,)`` parameters of a GPU when those that `stage_parameters` counts are spread over so many data-parallel GPUs, or
    over as many as hold the same."""
    return dense / np.minimum(shards, layouts.replicas) + experts / np.minimum(shards, layouts.expert_replicas)


def microbatches_in_flight(layouts: Layouts, stage: Ints) -> Floats:
    """Micro-batches, in units of a stage's layers, whose activations a stage keeps at once (1F1B, interleaved or not).

    With v chunks a stage warms up by ``2 (p - i - 1) + (v - 1) p`` chunks (arXiv:2104.04473, section 2.2).
    """
    lay = layouts
    behind = lay.pp - stage - 1
    plain = np.minimum(behind + 1, lay.microbatches)
    chunks = np.minimum(2 * behind + (lay.interleave - 1) * lay.pp + 1, lay.microbatches * lay.interleave)
    found: Floats = np.where(lay.interleave > 1, chunks / lay.interleave, plain).astype(np.float64)
    return found


def activation_bytes(model: TransformerShape, layouts: Layouts, batch: Batch, *, kept: bool = True) -> Floats:
    """``(n,)`` bytes that a token of a mean layer leaves behind for the backward pass.

    Args:
        kept: with what recomputation leaves; without it, all that the layer makes.
    """
    lay = layouts
    between = np.where(lay.sequence_parallel, lay.tp, 1)
    terms = _terms(model, lay, batch)
    everything = terms.alike / between + terms.split / lay.tp + terms.spread
    if not kept:
        return everything
    share = lay.recompute_share
    selective = everything - share * (terms.cheap_alike / between + terms.cheap_split / lay.tp + terms.cheap_spread)
    full = share * batch.number_bytes * model.hidden / between + (1.0 - share) * everything
    return np.select(
        [lay.recompute == Recompute.FULL, lay.recompute == Recompute.SELECTIVE], [full, selective], everything
    )


@dataclass(frozen=True, eq=False)
class _Terms:
    """Bytes per token of a mean layer: alike on every tensor-parallel GPU, split among them, and per GPU of the experts; and
    what
    of each selective recomputation gives up: scores where attention keeps them, else what norms and activations make."""

    alike: float
    split: float
    spread: Floats
    cheap_alike: float
    cheap_split: float
    cheap_spread: Floats


def _terms(model: TransformerShape, layouts: Layouts, batch: Batch) -> _Terms:
    h, layers, number, product = model.hidden, model.n_layers, batch.number_bytes, batch.product_bytes
    mask = 1.0 if model.dropout else 0.0
    attention, dense, experts = (
        count / layers for count in (model.attention_layers, model.dense_layers, model.expert_layers)
    )
    mamba = model.mamba.layers / layers if model.mamba else 0.0
    blocks = attention + dense + experts + mamba
    # Input of the norm and of the product after it, and the dropout mask behind the block.
    alike = (number + product + mask) * h * blocks + number * _latent_width(model) * attention
    queries, keys, values = _attention_widths(model)
    out = number * queries + (product * queries if product < number else 0.0)
    split = (number * (queries + keys + values) + out) * attention
    # Scores, their softmax and its dropout.
    scores = 0.0 if batch.fused_attention else (2 * number + mask) * model.n_heads * batch.sequence * attention
    ffn = model.ffn * dense + model.shared_ffn * experts
    split += scores + (number * (model.matrices - 1) + product) * ffn
    if model.mamba is not None:
        m = model.mamba
        split += number * (4 * m.inner + 4 * m.groups * m.state + m.heads) * mamba
    # A token's copies: what goes into the experts, what they make inside, what comes out.
    copies = model.top_k * batch.imbalance * experts / layouts.tp
    inside = (number * (model.matrices - 1) + product) * model.expert_ffn
    spread = copies * ((product + number) * h * layouts.etp + inside)
    if not batch.fused_attention:
        return _Terms(alike, split, spread, 0.0, scores, np.zeros_like(spread))
    return _Terms(alike, split, spread, product * h * blocks, product * ffn, copies * product * model.expert_ffn)


def _attention_widths(model: TransformerShape) -> tuple[int, int, int]:
    """Columns of queries, keys and values as the attention kernel takes them; its output is as wide as the queries, or, with
    latent attention, about as wide."""
    if model.latent is not None:
        wide = model.n_heads * (model.latent.nope_dim + model.latent.rope_dim)
        return wide, wide, model.n_heads * model.latent.value_dim
    return model.attention_width, model.n_kv_heads * model.head_dim, model.n_kv_heads * model.head_dim


def _latent_width(model: TransformerShape) -> int:
    if model.latent is None:
        return 0
    return model.latent.kv_rank + model.latent.rope_dim + (model.latent.query_rank or 0)


def _embedding_bytes(model: TransformerShape, layouts: Layouts) -> Floats:
    """Of a token: the mask behind the embedding."""
    between = np.where(layouts.sequence_parallel, layouts.tp, 1)
    return (model.hidden if model.dropout else 0.0) / between


def _loss_bytes(model: TransformerShape, layouts: Layouts, batch: Batch) -> Floats:
    """Of a token: inputs of the last norm and of the output projection, and the logits in float32."""
    between = np.where(layouts.sequence_parallel, layouts.tp, 1)
    return 2 * batch.number_bytes * model.hidden / between + _LOGIT * model.vocab / layouts.tp
