"""Expert-parallel maps: a placement of experts over GPUs, written for SGLang and for vLLM.

Letters: L layers, E logical experts per layer, P places per layer (E or more, with replicas), G GPUs. Places are numbered
GPU by GPU: place p is on GPU ``p // (P / G)``.

Checked with `srt/eplb/expert_location.py` of sgl-project/sglang (the JSON of ``--init-expert-location``, and the rule above)
and with `vllm.config.parallel` of the vLLM documentation (v0.32): ``--expert-placement-strategy`` is ``linear`` or
``round_robin``, and ``--eplb-config`` takes ``num_redundant_experts``, but no map.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autotune.errors import UsageError

Ints = npt.NDArray[np.int64]


def places_of(gpu_of_expert: npt.ArrayLike, n_gpus: int) -> Ints:
    """``(L, E)`` expert in each place from ``(L, E)`` GPU of each expert, without replicas; on a GPU by index.

    Raises:
        UsageError: when a GPU is out of range, or holds more experts of a layer than another; engines give all the same number.
    """
    gpus = _table("gpu_of_expert", gpu_of_expert)
    n_experts = gpus.shape[1]
    if gpus.min() < 0 or gpus.max() >= n_gpus:
        raise UsageError(
            f"gpu_of_expert names GPU {_outside(gpus, n_gpus)}; with {n_gpus} GPUs they are 0 to {n_gpus - 1}"
        )
    for layer, row in enumerate(gpus):
        held = np.bincount(row, minlength=n_gpus)
        if len(set(held.tolist())) > 1:
            raise UsageError(
                f"gpu_of_expert puts {held.max()} experts of layer {layer} on one GPU and {held.min()} on another; engines "
                f"need the same number on each, {n_experts / n_gpus:g} of {n_experts} here"
            )
    return np.argsort(gpus, axis=1, kind="stable").astype(np.int64)


def sglang_expert_location(physical_to_logical: npt.ArrayLike, n_experts: int, dense_layers: Sequence[int] = ()) -> str:
    """The JSON file for SGLang's ``--init-expert-location``.

    Start the server with as many ``--ep-num-redundant-experts`` as there are places above E.

    Args:
        physical_to_logical: ``(L, P)`` logical expert in each place.
        n_experts: E.
        dense_layers: indices, among all decoder layers, of those without experts; SGLang counts them, so they get a row that
            nobody looks at.

    Raises:
        UsageError: when an expert is out of range or in no place of some layer, or a dense layer lies beyond the last one.
    """
    places = _placed(physical_to_logical, n_experts)
    idle = (np.arange(places.shape[1]) % n_experts).tolist()
    return _document("physical_to_logical_map", _with_dense(places, dense_layers, idle))


def sglang_load(tokens: npt.ArrayLike, dense_layers: Sequence[int] = ()) -> str:
    """The JSON file for ``--init-expert-location`` from which SGLang's own balancer makes a map.

    Args:
        tokens: ``(L, E)`` tokens by expert.
        dense_layers: as in `sglang_expert_location`.

    Raises:
        UsageError: for negative counts, or a dense layer beyond the last one.
    """
    counts = _table("tokens", tokens)
    if counts.min() < 0:
        raise UsageError(f"tokens holds {counts.min()}; give counts of 0 or more")
    return _document("logical_count", _with_dense(counts, dense_layers, [1] * counts.shape[1]))


def vllm_expert_parallel(
    physical_to_logical: npt.ArrayLike, n_experts: int, n_gpus: int
) -> tuple[str, tuple[str, ...]]:
    """Arguments for ``vllm serve`` that come closest to a placement, and what they cannot express.

    vLLM takes no map. A placement without replicas that is linear, or round-robin, in every layer is expressed exactly, as far
    as which expert is on which GPU; any other is left to its balancer, which learns while it serves.

    Args:
        physical_to_logical: ``(L, P)`` logical expert in each place.

    Raises:
        UsageError: as `sglang_expert_location`, and where the places do not divide among the GPUs.
    """
    places = _placed(physical_to_logical, n_experts)
    n_places = places.shape[1]
    if n_gpus < 1 or n_places % n_gpus:
        raise UsageError(
            f"{n_places} places do not divide among {n_gpus} GPUs; give a number of GPUs that divides them"
        )
    expert_parallel = "--enable-expert-parallel"
    if n_places == n_experts:
        gpu_of_place = np.arange(n_places) // (n_places // n_gpus)
        gpus = np.empty_like(places)
        np.put_along_axis(gpus, places, np.broadcast_to(gpu_of_place, places.shape), axis=1)
        for strategy, row in (("linear", gpu_of_place), ("round_robin", np.arange(n_experts) % n_gpus)):
            if (gpus == row).all():
                return f"{expert_parallel} --expert-placement-strategy {strategy}", ()
    redundant = json.dumps({"num_redundant_experts": n_places - n_experts}, separators=(",", ":"))
    return (
        f"{expert_parallel} --enable-eplb --eplb-config {redundant}",
        (
            "the placement: vLLM takes no map; it starts with experts in order and rearranges them by the load that it "
            f"observes, with {n_places - n_experts} redundant experts per layer",
        ),
    )


def _placed(physical_to_logical: npt.ArrayLike, n_experts: int) -> Ints:
    places = _table("physical_to_logical", physical_to_logical)
    if places.min() < 0 or places.max() >= n_experts:
        raise UsageError(
            f"physical_to_logical names expert {_outside(places, n_experts)}; with {n_experts} experts they are 0 to "
            f"{n_experts - 1}"
        )
    for layer, row in enumerate(places):
        absent = np.setdiff1d(np.arange(n_experts), row)
        if absent.size:
            raise UsageError(
                f"physical_to_logical has no place for expert {absent[0]} in layer {layer}; give each one at least"
            )
    return places


def _table(name: str, given: npt.ArrayLike) -> Ints:
    table = np.asarray(given)
    if table.ndim != 2 or not table.size or table.dtype.kind not in "iu":
        raise UsageError(
            f"{name} has shape {table.shape} and type {table.dtype}; give whole numbers, a row for each layer"
        )
    return table.astype(np.int64)


def _outside(table: Ints, limit: int) -> int:
    return int(table[(table < 0) | (table >= limit)][0])


def _with_dense(rows: Ints, dense_layers: Sequence[int], filler: list[int]) -> list[list[int]]:
    dense, real = set(dense_layers), iter(rows.tolist())
    layers = len(rows) + len(dense)
    for index in dense:
        if not 0 <= index < layers:
            raise UsageError(
                f"dense_layers names layer {index}; with {len(rows)} layers of experts and {len(dense)} without they "
                f"are 0 to {layers - 1}"
            )
    return [filler if index in dense else next(real) for index in range(layers)]


def _document(key: str, rows: list[list[int]]) -> str:
    """One layer per line, so that a difference between two maps can be read."""
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)
    return f'{{"{key}": [\n{lines}\n]}}\n'
