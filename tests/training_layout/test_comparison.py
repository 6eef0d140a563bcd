"""Measured runs of others: reading their tables, predicting them, correcting by a few."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from autotune import UsageError
from autotune.comparison import ALL
from evaluators.training_layout.calibration import Calibration, Case
from evaluators.training_layout.comparison import compare
from evaluators.training_layout.layouts import Recompute
from evaluators.training_layout.prediction import predict
from evaluators.training_layout.rows import MeasuredRun, read_runs
from tests.cli.conftest import Run, run

__all__ = ["run"]  # a fixture

BRIDGE = ["System", "#-GPUs", "Precision", "GBS", "MBS", "Sequence Length", "TP", "PP", "CP", "VP", "EP", "Tokens / sec / GPU",
          "FSDP", "model_section", "release"]  # fmt: skip
MODELS = ("LLAMA3_8B", "LLAMA3_70B", "Qwen3_30B_a3B", "llama2-13b")


def made(folder: Path, *, slower: float = 1.0, name: str = "made.csv") -> Path:
    """A table whose runs are as fast as predicted from peak figures, divided by a factor."""
    folder.mkdir(exist_ok=True)
    with (folder / name).open("w", newline="") as file:
        table = csv.DictWriter(file, BRIDGE)
        table.writeheader()
        for model in MODELS:
            for gpus, tp, micro in ((8, 1, 1), (16, 2, 1), (32, 4, 2), (64, 4, 1), (64, 8, 2)):
                run = MeasuredRun(
                    name, 0, "h100", model, "h100", gpus, 4096, 128, micro, "bf16", 1.0, tp=tp, stack="megatron-bridge"
                )
                speed = predict(run, measured=False).tokens_s / slower
                values = ["DGX-H100", gpus, "BF16", 128, micro, 4096, tp, 1, 1, "", 1, f"{speed:.3f}", 0, model, "1"]
                table.writerow(dict(zip(BRIDGE, values, strict=True)))
    return folder


def test_runs_as_fast_as_predicted_have_no_error_and_calibrating_rows_do_not_judge(tmp_path: Path) -> None:
    found = compare(made(tmp_path / "data"), 0.2, 0, measured=False)
    assert found.calibrating == 4
    assert found.overall.rows == found.overall.answered == 16
    assert found.overall.median_ape_uncalibrated < 1e-4
    assert found.overall.median_ape_calibrated < 1e-3
    assert found.overall.spearman_uncalibrated == pytest.approx(1.0)
    assert set(found.groups) == {("made.csv", ALL), ("made.csv", "h100")}


def test_an_error_that_all_runs_share_is_corrected_by_a_few_of_them(tmp_path: Path) -> None:
    folder = made(tmp_path / "data", slower=1.25)
    plain, calibrated = compare(folder, 0.0, 0, measured=False), compare(folder, 0.2, 0, measured=False)
    assert plain.overall.median_ape_uncalibrated == pytest.approx(0.25, abs=1e-3)
    assert plain.overall.median_ape_calibrated == plain.overall.median_ape_uncalibrated
    assert calibrated.overall.median_ape_calibrated < 0.06


def test_the_seed_alone_chooses_what_calibrates(tmp_path: Path) -> None:
    folder = made(tmp_path / "data", slower=1.25)
    one, same, other = (compare(folder, 0.2, seed, measured=False).to_dict() for seed in (3, 3, 4))
    assert one == same
    assert one != other


def test_one_odd_run_does_not_move_the_others() -> None:
    cases = [Case({"gpu": "h100"}, [1.0]) for _ in range(8)]
    errors = np.full(8, 0.05)
    odd = errors.copy()
    odd[0] = 3.0
    plain, robust = (float(Calibration(cases, e).errors(cases[:1])[0]) for e in (errors, odd))
    assert abs(robust - plain) < 0.02


def test_a_run_of_another_gpu_is_corrected_less() -> None:
    labels = [{"gpu": "h100", "kind": "bf16"}] * 6
    fitted = Calibration([Case(label, [1.0]) for label in labels], np.full(6, 0.2))
    near, far = (float(fitted.errors([Case(label, [1.0])])[0]) for label in (labels[0], {"gpu": "a100", "kind": "fp8"}))
    assert 0.0 < far < near < 0.2
    assert float(Calibration([], np.zeros(0)).errors([Case({}, [1.0])])[0]) == 0.0


def test_models_that_are_unknown_are_told_with_their_line(tmp_path: Path) -> None:
    folder = made(tmp_path / "data")
    path = folder / "made.csv"
    path.write_text(path.read_text().replace("llama2-13b", "secret-1t"))
    found = compare(folder, 0.0, 0, measured=False)
    assert (found.overall.answered, found.overall.rows) == (15, 20)
    assert {row.line for row in found.unanswered} == {17, 18, 19, 20, 21}
    assert "model 'secret-1t' is unknown" in found.unanswered[0].reason


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("128", "many", r"made.csv, line 2: GBS is 'many'; it must be a number of at least 0"),
        ("System", "Machine", r"has no table of measured runs that is known by its columns \(it has: made.csv\)"),
    ],
)
def test_tables_that_are_broken_are_told(tmp_path: Path, before: str, after: str, message: str) -> None:
    path = made(tmp_path / "data") / "made.csv"
    path.write_text(path.read_text().replace(before, after))
    with pytest.raises(UsageError, match=message):
        compare(path.parent, 0.0, 0, measured=False)


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no folder; give one with tables"):
        compare(tmp_path / "missing", 0.0, 0)


def test_a_second_number_in_brackets_is_a_second_run(tmp_path: Path) -> None:
    path = made(tmp_path / "data") / "made.csv"
    lines = path.read_text().splitlines()
    cells = lines[1].split(",")
    cells[2], cells[6], cells[11] = "BF16 (FP8)", "1 (2)", "100 (150)"
    path.write_text("\n".join([lines[0], ",".join(cells)]) + "\n")
    one, two = read_runs(path.parent)
    assert (one.kind, one.tp, one.tokens_s, two.kind, two.tp, two.tokens_s) == ("bf16", 1, 100.0, "fp8", 2, 150.0)


@pytest.mark.parametrize(
    ("named", "gpu"),
    [("DGX-GB200 NVL72", "gb200"), ("NVIDIA HGX H200 141GB", "h200"), ("A100 40GB", "a100-40gb"), ("TPU v5", "tpuv5")],
)
def test_gpus_are_known_however_tables_name_them(tmp_path: Path, named: str, gpu: str) -> None:
    path = made(tmp_path / "data") / "made.csv"
    path.write_text(path.read_text().replace("DGX-H100", named))
    assert {(run.gpu, run.group) for run in read_runs(path.parent)} == {(gpu, gpu)}


def test_the_papers_tables_are_read(data: Path) -> None:
    runs = {(run.table, run.model, run.recompute): run for run in read_runs(data / "published_tables")}
    assert len(runs) == 11
    large = runs["megatron_2021_table1_weak_scaling.csv", "gpt3-145.6b", Recompute.FULL]
    # 148 TFLOP/s of a GPU at 96 B s l h^2 (1 + s / 6h + V / 16lh) operations a step: 2304 x 2048 tokens by 1,536 GPUs.
    flops = 96 * 80 * 12288**2 * (1 + 2048 / (6 * 12288) + 51200 / (16 * 80 * 12288))
    assert large.tokens_s == pytest.approx(148e12 / flops)
    selective = runs["korthikanti_2022_table5_iteration_time.csv", "gpt3-175B", Recompute.SELECTIVE]
    assert selective.tokens_s == pytest.approx(64 * 2048 / 64 / 13.75)
    assert (selective.sequence_parallel, selective.fused_attention, selective.interleave) == (True, False, 3)


@pytest.mark.parametrize("folder", ["training_throughput", "published_tables"])
def test_published_runs_are_predicted_and_ranked(data: Path, folder: str) -> None:
    plain, calibrated = (compare(data / folder, share, 0).overall for share in (0.0, 0.1))
    assert plain.answered >= 0.98 * plain.rows
    assert plain.median_ape_uncalibrated < 0.15
    assert plain.spearman_uncalibrated > 0.8
    assert calibrated.median_ape_calibrated < 0.08
    assert calibrated.spearman_calibrated > 0.9


def test_the_command_prints_one_json_object(run: Run, tmp_path: Path) -> None:
    folder = made(tmp_path / "data", slower=1.1)
    told = run("validate", "training-layout", "--data", folder, "--calibrate", "0.1", "--seed", 0, "--json")
    assert told.code == 0, told.err
    fields = {"rows", "answered", "median_ape_uncalibrated", "median_ape_calibrated", "spearman_uncalibrated",
              "spearman_calibrated"}  # fmt: skip
    assert fields <= set(told.json["overall"])
    assert told.json["overall"]["rows"] == 17
    for group in told.json["groups"]:
        assert {"table", "group", *fields} <= set(group)
        assert all(math.isfinite(group[name]) for name in fields)
    text = run("validate", "training-layout", "--data", folder)
    assert "not calibrated" in text.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("training-layout", "--calibrate", "0.1"), "--calibrate is for tables; give --data DIR too"),
        (
            ("training-layout", "--data", ".", "--calibrate", "1.5"),
            "calibrate is 1.5; it must be at least 0 and below 1",
        ),
        (("moe-cache", "--data", "."), "domain 'moe-cache' reads no tables of measurements"),
        (("training-layout", "--data", ".", "--plot", "a.html"), "--plot has no meaning with --data"),
        (("training-layout", "--data", "nowhere"), "--data 'nowhere' is no folder"),
    ],
)
def test_what_cannot_be_compared_is_told(run: Run, arguments: tuple[str, ...], message: str) -> None:
    told = run("validate", *arguments)
    assert told.code == 2
    assert message in told.err
