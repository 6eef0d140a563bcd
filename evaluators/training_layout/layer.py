"""Time of one micro-batch through one layer and through the loss, forward and backward, from measured parts."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from evaluators.training_layout import fsmoe
from evaluators.training_layout.cluster import Cluster
from evaluators.training_layout.layouts import Context, Floats, Layouts
from evaluators.training_layout.machine import Machine
from evaluators.training_layout.memory import Batch
from evaluators.training_layout.shape import TransformerShape
from evaluators.training_layout.tables import AttentionShape

# Rows that a product must have per expert before experts keep a GPU busy; many small ones are launched together.
_GROUPED_ROWS = 512.0
# Per score of attention that is not fused: written, scaled and masked, turned into shares, dropped out, and read again.
_SCORE_BYTES = 13.0
_LOSS_BYTES = 14.0  # per logit: written in half precision, read, kept and rewritten in float32, its gradient written

_Product = tuple[float, Floats, Floats, Floats]  # share of the layers, rows, columns, inner width


@dataclass(frozen=True, eq=False)
class Pass:
    """Seconds of one micro-batch through one mean layer, forward and backward apart, ``(n,)`` each; `loss`: of the output
    projection and the loss; `gaps`: of a layer's backward pass in which links between nodes wait for experts."""

    products: tuple[Floats, Floats]
    attention: tuple[Floats, Floats]
    elementwise: tuple[Floats, Floats]
    tensor: tuple[Floats, Floats]
    context: tuple[Floats, Floats]
    expert: tuple[Floats, Floats]
    loss: Floats
    gaps: Floats

    def take(self, rows: np.ndarray) -> Pass:
        """Of some layouts, by number."""

        def chosen(value: Floats | tuple[Floats, Floats]) -> Floats | tuple[Floats, Floats]:
            return (value[0][rows], value[1][rows]) if isinstance(value, tuple) else value[rows]

        return Pass(**{part.name: chosen(getattr(self, part.name)) for part in fields(self)})  # type: ignore[arg-type]


def layer_pass(
    model: TransformerShape, lay: Layouts, batch: Batch, cluster: Cluster, kind: str, machine: Machine
) -> Pass:
    """Of every layout. Arguments as of `step.step_time`."""
    tokens = lay.micro_batch * batch.sequence / lay.cp
    shares = {
        "attention": model.attention_layers / model.n_layers,
        "dense": model.dense_layers / model.n_layers,
        "experts": model.expert_layers / model.n_layers,
        "mamba": (model.mamba.layers if model.mamba else 0) / model.n_layers,
    }
    bandwidth = machine.memory_share * cluster.gpu.memory_bytes_s / machine.elementwise
    forward, backward = _products(_dense_products(model, lay, tokens, shares), cluster, kind)
    attention = machine.attention * shares["attention"] * lay.attention_share * _attention(model, lay, batch, cluster)
    moved = _elementwise_bytes(model, lay, shares, batch) * tokens / bandwidth
    scores = _SCORE_BYTES * tokens * batch.sequence * model.n_heads / lay.tp / bandwidth
    scores = np.zeros_like(tokens) if batch.fused_attention else shares["attention"] * scores
    traffic = _tensor_traffic(model, lay, batch, tokens, shares, cluster)
    experts = _experts(model, lay, batch, cluster, kind, tokens) if shares["experts"] else _no_experts(tokens)
    context = lay.context_share * _context_traffic(model, lay, batch, tokens, cluster)
    beside = np.where(lay.context == Context.ULYSSES, 0.0, attention / lay.cp)

    def around_blocks(share: float, computing: Floats) -> Floats:
        """Exposed tensor-parallel traffic."""
        behind = machine.tensor_behind * share * traffic
        return (share * traffic - behind) * (1.0 - machine.tensor_hidden) + np.maximum(0.0, behind - computing)

    def passed_on(share: npt.ArrayLike, attending: Floats) -> Floats:
        """Exposed context-parallel traffic."""
        return shares["attention"] * np.maximum(0.0, np.asarray(share) * context - attending)

    return Pass(
        products=(
            forward + shares["experts"] * experts.computing[0],
            backward + shares["experts"] * experts.computing[1],
        ),
        attention=(attention + scores, machine.attention_backward * attention + 2.0 * scores),
        elementwise=(moved, 2.0 * moved),
        tensor=(around_blocks(1.0, forward), around_blocks(1.25, backward)),
        context=(
            passed_on(1.0, beside),
            passed_on(np.where(lay.context == Context.ULYSSES, 1.0, 2.0), machine.attention_backward * beside),
        ),
        expert=(shares["experts"] * experts.exposed[0], shares["experts"] * experts.exposed[1]),
        loss=_loss(model, lay, tokens, cluster, kind, bandwidth),
        gaps=shares["experts"] * experts.gaps,
    )


def _products(products: list[_Product], cluster: Cluster, kind: str) -> tuple[Floats, Floats]:
    """Seconds of matrix products forward and backward: for the gradient of the input, and of the weights."""
    gemm = cluster.times.gemm_s
    forward, backward = (np.zeros(np.shape(products[0][1])) if products else np.zeros(1) for _ in range(2))
    for share, rows, n, k in products:
        forward = forward + share * gemm(rows, n, k, kind)
        backward = backward + share * (gemm(rows, k, n, kind) + gemm(n, k, rows, kind))
    return forward, backward


def _dense_products(model: TransformerShape, lay: Layouts, tokens: Floats, shares: dict[str, float]) -> list[_Product]:
    """All products of a mean layer but those of routed experts."""
    h = model.hidden * np.ones_like(tokens)
    found: list[_Product] = []
    if shares["attention"]:
        found += [(shares["attention"], tokens, n, k) for n, k in _attention_products(model, lay)]
    if shares["dense"]:
        found += [(shares["dense"], tokens, n, k) for n, k in _block_products(model, model.ffn / lay.tp)]
    if shares["mamba"]:
        assert model.mamba is not None
        wide = (2 * model.mamba.inner + 2 * model.mamba.groups * model.mamba.state + model.mamba.heads) / lay.tp
        found += [(shares["mamba"], tokens, wide, h), (shares["mamba"], tokens, h, model.mamba.inner / lay.tp)]
    if shares["experts"] and model.shared_ffn:
        found += [(shares["experts"], tokens, n, k) for n, k in _block_products(model, model.shared_ffn / lay.tp)]
    return found


def _attention_products(model: TransformerShape, lay: Layouts) -> list[tuple[Floats, Floats]]:
    """Columns and inner widths of the products around attention."""
    one = np.ones(len(lay))
    h = model.hidden * one
    if model.latent is None:
        wide = (model.attention_width + 2 * model.n_kv_heads * model.head_dim) / lay.tp
        return [(wide, h), (h, model.attention_width / lay.tp)]
    latent, heads = model.latent, model.n_heads / lay.tp
    queries = heads * (latent.nope_dim + latent.rope_dim)
    found = [((latent.kv_rank + latent.rope_dim) * one, h)]
    found.append((heads * (latent.nope_dim + latent.value_dim), latent.kv_rank * one))
    if latent.query_rank is None:
        found.append((queries, h))
    else:
        found += [(latent.query_rank * one, h), (queries, latent.query_rank * one)]
    return [*found, (h, heads * latent.value_dim)]


def _block_products(model: TransformerShape, width: Floats) -> list[tuple[Floats, Floats]]:
    """Columns and inner widths of a feed-forward block of that width."""
    h = model.hidden * np.ones_like(width)
    return [((model.matrices - 1) * width, h), (h, width)]


@dataclass(frozen=True, eq=False)
class _Experts:
    """Seconds of one layer of routed experts: computing, what is exposed beside it (forward, backward), and its gaps."""

    computing: tuple[Floats, Floats]
    exposed: tuple[Floats, Floats]
    gaps: Floats


def _no_experts(tokens: Floats) -> _Experts:
    none = np.zeros_like(tokens)
    return _Experts((none, none), (none, none), none)


def _experts(
    model: TransformerShape, lay: Layouts, batch: Batch, cluster: Cluster, kind: str, tokens: Floats
) -> _Experts:
    """Tokens go to their experts by all-to-all, are gathered where experts are split, computed, and come back, in as many parts
    as the pipeline has: FSMoE's four cases."""
    parts = lay.moe_pipeline
    sent = tokens * model.top_k / lay.tp / parts  # copies of tokens that a GPU sends to experts, and takes in
    held = model.n_experts / lay.ep
    rows = sent * lay.etp * batch.imbalance / held
    full = np.maximum(rows, _GROUPED_ROWS)
    products: list[_Product] = [(1.0, full, n, k) for n, k in _block_products(model, model.expert_ffn / lay.etp)]
    computing = [held * rows / full * seconds for seconds in _products(products, cluster, kind)]
    there = cluster.collective_s("alltoall", lay.ep, np.maximum(1, lay.etp), batch.number_bytes * sent * model.hidden)
    wide = batch.number_bytes * sent * model.hidden * lay.etp
    gathered = cluster.collective_s("all_gather", lay.etp, 1, wide)
    scattered = cluster.collective_s("reduce_scatter", lay.etp, 1, wide)
    layers = [fsmoe.Parts(there, gathered, scattered, one, np.zeros_like(one)) for one in computing]
    exposed = [fsmoe.layer_ms(layer, parts) - parts * layer.experts for layer in layers]
    return _Experts(
        (parts * computing[0], parts * computing[1]), (exposed[0], exposed[1]), fsmoe.gaps_ms(layers[1], parts)
    )


def _attention(model: TransformerShape, lay: Layouts, batch: Batch, cluster: Cluster) -> Floats:
    """Seconds of the attention kernels of a mean attention layer, forward."""
    seconds = np.zeros(len(lay))
    dim = model.head_dim if model.latent is None else model.latent.nope_dim + model.latent.rope_dim
    windowed = model.windowed_layers / model.attention_layers
    split = np.where(lay.context == Context.ULYSSES, lay.tp * lay.cp, lay.tp)
    for among in np.unique(split):
        rows = split == among
        for window, share in ((0, 1.0 - windowed), (model.window, windowed)):
            if share:
                heads, kv_heads = (max(1, count // int(among)) for count in (model.n_heads, model.n_kv_heads))
                shape = AttentionShape(heads, kv_heads, dim, window)
                seconds[rows] += share * cluster.times.attention_s(shape, lay.micro_batch[rows], batch.sequence)
    # Ulysses' GPUs have a share of the heads, the others all heads and a share of the queries.
    return np.where(lay.context == Context.ULYSSES, seconds, seconds / lay.cp)


def _elementwise_bytes(model: TransformerShape, lay: Layouts, shares: dict[str, float], batch: Batch) -> Floats:
    """Bytes per token that kernels of a mean layer read and write, forward, products and attention apart."""
    number = batch.number_bytes
    h, between = model.hidden, np.where(lay.sequence_parallel, lay.tp, 1)
    # A norm reads and writes; the residual reads twice and writes.
    block = number * h * 5 / between
    # What a product takes in is read, and written in a byte each, scales apart.
    quantised = 0.0 if batch.product_bytes == number else 3.0
    turned = number * 2 * (model.attention_width + model.n_kv_heads * model.head_dim) / lay.tp
    found = shares["attention"] * (block + turned + quantised * (h + model.attention_width / lay.tp))
    gates = model.matrices  # read what the first product made, write the activation
    found = found + shares["dense"] * (block + (number * gates + quantised) * model.ffn / lay.tp + quantised * h)
    copies = model.top_k / lay.tp * lay.etp
    # Into the experts' order and back, weights applied.
    found += shares["experts"] * (
        block + number * 6 * h * copies + (number * gates + quantised) * copies * model.expert_ffn / lay.etp + quantised * h *
        copies + (number * gates + quantised) * model.shared_ffn / lay.tp
    )  # fmt: skip
    if model.mamba is not None:
        wide = model.mamba.inner + 2 * model.mamba.groups * model.mamba.state
        found += shares["mamba"] * (block + number * 10 * wide / lay.tp)
    return found


def _loss(
    model: TransformerShape, lay: Layouts, tokens: Floats, cluster: Cluster, kind: str, bandwidth: float
) -> Floats:
    """Seconds of the output projection and the loss, forward and backward."""
    gemm = cluster.times.gemm_s
    h, head = model.hidden * np.ones_like(tokens), np.ceil(model.vocab / lay.tp)
    # Products in fewer bits stop before the loss.
    kind = kind if kind == "fp32" else "bf16"
    products = gemm(tokens, head, h, kind) + gemm(tokens, h, head, kind) + gemm(head, h, tokens, kind)
    return products + _LOSS_BYTES * tokens * head / bandwidth


def _tensor_traffic(
    model: TransformerShape, lay: Layouts, batch: Batch, tokens: Floats, shares: dict[str, float], cluster: Cluster
) -> Floats:
    """Seconds of a mean layer's tensor-parallel collectives, forward: a gather and a scatter around each block, or one
    all-reduce behind it, which moves as much."""
    blocks = shares["attention"] + shares["dense"] + shares["mamba"] + (shares["experts"] if model.shared_ffn else 0.0)
    nbytes = batch.number_bytes * tokens * model.hidden
    split = cluster.collective_s("all_gather", lay.tp, 1, nbytes) + cluster.collective_s(
        "reduce_scatter", lay.tp, 1, nbytes
    )
    whole = cluster.collective_s("all_reduce", lay.tp, 1, nbytes)
    return blocks * np.where(lay.sequence_parallel, split, whole)


def _context_traffic(model: TransformerShape, lay: Layouts, batch: Batch, tokens: Floats, cluster: Cluster) -> Floats:
    """Seconds of one attention layer's context-parallel traffic, forward.

    A ring passes keys and values on; with tokens going round it, queries one way and what they found, as wide, the other way at
    once. Ulysses sends queries, keys and values by all-to-all and the result back.
    """
    one_head = batch.number_bytes * tokens * model.head_dim / lay.tp
    queries, keys = one_head * model.n_heads, one_head * model.n_kv_heads
    hops = lay.cp - 1
    passed = np.where(lay.context == Context.TOKEN_RING, queries, 2.0 * keys)
    ring = hops * cluster.send_s(lay.tp * hops, passed)
    exchanged = cluster.collective_s("alltoall", lay.cp, lay.tp, queries + 2.0 * keys)
    exchanged = exchanged + cluster.collective_s("alltoall", lay.cp, lay.tp, queries)
    return np.where(lay.cp > 1, np.where(lay.context == Context.ULYSSES, exchanged, ring), 0.0)
