"""`TransformerShape`: the architecture numbers of a model that is trained, and what its parts weigh.

Letters: ``h`` hidden size, ``f`` intermediate size of a feed-forward block, ``L`` layers, ``V`` vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from autotune.errors import UsageError
from evaluators.moe_cache.model_shape import LatentAttention


@dataclass(frozen=True)
class Mamba:
    """State-space layers of Mamba-2 (arXiv:2405.21060, section 7).

    Attributes:
        layers: how many of the model's layers they are; these have no feed-forward block of their own.
        heads, head_dim: of the inner width, which is their product.
        groups, state: how many pairs of B and C there are, and the width of each.
        kernel: width of the convolution.
    """

    layers: int
    heads: int
    head_dim: int
    groups: int
    state: int
    kernel: int = 4

    @property
    def inner(self) -> int:
        """Width inside the layer."""
        return self.heads * self.head_dim

    def parameters(self, hidden: int) -> int:
        """Of one layer: input projection, convolution, per-head numbers, gated norm, output projection."""
        convolved = self.inner + 2 * self.groups * self.state
        return (
            hidden * (self.inner + convolved + self.heads)
            + (self.kernel + 1) * convolved
            + 3 * self.heads
            + self.inner
            + (self.inner * hidden)
        )


@dataclass(frozen=True)
class TransformerShape:
    """Architecture numbers of one model.

    A layer is attention and a feed-forward block, dense or of experts. Models that mix other layers in say how many of each
    kind there are: `attention_layers`, `mamba`, `expert_layers`.

    Attributes:
        name: of the model.
        n_layers: L, what pipelines share out.
        hidden: h.
        n_heads, n_kv_heads, head_dim: of the attention; `latent` takes their place where it is given.
        ffn: f of the dense blocks.
        vocab: V.
        gated: whether a feed-forward block has a gate beside its two matrices (SwiGLU), dense or expert.
        n_experts, top_k: routed experts per layer, and how many of them a token uses; 0 for a dense model.
        expert_ffn: f of one expert.
        shared_ffn: f of all shared experts together.
        expert_layers: layers with experts; all, unless said otherwise, where there are experts.
        attention_layers: layers with attention; all unless said otherwise.
        dense_layers: layers with a dense block; those without experts unless said otherwise.
        latent: multi-head latent attention.
        mamba: state-space layers.
        window, windowed_layers: tokens that attention looks back in some of its layers, and how many these are.
        tied: whether the output projection is the embedding.
        positions: learned position embeddings.
        dropout: whether it is trained with dropout, as GPT-3 was; its masks take memory.
        source: where the numbers come from.
    """

    name: str
    n_layers: int
    hidden: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    gated: bool = True
    n_experts: int = 0
    top_k: int = 0
    expert_ffn: int = 0
    shared_ffn: int = 0
    expert_layers: int = -1
    attention_layers: int = -1
    dense_layers: int = -1
    latent: LatentAttention | None = None
    mamba: Mamba | None = None
    window: int = 0
    windowed_layers: int = 0
    tied: bool = False
    positions: int = 0
    dropout: bool = False
    source: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for name in ("n_layers", "hidden", "n_heads", "n_kv_heads", "head_dim", "vocab"):
            if getattr(self, name) < 1:
                raise UsageError(f"model {self.name}: {name} is {getattr(self, name)}; it must be at least 1")
        if self.n_heads % self.n_kv_heads:
            raise UsageError(
                f"model {self.name}: n_kv_heads {self.n_kv_heads} does not divide n_heads, which is {self.n_heads}"
            )
        if self.top_k > self.n_experts or (self.n_experts and not (self.top_k and self.expert_ffn)):
            raise UsageError(
                f"model {self.name}: {self.n_experts} experts, of which a token uses {self.top_k}, of width {self.expert_ffn}; "
                "top_k must lie between 1 and n_experts, and expert_ffn be at least 1"
            )
        experts = self.n_layers if self.n_experts else 0
        derived = {
            "expert_layers": experts,
            "attention_layers": self.n_layers,
            "dense_layers": self.n_layers - (self.expert_layers if self.expert_layers >= 0 else experts),
        }
        for name, value in derived.items():
            if getattr(self, name) < 0:
                object.__setattr__(self, name, value)
        if self.dense_layers and self.ffn < 1:
            raise UsageError(f"model {self.name}: ffn is {self.ffn}; its {self.dense_layers} dense blocks need a width")

    @property
    def matrices(self) -> int:
        """Matrices of a feed-forward block."""
        return 3 if self.gated else 2

    @property
    def attention_width(self) -> int:
        """Columns of all queries."""
        return self.n_heads * self.head_dim

    @property
    def attention_parameters(self) -> int:
        """Of one layer's attention."""
        if self.latent is not None:
            return self.latent.parameters(self.hidden, self.n_heads)
        return 2 * self.hidden * self.head_dim * (self.n_heads + self.n_kv_heads)

    @property
    def ffn_parameters(self) -> int:
        """Of one dense block."""
        return self.matrices * self.hidden * self.ffn

    @property
    def expert_parameters(self) -> int:
        """Of one routed expert."""
        return self.matrices * self.hidden * self.expert_ffn

    @property
    def shared_parameters(self) -> int:
        """Of the shared experts of one layer."""
        return self.matrices * self.hidden * self.shared_ffn

    @property
    def router_parameters(self) -> int:
        """Of one layer's router."""
        return self.hidden * self.n_experts

    @property
    def mamba_parameters(self) -> int:
        """Of all state-space layers."""
        return 0 if self.mamba is None else self.mamba.layers * self.mamba.parameters(self.hidden)

    @property
    def embedding_parameters(self) -> int:
        """Of the embedding, and of positions where they are learned."""
        return (self.vocab + self.positions) * self.hidden

    @property
    def head_parameters(self) -> int:
        """Of the output projection where it has weights of its own."""
        return 0 if self.tied else self.vocab * self.hidden

    @property
    def norm_parameters(self) -> int:
        """Two norms a layer with a feed-forward block, one where there is none, and the last."""
        blocks = self.attention_layers + self.dense_layers + self.expert_layers
        return (blocks + (self.mamba.layers if self.mamba else 0) + 1) * self.hidden

    @property
    def layer_parameters(self) -> int:
        """Of all layers but their routed experts and norms."""
        return (
            self.attention_layers * self.attention_parameters
            + self.dense_layers * self.ffn_parameters
            + self.expert_layers * (self.shared_parameters + self.router_parameters)
            + self.mamba_parameters
        )

    @property
    def routed_parameters(self) -> int:
        """Of all routed experts."""
        return self.expert_layers * self.n_experts * self.expert_parameters

    @property
    def total_parameters(self) -> int:
        """All of them."""
        ends = self.embedding_parameters + self.head_parameters
        return self.layer_parameters + self.routed_parameters + self.norm_parameters + ends

    @property
    def active_parameters(self) -> int:
        """Those that one token uses, the embedding included."""
        unused = self.expert_layers * (self.n_experts - self.top_k) * self.expert_parameters
        return self.total_parameters - unused

    def training_flops(self, sequence: int) -> float:
        """Per token, of the forward and backward pass, recomputation not counted: six for every weight that a token meets, and
        attention over half of the sequence (arXiv:2104.04473, appendix, for causal attention)."""
        weights = self.active_parameters - self.embedding_parameters + (self.vocab * self.hidden if self.tied else 0)
        full = self.attention_layers - self.windowed_layers
        seen = full * sequence / 2 + self.windowed_layers * min(self.window, sequence / 2)
        return 6.0 * weights + 12.0 * seen * self.attention_width

    def of_layers(self, count: int) -> TransformerShape:
        """The same model with so many of its layers, of each kind as large a share as before.

        Raises:
            UsageError: for more layers than it has, or models whose layers differ and do not divide.
        """
        if not 1 <= count <= self.n_layers:
            raise UsageError(f"layers is {count}; {self.name} has {self.n_layers}, give a number from 1 to that")
        kinds = ("expert_layers", "attention_layers", "dense_layers", "windowed_layers")
        several = {kind: getattr(self, kind) * count for kind in kinds}
        mamba = self.mamba
        uneven = [kind for kind, layers in several.items() if layers % self.n_layers]
        if uneven or (mamba is not None and mamba.layers * count % self.n_layers):
            raise UsageError(
                f"layers is {count}; the kinds of layers of {self.name} cannot be shared out over so few, leave it out"
            )
        return replace(
            self,
            name=self.name if count == self.n_layers else f"{self.name} ({count} of {self.n_layers} layers)",
            n_layers=count,
            mamba=None if mamba is None else replace(mamba, layers=mamba.layers * count // self.n_layers),
            **{kind: layers // self.n_layers for kind, layers in several.items()},
        )
