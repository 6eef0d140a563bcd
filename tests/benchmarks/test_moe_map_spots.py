"""Spot checks of the map: a cell that is really run, and what is said of predictions that hold or do not."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from autotune import UsageError
from autotune.hardware import ComputeEntry
from autotune.hardware.tiers import check_scratch
from benchmarks.moe_map import Grid
from benchmarks.moe_map_spots import SPOTS, Spot, gain, report, run_spot, score
from evaluators.moe_cache.machine import LayerWork
from evaluators.moe_cache.model_config import from_config_json
from tests.machine import made_profile

SPOT = Spot(Grid("small", 3, 8, 2, (), (), ()), 0.0, 0.0, 1.0, 3.0, 0.8, width=64, prompt_tokens=4, decode_tokens=12)
CONTEXT = 8


def machine(folder: Path) -> str:
    """The tests' machine, for the spot's shapes."""
    made = made_profile()
    work = LayerWork.of(from_config_json(SPOT.model_config(folder)), CONTEXT)
    ffn, dense = (entry.curve for entry in made.compute)
    curves = ((work.expert, ffn), (work.dense, dense))
    compute = tuple(ComputeEntry(shape=shape, device="cpu", curve=curve) for shape, curve in curves)
    path = folder / "machine.json"
    path.write_text(made.model_copy(update={"compute": compute}).to_json())
    return str(path)


def test_a_cell_is_run_and_set_beside_its_prediction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        check_scratch(tmp_path, 2**20)
    except UsageError as reason:
        pytest.skip(f"the temporary folder has no disk with direct I/O: {reason}")
    row = run_spot(SPOT, tmp_path, 2, {"hardware": machine(tmp_path), "scratch": str(tmp_path)}, CONTEXT)
    assert set(row["real_ms"]) == {"split", "whole", "none", "on demand"}
    assert all(len(ms) == 2 and min(ms) > 0 for ms in row["real_ms"].values())
    assert row["real_hits"] == pytest.approx(row["predicted_hits"])
    assert 0.0 < row["theta"] < 1.0
    # 48 KiB at 2 GiB/s and 0.05 ms; the experts and the dense part as the profile has them.
    loading, computing = 2 * (0.05 + 48 / 2**21 * 1e3), 2 * 0.051 + 0.071
    assert row["ratio"] == pytest.approx(loading / computing, rel=0.02)
    assert row["dense_share"] == pytest.approx(0.071 / computing)
    predicted = row["predicted_ms"]
    assert row["gains"]["whole"]["predicted"] == pytest.approx(1 - predicted["split"] / predicted["whole"])
    report([row])
    assert "largest difference of hit rates: 0.0000" in capsys.readouterr().out


def test_the_spots_cover_every_shape_and_both_sides_of_the_border() -> None:
    assert len(SPOTS) >= 12 and len(set(SPOTS)) == len(SPOTS)
    assert {spot.grid.name for spot in SPOTS} == {"Qwen1.5-MoE", "Mixtral-8x7B", "Qwen3-30B-A3B"}
    for name in ("skew", "locality", "accuracy", "ratio", "budget"):
        assert len({getattr(spot, name) for spot in SPOTS}) >= 3 - (name == "locality")


@pytest.mark.parametrize(
    ("predicted", "split", "sign"),
    [
        (0.9, [95.0, 96.0, 94.0], "agrees"),  # 10 % predicted, 5 % measured
        (0.995, [100.5, 100.2, 100.1], "agrees"),  # neither is worth anything
        (0.9, [101.0, 99.0, 102.0], "undecided"),
        (0.9, [103.0, 104.0, 105.0], "differs"),
        (1.1, [90.0, 91.0, 92.0], "differs"),
    ],
)
def test_signs(predicted: float, split: list[float], sign: str) -> None:
    found = gain(predicted, 1.0, split, [100.0, 100.0, 100.0])
    assert found.sign == sign
    assert found.predicted == pytest.approx(1 - predicted)
    assert found.least <= found.real <= found.most


def test_scores_count_signs_and_tell_gaps_in_points() -> None:
    gains = [gain(0.9, 1.0, [0.88], [1.0]), gain(0.9, 1.0, [1.04], [1.0])]
    found = score([{"gains": {"whole": asdict(g)}} for g in gains], "whole")
    assert (found["sign agrees"], found["sign undecided"], found["sign differs"]) == (1, 0, 1)
    assert found["mean gap (points)"] == pytest.approx((2 + 14) / 2)
    assert found["bias (points)"] == pytest.approx((2 - 14) / 2)
    assert found["largest gap (points)"] == pytest.approx(14)
