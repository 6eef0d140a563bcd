"""From a checkpoint to a configuration: `autotune trace record`, `stats`, `convert`, and a search on the recorded trace."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Run
from tests.machine import made_profile
from tests.moe_cache_recording.checkpoints import save


def test_a_local_checkpoint_is_recorded_and_searched(run: Run, tmp_path: Path) -> None:
    from autotune.hardware import ComputeEntry
    from evaluators.moe_cache.machine import LayerWork
    from evaluators.moe_cache.model_config import from_config_json

    model = save("mixtral", tmp_path / "checkpoint")
    (tmp_path / "prose.txt").write_text("A person has a model that does not fit. " * 3)
    recorded = run(
        "trace", "record", "--model", str(model), "--text", "prose.txt", "--out", "own.moetrace.npz",
        "--decode-tokens", "24", "--prompt-tokens", "40", "--temperature", "1", "--json",
    )  # fmt: skip
    assert recorded.code == 0, recorded.err
    assert recorded.json["layers"] == 4
    assert recorded.json["experts"] == 8
    assert "recording turn 1/1 (prose.txt): 24/24 tokens" in recorded.err

    stats = run("trace", "stats", "own.moetrace.npz", "--json").json
    assert stats["n_layers"] == 4
    assert stats["decode_tokens"] >= 1
    assert "effective experts" in run("trace", "stats", "own.moetrace.npz").out

    shape = from_config_json(model / "config.json")
    profile = made_profile()
    work = LayerWork.of(shape, 512)
    made = profile.compute[0].curve
    entries = [ComputeEntry(shape=one, device="cpu", curve=made) for one in work.shapes]
    (tmp_path / "machine.json").write_text(profile.merge(entries).to_json())
    searched = run(
        "search", "moe-cache", "--trials", "8", "--json", "--set", "trace=own.moetrace.npz", "--set", f"model={model}",
        "--set", "hardware=machine.json", "--set", "budget_fraction=0.5",
    )  # fmt: skip
    assert searched.code == 0, searched.err
    assert searched.json["trials"]["completed"] == 8
    assert len(searched.json["best"]["config"]["budget_mib"]) == 4


def test_what_cannot_be_recorded_is_said_before_anything_runs(run: Run, tmp_path: Path) -> None:
    (tmp_path / "prose.txt").write_text("text")
    for arguments, words in (
        (["--model", "absent", "--out", "t.moetrace.npz"], "absent"),
        (["--model", "absent", "--out", "t.npz"], "must end in .moetrace.npz"),
        (["--model", "absent", "--out", "no/where.moetrace.npz"], "does not exist"),
    ):
        ran = run("trace", "record", "--text", "prose.txt", *arguments)
        assert ran.code == 2
        assert words in ran.err
        assert len(ran.err.strip().splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["prose.txt"]


def test_a_trace_of_another_format_is_converted(run: Run, tmp_path: Path) -> None:
    rows = [
        "# route_trace v1",
        "# model=made arch=m n_layer=1 n_expert=4 n_expert_used=1",
        "turn,phase,step,layer,slot,expert,weight",
    ]
    rows += [f"0,{int(step > 0)},{step},0,0,{step % 4},1.0" for step in range(6)]
    (tmp_path / "own.csv").write_text("\n".join(rows) + "\n")
    assert run("trace", "convert", "own.csv", "own.moetrace.npz").code == 0
    before, after = (run("trace", "stats", name, "--json").json for name in ("own.csv", "own.moetrace.npz"))
    assert before == after


def test_statistics_of_batches_tell_what_static_gating_costs(run: Run) -> None:
    trace = str(Path(__file__).parents[2] / "evaluators" / "moe_cache" / "traces" / "tiny-moe.moetrace.npz")
    alone = run("trace", "stats", trace, "--json").json
    # One token needs its own experts alone; static gating makes room for it in all 32, for 4 that it has.
    assert alone["gating"]["padding"] == 8.0
    assert alone["gating"]["experts_touched"] == 4 / 32
    served = run("trace", "stats", trace, "--batch", "16", "--capacity-factor", "0.25", "--json").json
    assert served["gating"]["batch"] == 16
    assert served["gating"]["padding"] == 32 * 0.25 / 4
    assert 0 < served["gating"]["dropped"] < 1
    assert served["gating"]["experts_touched"] > 4 / 32
    assert "E*C/k is 2\n" in run("trace", "stats", trace, "--batch", "16", "--capacity-factor", "0.25").out
    refused = run("trace", "stats", trace, "--batch", "100000")
    assert refused.code == 2
    assert "batch=100000" in refused.err
