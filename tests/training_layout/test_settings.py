"""Settings that are fixed or searched over: where shards lie, what is offloaded, pruned, hidden, and cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune import UsageError
from evaluators.training_layout.choices import CHOICES, chosen
from evaluators.training_layout.gpus import gpu
from evaluators.training_layout.knobs import space_of
from evaluators.training_layout.lengths import Lengths, Packing
from evaluators.training_layout.profiled import GIB, Profiled
from tests.training_layout.jobs import columns, job


def metrics(one: Any, **values: Any) -> dict[str, float]:
    found = Profiled(one).of_columns(columns(**values))
    return {name: float(column[0]) for name, column in found.items()}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("precision", "fp16", "precision 'fp16' is unknown; use bf16, fp8"),
        ("context", "ring,rings", "context 'rings' is unknown; use ring, ulysses, tokenring"),
        ("local_steps", "0", "local_steps '0' is unknown; use whole numbers from 1 to 10000"),
        ("sparsity", "1", "sparsity '1' is unknown; use numbers of at least 0 and below 1"),
        (
            "offload_activations",
            "half",
            "offload_activations 'half' is unknown; use numbers of at least 0 and at most 1",
        ),
        ("shard_within", "host", "shard_within 'host' is unknown; use a link level"),
        ("overlap", "t3,t3", "overlap 't3,t3' names a value twice"),
    ],
)
def test_values_that_do_not_exist_are_told(name: str, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        chosen({name: text}, gpu("h100"))


def test_a_level_that_the_cluster_lacks_is_refused() -> None:
    with pytest.raises(
        UsageError, match="names level 'rack', which a cluster of h100 does not have; it has: node, cluster"
    ):
        job(settings={"shard_within": "rack"})
    assert job(device="gb200", gpus=144, settings={"shard_within": "rack"}).fixed["shard_within"] == "rack"


def test_several_values_become_a_knob_and_one_does_not() -> None:
    names = space_of(job(settings={"precision": "bf16,fp8", "overlap": "t3"}, model="llama3-8b")).enumerate().columns()  # type: ignore[union-attr]
    assert "precision" in names
    assert "overlap" not in names
    # What experts alone have is no knob of a dense model.
    assert "moe_pipeline" not in {p.name for p in space_of(job(settings={"moe_pipeline": "1,2"})).parameters}


def test_shards_lie_within_their_level() -> None:
    one = job(gpus=64, settings={"shard_within": "cluster,node,node/node/cluster"})
    for value, expected in (("cluster", (64, 64, 64)), ("node", (8, 8, 8)), ("node/node/cluster", (8, 8, 64))):
        found = one.shards(columns(zero=3, shard_within=value))
        assert tuple(int(part[0]) for part in found) == expected
    # Tensor-parallel GPUs lie nearest; ZeRO 1 spreads states alone.
    assert [int(part[0]) for part in one.shards(columns(zero=1, tp=2, shard_within="node"))] == [1, 1, 4]


def test_frontier_has_three_levels() -> None:
    one = job(device="mi250x", gpus=64, settings={"shard_within": "pair/node/cluster"})
    assert [int(part[0]) for part in one.shards(columns(zero=3))] == [2, 8, 64]
    held = metrics(one, zero=3)
    parameters = one.model.total_parameters / GIB
    assert held["weights_gib"] == pytest.approx(2 * parameters / 2)
    assert held["gradients_gib"] == pytest.approx(2 * parameters / 8)
    assert held["optimizer_gib"] == pytest.approx(12 * parameters / 64)


def test_every_layout_is_there_once() -> None:
    one = job(gpus=16)
    table = space_of(one).enumerate()
    assert table is not None
    found = table.columns()
    layouts = one.layouts(found)
    kept = ("dp", "tp", "pp", "cp", "interleave", "micro_batch", "recompute", "recompute_share", "context", "weight_shards",
            "gradient_shards", "optimizer_shards")  # fmt: skip
    rows = np.stack([getattr(layouts, name) for name in kept], axis=1)
    assert len(np.unique(rows, axis=0)) == len(table)
    assert (layouts.weight_shards <= layouts.gradient_shards).all()
    assert (layouts.gradient_shards <= layouts.optimizer_shards).all()


def test_shards_of_a_node_trade_memory_for_traffic_on_the_network() -> None:
    one = job(
        "llama3-70b",
        256,
        "v100",
        global_batch=4096,
        sequence=1024,
        settings={"shard_within": "cluster,node"},
        memory_bytes=1e15,
    )
    over_all, within = (metrics(one, zero=3, shard_within=value) for value in ("cluster", "node"))
    assert within["weights_gib"] == pytest.approx(32 * over_all["weights_gib"])
    assert within["data_s"] < over_all["data_s"]


def test_offloaded_states_leave_the_gpu_and_take_time() -> None:
    one = job("llama3-70b", 64, settings={"offload_states": "none,host,ssd", "overlap": "standard,fuyou"})
    here, host, ssd = (metrics(one, offload_states=value, overlap="standard") for value in ("none", "host", "ssd"))
    assert host["optimizer_gib"] == ssd["optimizer_gib"] == 0.0
    assert host["host_gib"] == pytest.approx(here["optimizer_gib"])
    assert ssd["host_gib"] == 0.0
    assert here["optimizer_s"] < host["optimizer_s"] < ssd["optimizer_s"]
    assert metrics(one, offload_states="host", overlap="fuyou")["optimizer_s"] < host["optimizer_s"]


def test_offloaded_activations_leave_the_gpu_and_hide_as_far_as_the_link_allows() -> None:
    one = job(settings={"offload_activations": "0,0.5,1"})
    kept, half, gone = (metrics(one, offload_activations=share) for share in (0.0, 0.5, 1.0))
    assert half["activations_gib"] == pytest.approx(kept["activations_gib"] / 2)
    assert gone["activations_gib"] == 0.0
    assert gone["host_gib"] == pytest.approx(kept["activations_gib"])
    assert 0.0 == kept["offload_s"] <= half["offload_s"] <= gone["offload_s"]


def test_layouts_that_overflow_the_host_are_left_out() -> None:
    wanted = {"offload_states": "host"}
    assert space_of(job("llama3-70b", 16, settings=wanted, host_bytes=200e9)).enumerate() is not None
    tight = space_of(job("llama3-70b", 16, settings=wanted, host_bytes=1e9)).enumerate()
    assert tight is None or not len(tight)


def test_pruned_weights_take_the_bytes_that_samo_names() -> None:
    """2 bytes for each weight, 24 for each that is kept."""
    one = job(settings={"sparsity": "0.9"})
    held = metrics(one, zero=0)
    parameters = one.model.total_parameters / GIB
    assert held["weights_gib"] + held["gradients_gib"] + held["optimizer_gib"] == pytest.approx(4.4 * parameters)


def test_local_steps_need_groups_and_send_less_between_them() -> None:
    one = job("llama3-8b", 64, settings={"shard_within": "cluster,node", "local_steps": "1,100"})
    table = space_of(one).enumerate()
    assert table is not None
    found = table.columns()
    far = found["local_steps"] == 100
    assert far.any()
    assert (one.layouts(found).optimizer_shards[far] < one.layouts(found).replicas[far]).all()
    often, seldom = (metrics(one, shard_within="node", zero=2, local_steps=steps) for steps in (1, 100))
    assert seldom["data_s"] < often["data_s"]
    assert seldom["optimizer_gib"] > often["optimizer_gib"]


def test_methods_hide_what_their_papers_say() -> None:
    one = job("llama3-70b", 64, settings={"overlap": "standard,t3,ladder,co2", "shard_within": "node"})
    standard, t3, ladder, co2 = (metrics(one, tp=4, overlap=method) for method in ("standard", "t3", "ladder", "co2"))
    assert ladder["tensor_s"] < t3["tensor_s"] < standard["tensor_s"]
    assert co2["data_s"] < standard["data_s"]
    assert t3["products_s"] == ladder["products_s"] == co2["products_s"] == standard["products_s"]


def test_ulysses_takes_heads_and_sends_less_the_more_gpus_there_are() -> None:
    one = job("llama3-8b", 64, sequence=65_536, settings={"context": "ring,ulysses,tokenring"})
    table = space_of(one).enumerate()
    assert table is not None
    found = table.columns()
    exchanged = found["context"] == "ulysses"
    assert exchanged.any()
    assert (one.model.n_kv_heads % (found["tp"][exchanged] * found["cp"][exchanged]) == 0).all()
    # Without context parallelism there is no algorithm of it.
    assert {value for value, cp in zip(found["context"], found["cp"], strict=True) if cp == 1} == {None}
    two, eight = (metrics(one, cp=cp, context="ulysses")["context_s"] for cp in (2, 8))
    # Each GPU has a quarter of the tokens and sends 7/8 of them instead of 1/2, over as fast a link; and does a fourth as many
    # steps, as copies are fewer.
    per_step = [
        seconds / metrics(one, cp=cp, context="ulysses")["microbatches"] for seconds, cp in ((two, 2), (eight, 8))
    ]
    assert per_step[1] < per_step[0]


def test_experts_cut_into_parts_hide_their_traffic() -> None:
    one = job("mixtral-8x7b", 32, settings={"moe_pipeline": "1,2,4", "gradient_slices": "0,4"})
    whole, cut = (metrics(one, ep=8, etp=1, moe_pipeline=parts, gradient_slices=0) for parts in (1, 4))
    assert cut["expert_s"] < whole["expert_s"]
    sliced = metrics(one, ep=8, etp=1, moe_pipeline=4, gradient_slices=4)
    assert sliced["data_s"] <= cut["data_s"]


def test_whole_sequences_are_a_mixture_of_one_length() -> None:
    plain, packed = job(), job(lengths=Lengths((4096,), (1.0,)))
    for name, value in metrics(plain).items():
        assert metrics(packed)[name] == pytest.approx(value), name


@given(
    short=st.integers(16, 1024),
    weight=st.floats(0.5, 0.999),
    copies=st.sampled_from([1, 8, 64]),
    microbatches=st.sampled_from([1, 8, 100]),
)
def test_the_slowest_copy_has_at_least_the_mean_and_dynamic_groups_at_most_the_slowest(
    short: int, weight: float, copies: int, microbatches: int
) -> None:
    packing = Packing(Lengths((short, 8192), (weight, 1.0 - weight)), 8192)
    assert 0.0 < packing.mean <= 1.0
    several = [np.array([value]) for value in (copies, microbatches, 1, 8)]
    static, dynamic = (float(packing.attention_share(*several, np.array([way]))[0]) for way in (False, True))
    assert static >= packing.mean
    assert dynamic <= static
    assert float(packing.context_share(np.array([1]), np.array([8]), np.array([True]))[0]) <= 1.0


def test_attention_of_packed_documents_is_that_of_their_squares() -> None:
    # Four documents fill a sequence exactly: a quarter of the attention of a whole one, always.
    packing = Packing(Lengths((1024,), (1.0,)), 4096)
    assert packing.mean == pytest.approx(0.25)
    one = [np.array([value]) for value in (64, 4, 1, 4)]
    assert float(packing.attention_share(*one, np.array([False]))[0]) == pytest.approx(0.25)
    # Each fits on one of four GPUs, so that nothing is sent.
    assert float(packing.context_share(np.array([1]), np.array([4]), np.array([True]))[0]) == 0.0


def test_lengths_are_read_from_text_and_files(tmp_path: Path) -> None:
    (tmp_path / "lengths.txt").write_text("10\n20\n10\n")
    assert Lengths.read(str(tmp_path / "lengths.txt")) == Lengths((10, 20), (2.0, 1.0))
    assert Lengths.read("10:2,20:1") == Lengths((10, 20), (2.0, 1.0))
    for wrong in ("10", "a:b", "0:1", "10:0", "10:-1", "10:nan"):
        with pytest.raises(UsageError, match="lengths"):
            Lengths.read(wrong)


def test_redundant_work_pays_only_where_copies_straggle() -> None:
    from evaluators.training_layout.goodput import Reliability

    one = job(gpus=64, settings={"redundancy": "0,1"})
    for spread, better in ((0.0, 0), (0.9, 0)):
        evaluator = Profiled(one, reliability=Reliability(straggler_spread=spread))
        seconds = [float(evaluator.of_columns(columns(redundancy=n))["step_s"][0]) for n in (0, 1)]
        assert seconds[better] == min(seconds)


def test_every_setting_has_a_usual_value() -> None:
    found = chosen({}, gpu("gb200"))
    assert set(found) == set(CHOICES)
    assert found["shard_within"] == ("cluster", "rack", "node", "node/node/cluster")
