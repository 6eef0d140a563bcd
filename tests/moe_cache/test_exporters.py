"""Cache configurations for engines: exact files for known configurations, read back as the engines read them."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import jsonschema
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from autotune import Exported, UsageError
from autotune.options import parse_options
from autotune.store.records import TrialRecord, TrialState
from evaluators.moe_cache.exporters import Subject, exporters
from evaluators.moe_cache.exporters.plan_json import SCHEMA
from evaluators.moe_cache.model_shape import ModelShape

EXPERT = 2**20  # one MiB, so that budgets in MiB are experts
LAYERS, EXPERTS = 4, 4
FORMATS = {"plan", "ktransformers", "llama.cpp", "llama.cpp-cache", "vllm", "sglang", "moe-infinity"}


def subject(dense: tuple[int, ...] = (0,)) -> Subject:
    """Four layers of four experts, after one dense layer; layer l likes expert l best, then the next ones."""
    model = ModelShape(
        "small", n_layers=LAYERS, n_experts=EXPERTS, top_k=2, hidden_size=8, expert_intermediate_size=8, n_heads=1,
        n_kv_heads=1, head_dim=8, vocab=16, dense_layers=dense, dense_intermediate_size=8,
    )  # fmt: skip
    popularity = np.array([np.roll([40, 30, 20, 10], layer) for layer in range(LAYERS)])
    return Subject(model, "small-trace", np.full(LAYERS, EXPERT), popularity, 12 * EXPERT)


def config(**changes: Any) -> dict[str, Any]:
    usual = {"budget_mib": [4.0, 1.0, 0.5, 2.0], "theta": [1.0] * LAYERS, "policy": "static", "prefetch_depth": 0}
    return {**usual, **changes}


def trial(given: dict[str, Any]) -> TrialRecord:
    return TrialRecord(1, 0, given, "hash", TrialState.COMPLETED, "made", 1, 1)


def export(format_: str, given: dict[str, Any], of: Subject | None = None, **options: object) -> Exported:
    exporter = exporters(lambda: of or subject())[format_]
    return exporter.write(trial(given), parse_options(exporter.options, options), "run")


def arguments(text: str) -> dict[str, str]:
    """Option and value of what a shell makes of ``$(grep -v '^#' FILE)``."""
    words = " ".join(line for line in text.splitlines() if not line.startswith("#")).split()
    return dict(zip(words[::2], words[1::2], strict=True))


def expert_tensors(blocks: int) -> list[str]:
    """Names as GGUF files have them, separate and fused, beside ones that must stay where they are."""
    parts = [f"ffn_{part}_exps" for part in ("up", "down", "gate", "gate_up")]
    return [f"blk.{block}.{part}.weight" for block in range(blocks) for part in parts]


def on_cpu(text: str, names: list[str]) -> set[str]:
    pattern, buffer = arguments(text)["--override-tensor"].rsplit("=", 1)
    assert buffer == "CPU"
    assert "," not in pattern  # which separates overrides
    return {name for name in names if re.search(pattern, name)}


def test_every_format_writes_the_usual_configuration() -> None:
    found = exporters(subject)
    assert set(found) == FORMATS
    for name in FORMATS - {"moe-infinity"}:
        assert export(name, config()).text


def test_the_trace_is_read_by_the_first_configuration_that_is_written() -> None:
    read = []

    def load() -> Subject:
        read.append(1)
        return subject()

    found = exporters(load)
    assert not read
    for name in ("plan", "vllm"):
        exporter = found[name]
        exporter.write(trial(config()), exporter.options(), "run")
    assert read == [1]


# llama.cpp


def test_llama_cpp_keeps_whole_layers_on_the_gpu() -> None:
    # 7.5 MiB hold one layer of 4 MiB: the first, whose own budget does. Decoder layer 0 is dense, so layers are one later.
    exported = export("llama.cpp", config())
    assert exported.text.splitlines()[-2:] == [
        "--n-gpu-layers 6",
        r"--override-tensor blk\.(2|3|4)\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU",
    ]
    names = expert_tensors(12)
    assert on_cpu(exported.text, names) == {n for n in names if n.split(".")[1] in ("2", "3", "4")}
    others = ["blk.2.ffn_up.weight", "blk.2.ffn_gate_inp.weight", "blk.2.attn_q.weight", "blk.2.ffn_up_shexp.weight"]
    assert on_cpu(exported.text, others) == set()
    assert exported.suffix == ".args" and not exported.attachments


def test_llama_cpp_tells_of_the_short_option_where_the_first_layers_are_on_the_cpu() -> None:
    equal = export("llama.cpp", config(budget_mib=[2.0] * LAYERS))  # 8 MiB: two layers, the last ones
    assert on_cpu(equal.text, expert_tensors(6)) == set(expert_tensors(3)) - set(expert_tensors(1))
    assert "# --override-tensor says the same as: --n-cpu-moe 3\n" in equal.text
    assert "--n-cpu-moe" not in export("llama.cpp", config()).text


def test_llama_cpp_with_everything_on_the_gpu_overrides_nothing() -> None:
    assert arguments(export("llama.cpp", config(budget_mib=[4.0] * LAYERS)).text) == {"--n-gpu-layers": "6"}


@given(
    st.lists(st.floats(0.0, 5.0), min_size=LAYERS, max_size=LAYERS),
    st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=4, max_size=4),
)
def test_llama_cpp_never_keeps_more_than_the_caches_have(budgets: list[float], thetas: list[float]) -> None:
    exported = export("llama.cpp", config(budget_mib=budgets, theta=thetas))
    cpu = re.search(r"blk\\\.\(([\d|]+)\)", exported.text)
    kept = LAYERS - (len(cpu[1].split("|")) if cpu else 0)
    caching = [min(b, EXPERTS) for b, theta in zip(budgets, thetas, strict=True) if theta > 0]
    assert kept * EXPERTS <= sum(caching) + 1e-5


def test_llama_cpp_cache_pools_the_budgets_of_layers_that_are_not_whole() -> None:
    exported = export("llama.cpp-cache", config(policy="lru"))
    assert arguments(exported.text)["--moe-cache-mib"] == "3"  # 1 + 0.5 + 2 MiB, and whole MiB alone can be said
    assert len(on_cpu(exported.text, expert_tensors(12))) == 3 * 4
    assert exported.cannot == (
        "budgets by layer (0.5 to 2.0 MiB): 3 layers share one cache of 3 MiB, and what is used least recently leaves, of "
        "whatever layer",
    )
    assert (
        "llama.cpp's cache evicts the least recently used" in export("llama.cpp-cache", config(policy="lfu")).cannot[0]
    )


def test_llama_cpp_cache_refuses_what_llama_cpp_would_not_start_with() -> None:
    with pytest.raises(UsageError, match=r"2\.0 MiB, and llama.cpp starts its cache with 3\.0 MiB or more"):
        export("llama.cpp-cache", config(budget_mib=[0.5] * LAYERS))
    assert "--moe-cache-mib" not in export("llama.cpp-cache", config(budget_mib=[4.0] * LAYERS)).text


# KTransformers


def engine_placement(exported: Exported) -> np.ndarray:
    """The mask that SGLang's kt wrapper makes of the exported arguments and counts: the highest counts of all layers."""
    given = arguments(exported.text)
    assert given["--kt-expert-placement-strategy"] == "frequency"
    data = torch.load(io.BytesIO(exported.attachments[given["--init-expert-location"]]), weights_only=True)
    counts = data["logical_count"].sum(dim=0).float()
    assert data["logical_count"].dim() == 3 and tuple(counts.shape) == (LAYERS + 1, EXPERTS)
    number = int(LAYERS * EXPERTS * float(given["--kt-gpu-experts-ratio"]))
    mask = torch.zeros(counts.numel(), dtype=torch.bool)
    mask[torch.topk(counts.view(-1), k=number).indices] = True
    return mask.view(counts.shape).numpy()[1:]


def test_ktransformers_places_as_many_experts_as_each_budget_holds() -> None:
    exported = export("ktransformers", config())
    assert exported.text.splitlines()[-3:] == [
        "--kt-gpu-experts-ratio 0.468750000",
        "--kt-expert-placement-strategy frequency",
        "--init-expert-location run.experts.pt",
    ]
    assert set(exporters(subject)["ktransformers"].write(trial(config()), None, "my [best]").attachments) == {
        "my__best_.experts.pt"
    }
    placed = [np.flatnonzero(row).tolist() for row in engine_placement(exported)]
    assert placed == [[0, 1, 2, 3], [1], [], [0, 3]]


@given(
    st.lists(st.floats(0.0, 5.0), min_size=LAYERS, max_size=LAYERS),
    st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=LAYERS, max_size=LAYERS),
)
def test_ktransformers_places_the_most_popular_of_each_layer(budgets: list[float], thetas: list[float]) -> None:
    mask = engine_placement(export("ktransformers", config(budget_mib=budgets, theta=thetas)))
    order = subject().order
    for layer, row in enumerate(mask):
        held = min(EXPERTS, int(round(budgets[layer] * EXPERT) / EXPERT + 1e-9)) if thetas[layer] > 0 else 0
        assert set(np.flatnonzero(row)) == set(order[layer, :held].tolist())


def test_ktransformers_refuses_dense_layers_that_it_cannot_know_of() -> None:
    with pytest.raises(UsageError, match=r"dense layers \[2\]"):
        export("ktransformers", config(), subject(dense=(2,)))


# vLLM, SGLang, MoE-Infinity


def test_vllm_offloads_what_the_caches_do_not_hold() -> None:
    exported = export("vllm", config())  # 7 of 16 experts of one MiB stay
    assert exported.text.splitlines()[-3:] == [
        "--offload-backend uva",
        "--cpu-offload-gb 0.0088",
        "--cpu-offload-params experts",
    ]
    assert 0.0088 >= 9 / 1024
    assert arguments(export("vllm", config(budget_mib=[4.0] * LAYERS)).text) == {}


def test_sglang_gets_the_popularity_behind_policy_static_and_of_no_other() -> None:
    counts = json.loads(export("sglang", config()).text)
    # The dense layer counts among SGLang's layers.
    assert counts == {"logical_count": [[1, 1, 1, 1], *subject().popularity.tolist()]}
    with pytest.raises(UsageError, match=r"can express nothing of policy lru.*export it for ktransformers"):
        export("sglang", config(policy="lru"))


def test_moe_infinity_gets_the_budget_as_a_share_of_the_gpu() -> None:
    exported = export("moe-infinity", config(prefetch_depth=2), gpu_gib=0.025, offload_path="/tmp/small")
    ratio = 12 / 25.6
    assert json.loads(exported.text) == {
        "offload_path": "/tmp/small",
        "device_memory_ratio": pytest.approx(ratio, abs=1e-6),
        "prefetch": True,
    }
    assert "prefetch" not in json.loads(export("moe-infinity", config(), gpu_gib=1).text)
    tight = export("moe-infinity", config(), gpu_gib=12.1 / 1024)
    assert "will take less" in tight.cannot[-1]
    with pytest.raises(UsageError, match=r"exceeds gpu_gib = 0\.01"):
        export("moe-infinity", config(), gpu_gib=0.01)
    with pytest.raises(UsageError, match="gpu_gib"):
        export("moe-infinity", config())


# Plain JSON


@pytest.mark.parametrize("policy", ["lru", "lcp", "static"])
def test_the_plan_is_what_its_schema_says(policy: str) -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    constants = {"lcp_rho": 0.5, "lcp_omega": 64.0} if policy == "lcp" else {}
    document = json.loads(export("plan", config(policy=policy, prefetch_depth=1, **constants)).text)
    jsonschema.validate(document, schema)
    assert document["policy"] == ({"name": policy} | ({"rho": 0.5, "omega_tokens": 64.0} if constants else {}))
    assert document["memory"] == {
        "budget_bytes": 12 * EXPERT,
        "staging_bytes": 2 * 2 * EXPERT,
        "caches_bytes": round(7.5 * EXPERT),
    }
    assert document["predictor"] == "recorded"
    assert [layer["decoder_layer"] for layer in document["layers"]] == [1, 2, 3, 4]
    assert document["layers"][3]["experts_by_popularity"] == [3, 0, 1, 2]
    assert export("plan", config(policy=policy, **constants)).cannot == ()


def test_the_predictor_is_in_the_plan_where_something_is_prefetched() -> None:
    given = json.loads(export("plan", config(prefetch_depth=1, predictor="popularity")).text)
    assert given["predictor"] == "popularity"
    off = json.loads(export("plan", config()).text)
    assert off["predictor"] is None
    for document in (given, off):
        jsonschema.validate(document, json.loads(SCHEMA.read_text()))


def test_slots_of_split_experts_are_in_the_plan() -> None:
    document = json.loads(export("plan", config(theta=[1.0, 0.5, 0.5, 0.0])).text)
    assert [layer["slots"] for layer in document["layers"]] == [4, 2, 1, 0]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.pop("memory"),
        lambda d: d["policy"].update(name="newest"),
        lambda d: d["policy"].update(rho=0.5),
        lambda d: d["layers"][0].update(theta=1.5),
        lambda d: d.update(predictor="guess"),
        lambda d: d.update(note="more"),
    ],
)
def test_the_schema_refuses_another_document(spoil: Any) -> None:
    document = json.loads(export("plan", config()).text)
    spoil(document)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, json.loads(SCHEMA.read_text()))


# What is lost


@pytest.mark.parametrize("format_", sorted(FORMATS - {"plan", "sglang"}))
def test_every_mechanism_that_a_format_lacks_is_told_in_one_sentence(format_: str) -> None:
    options = {"gpu_gib": 1} if format_ == "moe-infinity" else {}
    rich = config(policy="lcp", theta=[1.0, 0.5, 1.0, 0.25], prefetch_depth=2, cpu_threshold_tokens=3)
    exported = export(format_, rich, **options)
    starts = (
        "policy lcp (rho 0.25, omega 128): ",
        "theta below 1 in 2 of 4 layers",
        "prefetch_depth 2: ",
        "cpu_threshold_tokens 3: ",
    )
    for start in starts:
        assert sum(sentence.startswith(start) for sentence in exported.cannot) == 1, start
    assert all("\n" not in sentence for sentence in exported.cannot)
    if exported.suffix == ".args":
        assert [line for line in exported.text.splitlines() if line.startswith("# - ")] == [
            f"# - {sentence}" for sentence in exported.cannot
        ]
    plain = export(format_, config(), **options).cannot
    assert not any(sentence.startswith(("theta", "prefetch_depth", "cpu_threshold")) for sentence in plain)


@pytest.mark.parametrize("format_", ["ktransformers", "llama.cpp", "llama.cpp-cache", "vllm"])
def test_arguments_survive_a_shell(format_: str) -> None:
    # Unquoted substitution splits at blanks and expands patterns; nothing else happens to the words.
    for words in arguments(export(format_, config()).text).items():
        assert not re.search(r"[*?\[\]\s]", "".join(words))
