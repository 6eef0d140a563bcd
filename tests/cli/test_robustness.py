"""The command line in odd surroundings: names with brackets, streams that are closed or full, Ctrl-C, slips in options."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import Run

SPACE = """
parameters:
  x: {type: int, low: 0, high: 9}
  unseen: {type: categorical, choices: ["[red]a", "b[/nope]"]}
objectives: [minimize time_ms]
default: {x: 3}
command: ["{python}", bench.py, "{x}"]
"""
BENCH = """
import os, sys, time
x = int(sys.argv[1])
time.sleep(float(os.environ.get("BENCH_S", "0")))
if x == 3:
    sys.exit("no [bold]luck[/nope] \\x1b[31m here")
print('{"time_ms": 0.1234567890123}')
"""
ROOT = Path(__file__).parents[2]
NAME = "[red]a study[/blue] of 'mine'"


@pytest.fixture
def space(tmp_path: Path) -> Path:
    (tmp_path / "bench.py").write_text(BENCH)
    path = tmp_path / "my space.yaml"
    path.write_text(SPACE)
    return path


def _spawn(*arguments: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "autotune", *arguments], text=True, **options)  # type: ignore[call-overload, no-any-return]


def test_brackets_are_text_and_no_markup(run: Run, space: Path) -> None:
    searched = run("search", str(space), "--study", NAME, "--trials", "4")
    assert searched.code == 0, searched.err
    for verb in (["show"], ["trials"], ["studies"], ["best"]):
        ran = run(*verb)
        assert ran.code == 0, ran.err
        assert "\x1b" not in ran.out
    assert NAME in run("show").out and NAME in run("studies").out
    assert "[bold]luck[/nope]" in run("trials").out
    assert "b[/nope]" in run("best").out or "[red]a" in run("best").out
    # What is printed to be copied can be pasted into a shell, and works there.
    hint = next(line for line in searched.out.splitlines() if line.startswith("see it again: "))
    pasted = shlex.split(hint.removeprefix("see it again: "))
    assert pasted[-4:] == ["show", NAME, "--storage", "sqlite:///autotune.db"]
    shown = subprocess.run(pasted, capture_output=True, text=True, check=True)
    assert NAME in shown.stdout


def test_best_prints_every_digit(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "exact.yaml"
    path.write_text(
        "parameters: {x: {type: float, low: 0, high: 1, default: 0.12345678901234566, size: 2}}\n"
        "objectives: [wall_s]\ncommand: ['true', '{x}']\ntrials: 1\n"
    )
    assert run("search", str(path)).code == 0
    assert "[0.12345678901234566, 0.12345678901234566]" in run("best").out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["search", "{space}", "--set", "a=b"], "--set is for domains"),
        (["search", "{space}", "--evaluator", "profiled"], "--evaluator is for domains"),
        (["search", "moe-cache", "--set", "context=3", "--set", "context=4"], "context is given twice, as '3' and '4'"),
        (["search", "moe-cache", "--set", "budget_gib=inf"], "budget_gib = 'inf'"),
        (["search", "moe-cache", "--set", "context=99999999999999999999"], "context = '99999999999999999999'"),
        (["search", "moe-cache", "--seed", "1.5"], "'--seed'"),
        (["search", "--sed", "1"], "--sed"),
        (["serach"], "'serach'"),
    ],
)
def test_a_slip_is_one_line_and_writes_nothing(
    run: Run, space: Path, tmp_path: Path, arguments: list[str], told: str
) -> None:
    before = set(tmp_path.iterdir())
    ran = run(*(a.format(space=space) for a in arguments))
    assert ran.code == 2
    assert told in ran.err and ran.err.count("\n") == 1
    assert ran.out == ""
    assert set(tmp_path.iterdir()) == before


def test_an_empty_study_name_is_no_name(run: Run, space: Path) -> None:
    ran = run("search", str(space), "--study", "")
    assert ran.code == 2
    assert "study name '' cannot be used" in ran.err


def test_a_parameter_that_the_command_never_sees_is_told_in_one_line(run: Run, space: Path) -> None:
    ran = run("search", str(space), "--trials", "1")
    assert [line for line in ran.err.splitlines() if "unseen" in line] == [
        f"autotune: {space}: the command does not use unseen; put {{unseen}} into the command, env or a {{config_file}}, "
        "or drop the parameter"
    ]


def test_output_that_cannot_hold_every_character_loses_only_those(run: Run, space: Path, tmp_path: Path) -> None:
    assert run("search", str(space), "--trials", "2", "--study", "naïve").code == 0
    shown = _spawn(
        "show", cwd=tmp_path, stdout=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )  # fmt: skip
    out, _ = shown.communicate()
    assert shown.returncode == 0
    assert "study na?ve" in out


def test_closed_and_full_streams(run: Run, space: Path, tmp_path: Path) -> None:
    assert run("search", str(space), "--trials", "2").code == 0
    closed = _spawn("studies", cwd=tmp_path, preexec_fn=lambda: (os.close(1), os.close(2)))
    assert closed.wait() == 0
    with Path("/dev/full").open("w") as full:
        ran = _spawn("studies", "--json", cwd=tmp_path, stdout=full, stderr=subprocess.PIPE)
        _, err = ran.communicate()
    assert ran.returncode == 1
    assert err == "autotune: No space left on device\n"


@pytest.mark.parametrize("format_", ["csv", "json", "parquet"])
def test_an_export_that_cannot_be_written(run: Run, space: Path, tmp_path: Path, format_: str) -> None:
    assert run("search", str(space), "--trials", "1").code in (0, 1)
    ran = run("export", "--format", format_, "--out", str(tmp_path))  # a folder
    assert ran.code == 2
    assert f"--out '{tmp_path}' cannot be written: Is a directory" in ran.err


def test_ctrl_c_tells_the_command_that_goes_on(space: Path, tmp_path: Path) -> None:
    first = ["search", str(space), "--trials", "4", "--study", NAME, "--seed", "3"]
    running = _spawn(
        *first, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "BENCH_S": "1"}
    )
    assert running.stdout is not None
    assert running.stdout.readline().startswith("trial 1/4")
    running.send_signal(signal.SIGINT)
    _, err = running.communicate()
    assert running.returncode == 130
    again = shlex.split(err.strip().rpartition("Go on with: ")[2])
    resumed = subprocess.Popen(
        [*again, "--json"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    out, err = resumed.communicate()
    assert resumed.returncode == 0, err
    assert json.loads(out)["trials"]["total"] == 4


def _on_terminal(arguments: list[str], cwd: Path, term: str, until: str) -> str:
    """What a command writes to a terminal until it holds `until`, and then is interrupted, and ends."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": term, "COLUMNS": "80", "BENCH_S": "3"}
    process = _spawn(*arguments, cwd=cwd, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    seen, interrupted = "", False
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and select.select([ours], [], [], 60)[0]:
        try:
            seen += os.read(ours, 4096).decode(errors="replace")
        except OSError:  # the other end is closed
            break
        if until in seen and not interrupted:
            # Read on: a terminal that nobody reads is soon full, and the command would wait for it forever.
            process.send_signal(signal.SIGINT)
            interrupted = True
    if not interrupted:
        process.kill()
    process.wait(30)
    os.close(ours)
    return seen


def test_the_live_view_shows_life_before_the_first_trial_ends(space: Path, tmp_path: Path) -> None:
    seen = _on_terminal(["search", str(space), "--trials", "4"], tmp_path, "xterm", until="has not ended yet   (1 s)")
    assert "the first of 4 has not ended yet   (1 s)" in seen


def test_the_live_view_keeps_its_headings_where_lines_are_too_long(space: Path, tmp_path: Path) -> None:
    space.write_text(
        SPACE.replace("unseen", "a_name_that_is_" + "very_" * 12 + "long").replace("default: {x: 3}", "default: {x: 4}")
    )
    seen = _on_terminal(["search", str(space), "--trials", "4"], tmp_path, "xterm", until="over the default")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)
    assert re.search(r"trial +1/4", plain) and re.search(r"best +time_ms 0\.1235", plain)


def test_a_dumb_terminal_gets_plain_lines(space: Path, tmp_path: Path) -> None:
    seen = _on_terminal(["search", str(space), "--trials", "1"], tmp_path, "dumb", until="study my space")
    assert "trial 1/1  failed: crash" in seen


def test_a_folder_that_hides_a_package_of_ours_is_named(tmp_path: Path) -> None:
    (tmp_path / "evaluators").mkdir()
    (tmp_path / "evaluators" / "__init__.py").touch()
    # As where the package is found by its path, and not by the finder of an editable installation.
    program = (
        "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in getattr(f, '__module__', '')]; "
        f"sys.path[:0] = [{str(tmp_path)!r}, {str(ROOT)!r}]; from autotune.cli import main; main(['studies'])"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert f"the folder '{tmp_path / 'evaluators'}' hides autotune's package 'evaluators'" in ran.stderr
