"""Routing traces: which experts a mixture-of-experts model chose, token by token and layer by layer.

Letters used in shapes: ``T`` tokens, ``L`` mixture-of-experts layers, ``k`` experts per token (top-k), ``N`` experts
per layer, ``P`` forward passes, ``D`` prediction depths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError

PREFILL = 0
DECODE = 1
PHASES = ("prefill", "decode")

Int16 = npt.NDArray[np.int16]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Batches:
    """The distinct experts of every forward pass and layer, in compressed sparse rows: row ``p * L + l``.

    Attributes:
        offsets: ``(P * L + 1,)``; row r holds the entries ``offsets[r]`` to ``offsets[r + 1]``.
        experts: ``(entries,)`` expert ids, in the order of their first appearance in the batch.
        tokens: ``(entries,)`` how many of the batch's tokens go to that expert.
        pass_phase, pass_turn, pass_tokens: ``(P,)`` phase, turn and number of tokens of each pass.
        n_layers, n_experts: L and N.
    """

    offsets: Int64
    experts: Int16
    tokens: Int32
    pass_phase: npt.NDArray[np.int8]
    pass_turn: Int32
    pass_tokens: Int32
    n_layers: int
    n_experts: int

    @property
    def n_passes(self) -> int:
        return len(self.pass_phase)

    @cached_property
    def row_of_entry(self) -> Int64:
        """``(entries,)``: the row (``p * L + l``) of each entry."""
        return np.repeat(np.arange(len(self.offsets) - 1, dtype=np.int64), np.diff(self.offsets))

    @cached_property
    def decode_entries(self) -> npt.NDArray[np.bool_]:
        """``(entries,)``: whether each entry belongs to a decode pass."""
        return np.asarray(self.pass_phase[self.row_of_entry // self.n_layers] == DECODE)


@dataclass(frozen=True, eq=False)
class RoutingTrace:
    """Every expert choice of a recorded run.

    Tokens are in the order in which they were computed. The tokens of a turn lie together, prefill before decode. A
    turn's whole prefill is one forward pass and every decode token is one, unless `pass_index` says otherwise.

    Attributes:
        model: name of the model.
        n_experts: experts per layer.
        top_k: experts per token and layer.
        experts: ``(T, L, k)``, best first. -1 in all k slots where the engine did not route a prefill token through a
            layer (engines compute the last layer only for the last token of a prompt).
        turn: ``(T,)`` index into `turn_names` of the prompt or conversation.
        phase: ``(T,)`` `PREFILL` or `DECODE`.
        weights: ``(T, L, k)`` router weights, or None.
        predicted: ``(D, T, L, k)``; ``predicted[d - 1, t, l]`` are the experts predicted for layer l from the
            activations at layer ``l - d`` through the router of layer l; -1 where ``l < d``. None where not recorded.
        expert_bytes: ``(L,)`` bytes of one expert, or None.
        dense_bytes: ``(L,)`` bytes of the layer's other weights, or None.
        pass_index: ``(T,)`` the forward pass of each token, counted from 0 without gaps, for traces whose passes hold
            several decode tokens; see `batching.batched`. None where every decode token is a pass of its own.
        turn_names: names of the turns; ``turn 0``, ... where not given.
        provenance: where the trace comes from; plain JSON values.

    Raises:
        UsageError: for anything that a replay could not use; see `docs/traces.md`.
    """

    model: str
    n_experts: int
    top_k: int
    experts: Int16
    turn: Int32
    phase: npt.NDArray[np.int8]
    weights: npt.NDArray[np.float32] | None = None
    predicted: Int16 | None = None
    expert_bytes: Int64 | None = None
    dense_bytes: Int64 | None = None
    pass_index: Int32 | None = None
    turn_names: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, dtype in _DTYPES.items():
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, _as_array(name, value, dtype))
        if not self.turn_names and self.turn.size:
            object.__setattr__(self, "turn_names", tuple(f"turn {i}" for i in range(int(self.turn.max()) + 1)))
        object.__setattr__(self, "turn_names", tuple(str(name) for name in self.turn_names))
        _check_shapes(self)
        _check_picks(self)
        _check_order(self)
        _check_passes(self)

    @property
    def n_tokens(self) -> int:
        return int(self.experts.shape[0])

    @property
    def n_layers(self) -> int:
        return int(self.experts.shape[1])

    @cached_property
    def n_picks(self) -> int:
        """Routed (token, layer, slot) triples."""
        return int(np.count_nonzero(self.experts >= 0))

    @cached_property
    def decode_tokens(self) -> int:
        return int(np.count_nonzero(self.phase == DECODE))

    def select(
        self,
        turns: Sequence[int | str] | None = None,
        phases: Sequence[int | str] | None = None,
        decode: slice | None = None,
    ) -> RoutingTrace:
        """The trace of some turns (by index or name) and phases (0, 1, ``prefill``, ``decode``) alone.

        Args:
            decode: which of each turn's decode tokens to keep. The prompt is kept with the first of them, and left out where
                the slice begins later: it is not what was computed before.

        Raises:
            UsageError: for an unknown turn or phase, or when nothing is left.
        """
        keep = np.ones(self.n_tokens, dtype=bool)
        chosen = list(range(len(self.turn_names)))
        if turns is not None:
            chosen = sorted({_index_of("turn", one, self.turn_names) for one in turns})
            keep &= np.isin(self.turn, chosen)
        if phases is not None:
            keep &= np.isin(self.phase, [_index_of("phase", one, PHASES) for one in phases])
        if decode is not None:
            keep &= self._in_slice(decode)
        kept = self.keep(keep)
        renumber = np.full(len(self.turn_names), -1, dtype=np.int32)
        renumber[chosen] = np.arange(len(chosen), dtype=np.int32)
        names = tuple(self.turn_names[i] for i in chosen)
        return replace(kept, turn=renumber[kept.turn], turn_names=names)

    def keep(self, tokens: npt.NDArray[np.bool_]) -> RoutingTrace:
        """The trace of some tokens alone, ``(T,)`` kept or not; turns keep their names and numbers.

        Raises:
            UsageError: when nothing is left, or no token of a layer.
        """
        return replace(
            self,
            experts=self.experts[tokens],
            turn=self.turn[tokens],
            phase=self.phase[tokens],
            weights=None if self.weights is None else self.weights[tokens],
            predicted=None if self.predicted is None else self.predicted[:, tokens],
            pass_index=None if self.pass_index is None else _renumbered(self.pass_index[tokens]),
        )

    def _in_slice(self, decode: slice) -> npt.NDArray[np.bool_]:
        """``(T,)``: whether a token is in that slice of its turn's decode tokens, or in the prompt of a slice from 0."""
        is_decode = self.phase == DECODE
        keep = np.zeros(self.n_tokens, dtype=bool)
        for turn in range(len(self.turn_names)):
            places = np.flatnonzero(is_decode & (self.turn == turn))
            keep[places[decode]] = True
        return keep if decode.start else keep | ~is_decode

    @cached_property
    def widest_decode(self) -> int:
        """The most distinct experts that a decode pass has in a layer; `top_k` unless passes hold several tokens."""
        batches = self.passes()
        rows = np.diff(batches.offsets).reshape(batches.n_passes, batches.n_layers)[batches.pass_phase == DECODE]
        return int(rows.max()) if rows.size else self.top_k

    @cached_property
    def sequences(self) -> int:
        """The most tokens of a decode pass, which is one of every sequence that is decoded together; 1 without any."""
        passes = self.passes()
        return int(passes.pass_tokens[passes.pass_phase == DECODE].max(initial=1))

    @cached_property
    def token_pass(self) -> Int32:
        """``(T,)``: the forward pass of each token: `pass_index`, or one for a turn's prefill and one per decode token."""
        if self.pass_index is not None:
            return self.pass_index
        decode = self.phase == DECODE
        starts = decode.copy()
        starts[0] = True
        starts[1:] |= (self.turn[1:] != self.turn[:-1]) | decode[:-1]
        return (np.cumsum(starts) - 1).astype(np.int32)

    def passes(self) -> Batches:
        """The look-ups of a replay: the distinct experts of every forward pass and layer. Computed once and kept."""
        return self._passes

    @cached_property
    def _passes(self) -> Batches:
        return self.batches_of(self.experts)

    def batches_of(self, picks: Int16) -> Batches:
        """The distinct experts of ``(T, L, k)`` picks by forward pass and layer; -1 is no pick."""
        token_pass = self.token_pass
        n_passes, n_layers = int(token_pass[-1]) + 1, self.n_layers
        row = token_pass.astype(np.int64)[:, None] * n_layers + np.arange(n_layers)
        key = (row[:, :, None] * self.n_experts + picks)[picks >= 0]
        distinct, first, counts = np.unique(key, return_index=True, return_counts=True)
        entry_row = distinct // self.n_experts
        order = np.lexsort((first, entry_row))
        offsets = np.zeros(n_passes * n_layers + 1, dtype=np.int64)
        np.cumsum(np.bincount(entry_row, minlength=n_passes * n_layers), out=offsets[1:])
        starts = np.searchsorted(token_pass, np.arange(n_passes))
        return Batches(
            offsets=offsets,
            experts=(distinct % self.n_experts)[order].astype(np.int16),
            tokens=counts[order].astype(np.int32),
            pass_phase=self.phase[starts],
            pass_turn=self.turn[starts],
            pass_tokens=np.bincount(token_pass, minlength=n_passes).astype(np.int32),
            n_layers=n_layers,
            n_experts=self.n_experts,
        )


_DTYPES: dict[str, type[np.generic]] = {
    "experts": np.int16,
    "turn": np.int32,
    "phase": np.int8,
    "weights": np.float32,
    "predicted": np.int16,
    "expert_bytes": np.int64,
    "dense_bytes": np.int64,
    "pass_index": np.int32,
}


def _as_array(name: str, value: object, dtype: type[np.generic]) -> npt.NDArray[Any]:
    given = np.asarray(value)
    if given.dtype == dtype:
        return np.ascontiguousarray(given)
    if given.dtype.kind not in ("iuf" if np.issubdtype(dtype, np.floating) else "iu") and given.size:
        raise UsageError(f"trace field {name} holds {given.dtype} values; give {np.dtype(dtype).name} numbers")
    if np.issubdtype(dtype, np.integer) and given.size:
        limits = np.iinfo(dtype)  # type: ignore[type-var]
        if given.min() < limits.min or given.max() > limits.max:
            raise UsageError(
                f"trace field {name} holds {given.max()} (least {given.min()}), outside {limits.min} to {limits.max}; "
                "check the expert ids and numbers of the file"
            )
    return np.ascontiguousarray(given.astype(dtype))


def _check_shapes(trace: RoutingTrace) -> None:
    experts = trace.experts
    if experts.size == 0:
        raise UsageError(
            f"trace {trace.model!r} is empty: experts has shape {experts.shape}; record at least one token of a layer"
        )
    if experts.ndim != 3 or experts.shape[2] != trace.top_k:
        raise UsageError(
            f"trace field experts has shape {experts.shape}; give (tokens, layers, top_k) with top_k={trace.top_k}"
        )
    if not 1 <= trace.top_k <= trace.n_experts <= np.iinfo(np.int16).max:
        raise UsageError(
            f"trace fields top_k={trace.top_k} and n_experts={trace.n_experts} are impossible; "
            "1 <= top_k <= n_experts <= 32767 must hold"
        )
    tokens, layers, top_k = experts.shape
    wanted: dict[str, tuple[int | None, ...]] = {
        "turn": (tokens,),
        "phase": (tokens,),
        "weights": (tokens, layers, top_k),
        "predicted": (None, tokens, layers, top_k),
        "expert_bytes": (layers,),
        "dense_bytes": (layers,),
        "pass_index": (tokens,),
    }
    for name, shape in wanted.items():
        value = getattr(trace, name)
        if value is None:
            continue
        if len(value.shape) != len(shape) or any(w not in (None, s) for w, s in zip(shape, value.shape, strict=True)):
            asked = tuple("depths" if w is None else w for w in shape)
            raise UsageError(f"trace field {name} has shape {value.shape}; to fit experts it must be {asked}")
    if trace.expert_bytes is not None and int(trace.expert_bytes.min()) < 1:
        raise UsageError(f"trace field expert_bytes holds {trace.expert_bytes.min()}; an expert has at least one byte")
    if trace.dense_bytes is not None and int(trace.dense_bytes.min()) < 0:
        raise UsageError(f"trace field dense_bytes holds {trace.dense_bytes.min()}; give 0 or more")


def _check_picks(trace: RoutingTrace) -> None:
    for name, picks in (("experts", trace.experts), ("predicted", trace.predicted)):
        if picks is None or not picks.size:
            continue
        wrong = (picks < -1) | (picks >= trace.n_experts)
        if wrong.any():
            at = np.argwhere(wrong)[0]
            raise UsageError(
                f"trace field {name} has expert {picks[tuple(at)]} at token {at[-3]}, layer {at[-2]}, slot {at[-1]}; "
                f"experts go from 0 to {trace.n_experts - 1}"
            )
        ordered = np.sort(picks, axis=-1)
        twice = (ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)
        if twice.any():
            at = np.argwhere(twice)[0]
            raise UsageError(
                f"trace field {name} has expert {ordered[tuple(at)]} twice at token {at[-3]}, layer {at[-2]}; "
                "the experts of one token and layer are distinct"
            )
    routed = trace.experts >= 0
    partial = routed.any(axis=2) & ~routed.all(axis=2)
    if partial.any():
        token, layer = np.argwhere(partial)[0]
        raise UsageError(
            f"trace field experts has {int(routed[token, layer].sum())} of {trace.top_k} experts at token {token}, "
            f"layer {layer}; give all of them, or -1 in every slot of a prefill token that skipped the layer"
        )
    whole = routed[:, :, 0]
    if not whole.any(axis=0).all():
        layer = int(np.argmin(whole.any(axis=0)))
        raise UsageError(
            f"trace field experts has no pick in layer {layer}; record every layer, or leave the layer out"
        )
    missing = ~whole & (trace.phase == DECODE)[:, None]
    if missing.any():
        token, layer = np.argwhere(missing)[0]
        raise UsageError(
            f"trace field experts lacks layer {layer} of decode token {token}; only prefill tokens may skip a layer, "
            "so record the trace again"
        )
    if trace.weights is not None and not np.isfinite(trace.weights[routed]).all():
        raise UsageError(
            "trace field weights holds a number that is not finite; leave weights out or record them again"
        )


def _check_order(trace: RoutingTrace) -> None:
    if not np.isin(trace.phase, (PREFILL, DECODE)).all():
        odd = trace.phase[~np.isin(trace.phase, (PREFILL, DECODE))][0]
        raise UsageError(f"trace field phase holds {odd}; use 0 for prefill and 1 for decode")
    if int(trace.turn.min()) < 0 or int(trace.turn.max()) >= len(trace.turn_names):
        raise UsageError(
            f"trace field turn goes from {trace.turn.min()} to {trace.turn.max()}; "
            f"with {len(trace.turn_names)} turn names it must stay within 0 to {len(trace.turn_names) - 1}"
        )
    starts = np.flatnonzero(np.diff(trace.turn) != 0) + 1
    blocks = trace.turn[np.concatenate(([0], starts))]
    if len(np.unique(blocks)) != len(blocks):
        values, counts = np.unique(blocks, return_counts=True)
        raise UsageError(
            f"trace field turn has turn {values[np.argmax(counts > 1)]} in several pieces; "
            "give the tokens of a turn one after another, or a turn of its own to each piece"
        )
    back = (trace.phase[1:] == PREFILL) & (trace.phase[:-1] == DECODE) & (trace.turn[1:] == trace.turn[:-1])
    if back.any():
        token = int(np.argmax(back)) + 1
        raise UsageError(
            f"trace field phase has prefill token {token} after a decode token of the same turn; "
            "give every prompt of a conversation a turn of its own"
        )


def _check_passes(trace: RoutingTrace) -> None:
    index = trace.pass_index
    if index is None:
        return
    steps = np.diff(index)
    if index[0] != 0 or not np.isin(steps, (0, 1)).all():
        raise UsageError(
            f"trace field pass_index begins at {index[0]} and goes on in steps of {steps.min(initial=0)} to "
            f"{steps.max(initial=0)}; number the passes from 0, token after token, without gaps"
        )
    same = steps == 0
    torn = same & ((np.diff(trace.turn) != 0) | (np.diff(trace.phase) != 0))
    if torn.any():
        at = int(np.argmax(torn)) + 1
        raise UsageError(
            f"trace field pass_index puts tokens {at - 1} and {at} in pass {index[at]}, but they differ in turn or phase; "
            "a pass is prefill or decode of one turn"
        )


def _renumbered(passes: Int32) -> Int32:
    """The same passes, numbered from 0 without gaps."""
    return np.unique(passes, return_inverse=True)[1].astype(np.int32)


def _index_of(what: str, given: int | str, names: Sequence[str]) -> int:
    if isinstance(given, str):
        if given in names:
            return list(names).index(given)
    elif 0 <= given < len(names):
        return int(given)
    known = ", ".join(f"{i} ({name})" for i, name in enumerate(names))
    raise UsageError(f"{what} {given!r} is not in the trace; it has: {known}")
