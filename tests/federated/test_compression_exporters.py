"""Configurations of `compression` for other programs, used as these programs use them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from autotune import UsageError
from autotune.exporting import Exported
from autotune.store.records import TrialRecord, TrialState
from evaluators.choices import read_settings
from evaluators.federated.exporters import Subject, exporters
from evaluators.federated.knobs import CHOICES, fixed_of, space_of, usual_texts
from evaluators.federated.methods.base import ServerStep
from evaluators.federated.settings import METHODS
from tests.federated import ddp_worker
from tests.federated.ddp_worker import STEPS, batch, flat, load, network

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
FORMATS = ("plan-json", "flower", "torch-ddp", "deepspeed")
BASE: Mapping[str, Any] = MappingProxyType({
    "method": "fedavg", "compressor": "none", "download": "none", "local_steps": 1, "batch": 16, "balanced": False,
    "learning_rate": 0.2,
})  # fmt: skip
SENT: Mapping[str, Any] = MappingProxyType({"importance_share": 1.0, "feedback": "none", "warmup_rounds": 0})
CAESAR: Mapping[str, Any] = MappingProxyType({
    "compressor": "top-k", "upload_keep": 0.9, "importance_share": 0.44, "feedback": "none", "warmup_rounds": 0,
    "download": "low-deviation", "download_keep": 0.4, "staleness": True, "balanced": True, "local_steps": 5,
})  # fmt: skip


def subject(**changes: Any) -> Subject:
    given: dict[str, Any] = {
        "task": "digits", "devices": 8, "fleet": "phones:1", "participation": 1.0, "dropout": 0.0, "alpha": 0.5,
        "rounds": 40, "target": 0.9,
    }  # fmt: skip
    return Subject(**{**given, **changes})


def export(format_: str, of: Subject | None = None, stem: str = "found", **config: Any) -> Exported:
    trial = TrialRecord(1, 0, {**BASE, **config}, "hash", TrialState.COMPLETED, "made", 1, 1)
    exporter = exporters(subject() if of is None else of)[format_]
    return exporter.write(trial, exporter.options(), stem)


def told(written: Exported, begin: str) -> str:
    (sentence,) = [one for one in written.cannot if one.startswith(begin)]
    return sentence


def refused(format_: str, **config: Any) -> str:
    with pytest.raises(UsageError) as raised:
        export(format_, **config)
    sentence = str(raised.value)
    assert "\n" not in sentence
    return sentence


# ------------------------------------------------------------------- PyTorch


DDP: Mapping[str, Mapping[str, Any]] = {
    "plain": {},
    "nesterov": {"server_rate": 0.7, "server_momentum": 0.9},
    "half": {"compressor": "half", **SENT},
    "low_rank": {"compressor": "low-rank", **SENT, "upload_keep": 0.25, "feedback": "ef"},
    "low_rank_at_once": {"compressor": "low-rank", **SENT, "upload_keep": 0.1},
    "local": {"local_steps": 3},
    "local_top_k": {"compressor": "top-k", **SENT, "upload_keep": 0.1, "local_steps": 2},
}
RATE = 0.2


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """Parameters by file, ``(2 processes, steps, size)``, from a real group of two processes."""
    folder = tmp_path_factory.mktemp("ddp")
    for name, config in DDP.items():
        (folder / f"{name}.py").write_text(export("torch-ddp", **config).text, encoding="utf-8")
    # This process is the first of the two, as starting another takes long.
    command = [sys.executable, str(Path(ddp_worker.__file__)), "1", "2", str(folder)]
    other = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        ddp_worker.main(0, 2, folder)
    finally:
        _, errors = other.communicate(timeout=100)
    assert other.returncode == 0, errors
    both = [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]
    return {name: torch.stack([rank[name] for rank in both]) for name in DDP}


def gradients(model: nn.Module, step: int) -> list[Tensor]:
    """Of each process, flat, by hand."""
    found = []
    for rank in range(2):
        x, y = batch(rank, step)
        model.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        found.append(torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None]))
    return found


def put(model: nn.Module, values: Tensor) -> None:
    nn.utils.vector_to_parameters(values, model.parameters())


def by_hand(step_of: Any) -> Tensor:
    """Models of a server that makes a step along the mean gradient, ``(steps, size)``."""
    model, points = network(), []
    for step in range(STEPS):
        put(model, step_of(flat(model), torch.stack(gradients(model, step))))
        points.append(flat(model))
    return torch.stack(points)


def test_without_compression_gradients_are_averaged(runs: dict[str, Tensor]) -> None:
    expected = by_hand(lambda model, sent: model - RATE * sent.mean(dim=0))
    torch.testing.assert_close(runs["plain"], torch.stack([expected, expected]), rtol=1e-5, atol=1e-6)


def test_the_server_s_momentum_is_the_optimizer_s_where_every_step_is_exchanged(runs: dict[str, Tensor]) -> None:
    server = ServerStep(len(flat(network())), rate=0.7, momentum=0.9)
    expected = by_hand(lambda model, sent: server(model, RATE * sent.mean(dim=0)))
    torch.testing.assert_close(runs["nesterov"][0], expected, rtol=1e-4, atol=1e-5)


def test_half_precision_is_what_is_sent(runs: dict[str, Tensor]) -> None:
    expected = by_hand(lambda model, sent: model - RATE * (sent.half() / 2).sum(dim=0).float())
    torch.testing.assert_close(runs["half"][0], expected, rtol=1e-4, atol=1e-5)
    assert torch.equal(runs["half"][0], runs["half"][1])
    assert not torch.equal(runs["half"][0], runs["plain"][0])


@pytest.mark.parametrize(("name", "rank", "first"), [("low_rank", 2, 2), ("low_rank_at_once", 1, 0)])
def test_updates_of_matrices_have_the_rank_that_the_share_gives(
    runs: dict[str, Tensor], name: str, rank: int, first: int
) -> None:
    """544 numbers and 66 sides: a quarter is rank 2, a tenth rank 1. With error feedback two steps go whole."""
    run = runs[name]
    assert torch.equal(run[0], run[1])
    if first:
        torch.testing.assert_close(run[0][:first], runs["plain"][0][:first])
    updates = run[0].diff(dim=0, prepend=flat(network())[None])
    ranks = [int(torch.linalg.matrix_rank(u[:384].reshape(16, 24), atol=1e-5)) for u in updates]
    assert all(found == rank for found in ranks[first:])
    assert all(found > rank for found in ranks[:first])


@pytest.mark.parametrize(("name", "steps"), [("local", 3), ("local_top_k", 2)])
def test_models_are_averaged_after_local_steps_and_only_then(runs: dict[str, Tensor], name: str, steps: int) -> None:
    models = [network(), network()]
    for step in range(STEPS):
        for rank, model in enumerate(models):
            put(model, flat(model) - RATE * gradients(model, step)[rank])
        if (step + 1) % steps == 0:
            mean = (flat(models[0]) + flat(models[1])) / 2
            for model in models:
                put(model, mean)
        for rank, model in enumerate(models):
            torch.testing.assert_close(runs[name][rank][step], flat(model), rtol=1e-4, atol=1e-5)
        assert torch.equal(runs[name][0][step], runs[name][1][step]) == ((step + 1) % steps == 0)


def test_what_saves_more_traffic_is_written() -> None:
    half: dict[str, Any] = {"compressor": "half", **SENT}
    assert "fp16_compress_hook" in export("torch-ddp", **half, local_steps=2).text
    many = export("torch-ddp", **half, local_steps=3)
    assert "PeriodicModelAverager(period=3" in many.text
    assert told(many, "compressor=half") == "compressor=half: models go in float32, after every 3 local steps"
    written = export("torch-ddp", **half, local_steps=2)
    assert "a sample takes 2 times the traffic" in told(written, "local_steps=2")


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"compressor": "low-rank", **SENT, "upload_keep": 0.2, "feedback": "ef21"}, "feedback=ef21: "),
        ({"compressor": "low-rank", **SENT, "upload_keep": 0.2, "warmup_rounds": 5}, "warmup_rounds=5: "),
        ({"compressor": "low-rank", **SENT, "upload_keep": 0.2, "importance_share": 0.44}, "importance_share=0.44: "),
        ({"compressor": "half", **SENT, "feedback": "ef"}, "feedback=ef: fp16_compress_hook"),
        ({"download": "top-k", "download_keep": 0.2, "staleness": False}, "download=top-k with download_keep=0.2: "),
        ({"balanced": True}, "balanced=true: "),
        ({"method": "diloco", "local_steps": 9, "server_momentum": 0.9, "server_rate": 0.7}, "server_rate=0.7 with "),
        ({"method": "diloco", "fragments": 4}, "fragments=4: "),
        ({"adapter_rank": 4}, "adapter_rank=4: "),
    ],
)
def test_what_pytorch_cannot_is_told_and_stands_in_the_file(config: dict[str, Any], sentence: str) -> None:
    written = export("torch-ddp", **config)
    told(written, sentence)
    assert all(f"# - {one}\n" in written.text for one in written.cannot)
    told(export("torch-ddp", subject(participation=0.5), **config), "participation=0.5: ")


def test_pytorch_refuses_what_it_has_nothing_for() -> None:
    assert "no hook for compressor=sign" in refused("torch-ddp", compressor="sign", **SENT)
    for method in ("scallion", "scafcom", "locodl", "fedfix", "gossip", "seeds"):
        assert f"method={method}" in refused("torch-ddp", method=method)


def test_warm_up_leaves_the_first_steps_whole() -> None:
    written = export("torch-ddp", compressor="low-rank", upload_keep=0.1, feedback="ef", warmup_rounds=6, local_steps=5)
    assert "start_powerSGD_iter=30," in written.text


# ----------------------------------------------------------------- DeepSpeed


# Arguments of `OnebitAdam` of DeepSpeed 0.19.2, beside the parameters.
ONE_BIT_ADAM = (
    "lr", "freeze_step", "bias_correction", "betas", "eps", "eps_inside_sqrt", "weight_decay", "max_grad_norm",
    "amsgrad", "cuda_aware", "comm_backend_name",
)  # fmt: skip
SIGNS: Mapping[str, Any] = MappingProxyType({"compressor": "sign", "feedback": "ef", "warmup_rounds": 5})


def test_signs_with_error_feedback_are_1_bit_adam() -> None:
    written = export("deepspeed", **SIGNS, local_steps=4)
    found = json.loads(written.text)
    assert found["optimizer"]["type"] == "OneBitAdam"
    parameters = found["optimizer"]["params"]
    assert parameters.keys() <= set(ONE_BIT_ADAM)
    assert parameters["freeze_step"] == 20, "five rounds of four steps"
    assert (found["train_micro_batch_size_per_gpu"], found["zero_optimization"]) == (16, {"stage": 0})
    told(written, "learning_rate=0.2: it is SGD's")
    told(written, "local_steps=4: ")


def test_adam_s_variance_is_warmed_up_in_any_case() -> None:
    written = export("deepspeed", **{**SIGNS, "warmup_rounds": 0}, batch=0)
    found = json.loads(written.text)
    assert found["optimizer"]["params"]["freeze_step"] == 6, "15 % of 40 rounds of one step"
    assert "written 6 steps" in told(written, "warmup_rounds=0: ")
    assert "train_micro_batch_size_per_gpu" not in found
    told(written, "batch=0: ")


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"compressor": "sign", "feedback": "none", "warmup_rounds": 0},
        {"compressor": "top-k", **SENT, "upload_keep": 0.1, "feedback": "ef"},
        {"method": "fedfix", **SIGNS},
    ],
)
def test_deepspeed_refuses_everything_else(config: dict[str, Any]) -> None:
    sentence = refused("deepspeed", **config)
    assert f"compressor={config.get('compressor', 'none')}" in sentence
    assert "plan-json" in sentence


# -------------------------------------------------------------------- Flower


def test_flower_reads_the_run_config_over_an_app_that_has_its_names(tmp_path: Path) -> None:
    config = pytest.importorskip("flwr.common.config")
    written = export("flower", subject(participation=0.25), **CAESAR)
    file = tmp_path / "found.toml"
    file.write_text(written.text, encoding="utf-8")
    override = config.parse_config_args([str(file)])
    app = tomllib.loads("[tool.flwr.app.config]\n" + written.text)["tool"]["flwr"]["app"]["config"]
    found = config.fuse_dicts(config.flatten_dict(app), override)
    assert (found["num-server-rounds"], found["fraction-train"], found["server.method"]) == (40, 0.25, "fedavg")
    assert {name: found[f"settings.{name}"] for name in CAESAR} == dict(CAESAR)
    rules = {name: value for name, value in found.items() if name.startswith("rules.")}
    assert rules == {
        "rules.download_keep": "by_staleness", "rules.upload_keep": "by_rank", "rules.batch": "by_speed",
    }  # fmt: skip


def test_the_rules_of_a_flower_app_are_those_of_the_configuration(tmp_path: Path) -> None:
    pytest.importorskip("flwr")
    from flwr.serverapp.strategy import FedAvg

    from autotune.integrations.flower import ClientState, tuned

    written = export("flower", stem="mine", **{**CAESAR, "warmup_rounds": 3})
    (name,) = written.attachments
    assert name == "mine_rules.py"
    assert name in written.text
    (tmp_path / name).write_bytes(written.attachments[name])
    module = load(tmp_path / name)
    assert isinstance(tuned(FedAvg(), module.SETTINGS, per_client=module.per_client), FedAvg)

    slow, fast = (
        ClientState(i, away=5, examples=n, seconds=s, settings={"batch": 16}) for i, n, s in ((0, 9, 4), (1, 99, 2))
    )
    both = (slow, fast)
    clients = [
        ClientState(c.node_id, away=c.away, examples=c.examples, seconds=c.seconds, settings=c.settings, peers=both)
        for c in both
    ]
    least, most = (module.per_client(module.SETTINGS, 10, client) for client in clients)
    assert (least["upload_keep"], most["upload_keep"]) == (pytest.approx(0.9 * 0.44), 0.9)
    assert (least["batch"], most["batch"]) == (8, 16)
    assert most["download_keep"] == pytest.approx(1 - 0.5 * 0.6)
    assert module.per_client(module.SETTINGS, 2, clients[1])["upload_keep"] == pytest.approx(0.9 ** (2 / 4))
    assert most["local_steps"] == 5


def test_where_clients_are_alike_a_flower_app_needs_no_rules() -> None:
    written = export("flower", server_momentum=0.9)
    assert not written.attachments
    assert told(written, "server_momentum=0.9") == "server_momentum=0.9: that of FedAvgM is not Nesterov's"
    assert export("flower").cannot == ()
    assert "method=gossip" in refused("flower", method="gossip")
    assert tomllib.loads(export("flower", subject(participation=0.1), method="locodl").text)["fraction-train"] == 1.0


# ---------------------------------------------------------------- every format


def test_the_plan_says_every_setting_that_means_something() -> None:
    found = json.loads(export("plan-json", subject(alpha=math.inf), **CAESAR, clusters=9, topology="ring").text)
    assert (found["schema"], found["schema_version"]) == ("autotune.compression-plan", 1)
    assert found["job"]["dirichlet_alpha"] == "inf"
    values = {name: one["value"] for name, one in found["settings"].items()}
    assert values == {**BASE, **CAESAR}
    assert all(one["meaning"] for one in found["settings"].values())
    assert "elements" in found["settings"]["upload_keep"]["unit"]
    assert found["measured"] is None
    for keep, bits in ((0.25, 8), (0.5, 9), (1.0, 32)):  # powers of two have no use for 16 bits
        fine = json.loads(export("plan-json", compressor="nonuniform", **{**SENT, "upload_keep": keep}).text)
        assert fine["settings"]["upload_keep"]["bits"] == bits
    assert "bits" not in found["settings"]["upload_keep"]


def test_settings_that_are_not_searched_count_like_knobs() -> None:
    fixed = subject(fixed={"feedback": "ef", "warmup_rounds": 2, "trust": 1.0})
    knobs: dict[str, Any] = {"compressor": "top-k", "upload_keep": 0.1, "importance_share": 1.0, "local_steps": 5}
    for format_ in ("plan-json", "flower", "torch-ddp"):
        assert export(format_, fixed, **knobs).cannot == export(format_, **knobs, feedback="ef", warmup_rounds=2).cannot
    plan = json.loads(export("plan-json", fixed, **knobs).text)["settings"]
    assert (plan["feedback"]["value"], "trust" in plan) == ("ef", False)
    assert "feedback" not in json.loads(export("plan-json", fixed).text)["settings"], "nothing is compressed"


def test_every_configuration_is_written_or_refused_in_one_sentence() -> None:
    texts = usual_texts(0.2, 16, 5) | {"method": ",".join(METHODS), "fragments": "1,3", "server_momentum": "0,0.9"}
    settings = read_settings(CHOICES, texts)
    space, of = space_of(settings), subject(fixed=fixed_of(settings))
    read: dict[str, Callable[[str], object]] = {
        "plan-json": json.loads,
        "deepspeed": json.loads,
        "flower": tomllib.loads,
        "torch-ddp": lambda text: compile(text, "found.py", "exec"),
    }
    written = dict.fromkeys(FORMATS, 0)
    for config in space.sample(150, 0):
        for format_ in FORMATS:
            trial = TrialRecord(1, 0, config, "hash", TrialState.COMPLETED, "made", 1, 1)
            try:
                found = exporters(of)[format_].write(trial, exporters(of)[format_].options(), "found")
            except UsageError as refusal:
                assert "\n" not in str(refusal)
                continue
            read[format_](found.text)
            for name, content in found.attachments.items():
                compile(content, name, "exec")
            assert all(one and "\n" not in one for one in found.cannot)
            written[format_] += 1
    assert written["plan-json"] == 150
    assert min(written["flower"], written["torch-ddp"]) > 50
