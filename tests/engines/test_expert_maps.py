"""Expert-parallel maps: read back as SGLang and vLLM read them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import UsageError
from evaluators.engines.expert_maps import (
    places_of,
    sglang_expert_location,
    sglang_load,
    vllm_expert_parallel,
)


@st.composite
def balanced(draw: st.DrawFn) -> tuple[np.ndarray, int]:
    """GPUs of the experts of each layer, the same number on each, and how many GPUs there are."""
    n_gpus, each, layers = draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    row = np.repeat(np.arange(n_gpus), each)
    return np.array([draw(st.permutations(row.tolist())) for _ in range(layers)]), n_gpus


@given(balanced())
def test_a_placement_comes_back_from_the_places(placement: tuple[np.ndarray, int]) -> None:
    gpus, n_gpus = placement
    places = places_of(gpus, n_gpus)
    document = json.loads(sglang_expert_location(places, gpus.shape[1]))
    read = np.array(document["physical_to_logical_map"])
    each = read.shape[1] // n_gpus
    back = np.empty_like(gpus)
    for layer, row in enumerate(read):
        for place, expert in enumerate(row):
            back[layer, expert] = place // each  # SGLang: _compute_gpu_id_of_physical_expert
    assert (back == gpus).all()


def test_dense_layers_get_a_row_of_their_own() -> None:
    read = json.loads(sglang_expert_location([[1, 0, 2, 0]], 3, dense_layers=(0, 2)))
    assert read == {"physical_to_logical_map": [[0, 1, 2, 0], [1, 0, 2, 0], [0, 1, 2, 0]]}
    assert json.loads(sglang_load([[5, 0]], (0,))) == {"logical_count": [[1, 1], [5, 0]]}


def test_vllm_is_told_of_the_two_placements_that_it_knows() -> None:
    linear, apart = places_of([[0, 0, 1, 1]] * 2, 2), places_of([[0, 1, 0, 1]] * 2, 2)
    assert vllm_expert_parallel(linear, 4, 2) == ("--enable-expert-parallel --expert-placement-strategy linear", ())
    assert vllm_expert_parallel(apart, 4, 2) == ("--enable-expert-parallel --expert-placement-strategy round_robin", ())


@pytest.mark.parametrize(
    ("places", "redundant"),
    [([[0, 3, 1, 2]], 0), ([[0, 1, 2, 3], [0, 2, 1, 3]], 0), ([[0, 1, 2, 3, 0, 1]], 2)],
    ids=["another", "two that differ", "replicas"],
)
def test_vllm_balances_any_other_placement_itself(places: list[list[int]], redundant: int) -> None:
    text, cannot = vllm_expert_parallel(places, 4, 2)
    words = text.split()
    assert words[:3] == ["--enable-expert-parallel", "--enable-eplb", "--eplb-config"]
    assert json.loads(words[3]) == {"num_redundant_experts": redundant}
    assert len(cannot) == 1 and cannot[0].startswith("the placement: vLLM takes no map")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: places_of([[0, 0, 0, 1]], 2), "puts 3 experts of layer 0 on one GPU and 1 on another"),
        (lambda: places_of([[0, 2]], 2), "names GPU 2; with 2 GPUs they are 0 to 1"),
        (lambda: places_of([0, 1], 2), "shape (2,)"),
        (lambda: sglang_expert_location([[0, 1, 1]], 3), "no place for expert 2 in layer 0"),
        (lambda: sglang_expert_location([[0, 3]], 2), "names expert 3"),
        (lambda: sglang_expert_location([[0.5, 1.0]], 2), "type float64"),
        (lambda: sglang_load([[1, -1]]), "tokens holds -1"),
        (lambda: vllm_expert_parallel([[0, 1, 2]], 3, 2), "3 places do not divide among 2 GPUs"),
    ],
)
def test_a_map_that_no_engine_takes_is_refused(call: object, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        call()  # type: ignore[operator]
    assert words in str(caught.value)
