"""Feed-forward blocks: dense, and of routed experts that the processes of an expert-parallel group share out.

Every token goes to its experts, however many choose the same one. Letters in shapes: ``n`` tokens, ``h`` hidden size, ``e``
experts that a process holds, ``f`` columns of an expert that it holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed._functional_collectives import all_to_all_single_autograd
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.nn import functional

from evaluators.training_layout.shape import TransformerShape

_SEED = 1_000_000  # of a layer's first expert, over the layer's number times as many
_SEQUENCE = 1  # dimension of tokens in ``(b, s, h)``


class FeedForward(nn.Module):
    """A gated block (SwiGLU), or a plain one (GELU)."""

    def __init__(self, hidden: int, width: int, *, gated: bool) -> None:
        super().__init__()
        self.up = nn.Linear(hidden, width, bias=False)
        self.gate = nn.Linear(hidden, width, bias=False) if gated else None
        self.down = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = functional.gelu(self.up(x)) if self.gate is None else functional.silu(self.gate(x)) * self.up(x)
        out: Tensor = self.down(inner)
        return out


@dataclass(frozen=True)
class Held:
    """Which part of a layer's experts a process holds.

    Attributes:
        ep, ep_rank: processes that share out the experts, and the number of this one among them.
        etp, etp_rank: processes that split each expert's columns, and the number of this one among them.
        group: of the `ep` processes; None where there is but one.
    """

    ep: int = 1
    ep_rank: int = 0
    etp: int = 1
    etp_rank: int = 0
    group: dist.ProcessGroup | None = None


class Experts(nn.Module):
    """The experts of a layer that one process holds: ``(e, h, f)`` up and gate, ``(e, f, h)`` down."""

    def __init__(self, shape: TransformerShape, layer: int, held: Held) -> None:
        super().__init__()
        self.held = held
        # What wraps the computation, so that it is done again in the backward pass; not what is around it, as FSDP2 gathers
        # weights there.
        self.again: Callable[..., Tensor] | None = None
        each = shape.n_experts // held.ep
        numbers = range(held.ep_rank * each, (held.ep_rank + 1) * each)
        sizes = {"up": (shape.hidden, shape.expert_ffn), "down": (shape.expert_ffn, shape.hidden)}
        if shape.gated:
            sizes["gate"] = sizes["up"]
        made: dict[str, list[Tensor]] = {name: [] for name in sizes}
        for number in numbers:
            torch.manual_seed(_SEED * (layer + 1) + number)
            for name, (rows, columns) in sizes.items():
                whole = torch.empty(rows, columns).uniform_(-1 / math.sqrt(rows), 1 / math.sqrt(rows))
                made[name].append(whole.chunk(held.etp, dim=0 if name == "down" else 1)[held.etp_rank])
        self.up = nn.Parameter(torch.stack(made["up"]))
        self.gate = nn.Parameter(torch.stack(made["gate"])) if shape.gated else None
        self.down = nn.Parameter(torch.stack(made["down"]))

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        """Rows ``(n, h)``, those of the layer's first expert first, to rows in the same order.

        Args:
            counts: of the rows of each of the layer's experts, ``(ep * e,)``.
        """
        if self.held.group is None:
            return self._computed(x, counts)
        # How many rows of which expert everybody sends to everybody: (from, expert).
        theirs = torch.empty_like(counts)
        dist.all_to_all_single(theirs, counts, group=self.held.group)
        by_sender = theirs.view(self.held.ep, -1)
        sent = counts.view(self.held.ep, -1).sum(1).tolist()
        taken = by_sender.sum(1).tolist()
        arrived = all_to_all_single_autograd(x, taken, sent, self.held.group)
        # They arrive by sender, and are computed by expert.
        expert = torch.arange(by_sender.shape[1], device=x.device).repeat(self.held.ep)
        order = torch.argsort(expert.repeat_interleave(by_sender.flatten()), stable=True)
        computed = self._computed(arrived[order], by_sender.sum(0))
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order), device=x.device)
        return all_to_all_single_autograd(computed[back].contiguous(), sent, taken, self.held.group)

    def _computed(self, x: Tensor, counts: Tensor) -> Tensor:
        return self._compute(x, counts) if self.again is None else self.again(self._compute, x, counts)

    def _compute(self, x: Tensor, counts: Tensor) -> Tensor:
        if x.dtype == torch.bfloat16 and hasattr(functional, "grouped_mm"):
            # All experts in one launch; the kernel is made for this format alone, and older versions of PyTorch have none.
            ends = counts.cumsum(0).to(torch.int32)
            inner = self._inner(
                functional.grouped_mm(x, self.up, offs=ends),
                None if self.gate is None else functional.grouped_mm(x, self.gate, offs=ends),
            )
            return functional.grouped_mm(inner, self.down, offs=ends)
        ends_of = list(accumulate(counts.tolist()))
        parts = []
        for number, (begin, end) in enumerate(zip([0, *ends_of], ends_of, strict=False)):
            rows = x[begin:end]
            inner = self._inner(rows @ self.up[number], None if self.gate is None else rows @ self.gate[number])
            parts.append(inner @ self.down[number])
        return torch.cat(parts)

    @staticmethod
    def _inner(up: Tensor, gate: Tensor | None) -> Tensor:
        return functional.gelu(up) if gate is None else functional.silu(gate) * up


class RoutedExperts(nn.Module):
    """A router, the experts it chooses for each token, and experts that all tokens share."""

    def __init__(self, shape: TransformerShape, layer: int, held: Held) -> None:
        super().__init__()
        self.top_k = shape.top_k
        self.router = nn.Linear(shape.hidden, shape.n_experts, bias=False)
        self.shared = FeedForward(shape.hidden, shape.shared_ffn, gated=shape.gated) if shape.shared_ffn else None
        self.experts = Experts(shape, layer, held)

    def forward(self, x: Tensor) -> Tensor:
        """``(b, s, h)`` to ``(b, s, h)``; under tensor parallelism of the tokens that this process has of every sequence."""
        if not isinstance(x, DTensor):
            out = self._routed(x)
        elif self.experts.held.etp == 1:
            out = self._routed(x.to_local())
        else:
            # Every process has some columns of the experts, so that all need all tokens, and sums come out.
            every = x.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()])
            sums = DTensor.from_local(self._routed(every), x.device_mesh, [Partial()])
            out = sums.redistribute(placements=[Shard(_SEQUENCE)]).to_local()
        return out if self.shared is None else out + self.shared(x)

    def _routed(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, 1)
        weights, chosen = self._scores(rows).topk(self.top_k, dim=-1)
        weights = weights / weights.sum(-1, keepdim=True)
        order = torch.argsort(chosen.flatten(), stable=True)
        token = order // self.top_k
        counts = torch.bincount(chosen.flatten(), minlength=self.router.out_features)
        computed = self.experts(rows[token], counts) * weights.flatten()[order].unsqueeze(1).to(x.dtype)
        return torch.zeros_like(rows).index_add(0, token, computed).view_as(x)

    def _scores(self, rows: Tensor) -> Tensor:
        weight = self.router.weight
        if isinstance(weight, DTensor):
            # Each process sees the gradient of its own tokens, or of its own columns of the experts.
            weight = weight.to_local(grad_placements=[Partial()])
        return functional.linear(rows, weight).float().softmax(-1)
