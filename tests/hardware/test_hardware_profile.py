"""What a profile answers: exact at measured points, sensible between and beyond, and a clear no for what it lacks."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import UsageError
from autotune.hardware import ComputeEntry, Curve, DenseShape, Environment, FfnShape, HardwareProfile, LinkEntry
from autotune.hardware.shapes import parse_shape

MIB = 2**20
FFN = FfnShape(hidden=64, inter=32)
DENSE = DenseShape(hidden=64, heads=4, kv_heads=2, head_dim=16, experts=8)


def curve(x: tuple[int, ...], ms: tuple[float, ...], **changes: Any) -> Curve:
    n = len(x)
    columns: dict[str, Any] = {
        "half_width_ms": (0.001,) * n, "samples": (9,) * n, "set_aside": (0,) * n, "contended": (False,) * n, "target": 0.05
    }  # fmt: skip
    return Curve(x=x, ms=ms, **{**columns, **changes})


def profile(**changes: Any) -> HardwareProfile:
    fields: dict[str, Any] = {
        "name": "bench",
        "tier_pair": "ram<-disk",
        "environment": Environment("0123456789abcdef", {"hardware": {"cores": 2}}),
        "links": (
            LinkEntry(depth=1, curve=curve((4096, MIB, 4 * MIB), (0.1, 1.0, 4.0))),
            LinkEntry(depth=4, curve=curve((4096, MIB, 4 * MIB), (0.2, 0.5, 2.0))),
        ),
        "compute": (ComputeEntry(shape=FFN, device="cpu", curve=curve((1, 4, 16), (1.0, 2.0, 8.0))),),
        "created_at": datetime(2025, 1, 2, tzinfo=UTC),
        "command": "autotune hardware",
    }
    return HardwareProfile(**{**fields, **changes})


def test_measured_points_are_returned_as_measured() -> None:
    measured = profile()
    np.testing.assert_allclose(measured.link_ms(np.array([4096, MIB, 4 * MIB]), depth=1), [0.1, 1.0, 4.0])
    np.testing.assert_allclose(measured.ffn_ms(FFN, np.array([[1, 4], [16, 0]])), [[1.0, 2.0], [8.0, 0.0]])


def test_between_points_the_line_is_straight_on_logarithmic_axes() -> None:
    assert profile().ffn_ms(FFN, 2) == pytest.approx(2**0.5)
    assert profile().link_ms(2 * MIB, depth=1) == pytest.approx(2.0)


def test_beyond_the_last_point_its_rate_holds_and_below_the_first_its_time() -> None:
    measured = profile()
    assert measured.link_ms(400 * MIB, depth=1) == pytest.approx(400.0)
    assert measured.ffn_ms(FFN, 160) == pytest.approx(80.0)
    assert measured.link_ms(1, depth=1) == pytest.approx(0.1)
    assert measured.link_ms(0) == 0.0


def test_bandwidth_is_bytes_over_time() -> None:
    assert profile().bandwidth_gib_s(MIB, depth=1) == pytest.approx(1000 / 1024)
    with pytest.raises(UsageError, match="nbytes=0"):
        profile().bandwidth_gib_s(0)


def test_the_best_depth_is_the_fastest_for_large_transfers_and_is_the_default() -> None:
    measured = profile()  # depth 4 is slower for 4 KiB and twice as fast for a MiB
    assert measured.best_depth == 4
    assert measured.link_ms(MIB) == measured.link_ms(MIB, depth=4) == pytest.approx(0.5)
    with pytest.raises(UsageError, match=r"queue depth 3 is not in hardware profile 'bench'; it has: 1, 4"):
        measured.link_ms(MIB, depth=3)


@given(
    st.lists(st.tuples(st.floats(1e-3, 1e3), st.integers(1, 200)), min_size=2, max_size=15),
    st.lists(st.integers(1, 2**28), min_size=2, max_size=20),
)
def test_more_bytes_never_take_less_time_however_noisy_the_curve(
    points: list[tuple[float, int]], sizes: list[int]
) -> None:
    x = tuple(2 ** (12 + k) for k in range(len(points)))
    noisy = curve(x, tuple(ms for ms, _ in points), samples=tuple(n for _, n in points))
    times = profile(links=(LinkEntry(depth=1, curve=noisy),)).link_ms(np.sort(np.array(sizes)))
    assert np.all(np.diff(times) >= -1e-9 * times[1:])


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=10).map(sorted))
def test_a_curve_that_never_falls_is_left_alone_by_the_monotone_fit(ms: list[float]) -> None:
    rising = curve(tuple(2**k for k in range(len(ms))), tuple(ms))
    np.testing.assert_allclose(rising.isotonic().ms, ms, rtol=1e-9)


def test_points_are_noisy_when_wide_few_or_contended() -> None:
    flagged = curve(
        (1, 2, 4, 8, 16),
        (1.0, 1.0, 1.0, 1.0, 1.0),
        half_width_ms=(0.001, 0.2, 0.001, None, 0.001),
        samples=(9, 9, 5, 1, 9),
        contended=(False, False, False, False, True),
    )
    assert flagged.noisy == (False, True, True, True, True)
    with_noise = profile(compute=(ComputeEntry(shape=FFN, device="cpu", curve=flagged),))
    (warning,) = with_noise.warnings()
    assert "imprecise at 2, 4, 8, 16 tokens (other processes took the cores)" in warning
    assert profile().warnings() == []


@pytest.mark.parametrize(
    "asked", [FfnShape(hidden=64, inter=33), FfnShape(hidden=64, inter=32, dtype="float32"), DENSE]
)
def test_a_shape_that_is_lacking_says_how_to_measure_it(asked: FfnShape | DenseShape) -> None:
    with pytest.raises(UsageError, match="--shape") as raised:
        profile().compute_ms(asked, 1)
    named = str(raised.value).partition("--shape ")[2].rstrip("'")
    assert parse_shape(named) == asked
    assert not profile().has(asked)
    with pytest.raises(UsageError, match="on cuda"):
        profile().ffn_ms(FFN, 1, device="cuda")


@pytest.mark.parametrize("sizes", [-1.0, np.array([1.0, -2.0]), float("nan"), float("inf")])
def test_impossible_sizes_are_refused(sizes: Any) -> None:
    with pytest.raises(UsageError, match="nbytes="):
        profile().link_ms(sizes)
    with pytest.raises(UsageError, match="tokens="):
        profile().ffn_ms(FFN, sizes)


def test_merging_adds_shapes_and_replaces_those_measured_again() -> None:
    again = ComputeEntry(shape=FFN, device="cpu", curve=curve((1, 4), (3.0, 3.0)))
    new = ComputeEntry(shape=DENSE, device="cpu", curve=curve((1, 4), (5.0, 6.0)))
    merged = profile().merge([again, new])
    assert (merged.ffn_ms(FFN, 1), merged.dense_ms(DENSE, 4)) == (pytest.approx(3.0), pytest.approx(6.0))
    assert len(merged.compute) == 2
    assert profile().ffn_ms(FFN, 1) == pytest.approx(1.0)


def test_json_brings_back_the_same_profile() -> None:
    measured = profile(notes={"torch_threads": 2})
    assert HardwareProfile.from_json(measured.to_json()) == measured
    assert HardwareProfile.from_dict(json.loads(json.dumps(measured.to_dict()))) == measured


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"schema_version": 99}, "schema_version"),
        ({"tier_pair": "ram<-tape"}, "tier_pair"),
        ({"links": []}, "links"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=rf"hardware profile: {named}"):
        HardwareProfile.from_dict({**profile().to_dict(), **change})


@pytest.mark.parametrize(
    "change", [{"x": (4, 2, 1)}, {"ms": (1.0, 2.0)}, {"ms": (1.0, 0.0, 2.0)}, {"x": (0, 1, 2)}, {"samples": (1,)}]
)
def test_an_inconsistent_curve_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        curve(**{"x": (1, 2, 4), "ms": (1.0, 2.0, 3.0), **change})


def test_a_published_profile_keeps_its_name_and_not_the_host() -> None:
    measured = profile(environment=Environment("0123456789abcdef", {"hostname": "desk", "os": "Linux"}))
    published = measured.published("epyc")
    assert published.name == "epyc"
    assert published.environment == Environment("0123456789abcdef", {"os": "Linux"})
    assert published.links == measured.links


def test_the_summary_has_a_row_for_every_point() -> None:
    rows = profile().summary()
    assert len(rows) == 3 + 3 + 3
    assert rows[1] == {
        "what": "link", "on": "depth 1", "unit": "B", "gib_s": pytest.approx(1000 / 1024), "size": MIB, "ms": 1.0,
        "half_width_ms": 0.001, "samples": 9, "set_aside": 0, "noisy": False,
    }  # fmt: skip
    assert {key for row in rows for key in row} == set(rows[0])
    assert rows[-1]["what"] == str(FFN)


@pytest.mark.parametrize("shape", [FFN, DENSE, FfnShape(hidden=8, inter=16, dtype="float32")])
def test_the_text_of_a_shape_reads_back(shape: FfnShape | DenseShape) -> None:
    assert parse_shape(str(shape)) == shape
    assert parse_shape(shape) is shape


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("conv:hidden=1", "must begin with 'ffn:' or 'dense:'"),
        ("ffn:hidden=64", "inter"),
        ("ffn:hidden=64,inter=0", "inter"),
        ("ffn:hidden=64,inter", "NAME=VALUE"),
        ("ffn:hidden=64,inter=32,dtype=int8", "dtype"),
        ("ffn:hidden=64,inter=32,width=2", "width"),
        ("dense:hidden=64,heads=4,kv_heads=3,head_dim=8,experts=4", "heads=4 is no multiple of kv_heads=3"),
    ],
)
def test_a_wrong_shape_is_named(text: str, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        parse_shape(text)


def test_weight_bytes_count_every_matrix() -> None:
    assert FFN.weight_bytes == 3 * 64 * 32 * 2
    assert DENSE.weight_bytes == 2 * (64 * 64 * 2 + 2 * 64 * 32 + 8 * 64 + 2 * 512 * 32)
