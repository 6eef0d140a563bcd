"""What every layer costs, for given prefetch windows, at every share of the budget and every split: by trace and machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from evaluators.moe_cache.cost_curves import LayerPasses, layer_costs
from evaluators.moe_cache.plan import Costs, Floats, Ints
from evaluators.moe_cache.policies import LCP_OMEGA, LCP_RHO, Lcp, Policy
from evaluators.moe_cache.predict import Predictor, lookahead, offered
from evaluators.moe_cache.replay import hit_curves
from evaluators.moe_cache.trace import DECODE, RoutingTrace


@dataclass(frozen=True)
class Outer:
    """The settings that the iteration is run for, one start each.

    Attributes:
        predictor: of prefetches; None for the first that the trace offers.
    """

    policy: str
    prefetch_depth: int
    cpu_threshold_tokens: int = 0
    predictor: Predictor | None = None
    lcp_omega: float = LCP_OMEGA

    @property
    def name(self) -> str:
        omega = f" omega={self.lcp_omega:g}" if self.policy == Policy.LCP else ""
        cpu = f" cpu<={self.cpu_threshold_tokens}" if self.cpu_threshold_tokens else ""
        return (
            f"{self.policy}{omega} prefetch={self.prefetch_depth}{cpu}{f' {self.predictor}' if self.predictor else ''}"
        )


class LayerTables:
    """Tables of one trace and machine; what layers and settings share is computed once.

    Attributes:
        usual: the predictor of settings that name none.
    """

    def __init__(self, trace: RoutingTrace, costs: Costs, thetas: Floats) -> None:
        self._trace, self._costs, self._thetas = trace, costs, thetas
        self.usual = offered(trace)[0]
        self._hits: dict[tuple[str, float], npt.NDArray[np.int16]] = {}
        self._work: dict[int, tuple[Floats, Floats, Floats, Floats]] = {}
        self._predicted: dict[tuple[int, Predictor], tuple[Ints, Ints]] = {}

    def of(self, outer: Outer, layer: int, window_ms: float, backlog_ms: float, budgets: Ints) -> tuple[Floats, Floats]:
        """``(budgets, splits)`` each: mean ms per decode pass of a layer's experts and of its demand, by bytes and split."""
        size = float(self._costs.expert_bytes[layer])
        n_experts = self._trace.n_experts
        budget = budgets[:, None]
        slot = self._thetas * size
        fitting = np.divide(budget, slot, out=np.zeros((len(budgets), len(slot))), where=slot > 0)
        slots = np.minimum(np.floor(fitting + 1e-9), n_experts).astype(np.int64)
        rest = (1.0 - self._thetas) * size
        layer_ms, demand_ms = np.empty(slots.shape), np.empty(slots.shape)
        layer_costs(
            self.passes(outer, layer),
            slots,
            self._thetas,
            float(self._costs.transfer_ms(size)),
            np.where(rest > 0, self._costs.transfer_ms(rest), 0.0),
            window_ms if outer.prefetch_depth else 0.0,
            backlog_ms if outer.prefetch_depth else 0.0,
            layer_ms,
            demand_ms,
        )
        return layer_ms, demand_ms

    def passes(self, outer: Outer, layer: int) -> LayerPasses:
        """What the decode passes look up, foresee and hit in one layer."""
        key = (outer.policy, outer.lcp_omega)
        if key not in self._hits:
            self._hits[key] = hit_curves(self._trace.passes(), outer.policy, lcp=Lcp(LCP_RHO, outer.lcp_omega))
        right, wrong = self._predictions(outer.prefetch_depth, outer.predictor or self.usual)
        hits = np.ascontiguousarray(self._hits[key][:, layer])
        work = self._pass_work(outer.cpu_threshold_tokens)
        lookups, mean_ms, slow_share, slow_ms = (np.ascontiguousarray(part[:, layer]) for part in work)
        return LayerPasses(
            lookups=lookups.astype(np.int64),
            right=right[:, layer].copy(),
            wrong=wrong[:, layer].copy(),
            hits=hits,
            mean_ms=mean_ms,
            slow_share=slow_share,
            slow_ms=slow_ms,
        )

    def _pass_work(self, cpu_threshold_tokens: int) -> tuple[Floats, Floats, Floats, Floats]:
        """``(P, L)`` each, of the decode passes: `LayerPasses`' lookups, mean_ms, slow_share and slow_ms."""
        if cpu_threshold_tokens not in self._work:
            batches = self._trace.passes()
            decode = batches.pass_phase == DECODE
            layer = batches.row_of_entry % batches.n_layers
            few = batches.tokens <= cpu_threshold_tokens
            slow = self._costs.expert_ms if self._costs.cpu_expert_ms is None else self._costs.cpu_expert_ms

            def sums(of_entry: npt.NDArray[Any]) -> Floats:
                by_row = np.bincount(batches.row_of_entry, of_entry, len(batches.offsets) - 1)
                return np.asarray(by_row.reshape(-1, batches.n_layers)[decode])

            lookups, eligible = sums(np.ones(len(few))), sums(few)
            self._work[cpu_threshold_tokens] = (
                lookups,
                sums(self._costs.expert_ms[layer, batches.tokens]) / lookups,
                eligible / lookups,
                sums(few * slow[layer, batches.tokens]) / np.maximum(eligible, 1.0),
            )
        return self._work[cpu_threshold_tokens]

    def _predictions(self, depth: int, predictor: Predictor) -> tuple[Ints, Ints]:
        """``(P, L)`` counts of experts that were predicted and needed, and predicted in vain, per decode pass."""
        if (depth, predictor) not in self._predicted:
            needed = self._trace.passes()
            decode = needed.pass_phase == DECODE
            shape = (needed.n_passes, needed.n_layers)
            right = np.zeros(shape, dtype=np.int64)
            wrong = np.zeros(shape, dtype=np.int64)
            if depth:
                ahead = lookahead(self._trace, depth, predictor).batches
                keys = ahead.row_of_entry * needed.n_experts + ahead.experts
                wanted = needed.row_of_entry * needed.n_experts + needed.experts
                used = np.isin(keys, wanted)
                right = np.bincount(ahead.row_of_entry[used], minlength=right.size).reshape(shape)
                wrong = np.bincount(ahead.row_of_entry[~used], minlength=right.size).reshape(shape)
            self._predicted[depth, predictor] = right[decode], wrong[decode]
        return self._predicted[depth, predictor]
