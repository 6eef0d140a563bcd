"""Memory: the numbers that papers print, and what every layout has to obey."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import UsageError
from evaluators.training_layout.layouts import Layouts, Recompute, zero
from evaluators.training_layout.memory import Batch, activation_bytes, memory, microbatches_in_flight
from evaluators.training_layout.presets import PRESETS, preset
from evaluators.training_layout.shape import TransformerShape

GIB = 2**30
SHAPES = {"22B": (1, 1, 4), "175B": (8, 3, 1), "530B": (35, 3, 1), "1T": (64, 1, 1)}  # pp, chunks, micro-batch
MODES = {
    "none": (False, Recompute.NONE),
    "seq": (True, Recompute.NONE),
    "sel": (False, Recompute.SELECTIVE),
    "seqsel": (True, Recompute.SELECTIVE),
    "full": (False, Recompute.FULL),
}


def published(data: Path, name: str) -> list[dict[str, str]]:
    with (data / "published_tables" / name).open() as file:
        return list(csv.DictReader(file))


def korthikanti(model: str, mode: str) -> tuple[TransformerShape, Layouts]:
    pp, chunks, micro = SHAPES[model]
    sequence_parallel, recompute = MODES[mode]
    layout = Layouts.of(
        1,
        512,
        tp=8,
        pp=pp,
        interleave=chunks,
        micro_batch=micro,
        sequence_parallel=sequence_parallel,
        recompute=recompute,
    )
    return preset(f"gpt3-{model}"), layout


def test_zero_spreads_the_states_of_7_5_billion_parameters_over_64_gpus_as_its_paper_says() -> None:
    parameters = 7.5e9
    model = TransformerShape("7.5B", 1, 50_000, 1, 1, 1, 1, 1)
    expected = [120e9, 31.4e9, 16.6e9, 1.88e9]  # arXiv:1910.02054, figure 1
    layouts = Layouts.of(64, 1, gradient_bytes=2.0, **zero([0, 1, 2, 3], 64))
    held = memory(model, layouts, Batch(1))
    per_parameter = (held.weights + held.gradients + held.optimizer) / model.total_parameters
    np.testing.assert_allclose(per_parameter * parameters, expected, rtol=3e-3)


@pytest.mark.parametrize("model", SHAPES)
@pytest.mark.parametrize("mode", ["none", "seqsel"])
def test_activation_memory_of_korthikanti_figure_1(data: Path, model: str, mode: str) -> None:
    [row] = [
        row for row in published(data, "korthikanti_2022_fig1_memory_gib.csv")
        if (row["model"], row["mode"]) == (model, mode)
    ]  # fmt: skip
    shape, layout = korthikanti(model, mode)
    held = memory(shape, layout, Batch(2048, fused_attention=False))
    assert held.activations[0] / GIB == pytest.approx(float(row["activations_gib"]), rel=0.03)


@pytest.mark.parametrize("model", SHAPES)
@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "none"])
def test_activation_memory_of_korthikanti_figure_7(data: Path, model: str, mode: str) -> None:
    [row] = [
        row for row in published(data, "korthikanti_2022_fig7_activation_pct.csv")
        if (row["model"], row["mode"]) == (model, mode)
    ]  # fmt: skip
    batch = Batch(2048, fused_attention=False)
    (shape, layout), (_, baseline) = korthikanti(model, mode), korthikanti(model, "none")
    share = activation_bytes(shape, layout, batch) / activation_bytes(shape, baseline, batch)
    assert 100 * share[0] == pytest.approx(float(row["pct_of_baseline"]), rel=0.03)


@given(
    name=st.sampled_from(sorted(PRESETS)),
    tp=st.sampled_from([1, 2, 4, 8]),
    pp=st.sampled_from([1, 2, 4]),
    dp=st.sampled_from([1, 4, 16]),
    recompute=st.sampled_from(list(Recompute)),
)
def test_more_of_everything_that_spreads_never_takes_more_memory(
    name: str, tp: int, pp: int, dp: int, recompute: Recompute
) -> None:
    model, batch = preset(name), Batch(4096)
    base = {"tp": tp, "pp": pp, "recompute": recompute, "micro_batch": 2}
    one = memory(model, Layouts.of(dp, 8, **base, **zero([0, 1, 2, 3], dp)), batch)
    spread = one.weights + one.gradients + one.optimizer
    assert (np.diff(spread) <= 1e-6 * spread[0]).all()
    kept = memory(model, Layouts.of(dp, 8, **{**base, "recompute": [0, 1, 2]}), batch).activations
    assert kept[0] >= kept[1] >= kept[2] > 0
    for part in ("weights", "gradients", "optimizer", "activations", "working"):
        assert (getattr(one, part) >= 0).all()


def test_a_pipeline_keeps_as_many_micro_batches_as_have_not_come_back() -> None:
    layouts = Layouts.of(1, [8, 8, 2, 64], pp=4, interleave=[1, 1, 1, 2])
    stages = np.array([0, 3, 0, 0])
    # The first stage waits for all behind it, the last for none; two micro-batches are no more than two; and interleaving by
    # two adds (p - 1) / (p v) to p (arXiv:2205.05198, section 4.2.3).
    np.testing.assert_allclose(microbatches_in_flight(layouts, stages), [4, 1, 2, 4 * (1 + 3 / 8)])


@pytest.mark.parametrize(
    ("name", "billions"),
    [("llama3-70b", 70.6), ("llama3-405b", 405.9), ("deepseek-v3", 671.0), ("gpt-oss-120b", 116.8), ("mixtral-8x7b", 46.7),
     ("qwen3-235b-a22b", 235.1), ("nemotron-3-nano", 31.6), ("mpt-7b", 6.65), ("gpt3-175b", 174.6), ("kimi-k2", 1026.0),
     ("grok-1", 314.0), ("llama4-scout", 107.8), ("llama4-maverick", 400.7),
     ("glm-4.5", 352.8), ("glm-4.5-air", 106.9), ("deepseek-v2", 235.7), ("qwen2.5-72b", 72.7), ("nemotron4-15b", 15.6),
     ("nemotron4-340b", 341.0), ("mistral-7b", 7.24)],
)  # fmt: skip
def test_presets_have_the_parameters_that_their_makers_name(name: str, billions: float) -> None:
    assert preset(name).total_parameters / 1e9 == pytest.approx(billions, rel=0.01)


def test_models_are_found_however_they_are_spelt() -> None:
    assert preset("LLAMA3.1_405B").name == preset("Llama3-405B").name == "llama3-405b"
    assert preset("DeepSeekV3 (w/o MTP)").name == "deepseek-v3"
    with pytest.raises(UsageError, match=r"model 'llama9' is unknown; use one of llama2-7b, .* config\.json"):
        preset("llama9")


def test_what_is_no_layout_is_refused() -> None:
    with pytest.raises(UsageError, match=r"a layout has no 'tpp'; it has: dp, "):
        Layouts.of(1, 1, tpp=2)
    with pytest.raises(UsageError, match=r"different lengths: \{'dp': 2, 'tp': 3\}"):
        Layouts.of([1, 2], 1, tp=[1, 2, 4])
    with pytest.raises(UsageError, match="ZeRO stage 4 does not exist"):
        zero([1, 4], 8)
