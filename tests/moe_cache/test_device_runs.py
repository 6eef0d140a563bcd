"""Device runs by others: what is read from the table, what is fitted, and how well the rest is predicted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autotune import UsageError
from benchmarks.device_runs import predictions, score
from evaluators.moe_cache.device_runs import (
    PHONE,
    DeviceModel,
    DeviceRun,
    TraceCurve,
    first_of_each_kind,
    noise_floor,
    read_runs,
    within,
)
from evaluators.moe_cache.formats import load_trace

from .traces import one_layer, recorded


@pytest.fixture(scope="module")
def runs() -> list[DeviceRun]:
    return read_runs(recorded("measured_runs.csv"))


@pytest.fixture(scope="module")
def curve() -> TraceCurve:
    return TraceCurve(load_trace(recorded("qwen.route.csv.gz")))


def named(runs: list[DeviceRun], name: str) -> DeviceRun:
    return next(run for run in runs if run.name.endswith(name))


def test_settings_are_read_from_headers_columns_and_names(runs: list[DeviceRun]) -> None:
    assert len(runs) == 37  # the table has one run twice
    assert len({run.name for run in runs}) == 37
    early = named(runs, "qwen_c2000_l2")
    assert (early.cache_mib, early.overlap, early.top_k, early.device) == (2000, False, 8, PHONE)
    assert named(runs, "qwen_c4000_l4_ov").overlap and named(runs, "qwen5k_base").overlap
    assert named(runs, "qwen5k_base").cache_mib == 5000
    late = named(runs, "qwen-lfu_a")
    assert (late.cache_mib, late.policy, late.top_k) == (3000, "lfu", 6)
    desktop = named(runs, "pc-F-c5000-io8t4")
    assert (desktop.device.name, desktop.cache_mib, desktop.variant) == ("desktop", 5000, "threads 4, readers 8")
    assert named(runs, "qwen_stream").cache_mib is None and named(runs, "qwen_stream").hit_rate is None
    beyond = {run.beyond for run in runs}
    assert beyond == {None, "the system's page cache", "speculative reads", "dropped experts"}


def test_what_a_token_needs_is_what_a_run_without_a_cache_reads(runs: list[DeviceRun], curve: TraceCurve) -> None:
    assert 48 * 8 * curve.expert_mib == pytest.approx(named(runs, "qwen_stream").read_mib, rel=0.005)


def test_five_runs_are_fitted_by_the_rule(runs: list[DeviceRun]) -> None:
    fitted = first_of_each_kind(runs)
    assert len(fitted) == 5
    assert len({run.kind for run in fitted}) == 5
    assert all(runs.index(run) == min(runs.index(o) for o in runs if o.kind == run.kind) for run in fitted)


def test_the_rest_is_predicted_as_well_as_the_results_page_says(runs: list[DeviceRun], curve: TraceCurve) -> None:
    found = score(predictions(runs, first_of_each_kind(runs), curve))
    assert (found["rest"], found["hits_predicted"], found["seconds_predicted"]) == (32, 23, 25)
    assert found["hits_right"] >= 18
    assert found["hit_error_points"] < 0.6
    assert found["seconds_right"] >= 15


def test_a_device_that_is_as_the_model_says_is_found_again(runs: list[DeviceRun], curve: TraceCurve) -> None:
    """Runs made up by the model: misses 0.8 times the trace's at 0.9 of the cache, 2,000 look-ups of the prompt."""

    def made(cache_mib: float, *, overlap: bool = True) -> DeviceRun:
        plain = replace(named(runs, "qwen_kdef"), name=f"made {cache_mib}", cache_mib=cache_mib, overlap=overlap)
        misses = 0.8 * curve.misses("lru", 0.9 * cache_mib)
        read_mib = misses * 48 * 8 * curve.expert_mib
        return replace(
            plain,
            compute_seconds=0.1,
            read_mib=read_mib,
            seconds_per_token=0.1 + (0.0004 if overlap else 0.0007) * read_mib,
            hit_rate=plain.lookups * (1 - misses) / (plain.lookups + 2000),
        )

    model = DeviceModel.fit([made(2000), made(4000), made(3000, overlap=False)], curve)
    fitted = model.hits["phone", 8]
    assert (fitted.factor, fitted.stretch) == (pytest.approx(0.8), pytest.approx(0.9))
    assert fitted.prompt_lookups == pytest.approx(2000)
    for unseen in (made(5000), made(2500, overlap=False)):
        predicted = model.predict(unseen)
        assert predicted is not None
        assert predicted.hit_rate == pytest.approx(unseen.hit_rate)
        assert predicted.seconds_per_token == pytest.approx(unseen.seconds_per_token)


def test_what_the_model_has_no_term_for_is_not_predicted(runs: list[DeviceRun], curve: TraceCurve) -> None:
    model = DeviceModel.fit(first_of_each_kind(runs), curve)
    assert model.predict(named(runs, "qwen_mmap")) is None
    assert model.predict(named(runs, "pc-C-drop075")) is None
    assert model.predict(replace(named(runs, "qwen_kdef"), top_k=4)) is None
    with pytest.raises(UsageError, match="dropped experts"):
        DeviceModel.fit([named(runs, "pc-C-drop075")], curve)


def test_the_noise_floor_is_what_a_constant_could_reach(runs: list[DeviceRun]) -> None:
    one = named(runs, "qwen_kdef")
    at = [replace(one, seconds_per_token=s) for s in (0.100, 0.110, 0.200)]
    # 0.115 is within 15 % of the first two, and no constant is near all three.
    assert noise_floor(at, 0.15) == (2, 3)
    assert noise_floor([*at, replace(one, cache_mib=1.0)], 0.15) == (2, 3)
    right, total = noise_floor(runs, 0.15)
    assert right < total


def test_within_is_relative_to_what_was_measured() -> None:
    assert within(115.0, 100.0, 0.15) and within(85.0, 100.0, 0.15)
    assert not within(116.0, 100.0, 0.15) and not within(84.0, 100.0, 0.15)


def test_a_table_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("run,tokens\na,1\n")
    with pytest.raises(UsageError, match="lack the column 's/tok'"):
        read_runs(tmp_path / "runs.csv")
    with pytest.raises(UsageError, match="cannot be read"):
        read_runs(tmp_path / "absent.csv")
    with pytest.raises(UsageError, match="has no expert_bytes"):
        TraceCurve(one_layer([0, 1], 4)).misses("lru", 1.0)
