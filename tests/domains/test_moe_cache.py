"""The domain moe-cache as a user meets it: what it builds from options, and what it says of options that cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import autotune
from autotune import UsageError
from autotune.domain import Problem, load_domain
from autotune.options import parse_options
from evaluators.moe_cache.formats import save_trace
from evaluators.moe_cache.profiled import METRICS, plan_of
from evaluators.moe_cache.trace import DECODE, PREFILL, RoutingTrace
from tests.machine import NAME, write_profile


@pytest.fixture(scope="module")
def hardware(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_profile(tmp_path_factory.mktemp("machine")))


Build = Callable[..., Problem]


@pytest.fixture(scope="module")
def problem(hardware: str) -> Build:
    def build(**options: object) -> Problem:
        domain = load_domain("moe-cache")
        return domain.problem(parse_options(domain.options, {"hardware": hardware, **options}))

    return build


def small_trace(path: Path, model: str = "tiny-moe", *, decode: int = 12) -> Path:
    rng = np.random.default_rng(0)
    tokens = 4 + decode
    picks = np.stack([[rng.permutation(32)[:4] for _ in range(8)] for _ in range(tokens)]).astype(np.int16)
    trace = RoutingTrace(
        model=model,
        n_experts=32,
        top_k=4,
        experts=picks,
        turn=np.zeros(tokens, dtype=np.int32),
        phase=np.array([PREFILL] * 4 + [DECODE] * decode, dtype=np.int8),
    )
    save_trace(trace, path)
    return path


@pytest.fixture(scope="module")
def shipped(problem: Build) -> Problem:
    return problem()


def test_the_default_and_the_baselines_are_feasible_and_measured(shipped: Problem) -> None:
    _, evaluate = shipped.evaluator(None)
    assert set(shipped.baselines) == {"uniform LFU", "cache-only (LCP)", "popularity placement", "prefetch-only"}
    for config in (shipped.default, *shipped.baselines.values()):
        assert shipped.space.explain(config) == []
        measured = evaluate(config).values()
        assert set(measured) <= set(METRICS)
        assert measured["token_latency_ms"] > 0


def test_the_default_is_what_people_do(shipped: Problem) -> None:
    plan = plan_of(shipped.default)
    assert (plan.policy, plan.prefetch_depth, set(plan.theta), len(set(plan.budget_bytes))) == ("lru", 0, {1.0}, 1)


def test_no_configuration_of_the_space_uses_more_than_the_budget(shipped: Problem) -> None:
    _, evaluate = shipped.evaluator(None)
    budget_gib = 24 / 1024  # a quarter of 96 MiB of experts
    for config in shipped.space.sample(20, seed=1):
        assert evaluate(config).values()["fast_memory_gib"] <= budget_gib * (1 + 1e-9)


def test_staging_for_prefetch_is_paid_out_of_the_same_memory(shipped: Problem) -> None:
    broken = shipped.space.explain({**shipped.default, "prefetch_depth": 3, "predictor": "recorded"})
    assert len(broken) == 1
    assert "prefetch_depth" in broken[0]


def test_the_predictor_is_a_knob_of_prefetching_and_no_oracle_is_offered(problem: Build, tmp_path: Path) -> None:
    shipped = problem()
    _, evaluate = shipped.evaluator(None)
    base = shipped.baselines["prefetch-only"]
    found = {}
    for predictor in ("recorded", "affinity", "popularity"):
        config = {**base, "predictor": predictor}
        assert shipped.space.explain(config) == []
        measured = evaluate(config)
        assert measured.notes["predictors"] == (predictor,)
        found[predictor] = measured.metrics["prefetch_precision"].value
    assert len(set(found.values())) == 3
    stored_before = {name: value for name, value in base.items() if name != "predictor"}
    assert evaluate(stored_before).metrics["prefetch_precision"].value == found["recorded"]
    assert shipped.space.explain({**base, "predictor": "oracle"}) != []
    assert shipped.space.explain({**shipped.default, "predictor": "affinity"}) != []  # nothing is prefetched
    # For limits it is there all the same.
    assert evaluate({**base, "predictor": "oracle"}).metrics["prefetch_precision"].value == 1.0
    bare = problem(trace=str(small_trace(tmp_path / "bare.moetrace.npz")))
    assert bare.baselines["prefetch-only"]["predictor"] == "affinity"
    assert bare.space.explain({**bare.baselines["prefetch-only"], "predictor": "recorded"}) != []


def test_prefetch_only_caches_nothing(shipped: Problem) -> None:
    _, evaluate = shipped.evaluator(None)
    assert evaluate(shipped.baselines["prefetch-only"]).values()["hit_rate"] == 0.0


def test_a_budget_that_holds_everything_exposes_no_transfer_after_the_first_touch(problem: Build) -> None:
    roomy = problem(budget_fraction=1.5)
    _, evaluate = roomy.evaluator(None)
    values = evaluate(roomy.default).values()
    tight = problem(budget_fraction=0.25)
    assert values["hit_rate"] > 0.99
    assert (
        values["exposed_transfer_ms"] < 0.02 * tight.evaluator(None)[1](tight.default).values()["exposed_transfer_ms"]
    )


def test_a_batch_is_slower_per_token_faster_in_all_and_takes_larger_buffers(problem: Build) -> None:
    served = problem(batch=8, budget_fraction=0.5)
    alone = problem(budget_fraction=0.5)
    assert "in batches of 8" in served.facts["trace"]
    values, single = (p.evaluator(None)[1](p.default).values() for p in (served, alone))
    assert values["token_latency_ms"] > single["token_latency_ms"]
    assert values["tokens_per_s"] > single["tokens_per_s"]
    # Staging buffers hold the experts of one pass, so that batches leave less to the caches.
    assert sum(served.default["budget_mib"]) < sum(alone.default["budget_mib"])
    for config in served.space.sample(5, seed=0):
        assert served.evaluator(None)[1](config).values()["fast_memory_gib"] <= 48 / 1024 * (1 + 1e-9)


def test_the_search_beats_every_baseline_and_repeats_itself(tmp_path: Path, hardware: str) -> None:
    options = {"hardware": hardware}
    results = [
        autotune.search("moe-cache", options=options, trials=20, seed=3, storage=f"sqlite:///{tmp_path}/{name}.db")
        for name in ("first", "second")
    ]
    first, second = results
    assert first.best is not None and first.default is not None and first.gain is not None
    assert first.gain > 0
    latencies = [o.metrics["token_latency_ms"] for o in (first.default, *first.baselines.values())]
    assert first.best.metrics["token_latency_ms"] <= min(latencies)
    assert second.best is not None
    assert second.best.config == first.best.config
    assert second.best.metrics == first.best.metrics


def test_the_hardware_profile_is_kept_with_the_study(tmp_path: Path, hardware: str) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    autotune.search("moe-cache", options={"hardware": hardware}, trials=1, storage=url, study="a")
    store = autotune.Store(url, read_only=True)
    record = store.load_study("a")
    assert record.profile_id is not None
    assert store.profile(record.profile_id).payload["name"] == NAME


def test_a_larger_model_is_found_by_the_name_of_its_trace(tmp_path: Path, problem: Build) -> None:
    with pytest.raises(UsageError, match="model mixtral-8x7b has 32 layers of 8 experts, but the trace has 8 of 32"):
        problem(trace=str(small_trace(tmp_path / "t.moetrace.npz", model="my-Mixtral-8x7B-q4")))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trace": "nowhere"}, "trace 'nowhere' is neither a file nor a shipped trace; shipped are: tiny-moe"),
        ({"budget_gib": 0.001}, "holds no expert"),
        ({"budget_gib": -1}, "option budget_gib = -1"),
        ({"budget_fraction": "much"}, "option budget_fraction = 'much'"),
        ({"hardware": "h2000"}, "hardware profile 'h2000' is unknown"),
        ({"model": "gpt-9"}, "model 'gpt-9' is unknown"),
        ({"bugdet_gib": 4}, "option 'bugdet_gib' is unknown (did you mean 'budget_gib'?)"),
        ({"remeasure": True}, "leave them out"),
        ({"max_prefetch_depth": 9}, "option max_prefetch_depth = 9"),
        ({"batch": 0}, "option batch = 0"),
        ({"batch": 5000}, "batch=5000 does not fit the trace's 1152 decode tokens"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(options: dict[str, object], words: str, problem: Build) -> None:
    with pytest.raises(UsageError) as caught:
        problem(**options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_trace_of_an_unknown_model_asks_for_it(tmp_path: Path, problem: Build) -> None:
    trace = small_trace(tmp_path / "t.moetrace.npz", model="nobody-knows")
    with pytest.raises(UsageError, match="--set model=NAME"):
        problem(trace=str(trace))
    assert problem(trace=str(trace), model="tiny-moe").space.contains


def test_a_trace_without_generated_tokens_is_refused(tmp_path: Path, problem: Build) -> None:
    with pytest.raises(UsageError, match="no decode token"):
        problem(trace=str(small_trace(tmp_path / "t.moetrace.npz", decode=0)))


def test_a_trace_file_with_an_expert_out_of_range_is_refused(tmp_path: Path, problem: Build) -> None:
    bad = {
        "model": "m",
        "num_layers": 1,
        "num_experts": 4,
        "top_k": 1,
        "prompts": {"p": {"prefill": [], "decode": [[[7]]]}},
    }
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(bad))
    with pytest.raises(UsageError) as caught:
        problem(trace=str(path))
    assert "7" in str(caught.value)
