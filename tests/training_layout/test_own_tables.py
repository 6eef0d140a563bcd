"""Kernel times of one's own: measured, read back, and refused where they are something else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autotune
from autotune import UsageError
from autotune.hardware import current_environment
from evaluators.training_layout.grids import grid_of
from evaluators.training_layout.own_tables import OwnTables, OwnTimes
from evaluators.training_layout.tables import COLLECTIVES, AttentionShape, KernelTimes, bus_bytes
from tests.cli.conftest import Run, run

__all__ = ["run"]  # a fixture

RATE, LINK = 1e12, 1e9


def payload(**changes: Any) -> dict[str, Any]:
    """A machine of constant rates."""
    sizes, streams = (128, 1024), (1, 64)
    return {
        "format": "autotune kernel times",
        "version": 1,
        "device": "cuda",
        "name": "a GPU",
        "torch": "2.9",
        "created_at": "2026-01-02T03:04:05Z",
        "environment": {},
        "gemm": {"bf16": [(m, n, k, 2 * m * n * k / RATE) for m in sizes for n in sizes for k in sizes]},
        "attention_kind": "bf16",
        "attention": {64: [(b, s, 2 * b * s * s * 64 / RATE) for b in streams for s in sizes]},
        "memory_bytes_s": 1e12,
        "collectives": {
            name: {2: [(n, float(bus_bytes(name, 2, n)) / LINK) for n in (2**12, 2**20)]} for name in COLLECTIVES
        },
        **changes,
    }


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "times.json"
    path.write_text(json.dumps(payload(**changes)))
    return path


@pytest.mark.slow
def test_this_machine_is_measured_and_read_back(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    told = run("kernels", "--quick", "--device", "cpu", "--processes", 2, "--out", path, "--json")
    assert told.code == 0, told.err
    assert told.json["formats"] == ["fp32"]
    for step in ("products, attention and memory by 2 processes at once", "collectives"):
        assert f"measuring {step}" in told.err
    times: KernelTimes = OwnTimes.read(path)
    tables = OwnTables.read(path)
    assert tables.device == "cpu"
    assert tables.attention_kind == "fp32"
    assert tables.environment["fingerprint"] == current_environment().fingerprint
    m = np.array([64, 200, 5000])
    seconds = times.gemm_s(m, 256, 256, "fp32")
    assert seconds.shape == (3,)
    assert (seconds > 0).all()
    assert (times.attention_s(AttentionShape(4, 2, 64), 2, [128, 4096]) > 0).all()
    for operation in COLLECTIVES:
        assert (np.diff(times.node_collective_s(operation, 2, [2**12, 2**20, 2**30])) >= 0).all()
    with pytest.raises(UsageError, match=r"products in bf16 were not measured on .*; measured were: fp32"):
        times.gemm_s(1, 1, 1, "bf16")
    # Its own device can be laid out on.
    options = {"model": "mpt-125m", "layers": 2, "gpus": 2, "sequence": 128, "global_batch": 4, "hardware": "own"}
    found = autotune.search(
        "training-layout", options={**options, "precision": "fp32", "kernels": str(path)}, trials=3, seed=0
    )
    assert found.best is not None
    assert found.best.metrics["memory_gib"] < tables.environment["details"]["hardware"]["memory_gib"] / 2


def test_rates_are_kept_between_and_beyond_what_was_measured(tmp_path: Path) -> None:
    times = OwnTimes.read(written(tmp_path))
    assert times.source == "a GPU, measured on 2026-01-02 (times.json)"
    m = np.array([10, 128, 500, 1e6])
    np.testing.assert_allclose(times.gemm_s(m, 300, 2000, "bf16"), 2 * m * 300 * 2000 / RATE)
    shape = AttentionShape(8, 2, 96)
    np.testing.assert_allclose(times.attention_s(shape, 3, [200, 9000]), shape.flops(3, [200, 9000]) / RATE)
    sizes = np.array([2.0**12, 2.0**16, 2.0**24])
    for operation in COLLECTIVES:
        # Eight processes were not measured, and send more of the bytes than two.
        expected = bus_bytes(operation, 8, sizes) / LINK
        np.testing.assert_allclose(times.node_collective_s(operation, 8, sizes), expected)


def test_a_shape_that_was_left_out_takes_the_rate_of_its_neighbour() -> None:
    grid = grid_of(np.array([[1.0, 1.0], [1.0, 2.0], [2.0, 1.0]]), np.array([10.0, 20.0, 40.0]))
    assert grid(np.array([2.0]), np.array([2.0])) == pytest.approx(20.0)


def test_block_scaled_bytes_are_taken_as_bytes(tmp_path: Path) -> None:
    both = payload()["gemm"]["bf16"]
    times = OwnTimes.read(written(tmp_path, gemm={"bf16": both, "fp8": [(*row[:3], row[3] / 2) for row in both]}))
    for kind in ("fp8", "fp8-block", "mxfp8"):
        assert times.gemm_s(512, 512, 512, kind) == pytest.approx(2 * 512**3 / RATE / 2)


def test_one_gpu_has_no_collectives_and_says_what_to_set(tmp_path: Path) -> None:
    times = OwnTimes.read(written(tmp_path, collectives={}))
    with pytest.raises(UsageError, match="gpus_per_node=1"):
        times.node_collective_s("all_reduce", 2, 1e6)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"format": "something else"}, "format: Input should be 'autotune kernel times'"),
        ({"version": 2}, "version: Input should be 1"),
        ({"memory_bytes_s": -1}, "memory_bytes_s"),
        ({"gemm": {"bf16": [(128, 128, 128, 1.0)]}}, "two numbers along every axis"),
        ({"gemm": {}}, "at least one table"),
        ({"collectives": {"all_gather": {2: [(4096, 1.0)]}}}, "all of all_gather"),
        ({"extra": 1}, "extra"),
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match="holds no kernel times") as refused:
        OwnTimes.read(written(tmp_path, **changes))
    assert told in str(refused.value)
    assert "measure one with: autotune kernels --out" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_broken_or_missing_file_is_refused(tmp_path: Path) -> None:
    half = tmp_path / "half.json"
    half.write_text(json.dumps(payload())[:200])
    with pytest.raises(UsageError, match=r"half.json holds no kernel times \(file: Invalid JSON"):
        OwnTimes.read(half)
    with pytest.raises(UsageError, match="cannot be read"):
        OwnTimes.read(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--out", "none/mine.json"), "--out 'none/mine.json': there is no folder 'none'; make it first"),
        (("--out", "mine.json", "--device", "tpu"), "--device 'tpu' is unknown; use cpu or cuda"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_measuring(
    run: Run, arguments: tuple[str, ...], message: str
) -> None:
    told = run("kernels", *arguments)
    assert told.code == 2
    assert message in told.err


def test_an_own_device_without_its_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"hardware 'own' is .*; give --set kernels=FILE.json too"):
        autotune.search("training-layout", options={"hardware": "own"}, trials=1)
    with pytest.raises(UsageError, match=r"kernel times .*none.json cannot be read"):
        autotune.search("training-layout", options={"kernels": str(tmp_path / "none.json")}, trials=1)
