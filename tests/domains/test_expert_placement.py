"""The domain expert-placement as a user meets it: what it builds from options, what it measures, what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import autotune
from autotune import Failure, UsageError
from autotune.domain import Problem, load_domain
from autotune.options import parse_options
from evaluators.expert_placement import Cluster, Task, placement_of, split
from evaluators.expert_placement.cluster import is_balanced
from evaluators.expert_placement.measure import measure
from evaluators.expert_placement.profiled import METRICS
from evaluators.moe_cache.formats import load_trace
from tests.expert_placement.instances import write_trace

Build = Callable[..., Problem]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_trace(tmp_path_factory.mktemp("traces") / "made.moetrace.npz"))


@pytest.fixture(scope="module")
def problem(made: str) -> Iterator[Build]:
    def build(**options: object) -> Problem:
        domain = load_domain("expert-placement")
        return domain.problem(parse_options(domain.options, {"trace": made, "program_seconds": 2.0, **options}))

    yield build


def test_the_default_is_what_engines_do(problem: Build) -> None:
    built = problem()
    measured = built.evaluator(None)[1](built.default)
    assert measured.notes["placement"] == [[0, 0, 1, 1, 2, 2, 3, 3]] * 3


def test_default_and_baselines_are_feasible_and_measured(problem: Build) -> None:
    built = problem()
    _, evaluate = built.evaluator(None)
    assert set(built.baselines) == {"random", "popularity", "stacked", "greedy", "anti-correlation"}
    for config in (built.default, *built.baselines.values()):
        assert built.space.explain(config) == []
        assert set(evaluate(config).values()) == set(METRICS)


def test_every_configuration_gives_a_balanced_placement(problem: Build) -> None:
    built = problem()
    _, evaluate = built.evaluator(None)
    for config in built.space.sample(15, seed=0):
        assert is_balanced(np.array(evaluate(config).notes["placement"]), 4)


def test_the_noted_placement_has_the_measured_metrics_on_tokens_it_was_not_made_from(problem: Build, made: str) -> None:
    built = problem()
    config = {"solver": "alternating", "sweeps": 4, "load_weight": [0.2, 0.4, 0.6]}
    measured = built.evaluator(None)[1](config)
    train, held_out = split(load_trace(made), 0.5)
    again = placement_of(config, Task(train, Cluster(4, 4)))
    assert measured.notes["placement"] == again.tolist()
    there = measure(again, held_out, Cluster(4, 4))
    here = measure(again, train, Cluster(4, 4))
    values = measured.values()
    assert (values["hops_per_token"], values["max_load"]) == (there.hops_per_token, there.max_load)
    assert (values["train_hops_per_token"], values["train_max_load"]) == (here.hops_per_token, here.max_load)
    assert there.hops_per_token != here.hops_per_token


def test_a_solver_shared_by_configurations_is_run_once(problem: Build) -> None:
    built = problem()
    _, evaluate = built.evaluator(None)
    first = evaluate({"solver": "exflow", "sweeps": 0})
    again = evaluate({"solver": "exflow", "sweeps": 0})
    assert first.notes["placement"] == again.notes["placement"]
    assert again.notes["solver_s"] <= first.notes["solver_s"]
    assert first.notes["programs"] == 1


def test_objectives_follow_the_nodes(problem: Build) -> None:
    assert problem().objectives == ("minimize hops_per_token", "minimize max_load")
    assert problem(gpus_per_node=2).objectives == ("minimize hop_cost_per_token", "minimize max_load")


def test_every_range_of_layers_has_a_weight(problem: Build) -> None:
    for ranges, size in ((2, 2), (8, 3)):  # the trace has three layers
        (parameter,) = [p for p in problem(layer_ranges=ranges).space.parameters if p.name == "load_weight"]
        assert parameter.size == size


def test_a_program_without_a_placement_in_time_is_a_typed_failure() -> None:
    domain = load_domain("expert-placement")
    built = domain.problem(parse_options(domain.options, {"program_seconds": 1e-6}))
    with pytest.raises(Failure, match=r"timeout: .* give more program_seconds"):
        built.evaluator(None)[1]({"solver": "exflow", "sweeps": 0})


def test_the_search_finds_fewer_hops_at_no_worse_a_load_than_today(tmp_path: Path) -> None:
    result = autotune.search(
        "expert-placement",
        options={"program_seconds": 0.5},
        objectives="minimize hops_per_token",
        constraints=["max_load <= 1.306"],
        trials=16,
        strategy="tpe",
        seed=1,
        storage=f"sqlite:///{tmp_path}/a.db",
    )
    assert result.default is not None and result.best is not None and result.gain is not None
    assert result.default.metrics["max_load"] == pytest.approx(1.306, abs=0.001)
    assert result.gain > 0.05
    assert result.best.metrics["hops_per_token"] < result.baselines["random"].metrics["hops_per_token"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trace": "nowhere"}, "trace 'nowhere' is neither a file nor a shipped trace; shipped are: tiny-moe"),
        ({"gpus": 3}, "8 experts per layer cannot be shared out evenly over gpus=3; give one of: 2, 4, 8"),
        ({"gpus": 1}, "option gpus = 1"),
        ({"gpus": 100}, "option gpus = 100"),
        ({"gpus_per_node": 3}, "gpus_per_node is 3, which does not divide the 4 GPUs"),
        ({"train_share": 1.0}, "option train_share = 1.0"),
        ({"train_share": 0.001}, "train_share is 0.001, which leaves no token"),
        ({"held_out": "prompts"}, "option held_out = 'prompts'"),
        ({"program_seconds": 0}, "option program_seconds = 0"),
        ({"gpu": 4}, "option 'gpu' is unknown (did you mean 'gpus'?)"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(options: dict[str, object], words: str, problem: Build) -> None:
    with pytest.raises(UsageError) as caught:
        problem(**options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_traces_of_one_layer_or_one_turn_are_refused(tmp_path: Path, problem: Build) -> None:
    one_layer = write_trace(tmp_path / "layer.moetrace.npz", layers=1)
    with pytest.raises(UsageError, match="has one layer"):
        problem(trace=str(one_layer))
    one_turn = write_trace(tmp_path / "turn.moetrace.npz", turns=1)
    with pytest.raises(UsageError, match="has one turn"):
        problem(trace=str(one_turn), held_out="turns")
    assert problem(trace=str(one_turn)).default
