"""The map's rows and their summary, on a grid small enough for a test."""

from __future__ import annotations

import pytest

from benchmarks.moe_map import Grid, theta_rows, threshold_rows
from benchmarks.moe_map_report import heat_map, print_reach, where_splits_win

SMALL = Grid("small", 4, 8, 2, (0.0, 1.2), (0.0,), (0.9,), ratios=(2.89,), budgets=(0.5, 0.75))


def test_rows_say_what_their_latencies_say() -> None:
    rows = theta_rows(SMALL)
    assert [(row["skew"], row["budget"]) for row in rows] == [(0.0, 0.5), (0.0, 0.75), (1.2, 0.5), (1.2, 0.75)]
    for row in rows:
        best = min(row["latency"])
        assert row["over_0"] == pytest.approx(1 - best / row["latency"][0])
        assert row["over_1"] == pytest.approx(1 - best / row["latency"][-1])
        assert row["reduction"] == pytest.approx(1 - best / row["on_demand"])
        assert ("interior_other_seed" in row) == (row["interior"] > 0.01)
    flat, skewed = where_splits_win(rows, ("skew",))
    assert flat["cells"] == skewed["cells"] == 2
    assert flat["split wins by > 1 %"] == sum("interior_other_seed" in row for row in rows[:2]) > 0
    assert float(flat["by at most"].rstrip("%")) > float(skewed["by at most"].rstrip("%"))


def test_thresholds_cover_every_batch_and_ratio() -> None:
    rows = threshold_rows(SMALL)
    assert {row["batch"] for row in rows} == {1, 4, 16}
    for row in rows:
        assert min(row["latency"]) == pytest.approx(row["latency"][row["thresholds"].index(row["best_threshold"])])
        assert row["crossover_loss"] >= 0 and row["over_loading"] >= 0 and row["over_computing"] >= 0
    assert all(row["best_threshold"] <= 1 for row in rows if row["batch"] == 1)


def test_tables_have_a_line_for_each_key_and_count_what_is_reached(capsys: pytest.CaptureFixture[str]) -> None:
    heat_map("T", [{"a": 1, "x": 0.5, "v": 7}, {"a": 1, "x": 0.25, "v": 8}], ("a",), "x", lambda row: str(row["v"]))
    assert "| a | x 0.25 | x 0.5 |\n| --- | --- | --- |\n| 1 | 8 | 7 |\n" in capsys.readouterr().out
    names = (
        "skew",
        "locality",
        "accuracy",
        "budget",
        "dense_share",
        "traffic",
        "ratio",
        "lru_hit_rate",
        "policy",
        "best_theta",
    )
    base = {**dict.fromkeys(names, 0.0), "interior": 0.0}
    print_reach(
        [{**base, "reduction": 0.4, "whole_reduction": 0.3}, {**base, "reduction": 0.374, "whole_reduction": 0.374}]
    )
    assert "1 of 2 cells, 0 with whole experts" in capsys.readouterr().out
