"""The command line on the domain expert-placement: a front of placements, one placement under a limit, bad options."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Run

QUICK = ("--set", "program_seconds=0.2", "--strategy", "random", "--seed", "0")


def test_a_search_prints_the_front_and_what_it_dominates(run: Run) -> None:
    ran = run("search", "expert-placement", "--trials", "14", *QUICK)
    assert ran.code == 0, ran.err
    front, _, beside = ran.out.partition("Dominated: what people use today")
    assert "Pareto front" in front
    assert "random placement: 29.34 hops per token in expectation" in front
    assert "popularity" in beside
    shown = run("show", "expert-placement", "--json").json
    (default,) = [shown["default"]]
    assert default["config"] == {"solver": "contiguous", "sweeps": 0}
    assert min(o["metrics"]["hops_per_token"] for o in shown["pareto"]) < default["metrics"]["hops_per_token"]


def test_one_objective_under_a_limit_on_the_other(run: Run) -> None:
    ran = run(
        "search", "expert-placement", "--trials", "10", *QUICK, "--json",
        "--objective", "minimize hops_per_token", "--constraint", "max_load <= 1.7", "--set", "gpus=8",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    found = ran.json
    assert found["best"]["metrics"]["max_load"] <= 1.7
    placement = next(t for t in run("trials", "expert-placement", "--json").json if t["number"] == 0)["notes"][
        "placement"
    ]
    assert placement == [[e // 4 for e in range(32)]] * 8


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("gpus=5", "32 experts per layer cannot be shared out evenly over gpus=5; give one of: 2, 4, 8, 16, 32"),
        ("gpus_per_node=0", "gpus_per_node = '0'"),
        ("held_out=layers", "held_out = 'layers'"),
        ("trace=none.npz", "trace 'none.npz' is neither a file nor a shipped trace"),
    ],
)
def test_bad_options_are_one_sentence_and_exit_code_2(run: Run, setting: str, words: str) -> None:
    ran = run("search", "expert-placement", "--set", setting)
    assert ran.code == 2
    assert words in ran.err
    assert len(ran.err.strip().splitlines()) <= 2


def test_show_explains_and_a_trial_of_the_front_is_exported(run: Run) -> None:
    assert run("search", "expert-placement", "--trials", "8", *QUICK).code == 0
    shown = run("show", "expert-placement")
    assert "hops to the next layer's experts" in shown.out
    assert "layers where it is the fullest" in shown.out
    parts = run("show", "expert-placement", "--json").json["explanation"]
    assert [len(parts["layers"]["default"]), len(parts["gpus"]["default"])] == [8, 4]
    listed = run("export", "expert-placement", "--format", "list", "--json").json["configuration"]
    assert [one["format"] for one in listed] == ["plan", "sglang", "vllm"]
    several = run("export", "expert-placement", "--format", "plan")
    assert (several.code, "has 2 objectives; name a trial" in several.err) == (2, True)
    ran = run("export", "expert-placement", "--format", "sglang", "--trial", "0")
    assert ran.code == 0
    assert ran.out.startswith('{"physical_to_logical_map": [\n  [0, 1, 2, 3')
    assert ran.err.startswith("autotune: not expressed: the dataflow that hops_per_token counts: SGLang")
