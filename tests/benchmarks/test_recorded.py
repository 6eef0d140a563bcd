from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from autotune import Failure, FailureKind, UsageError
from benchmarks.quality.problem import recorded
from evaluators.recorded import discover, read_kernel, read_serving, read_tabular
from evaluators.recorded.table import record
from tests.benchmarks.recorded_spaces import TIMES, VALUES, write


def test_a_recorded_space_is_its_rows_and_replays_them(tmp_path: Path) -> None:
    table = read_kernel(write(tmp_path))
    assert (table.name, table.family, table.device, len(table)) == ("toy_gpu1", "toy", "GPU 1", 10)
    configs = list(table.space.enumerate() or ())
    assert {(c["block"], c["unroll"], c["layout"]) for c in configs} == set(TIMES)
    for config in configs:
        time = TIMES[config["block"], config["unroll"], config["layout"]]
        if time is None:
            with pytest.raises(Failure, match="RuntimeFailedConfig") as failed:
                table(config)
            assert failed.value.kind is FailureKind.CRASH
        else:
            assert table(config) == {"time_ms": time, "time_std_ms": 0.1}
    with pytest.raises(UsageError, match="recorded in toy_gpu1"):
        table({"block": 64, "unroll": 2, "layout": "row"})


def test_losses_lie_in_the_order_of_the_space_and_know_the_direction(tmp_path: Path) -> None:
    table = read_kernel(write(tmp_path))
    configs = list(table.space.enumerate() or ())
    for config, loss in zip(configs, table.losses[:, 0].tolist(), strict=True):
        time = TIMES[config["block"], config["unroll"], config["layout"]]
        assert np.isnan(loss) if time is None else loss == time
    other = table.measuring("maximize time_ms")
    assert np.array_equal(other.losses, -table.losses, equal_nan=True)
    problem = recorded(table, "kernels")
    assert problem.optimum == 1.0 and problem.fraction([1.0, 2.0]).tolist() == [1.0, 0.5]
    assert recorded(other, "kernels").fraction([-9.0, -4.5]).tolist() == [1.0, 0.5]


def test_spaces_are_discovered_at_any_depth(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b", "toy_one")
    write(tmp_path, "toy_two")
    (tmp_path / "note.json").write_text("{}")
    assert [path.stem for path in discover(tmp_path)] == ["toy_one", "toy_two"]


def test_what_is_wrong_with_a_file_is_said_by_name(tmp_path: Path) -> None:
    description = write(tmp_path)
    table = description.with_name("toy_gpu1.csv.gz")
    text = gzip.decompress(table.read_bytes()).decode()
    for changed, said in [
        (text.replace("layout", "shape"), "lacks the column 'layout'"),
        (text.replace("16.0,1,row", "17.0,1,row"), "block='17.0' is not among its values"),
        (text.replace("16.0,1,row", "32.0,1,row"), "list each configuration once"),
    ]:
        table.write_bytes(gzip.compress(changed.encode()))
        with pytest.raises(UsageError, match=said):
            read_kernel(description)
    description.write_text('{"parameters": {}}')
    with pytest.raises(UsageError, match="does not describe a recorded space"):
        read_kernel(description)


def test_a_metric_that_was_not_recorded_is_refused() -> None:
    rows = [(block, unroll, layout) for block, unroll, layout in TIMES]
    with pytest.raises(UsageError, match="lacks the metric 'energy_j'; it has: time_ms"):
        record("toy", VALUES, rows, {"time_ms": np.ones(len(rows))}, "energy_j")
    with pytest.raises(UsageError, match="one number a row"):
        record("toy", VALUES, rows, {"time_ms": np.ones(3)}, "time_ms")


def test_numbers_that_are_not_finite_are_failures() -> None:
    table = record("toy", {"a": [1, 2, 3]}, [(1,), (3,), (2,)], {"t": [1.0, float("inf"), 2.0]}, "t")
    assert table({"a": 2}) == {"t": 2.0}
    with pytest.raises(Failure) as failed:
        table({"a": 3})
    assert failed.value.kind is FailureKind.NAN and table.space.size == 3


def test_published_tables(data: Path) -> None:
    kernels = {table.name: table for table in map(read_kernel, discover(data / "recorded_kernels"))}
    if "convolution_a100" in kernels:
        convolution = kernels["convolution_a100"]
        assert len(convolution) == 4362 and len(convolution.failures) == 161
        assert np.nanmin(convolution.losses) == pytest.approx(0.5536, abs=1e-4)
    nas = read_tabular(data / "tabular_benchmarks" / "nasbench201_cifar10.csv.gz")
    assert len(nas) == 15_625 and nas.space.size == 5**6
    key = "421211"
    choices = ["none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3"]
    found = nas({f"Op{i}": choices[int(digit)] for i, digit in enumerate(key)})
    assert found["val_acc"] == pytest.approx((82.092 + 81.616 + 82.24) / 3)
    assert found["latency_ms"] == pytest.approx(13.936) and found["val_error"] == pytest.approx(100 - found["val_acc"])
    serving = read_serving(data / "serving_measurements" / "serving_points.csv.gz")
    assert serving and all(len(space) >= 100 and len(space.objectives) == 2 for space in serving)
