"""Measured points: who is sampled how often, what is set aside, and that the timed work is the work it claims to be."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count, cycle

import pytest
import torch
import torch.nn.functional as F

from autotune.errors import UsageError
from autotune.hardware import Environment, HardwareProfile, compute, measure
from autotune.hardware.contention import is_contended, run_delay_ms
from autotune.hardware.measure import Budget, measure_compute, measure_link, measure_points
from autotune.hardware.shapes import DenseShape, FfnShape, parse_shape
from autotune.measurement import Protocol

QUICK = Protocol(warmup=1, min_repeats=6, max_repeats=20, target=0.05)
FFN = FfnShape(hidden=32, inter=48, dtype="float32")
DENSE = DenseShape(hidden=32, heads=4, kv_heads=2, head_dim=8, experts=6, context=10, dtype="float32")


class LinearLink:
    """A link of exactly known times: 1 ms and a nanosecond per byte, over the depth."""

    depths = (1, 2)
    max_bytes = 2**30

    def transfer(self, nbytes: int, depth: int = 1) -> float:
        return 1e-3 + nbytes * 1e-9 / depth


def test_a_link_is_measured_exactly_where_it_is_exact() -> None:
    entries = measure_link(LinearLink(), (4096, 2**20), QUICK, 30.0)
    assert [entry.depth for entry in entries] == [1, 2]
    assert entries[0].curve.ms == pytest.approx((1.004096, 2.048576))
    assert entries[1].curve.ms == pytest.approx((1.002048, 1.524288))
    assert entries[0].curve.half_width_ms == (0.0, 0.0)
    assert entries[0].curve.samples == (6, 6)
    assert not any(entries[0].curve.noisy)


def test_a_precise_point_stops_early_and_a_noisy_one_spends_its_repeats() -> None:
    noisy: Iterator[float] = cycle([1.0, 5.0, 2.0, 9.0])
    points = measure_points({"still": lambda: 2.0, "noisy": lambda: next(noisy)}, QUICK, 60.0, watch_contention=False)
    assert len(points["still"].metric.samples) == QUICK.min_repeats
    assert len(points["noisy"].metric.samples) == QUICK.max_repeats


def test_without_time_every_point_is_still_sampled_once_and_flagged() -> None:
    protocol = Protocol(warmup=0, min_repeats=6, max_repeats=20, target=0.05)
    points = measure_points({n: (lambda n=n: float(n)) for n in (1, 2, 3)}, protocol, 0.0)
    assert {n: point.metric.value for n, point in points.items()} == {1: 1.0, 2: 2.0, 3: 3.0}
    assert all(point.metric.half_width is None for point in points.values())
    curve = measure_link(LinearLink(), (4096,), protocol, 1e-9)[0].curve
    assert curve.noisy == (True,)


def test_the_warm_up_is_not_counted() -> None:
    values = count(1)
    points = measure_points({"x": lambda: float(next(values))}, Protocol(2, 3, 3, None), 60.0, watch_contention=False)
    assert points["x"].metric.samples == (3.0, 4.0, 5.0)


def test_points_take_turns_so_that_a_disturbance_spreads() -> None:
    order: list[str] = []

    def sampler(name: str) -> float:
        order.append(name)
        return 1.0

    measure_points({n: (lambda n=n: sampler(n)) for n in "abc"}, Protocol(0, 6, 6, None), 60.0)
    rounds = [order[i : i + 3] for i in range(0, len(order), 3)]
    assert len(rounds) == 6
    assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1


def test_samples_during_which_others_ran_are_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"waited": 0.0}
    samples = cycle([(1.0, 0.0), (9.0, 8.0)])  # every other sample loses a slice of 8 ms

    def sampler() -> float:
        ms, waited = next(samples)
        clock["waited"] += waited
        return ms

    monkeypatch.setattr(measure, "run_delay_ms", lambda: clock["waited"])
    protocol = Protocol(0, 6, 40, 0.05)
    point = measure_points({"x": sampler}, protocol, 60.0)["x"]
    assert point.metric.value == 1.0
    assert set(point.metric.samples) == {1.0}
    assert point.set_aside == 5
    assert not point.contended


def test_a_point_without_a_single_quiet_sample_is_kept_and_called_contended(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = count(0, 100)
    monkeypatch.setattr(measure, "run_delay_ms", lambda: float(next(waited)))
    point = measure_points({"x": lambda: 3.0}, Protocol(0, 6, 8, 0.05), 60.0)["x"]
    assert point.contended
    assert point.metric.value == 3.0


def test_noisy_curves_are_measured_again_and_precise_ones_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_QUIET_PERCENT", 100.0)  # every machine is quiet enough, so that nothing waits
    once, precise = Protocol(0, 1, 1, None), (0.001, 0.001)
    noisy = measure_compute(FFN, "cpu", (1, 2), once, 1.0)
    good = measure_compute(DENSE, "cpu", (1, 2), once, 1.0)
    quiet = good.curve.model_copy(update={"half_width_ms": precise, "samples": (9, 9), "contended": (False, False)})
    good = good.model_copy(update={"curve": quiet})
    before = HardwareProfile(
        name="a", tier_pair="ram<-disk", environment=Environment("0" * 16, {}), compute=(noisy, good), command="c",
        links=measure_link(LinearLink(), (4096,), QUICK, 9.0), created_at=datetime(2025, 1, 2, tzinfo=UTC),
    )  # fmt: skip
    assert measure.measure_noisy_again(before, 0.0) == before
    after = measure.measure_noisy_again(before, 4.0, budget_s=0.5)
    assert sum(after.compute[0].curve.noisy) <= sum(noisy.curve.noisy)
    assert after.compute[0].curve.x == (1, 2)
    assert after.compute[1] == good
    assert after.links == before.links


def test_contention_is_told_by_lost_slices_only() -> None:
    assert is_contended(0.3, 10.0, 14.0)
    assert not is_contended(0.3, 10.0, 10.05)
    assert not is_contended(1000.0, 10.0, 14.0)  # a slice lost in a second hardly matters
    assert not is_contended(0.3, None, None)
    delay = run_delay_ms()
    assert delay is None or delay >= 0


@pytest.mark.parametrize("tokens", [1, 3, 8])
def test_the_timed_expert_is_a_swiglu(tokens: int) -> None:
    work = compute.work_of(FFN, "cpu")
    x = torch.randn(tokens, 32)
    w1, w3, w2 = next(work._experts)  # type: ignore[attr-defined]
    expected = (F.silu(x @ w1.T) * (x @ w3.T)) @ w2.T
    torch.testing.assert_close(work(x), expected)  # every copy holds the same values


@pytest.mark.parametrize("tokens", [1, 3, 8])
def test_the_timed_dense_part_is_grouped_query_attention(tokens: int) -> None:
    work = compute.work_of(DENSE, "cpu")
    x = torch.randn(tokens, 32)
    qkv, out, _, cached = next(work._layers)  # type: ignore[attr-defined]
    heads = (x @ qkv.T)[:, :32].view(tokens, 4, 8)
    rows = []
    for head in range(4):
        keys, values = cached[0, 0, head // 2], cached[1, 0, head // 2]
        rows.append(torch.softmax(heads[:, head] @ keys.T / 8**0.5, dim=-1) @ values)
    expected = torch.cat(rows, dim=1) @ out.T + x
    torch.testing.assert_close(work(x), expected)


def test_weights_in_rotation_exceed_the_caches() -> None:
    shape = FfnShape(hidden=1024, inter=2048, dtype="float32")  # 24 MiB
    work = compute.work_of(shape, "cpu")
    seen = {next(work._experts)[0].data_ptr() for _ in range(64)}  # type: ignore[attr-defined]
    assert len(seen) * shape.weight_bytes >= compute.COLD_BYTES


def test_a_compute_curve_has_a_point_for_every_token_count() -> None:
    for shape in (FFN, DENSE):
        entry = measure_compute(shape, "cpu", (1, 2, 4), Protocol(0, 2, 3, None), 2.0)
        assert entry.curve.x == (1, 2, 4)
        assert entry.shape == shape
        assert all(ms > 0 for ms in entry.curve.ms)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_are_held_in_the_shapes_dtype(dtype: str) -> None:
    shape = parse_shape(f"ffn:hidden=64,inter=64,dtype={dtype}")
    output = compute.work_of(shape, "cpu")(torch.ones(1, 64, dtype=getattr(torch, dtype)))
    assert output.dtype == getattr(torch, dtype)
    assert bool(torch.isfinite(output).all())


def test_bad_requests_are_one_clear_sentence() -> None:
    with pytest.raises(UsageError, match="device 'tpu' is unknown"):
        compute.work_of(FFN, "tpu")
    with pytest.raises(UsageError, match=r"needs .* GiB on cpu .* are free"):
        compute.work_of(FfnShape(hidden=2**20, inter=2**20), "cpu")
    with pytest.raises(UsageError, match=r"tokens=\[4, 2\] must be positive and increasing"):
        measure_compute(FFN, "cpu", (4, 2))
    with pytest.raises(UsageError, match=r"sizes=\[\] must be"):
        measure_link(LinearLink(), ())
    with pytest.raises(UsageError, match="curve_s=0"):
        Budget(curve_s=0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is present")
def test_an_absent_gpu_is_named() -> None:
    with pytest.raises(UsageError, match="device cuda is absent"):
        compute.work_of(FFN, "cuda")


def test_a_budget_is_divided_without_exceeding_it() -> None:
    shared = Budget.share(30.0, 3)
    assert shared.link_s + 3 * shared.curve_s == pytest.approx(30.0)
    assert Budget.share(30.0, 0).link_s == 30.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("shape", [FFN, DENSE])
def test_a_gpu_computes_the_same_curves(shape: FfnShape | DenseShape) -> None:
    entry = measure_compute(shape, "cuda", (1, 8), Protocol(1, 6, 10, None), 5.0)
    assert entry.device == "cuda"
    assert all(ms > 0 for ms in entry.curve.ms)
