"""The domain compression as a newcomer meets it: what it builds from options, what it refuses, what its space can give."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import autotune
from autotune import Categorical, Failure, FailureKind, Ordinal, UsageError
from autotune.domain import Problem, load_domain
from autotune.explaining import explain
from autotune.options import parse_options
from evaluators.federated.baselines import BASELINES
from evaluators.federated.job import Job
from evaluators.federated.knobs import CHOICES, meaningful
from evaluators.federated.methods import make_method
from evaluators.federated.settings import METHODS, Settings
from tests.driving import run

SMALL: Mapping[str, Any] = {"rounds": 6, "repeats": 1, "devices": 8, "target_accuracy": 0.3}
ALL = ",".join(METHODS)


def problem(**options: Any) -> Problem:
    domain = load_domain("compression")
    return domain.problem(parse_options(domain.options, {**SMALL, **options}))


def job(built: Problem) -> Job:
    (evaluator,) = built.evaluators.values()
    found: Job = evaluator.job  # type: ignore[attr-defined]
    return found


def refusal(**options: Any) -> str:
    with pytest.raises(UsageError) as raised:
        problem(**options)
    sentence = str(raised.value)
    assert "\n" not in sentence
    return sentence


# ---------------------------------------------------------------- the space


def test_the_default_is_federated_averaging_without_compression() -> None:
    built = problem()
    of = job(built)
    assert of.settings(built.default) == of.plain
    assert (of.plain.method, of.plain.compressor, of.plain.download, of.plain.balanced) == (
        "fedavg",
        "none",
        "none",
        False,
    )
    searched = problem(method=f"gossip,{ALL.replace(',gossip', '')}", download="half,none", compressor="top-k,none")
    assert job(searched).settings(searched.default) == job(searched).plain


def test_baselines_are_as_published_or_left_out() -> None:
    built = problem()
    assert built.baselines.keys() == BASELINES.keys()
    for name, config in built.baselines.items():
        has = job(built).settings(config)
        plain = {"importance_share": 1.0, "warmup_rounds": 0, "download": "none", "staleness": False, "balanced": False}
        assert {key: getattr(has, key) for key in (*plain, *BASELINES[name])} == {**plain, **BASELINES[name]}, name


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ({"upload_keep": "0.5,0.25"}, {"sign", "quantise 8 bits", "nonuniform 8 bits", "low-rank 25 %"}),
        ({"feedback": "ef"}, {"top-k 10 %", "sign", "low-rank 25 %"}),
        ({"compressor": "top-k"}, {"top-k 10 %", "dgc 1 %", "caesar"}),
        ({"importance_share": "0.44"}, {"sign", "caesar"}),
        ({"warmup_rounds": "5,20"}, {"dgc 1 %"}),
        ({"download": "none,half"}, set(BASELINES) - {"caesar"}),
        ({"download": "low-deviation", "staleness": "true"}, {"caesar"}),
        ({"balanced": "false"}, set(BASELINES) - {"caesar"}),
        ({"method": "scallion"}, {"rand-k 10 %", "quantise 8 bits", "nonuniform 8 bits"}),
    ],
)
def test_options_leave_the_baselines_that_they_have_room_for(options: dict[str, str], left: set[str]) -> None:
    assert set(problem(**options).baselines) == left


OWN = {
    "fragments": "1,2", "topology": "ring,random,complete", "trust": "0,1", "interval": "0.5,1", "directions": "16,32",
    "clusters": "4,15", "server_momentum": "0,0.9", "gossip_steps": "1,2", "batch": "16,0",
}  # fmt: skip
SPACES: Mapping[str, dict[str, str]] = {
    "default": {},
    "all methods": {"method": ALL},
    **{f"{name} and its own": {"method": name, **OWN} for name in METHODS},
    "fixed feedback": {"method": ALL, "feedback": "ef"},
    "fixed masks": {"method": "fedavg,scafcom,seeds", "feedback": "dgc", "compressor": "top-k,sign,quantise"},
    "fixed compressor": {"method": "fedavg,gossip,seeds", "compressor": "top-k"},
    "fixed download": {"method": ALL, "download": "low-deviation", "staleness": "true"},
    "two bits": {"method": ALL, "compressor": "quantise,top-k", "upload_keep": "0.01,0.0625,0.5"},
}


@pytest.mark.parametrize("name", SPACES)
def test_what_the_space_can_give_can_be_trained_and_has_no_idle_knob(name: str) -> None:
    options = dict(SPACES[name])
    if "and its own" in name:
        # Knobs of other methods mean nothing here, and are refused.
        method = options["method"]
        own = {"fragments": "diloco", "interval": "fedfix", "directions": "seeds"}
        own |= dict.fromkeys(("topology", "trust", "gossip_steps"), "gossip")
        options = {key: value for key, value in options.items() if own.get(key, method) == method}
        if method not in ("fedavg", "diloco", "fedfix"):
            del options["server_momentum"]
        if method in ("scallion", "locodl", "seeds"):
            del options["clusters"]
    built = problem(**options)
    of = job(built)
    knobs = {parameter.name for parameter in built.space.parameters}
    tried = set()
    for config in [*built.space.sample(300, 0), built.default, *built.baselines.values()]:
        assert set(config) == meaningful({**of.given, **config}).keys() & knobs
        settings = of.settings(config)
        # Fed-SB's factors take a pass over all data; how it is refused does not depend on the configuration beside it.
        key = (settings.method, settings.compressor, settings.feedback, settings.download, settings.upload_keep)
        if key not in tried:
            tried.add(key)
            make_method(of.worlds[0], settings)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_adapters_too(method: str) -> None:
    of = job(problem(method=method, adapter_rank="0,2", **({"fragments": 2} if method == "diloco" else {})))
    made = make_method(of.worlds[0], of.settings({"adapter_rank": 2}))
    assert made.tensors.shapes == ((2, 2), (2, 2))


def test_a_fixed_setting_that_means_nothing_in_a_configuration_is_not_in_its_way() -> None:
    of = job(problem(method="fedavg,gossip", feedback="ef", download="half"))
    settings = of.settings({"method": "gossip", "compressor": "sign", "warmup_rounds": 5})
    assert (settings.feedback, settings.download, settings.warmup_rounds) == ("none", "none", 5)
    settings = of.settings({"method": "fedavg", "compressor": "sign"})
    assert (settings.feedback, settings.download) == ("ef", "half")


def test_options_take_python_values_too() -> None:
    built = problem(upload_keep=[0.5, 0.1], batch=8, balanced=False)
    upload_keep = built.space["upload_keep"]
    assert isinstance(upload_keep, Ordinal)
    assert upload_keep.values == (0.1, 0.5)
    assert job(built).settings(built.default).batch == 8


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"task": "digit"}, ("task 'digit'", "did you mean 'digits'?", "text-files")),
        ({"upload_keep": "0"}, ("upload_keep '0'", "above 0 and at most 1")),
        ({"upload_keep": "1.5"}, ("upload_keep '1.5'", "above 0 and at most 1")),
        ({"upload_keep": "much"}, ("upload_keep 'much'", "above 0 and at most 1")),
        ({"upload_keep": "0.1,0.1"}, ("upload_keep '0.1,0.1'", "twice")),
        ({"compressor": "zip"}, ("compressor 'zip'", "top-k", "low-rank")),
        ({"local_steps": "1.5"}, ("local_steps '1.5'", "whole numbers from 1")),
        ({"balanced": "maybe"}, ("balanced 'maybe'", "true, false")),
        ({"method": "scallion", "compressor": "top-k"}, ("compressor top-k", "unbiased compressor")),
        ({"feedback": "dgc", "compressor": "sign"}, ("compressor sign", "does not go with")),
        ({"method": "diloco", "download": "low-deviation"}, ("download low-deviation", "does not go with")),
        ({"compressor": "quantise", "upload_keep": "0.01"}, ("upload_keep 0.01", "at least 2 bits")),
        ({"method": "seeds", "compressor": "top-k"}, ("compressor top-k", "means nothing", "method=fedavg")),
        ({"method": "gossip", "download": "half"}, ("download half", "means nothing", "leave it out")),
        (
            {"compressor": "none", "upload_keep": "0.5,0.1"},
            ("upload_keep 0.5,0.1", "means nothing", "compressor=top-k"),
        ),
        ({"trust": "1"}, ("trust 1.0", "means nothing", "method=gossip")),
        ({"method": "diloco", "fragments": "1,5"}, ("fragments 5", "use at most 4")),
        ({"method": "diloco", "fragments": "3", "adapter_rank": "0,4"}, ("fragments 3", "adapters", "use at most 2")),
        ({"clusters": "256"}, ("clusters '256'", "from 2 to 255")),
        ({"alpha": 0.5, "devices": 1200}, ("1200 devices", "use fewer devices")),
        ({"devices": 2000}, ("2000 devices", "1437", "use fewer devices")),
        ({"devices": 0}, ("devices", "greater than or equal to 1")),
        ({"target_accuracy": 1.1}, ("target_accuracy", "less than or equal to 1")),
        ({"target_accuracy": 0}, ("target_accuracy", "greater than 0")),
        ({"participation": 0}, ("participation", "greater than 0")),
        ({"dropout": 1}, ("dropout", "less than 1")),
        ({"task": "table"}, ("task table needs data", "--set data=PATH")),
        ({"task": "hugging-face", "data": "x"}, ("task hugging-face needs model", "--set model=PATH")),
        ({"task": "text", "hidden": 32}, ("task text takes no hidden", "32", "digits, table")),
        ({"data": "x.npz"}, ("task digits takes no data", "'x.npz'", "table")),
        ({"task": "table", "data": "none.npz"}, ("'none.npz' does not exist", "x_train")),
        ({"fleet": "robots:1"}, ("'robots'", "phones")),
        ({"fleet": "none.csv"}, ("'none.csv' cannot be read", ".csv or .json")),
        ({"colour": "red"}, ("'colour' is unknown", "compressor")),
    ],
)
def test_bad_options_are_refused_in_one_sentence(options: dict[str, Any], words: tuple[str, ...]) -> None:
    sentence = refusal(**options)
    assert all(word in sentence for word in words), sentence


def test_a_space_of_one_configuration_is_refused() -> None:
    fixed = {
        "compressor": "none",
        "download": "none",
        "local_steps": 5,
        "batch": 16,
        "balanced": False,
        "learning_rate": 0.2,
    }
    assert "every setting has one value; give one of them several" in refusal(**fixed)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("device,count\nphone-mid,3\nlaptop,x\n", ("device 2: count is 'x'", "whole number")),
        ("device,cores\nphone-mid,3\n", ("device 1: column 'cores'", "gflops")),
        ("device\ntoaster\n", ("device 1: device 'toaster'", "phone-mid")),
        ("device,up_mbit_s\nlaptop,-1\n", ("device 1: up_mbit_s is '-1'", "above 0")),
        ("device,count\nphone-mid,3\n", ("lists 3 devices and devices is 8", "set devices=3")),
        ("", ("lists no device", "at least one")),
    ],
)
def test_a_fleet_s_wrong_row_is_named(tmp_path: Path, rows: str, words: tuple[str, ...]) -> None:
    file = tmp_path / "fleet.csv"
    file.write_text(rows, encoding="utf-8")
    sentence = refusal(fleet=str(file))
    assert all(word in sentence for word in words), sentence


@pytest.fixture
def own(tmp_path: Path) -> str:
    """Three classes that a few rounds tell apart."""
    rng = np.random.default_rng(0)
    y = np.arange(240) % 3
    x = np.eye(3)[y] + 0.2 * rng.standard_normal((240, 3))
    file = tmp_path / "own.npz"
    np.savez(file, x_train=x[:180], y_train=y[:180], x_test=x[180:], y_test=y[180:])
    return str(file)


def test_own_data_need_a_target_and_nothing_else(own: str) -> None:
    sentence = refusal(task="table", data=own, target_accuracy=None)
    assert "--set target_accuracy=0.8" in sentence
    options = {
        **SMALL,
        "task": "table",
        "data": own,
        "target_accuracy": 0.8,
        "devices": 3,
        "participation": 1.0,
        "alpha": 100,
    }
    result = autotune.search("compression", options=options, trials=2)
    assert result.default is not None
    assert result.default.metrics["final_accuracy"] > 0.9
    assert result.study.record.options["domain_options"]["data"] == own


# ---------------------------------------------------------- what is measured


def test_training_that_diverges_is_a_failure_that_is_kept_and_not_repeated() -> None:
    options = {**SMALL, "learning_rate": "0.2,900", "compressor": "none,half", "local_steps": 5, "batch": 16}
    result = autotune.search("compression", options=options, trials=40, strategy="random")
    diverged = [trial for trial in result.study.trials if trial.config["learning_rate"] == 900.0]
    failed = [trial for trial in diverged if trial.failure_kind is FailureKind.NAN]
    assert failed
    assert all("training diverged in round" in str(trial.failure_message) for trial in failed)
    configs = [json.dumps(trial.config, sort_keys=True) for trial in result.study.trials]
    assert len(set(configs)) == len(configs)


@pytest.mark.parametrize("task", ["digits", "text"])
def test_an_evaluator_that_was_sent_to_another_process_measures_the_same(task: str) -> None:
    built = problem(task=task, target_accuracy=0.05, rounds=4, devices=4)
    evaluate = built.evaluators["trained"]
    sent = pickle.loads(pickle.dumps(evaluate))
    assert sent(built.default).metrics == evaluate(built.default).metrics


def test_a_target_out_of_reach_tells_what_was_reached() -> None:
    built = problem(target_accuracy=0.999, rounds=4)
    with pytest.raises(Failure, match=r"99\.9% was not reached in 4 rounds; the best was \d+\.\d%") as raised:
        built.evaluators["trained"](built.default)
    assert raised.value.kind is FailureKind.TIMEOUT


def test_explanations_fit_a_terminal_and_json() -> None:
    options = {**SMALL, "fleet": "phones:1,jetsons:2,raspberry-pi-4:1", "compressor": "none,top-k"}
    study = autotune.search("compression", options=options, trials=2).study
    sections = explain(study, unicode=False)
    assert [section.name for section in sections] == ["devices", "accuracy"]
    for section in sections:
        assert all(len(line) <= 80 for line in (section.title, *section.lines))
        assert json.loads(json.dumps(section.data, allow_nan=False))
    devices, accuracy = sections
    assert sum(row["devices"] for row in devices.data["default"].values()) == 8
    rounds = [row["default"]["round"] for row in accuracy.data]
    assert rounds == sorted(rounds)
    # Several objectives have a best each, and long names are cut rather than wrapped.
    trial = study.trials[0]
    notes = {
        **trial.notes,
        "devices": {"a device of my own with a long name": {**trial.notes["devices"]["phone-mid"], "energy_j": 1e9}},
    }
    long = SimpleNamespace(notes=notes)
    domain: Any = load_domain("compression")
    told = domain.explain(
        {"best in traffic_mib": long, "best in accuracy_drop_points": long, "default": trial}, unicode=False
    )
    assert all(len(line) <= 80 for section in told for line in section.lines)
    assert domain.explain({"default": SimpleNamespace(notes={})}, unicode=False) == ()


# ------------------------------------------------------------------- greedy


class Thumb:
    """a = 3 and b = 2, each of which may change."""

    def rules(self) -> list[dict[str, Any]]:
        return [{"a": 3, "b": 2, "c": 0}]

    def constants(self) -> list[tuple[str, list[int]]]:
        return [("a", [1, 2, 3, 4, 5]), ("b", [1, 2, 3])]


def test_greedy_starts_with_the_rule_and_changes_one_constant_at_a_time() -> None:
    space = autotune.SearchSpace(
        [Ordinal("a", [1, 2, 3, 4, 5]), Ordinal("b", [1, 2, 3]), Ordinal("c", [0, 1], default=1)]
    )
    study = autotune.Study.create(space, "minimize y", strategy="greedy", domain_map=Thumb(), budget=20)
    run(study, lambda config: {"y": abs(config["a"] - 5) + abs(config["b"] - 1) + 10 * config["c"]}, trials=11)
    _, *own = [(trial.config["a"], trial.config["b"]) for trial in study.trials]
    assert study.trials[0].config["c"] == 1
    assert {trial.config["c"] for trial in study.trials[1:]} == {0}, "c is no constant of the rule"
    assert own == [
        (3, 2),  # the rule
        (2, 2), (4, 2),  # a, one step either way; 4 is better
        (5, 2),  # and better still
        (5, 1),  # b, with a at its end
        (4, 1), (3, 1),  # nothing near is better, so what is further away
        (5, 3), (2, 1), (1, 1),
    ]  # fmt: skip


def test_greedy_changes_one_constant_of_caesar_at_a_time() -> None:
    options = {
        **SMALL, "rounds": 3, "target_accuracy": 0.1, "accuracy_drop": 100.0, "feedback": "none", "warmup_rounds": 0,
        "learning_rate": 0.2, "local_steps": 5, "batch": 16, "importance_share": 0.44, "staleness": True, "balanced": True,
        "compressor": "top-k", "download": "none,low-deviation", "upload_keep": "0.9,0.5,0.25", "download_keep": "0.4,0.2",
    }  # fmt: skip
    study = autotune.search("compression", options=options, trials=7, strategy="greedy").study
    by = [trial.proposer for trial in study.trials]
    assert by[:2] == ["default", "caesar"]
    assert set(by[2:]) == {"greedy"}
    for trial in study.trials[2:]:
        differs = [
            {
                key
                for key in trial.config.keys() | before.config.keys()
                if trial.config.get(key) != before.config.get(key)
            }
            for before in study.trials[: trial.number]
        ]
        assert any(len(names) == 1 and names <= {"upload_keep", "download_keep"} for names in differs), trial.config


def test_greedy_is_refused_where_there_is_no_rule() -> None:
    space = autotune.SearchSpace([autotune.Int("x", 0, 3)])
    with pytest.raises(
        UsageError, match="'greedy' needs a domain that supplies a rule of thumb, such as compression"
    ) as raised:
        autotune.search(space, lambda config: {"y": config["x"]}, objectives="minimize y", strategy="greedy", trials=1)
    assert "\n" not in str(raised.value)


def test_other_strategies_that_need_a_map_are_refused_for_compression() -> None:
    with pytest.raises(UsageError, match="fixed-point") as raised:
        autotune.search("compression", options={**SMALL, "method": "gossip"}, trials=1, strategy="fixed-point")
    assert "\n" not in str(raised.value)


def test_the_rule_is_published_as_it_is_in_the_baselines() -> None:
    built = problem()
    (rule,) = built.domain_map.rules()
    assert rule == built.baselines["caesar"]
    for name, values in built.domain_map.constants():
        assert rule[name] in values
        known = built.space[name]
        assert isinstance(known, Categorical | Ordinal)
        assert list(known.choices if isinstance(known, Categorical) else known.values) == list(values)


def test_every_setting_is_an_option_with_its_meaning() -> None:
    fields = load_domain("compression").options.model_fields
    assert CHOICES.keys() <= fields.keys()
    assert CHOICES.keys() == set(Settings.__dataclass_fields__)
    assert all(fields[name].description for name in fields)
