"""Layouts for engines, read back as the engines read them: known names, values in range, and the rules that they assert."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Callable, Mapping
from math import ceil
from typing import Any

import pytest

import autotune
from autotune.exporting import Exported, NoOptions, export_config, exporters_of
from autotune.store.records import TrialRecord, TrialState
from evaluators.training_layout.exporters import Subject, exporters
from evaluators.training_layout.presets import PRESETS, preset
from evaluators.training_layout.shape import TransformerShape
from tests.training_layout.engine_options import BRIDGE, DEEPSPEED, MEGATRON, TORCHTITAN, Kind

FORMATS = ("megatron", "deepspeed", "torchtitan", "megatron-bridge")
LAYOUT = {
    "tp": 1, "cp": 1, "pp": 1, "interleave": 1, "micro_batch": 1, "zero": 1, "recompute": "none",
}  # fmt: skip
Case = tuple[str, int, dict[str, Any]]
CASES: Mapping[str, Case] = {
    "dense": ("llama3-8b", 64, {"tp": 2, "micro_batch": 2}),
    "interleaved": ("llama3-70b", 64, {"tp": 4, "pp": 4, "interleave": 5, "recompute": "full 1/2"}),
    "counted ends": ("llama3-405b", 128, {"tp": 8, "pp": 16, "recompute": "full 1/4"}),
    "thin stages": ("llama3-8b", 32, {"pp": 16, "recompute": "full 1/4"}),
    "context": ("llama3-8b", 64, {"tp": 2, "cp": 4, "context": "ring"}),
    "ulysses": ("llama3-8b", 64, {"cp": 8, "zero": 3, "context": "ulysses", "recompute": "full"}),
    "token ring": ("llama3-8b", 16, {"cp": 2, "context": "tokenring"}),
    "experts": ("mixtral-8x7b", 64, {"tp": 2, "ep": 8, "etp": 1, "recompute": "selective"}),
    "split experts": ("mixtral-8x22b", 64, {"tp": 4, "pp": 2, "ep": 4, "etp": 4}),
    "latent attention": ("deepseek-v3", 144, {"tp": 2, "pp": 9, "ep": 4, "etp": 1, "recompute": "full"}),
    "windows": ("gpt-oss-20b", 32, {"cp": 2, "ep": 8, "etp": 1}),
    "state spaces": ("nemotron-3-nano", 32, {"tp": 2, "ep": 8, "etp": 1}),
    "learned positions": ("gpt3-175b", 64, {"tp": 8, "pp": 8, "recompute": "selective"}),
    "copies": ("llama3-8b", 8, {"zero": 0}),
    "copies of splits": ("llama3-8b", 16, {"zero": 0, "tp": 2}),
    "gradients spread": ("llama3-8b", 16, {"zero": 2}),
    "weights spread": ("llama3-70b", 64, {"zero": 3, "tp": 2, "recompute": "full"}),
    "groups of states": ("llama3-8b", 64, {"shard_within": "node", "tp": 2}),
    "groups": ("llama3-8b", 64, {"zero": 3, "shard_within": "node"}),
    "states outside": ("llama3-8b", 64, {"zero": 3, "shard_within": "node/node/cluster"}),
    "groups of experts": ("qwen3-30b-a3b", 64, {"zero": 3, "shard_within": "node", "ep": 16, "etp": 1}),
    "racks": ("qwen3-30b-a3b", 144, {"zero": 3, "shard_within": "rack", "ep": 2, "etp": 1}),
    "states on the host": ("llama3-8b", 16, {"offload_states": "host"}),
    "states on an SSD": ("llama3-8b", 16, {"zero": 3, "offload_states": "ssd"}),
    "activations on the host": ("llama3-8b", 16, {"offload_activations": 0.5}),
    "checkpoints on the host": ("llama3-8b", 16, {"offload_activations": 1.0, "recompute": "full"}),
    "fp8": ("llama3-8b", 16, {"precision": "fp8"}),
    "fp8 in blocks": ("deepseek-v2-lite", 16, {"precision": "fp8-block", "ep": 8, "etp": 1, "recompute": "selective"}),
    "mxfp8": ("qwen3-30b-a3b", 32, {"precision": "mxfp8", "ep": 8, "etp": 1}),
    "fp4": ("llama3-8b", 16, {"precision": "fp4"}),
    "small moments": ("llama3-8b", 16, {"optimizer": "adam8bit"}),
    "papers": (
        "mixtral-8x7b", 16,
        {"overlap": "t3", "sparsity": 0.9, "local_steps": 50, "moe_pipeline": 4, "gradient_slices": 2,
         "length_groups": "dynamic", "redundancy": 1, "ep": 8, "etp": 1},
    ),
}  # fmt: skip
by_case = pytest.mark.parametrize("case", CASES)


def subject(case: str, **changes: Any) -> Subject:
    name, gpus, _ = CASES[case]
    levels = {"node": 4, "rack": 72} if "rack" in case else {"node": 8}
    return Subject(preset(name), gpus, 4096 if name.startswith("gpt-oss") else 2048, 4 * gpus, levels=levels, **changes)


def config(case: str) -> dict[str, Any]:
    return {**LAYOUT, **CASES[case][2]}


def export(format_: str, of: Subject, given: dict[str, Any]) -> Exported:
    trial = TrialRecord(1, 0, given, "hash", TrialState.COMPLETED, "made", 1, 1)
    return exporters(of)[format_].write(trial, NoOptions(), "run")


def words(text: str) -> list[str]:
    """What a shell makes of ``$(grep -v '^#' FILE)`` without expansion of file names."""
    return " ".join(line for line in text.splitlines() if not line.startswith("#")).split()


def megatron(case: str) -> dict[str, list[str]]:
    """Options and their values, as argparse reads them."""
    found: dict[str, list[str]] = {}
    for word in words(export("megatron", subject(case), config(case)).text):
        name, _, value = word.removeprefix("--").partition("=")
        if word.startswith("--"):
            assert name not in found, name
            found[name] = [value] if value else []
            last = name
        else:
            found[last].append(word)
    return found


def bridge(case: str) -> dict[str, str]:
    pairs = [word.split("=", 1) for word in words(export("megatron-bridge", subject(case), config(case)).text)]
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def flat(read: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Values of nested sections by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in read.items():
        found |= flat(value, f"{before}{name}.") if isinstance(value, dict) else {before + name: value}
    return found


def deepspeed(case: str) -> dict[str, Any]:
    return flat(json.loads(export("deepspeed", subject(case), config(case)).text))


def torchtitan(case: str) -> dict[str, Any]:
    return flat(tomllib.loads(export("torchtitan", subject(case), config(case)).text))


def check_text(name: str, value: str, kind: Kind) -> None:
    """That an argument's text is of its kind."""
    if isinstance(kind, tuple):
        assert value in kind, name
    elif isinstance(kind, re.Pattern):
        assert kind.fullmatch(value), name
    else:
        assert float(value) >= 0.0 and (kind is float or value.isdecimal()), name


def check_value(name: str, value: Any, kind: Kind) -> None:
    """That a value of JSON or TOML is of its kind."""
    if isinstance(kind, type):
        assert type(value) is kind, name
    else:
        check_text(name, str(value), kind)


@by_case
def test_megatron_knows_every_option(case: str) -> None:
    for name, values in megatron(case).items():
        kind = MEGATRON[name]
        assert (len(values) == 0) == (kind is bool), name
        assert len(values) <= 1 or name == "recompute-modules"
        for value in values:
            check_text(name, value, kind)


@by_case
def test_megatron_bridge_knows_every_field(case: str) -> None:
    for name, value in bridge(case).items():
        check_text(name, value, BRIDGE[name])


@by_case
def test_deepspeed_knows_every_key(case: str) -> None:
    for name, value in deepspeed(case).items():
        check_value(name, value, DEEPSPEED[name])


@by_case
def test_torchtitan_knows_every_field(case: str) -> None:
    for name, value in torchtitan(case).items():
        check_value(name, value, TORCHTITAN[name])


@by_case
def test_megatron_accepts_what_it_is_given(case: str) -> None:
    """The rules that its argument and configuration files assert."""
    found, (name, gpus, _) = megatron(case), CASES[case]

    def number(option: str, usual: int = 1) -> int:
        return int(found[option][0]) if option in found else usual

    tp, pp, cp = (number(f"{kind}-parallel-size") for kind in ("tensor-model", "pipeline-model", "context"))
    chunks, layers = number("num-virtual-stages-per-pipeline-rank"), number("num-layers")
    assert layers == preset(name).n_layers
    assert gpus % (tp * pp * cp) == 0
    dp = gpus // (tp * pp * cp)
    assert number("global-batch-size") % (number("micro-batch-size") * dp) == 0
    assert dp * cp % number("num-distributed-optimizer-instances") == 0
    ends = sum(f"account-for-{end}-in-pipeline-split" in found for end in ("embedding", "loss"))
    assert (layers + ends) % (pp * chunks) == 0
    assert number("max-position-embeddings") >= number("seq-length")
    assert cp == 1 or number("seq-length") % (2 * cp) == 0
    assert ("sequence-parallel" in found) == (tp > 1)
    assert "overlap-param-gather" not in found or {"use-distributed-optimizer", "overlap-grad-reduce"} <= found.keys()
    assert ("use-megatron-fsdp" in found) == (found.get("ckpt-format") == ["fsdp_dtensor"])
    assert "outer-dp-sharding-strategy" not in found or number("num-distributed-optimizer-instances") > 1
    if found.get("outer-dp-sharding-strategy") == ["optim"]:
        assert found["data-parallel-sharding-strategy"] == ["optim_grads_params"]
    if "num-experts" in found:
        ep, etp = number("expert-model-parallel-size"), number("expert-tensor-parallel-size")
        assert number("num-experts") % ep == 0
        experts = gpus // (pp * ep * etp)
        assert experts % number("num-distributed-optimizer-instances") == 0
        # Without a bias, which its experts have on undivided GPUs only.
        assert "disable-bias-linear" in found or etp == 1
    if found.get("recompute-granularity") == ["selective"]:
        assert "recompute-method" not in found and "recompute-num-layers" not in found
        assert "moe_act" not in found["recompute-modules"] or "moe-grouped-gemm" in found
    elif "recompute-granularity" in found:
        assert found["recompute-method"] and 1 <= number("recompute-num-layers") <= ceil((layers + ends) / pp / chunks)
    if "optimizer-cpu-offload" in found or "exp-avg-dtype" in found:
        assert {"use-precision-aware-optimizer", "use-distributed-optimizer"} <= found.keys()
    if "cpu-offloading-num-layers" in found:
        assert pp == 1 and "recompute-granularity" not in found and number("cpu-offloading-num-layers") < layers
    assert not ("fp8-format" in found and "fp4-format" in found)


@pytest.mark.parametrize("name", PRESETS)
def test_megatron_builds_the_model_itself(name: str) -> None:
    """Parameters counted from the arguments are those of the model."""
    model = preset(name)
    found = {}
    for word in words(export("megatron", Subject(model, 8, 2048, 8), LAYOUT).text):
        option, _, value = word.removeprefix("--").partition("=")
        found[option] = value or "yes"
    if "multi-latent-attention" not in found:
        queries = int(found["num-attention-heads"]) * int(found["kv-channels"])
        keys = int(found.get("num-query-groups", found["num-attention-heads"])) * int(found["kv-channels"])
        assert 2 * int(found["hidden-size"]) * (queries + keys) == model.attention_parameters
    matrices = 3 if "swiglu" in found else 2
    if model.dense_layers:
        assert matrices * int(found["hidden-size"]) * int(found["ffn-hidden-size"]) == model.ffn_parameters
    if model.n_experts:
        assert matrices * int(found["hidden-size"]) * int(found["moe-ffn-hidden-size"]) == model.expert_parameters
    if "moe-layer-freq" in found:
        pieces = re.findall(r"\[([01,]+)\]\*(\d+)", found["moe-layer-freq"])
        order = "".join(kinds.replace(",", "") * int(times) for kinds, times in pieces)
        assert (order.count("0"), order.count("1")) == (model.dense_layers, model.expert_layers)
        assert order.startswith("0101" if "maverick" in model.name else "01" if order.count("0") == 1 else "00")
    assert ("untie-embeddings-and-output-weights" in found) != model.tied


def test_a_state_space_hybrid_says_which_script_and_what_is_missing() -> None:
    written = export("megatron", subject("state spaces"), config("state spaces"))
    assert "pretrain_mamba.py" in written.text
    assert any("--hybrid-override-pattern" in sentence for sentence in written.cannot)


@by_case
def test_megatron_bridge_says_what_megatron_says(case: str) -> None:
    found, same = bridge(case), megatron(case)
    pairs = {
        "model.tensor_model_parallel_size": "tensor-model-parallel-size",
        "model.pipeline_model_parallel_size": "pipeline-model-parallel-size",
        "model.context_parallel_size": "context-parallel-size",
        "train.global_batch_size": "global-batch-size",
        "model.cp_comm_type": "cp-comm-type",
        "model.recompute_num_layers": "recompute-num-layers",
        "ddp.data_parallel_sharding_strategy": "data-parallel-sharding-strategy",
        "ddp.outer_dp_sharding_strategy": "outer-dp-sharding-strategy",
        "model.cpu_offloading_num_layers": "cpu-offloading-num-layers",
    }
    for field, option in pairs.items():
        value = found.get(field, "null")
        assert (None if value == "null" else [value]) == same.get(option), field
    assert found["model.seq_length"] == found["dataset.seq_length"]
    modules = same.get("recompute-modules")
    assert found["model.recompute_modules"] == (f"[{','.join(modules)}]" if modules else "null")


@by_case
def test_deepspeed_multiplies_up_to_the_batch(case: str) -> None:
    found, of, given = deepspeed(case), subject(case), config(case)
    # It takes GPUs of tensor and sequence parallelism, and stages, out of the number of GPUs.
    world = of.gpus // (given["tp"] * given["cp"] * given["pp"])
    assert found["train_batch_size"] == of.global_batch
    steps, each = found["gradient_accumulation_steps"], found["train_micro_batch_size_per_gpu"]
    assert found["train_batch_size"] == each * steps * world
    stage = found["zero_optimization.stage"]
    assert stage == given["zero"]
    groups = {"zero_optimization.mics_shard_size", "zero_optimization.zero_hpz_partition_size"} & found.keys()
    for group in groups:
        assert stage == 3 and world * given["cp"] % found[group] == 0
    if found.get("zero_optimization.offload_optimizer.device") == "nvme":
        assert stage == 3 and "zero_optimization.offload_optimizer.nvme_path" in found


@by_case
def test_torchtitan_counts_gpus_stages_and_batches_alike(case: str) -> None:
    found, of = torchtitan(case), subject(case)

    def degree(name: str) -> int:
        return int(found.get(f"parallelism.{name}", 1))

    dp = degree("data_parallel_replicate_degree") * degree("data_parallel_shard_degree")
    tp, cp, pp = (degree(f"{kind}_parallel_degree") for kind in ("tensor", "context", "pipeline"))
    assert dp * tp * cp * pp == of.gpus
    assert found["training.global_batch_size"] == of.global_batch
    assert of.global_batch % (found["training.local_batch_size"] * dp) == 0
    if pp > 1:
        less = degree("pipeline_parallel_first_stage_less_layers") + degree("pipeline_parallel_last_stage_less_layers")
        stages = ceil((of.model.n_layers + less) / degree("pipeline_parallel_layers_per_stage"))
        assert stages == pp * config(case)["interleave"]
        assert found["training.local_batch_size"] % degree("pipeline_parallel_microbatch_size") == 0
    if degree("data_parallel_shard_degree") == 1 and cp == 1 and dp > 1:
        assert dp == of.gpus, "it has plain copies beside nothing else"


def test_latent_attention_is_laid_out_over_stages_with_ends_counted() -> None:
    found = torchtitan("latent attention")
    assert found["parallelism.pipeline_parallel_layers_per_stage"] == 7
    assert found["parallelism.pipeline_parallel_first_stage_less_layers"] == 1


@pytest.mark.parametrize(
    ("case", "option", "value"),
    [
        ("groups of states", "num-distributed-optimizer-instances", ["8"]),
        ("groups", "num-distributed-optimizer-instances", ["8"]),
        ("groups", "outer-dp-sharding-strategy", ["no_shard"]),
        ("states outside", "outer-dp-sharding-strategy", ["optim"]),
        ("racks", "num-distributed-optimizer-instances", ["2"]),
        ("ulysses", "cp-comm-type", ["a2a"]),
        ("windows", "cp-comm-type", ["allgather"]),
        ("windows", "window-attn-skip-freq", ["2"]),
        ("weights spread", "recompute-method", ["uniform"]),
        ("interleaved", "recompute-num-layers", ["2"]),
        ("activations on the host", "cpu-offloading-num-layers", ["16"]),
        ("small moments", "exp-avg-dtype", ["fp8"]),
        ("latent attention", "kv-lora-rank", ["512"]),
        ("latent attention", "moe-layer-freq", ["([0]*3+[1]*58)"]),
    ],
)
def test_megatron_has_an_option_for_it(case: str, option: str, value: list[str]) -> None:
    assert megatron(case)[option] == value


def test_shard_groups_in_the_terms_of_other_engines() -> None:
    assert deepspeed("groups")["zero_optimization.mics_shard_size"] == 8
    assert deepspeed("states outside")["zero_optimization.zero_hpz_partition_size"] == 8
    found = torchtitan("groups")
    assert found["parallelism.data_parallel_replicate_degree"] == 8
    assert found["parallelism.data_parallel_shard_degree"] == 8
    given = {**config("groups"), "shard_within": "cluster", "shard_gpus": 16}
    assert json.loads(export("deepspeed", subject("groups"), given).text)["zero_optimization"]["mics_shard_size"] == 16


@pytest.mark.parametrize(
    ("case", "formats", "sentence"),
    [
        (
            "groups of experts",
            ("megatron", "megatron-bridge"),
            r"shard_within=node: 4 replicas of the experts do not make",
        ),
        ("groups of states", ("deepspeed",), r"shard_within=node: its shard groups are of ZeRO 3"),
        ("states outside", ("deepspeed", "torchtitan"), r"shard_within=node/node/cluster"),
        ("token ring", FORMATS, r"context=tokenring: TokenRing \(arXiv:2412\.20501\)"),
        ("ulysses", ("torchtitan",), r"context=ulysses: its context parallelism is a ring"),
        ("context", ("deepspeed",), r"context=ring: sequence_parallel_size=4 is Ulysses'"),
        ("states on an SSD", FORMATS, r"offload_states=ssd"),
        ("states on the host", ("torchtitan",), r"offload_states=host: weights and gradients go to host memory too"),
        ("checkpoints on the host", ("megatron", "torchtitan", "megatron-bridge"), r"offload_activations=1\.0"),
        ("activations on the host", ("deepspeed", "torchtitan"), r"offload_activations=0\.5"),
        ("small moments", FORMATS, r"optimizer=adam8bit"),
        ("fp4", ("deepspeed", "torchtitan"), r"precision=fp4"),
        ("fp8 in blocks", ("deepspeed", "torchtitan"), r"precision=fp8-block"),
        ("copies of splits", ("torchtitan",), r"ZeRO 0: plain copies exist beside no other parallelism"),
        ("gradients spread", ("torchtitan",), r"ZeRO 2 exactly"),
        ("interleaved", ("deepspeed",), r"interleave=5"),
        ("split experts", ("deepspeed",), r"etp=4"),
        ("thin stages", ("megatron",), r"recompute=full 1/4 exactly: 1 of the 2 layers"),
        ("learned positions", ("torchtitan", "megatron-bridge"), r"the architecture of gpt3-175b"),
        *(
            ("papers", FORMATS, rf"^{told}=")
            for told in (
                "overlap",
                "sparsity",
                "local_steps",
                "moe_pipeline",
                "gradient_slices",
                "length_groups",
                "redundancy",
            )
        ),
    ],
)
def test_what_cannot_be_expressed_is_told(case: str, formats: tuple[str, ...], sentence: str) -> None:
    for format_ in formats:
        written = export(format_, subject(case), config(case))
        assert any(re.search(sentence, told) for told in written.cannot), (format_, written.cannot)
        if format_ != "deepspeed":
            assert all(f"# - {told}\n" in written.text for told in written.cannot)


@pytest.mark.parametrize("case", ["dense", "experts", "gradients spread", "weights spread", "groups"])
def test_megatron_expresses_ordinary_layouts_in_full(case: str) -> None:
    assert export("megatron", subject(case), config(case)).cannot == ()


def test_fixed_settings_count_like_knobs() -> None:
    fixed = subject("dense", fixed={"precision": "mxfp8", "offload_states": "host"})
    knobs = {**config("dense"), "precision": "mxfp8", "offload_states": "host"}
    for format_ in FORMATS:
        assert export(format_, fixed, config("dense")) == export(format_, subject("dense"), knobs)
    # A knob without effect is none, and leaves the setting as it is.
    assert export("megatron", fixed, {**config("dense"), "context": None}) == export("megatron", fixed, config("dense"))


@pytest.mark.parametrize(
    ("case", "format_", "line"),
    [
        ("dense", "megatron", "--nnodes=8 --nproc-per-node=8"),
        ("dense", "torchtitan", "--nnodes=8 --nproc-per-node=8"),
        ("dense", "megatron-bridge", "--recipe llama31_8b_pretrain_config"),
        ("copies", "megatron", "--nnodes=1 --nproc-per-node=8 pretrain_gpt.py"),
        ("dense", "megatron", "export CUDA_DEVICE_MAX_CONNECTIONS=1"),
        ("weights spread", "megatron", "unset CUDA_DEVICE_MAX_CONNECTIONS"),
        ("dense", "megatron", "--vocab-size=128255"),
    ],
)
def test_comments_say_how_to_start_it(case: str, format_: str, line: str) -> None:
    comments = [text for text in export(format_, subject(case), config(case)).text.splitlines() if text.startswith("#")]
    assert any(line in comment for comment in comments)


def test_the_commands_of_comments_are_words_for_a_shell() -> None:
    text = export("megatron", subject("dense"), config("dense")).text
    command = next(line for line in text.splitlines() if "torchrun" in line).removeprefix("#").strip()
    assert shlex.split(command)[:3] == ["(set", "-f;", "torchrun"]


def test_a_model_of_a_file_is_exported_too() -> None:
    model = TransformerShape("mine", 12, 768, 12, 12, 64, 3072, 50304)
    for format_ in FORMATS:
        assert export(format_, Subject(model, 4, 1024, 8), LAYOUT).text


@pytest.fixture(scope="module")
def searched() -> tuple[Any, Any]:
    result = autotune.search(
        "training-layout", options={"model": "mixtral-8x7b", "gpus": 64, "kernels": "peak"}, trials=15
    )
    study = result.study
    return study.record, study.best


@pytest.mark.parametrize("name", FORMATS)
def test_exports_of_a_search_name_every_degree(searched: tuple[Any, Any], name: str) -> None:
    record, trial = searched
    assert exporters_of(record)[name].options is NoOptions
    written = export_config(record, name, trial)
    degrees: Mapping[str, Callable[[str], int]] = {
        "megatron": lambda text: int(
            dict(w.split("=") for w in words(text) if "=" in w)["--tensor-model-parallel-size"]
        ),
        "megatron-bridge": lambda text: int(
            dict(w.split("=") for w in words(text))["model.tensor_model_parallel_size"]
        ),
        "torchtitan": lambda text: int(tomllib.loads(text)["parallelism"]["tensor_parallel_degree"]),
        "deepspeed": lambda text: json.loads(text).get("tensor_parallel", {"autotp_size": 1})["autotp_size"],
    }
    if name != "deepspeed" or trial.config["pp"] == 1:
        assert degrees[name](written.text) == trial.config["tp"]
    assert all(written.cannot)
