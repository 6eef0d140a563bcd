from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import sys
import textwrap
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import psutil
import pytest

from autotune.command import CommandEvaluator, CommandSpec, UnusedParameterWarning, load_spec
from autotune.errors import UsageError
from autotune.execution import InProcess, details
from autotune.measurement import LOG_BYTES, Failure

X: dict[str, Any] = {"x": {"type": "int", "low": 0, "high": 100}}
EXAMPLE = Path(__file__).parents[2] / "examples" / "matmul" / "space.yaml"


def script(source: str, **fields: Any) -> CommandEvaluator:
    """An evaluator whose command is a Python program that finds ``x`` in its arguments."""
    source = "import json, os, signal, subprocess, sys, time\n" + textwrap.dedent(source)
    given: dict[str, Any] = {"parameters": X, "objectives": ["y"], "command": ["{python}", "-c", "", "{x}"], **fields}
    given["command"] = [
        source.replace("{", "{{").replace("}", "}}") if item == "" else item for item in given["command"]
    ]
    return CommandEvaluator(CommandSpec.model_validate(given))


def failure(evaluator: CommandEvaluator, x: int = 3) -> Failure:
    with pytest.raises(Failure) as caught:
        evaluator({"x": x})
    return caught.value


def eventually_gone(pid: int) -> bool:
    for _ in range(200):
        with contextlib.suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                time.sleep(0.05)
                continue
        return True
    return False


def test_json_on_the_last_line_with_samples_and_notes() -> None:
    evaluator = script("""
        print("warming up", "{not json}")
        print(json.dumps({"y": 2 * int(sys.argv[1]), "t_ms": [3, 1, 2], "device": "cpu", "list": ["a"]}) + "\\n\\n")
    """)
    measured = evaluator({"x": 21})
    assert measured.metrics["y"].value == 42.0
    assert measured.metrics["t_ms"].value == 2.0
    assert measured.metrics["t_ms"].samples == (3.0, 1.0, 2.0)
    assert measured.metrics["wall_s"].value > 0.0
    assert measured.notes == {"device": "cpu", "list": ["a"]}


def test_patterns_take_the_last_match_of_either_stream() -> None:
    source = """
        for y in (1, 2.5e0, 3):
            print(f"y={y} ms")
        print("y=7 ms", file=sys.stderr)
    """
    patterns = {"y": r"^y=(?P<value>\S+) ms$", "absent": r"z=(\d+)"}
    assert script(source, metrics=patterns)({"x": 1}).values()["y"] == 3.0
    assert script(source, metrics=patterns, stream="stderr")({"x": 1}).values()["y"] == 7.0
    assert "absent" not in script(source, metrics=patterns)({"x": 1}).metrics


def test_only_the_time_asks_nothing_of_the_output() -> None:
    measured = script("print('no metric')", objectives=["wall_s"])({"x": 1})
    assert list(measured.metrics) == ["wall_s"]


def test_arguments_environment_folder_seed_and_configuration_file(tmp_path: Path) -> None:
    evaluator = script(
        """
        config = json.load(open(sys.argv[1]))
        print(json.dumps({"y": config["x"], "argv": sys.argv[2:], "env": os.environ["X"], "gone": os.environ.get("W"),
                          "path": os.environ["PATH"], "cwd": os.getcwd(), "file": sys.argv[1]}))
        """,
        parameters={**X, "w": {"type": "int", "low": 0, "high": 1, "when": "x > 5"}},
        command=["{python}", "-c", "", "{config_file}", "a b; $(x)", ["-w", "{w}"], "--w={w}", "{seed}"],
        env={"X": "<{x}>", "W": "{w}"},
        cwd=str(tmp_path),
    )
    inactive = evaluator({"x": 1}, seed=9)
    assert inactive.metrics["y"].value == 1.0
    assert inactive.notes["argv"] == ["a b; $(x)", "9"]
    assert (inactive.notes["env"], inactive.notes["gone"]) == ("<1>", None)
    assert (inactive.notes["path"], inactive.notes["cwd"]) == (os.environ["PATH"], str(tmp_path))
    assert not Path(inactive.notes["file"]).exists()
    active = evaluator({"x": 6, "w": 0})
    assert active.notes["argv"] == ["a b; $(x)", "-w", "0", "--w=0", "0"]
    assert active.notes["gone"] == "0"


def test_the_command_line_can_be_typed(tmp_path: Path) -> None:
    evaluator = script("pass", command=["{python}", "-m", "a b", "{x}"], env={"X": "{x}"})
    assert evaluator.command_line({"x": 3}) == f"X=3 {sys.executable} -m 'a b' 3"


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("os.abort()", "crash", "was killed by SIGABRT (signal 6)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "crash", "was killed by SIGKILL (signal 9)"),
        ("print('bad tile', file=sys.stderr); sys.exit(4)", "crash", "exited with code 4; its last output: bad tile"),
        ("sys.exit(139)", "crash", "128 + SIGSEGV"),
        ("sys.exit(3)", "oom", "exited with code 3"),
        ("print('tile 3 does not divide 64'); sys.exit(77)", "invalid", "code 77; tile 3 does not divide 64"),
        ("raise MemoryError('4 GiB')", "oom", "MemoryError: 4 GiB"),
        ("sys.exit('torch.OutOfMemoryError: CUDA out of memory. Tried')", "oom", "CUDA out of memory"),
        ("print('done')", "crash", "the last line of the output is no JSON object; its last line: done"),
        ("pass", "crash", "no JSON object, as it is empty"),
        ("print('[1]')", "crash", "no JSON object"),
        ("""print('{"z": 1}')""", "crash", "metric 'y' is not in the output, which has: wall_s, z"),
        ("""print('{"y": "fast"}')""", "crash", "metric 'y' is not in the output"),
        ("""print('{"y": NaN}')""", "nan", "metric y is nan"),
        ("""print('{"y": null}')""", "nan", "metric y is nan"),
        ("""print('{"y": -Infinity}')""", "nan", "metric y is -inf"),
    ],
)
def test_what_goes_wrong_is_a_typed_failure(source: str, kind: str, message: str) -> None:
    caught = failure(script(source, exit_codes={3: "oom", 77: "invalid"}))
    assert caught.kind == kind
    assert message in caught.message
    assert "\n" not in caught.message


def test_a_pattern_that_fails_is_named_with_the_output() -> None:
    missing = failure(script("print('time: none')", metrics={"y": r"y=(\S+)"}))
    assert (missing.kind, "nothing matches 'y=(\\\\S+)'; its last line: time: none" in missing.message) == (
        "crash",
        True,
    )
    assert (
        "is no number: 'y=(\\\\S+)' found 'fast'"
        in failure(script("print('y=fast')", metrics={"y": r"y=(\S+)"})).message
    )


def test_more_of_the_output_is_in_the_details() -> None:
    caught = failure(script("print('first line', file=sys.stderr); 1 / 0"))
    assert "ZeroDivisionError" in caught.message
    assert "first line" in details(caught)


def test_a_hang_is_a_timeout_and_takes_its_children_with_it(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    source = f"""
        sleeper = [sys.executable, "-c", "import time; time.sleep(3600)"]
        same, own = subprocess.Popen(sleeper), subprocess.Popen(sleeper, start_new_session=True)
        open({str(pids)!r}, "w").write(f"{{same.pid}} {{own.pid}}")
        print("started", flush=True)
        time.sleep(3600)
    """
    caught = failure(script(source, timeout_s=3.0))
    assert (caught.kind, caught.message) == ("timeout", "no result within 3 s")
    assert "started" in details(caught)
    assert all(eventually_gone(int(pid)) for pid in pids.read_text().split())


def test_a_process_left_behind_by_a_success_is_killed() -> None:
    source = """
        left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
        print(json.dumps({"y": 1, "pid": [left.pid]}))
    """
    assert eventually_gone(int(script(source)({"x": 1}).metrics["pid"].value))


def test_memory_over_the_limit_counts_all_processes() -> None:
    hog = "b = bytearray(150 << 20); b[::4096] = b'1' * len(b[::4096]); import time; time.sleep(3600)"
    source = f"""
        children = [subprocess.Popen([sys.executable, "-c", {hog!r}]) for _ in range(2)]
        children[0].wait()
    """
    caught = failure(script(source, memory_limit_gib=0.25, timeout_s=60.0))
    assert caught.kind == "oom"
    assert "more than the limit of 0.25 GiB" in caught.message


def test_ctrl_c_kills_the_command_and_propagates(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    evaluator = script(f"open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(3600)")

    def interrupt() -> None:
        for _ in range(400):
            if pid.exists() and pid.read_text():
                break
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        evaluator({"x": 1})
    assert eventually_gone(int(pid.read_text()))


def test_much_output_does_not_block() -> None:
    source = """
        for _ in range(600):
            print("x" * 10_000)
        print('{"y": 1}')
    """
    assert script(source)({"x": 1}).values()["y"] == 1.0


def spec(**fields: Any) -> CommandSpec:
    return CommandSpec.model_validate({"parameters": X, "objectives": ["y"], "command": ["true", "{x}"], **fields})


def test_what_cannot_run_is_refused_before_any_trial(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("text")
    cases = [
        (spec(command=["no-such-program", "{x}"]), "no program 'no-such-program' on PATH"),
        (spec(command=["./bench", "{x}"], cwd=str(tmp_path)), f"no file ./bench in {tmp_path}"),
        (spec(command=["./notes.txt", "{x}"], cwd=str(tmp_path)), "is not executable; run chmod"),
        (spec(cwd=str(tmp_path / "absent")), "absent is not a folder"),
        (spec(command=["true", "{y}"]), r"command.1: '{y}': there is no parameter 'y'; parameters are: x"),
    ]
    for wrong, message in cases:
        with pytest.raises(UsageError, match=message):
            CommandEvaluator(wrong)
    script_without_interpreter = tmp_path / "run"
    script_without_interpreter.write_bytes(b"\x00\x01\x02")
    script_without_interpreter.chmod(0o755)
    with pytest.raises(UsageError, match="is not a program"):
        CommandEvaluator(spec(command=["./run", "{x}"], cwd=str(tmp_path)))({"x": 1})


def test_a_program_that_depends_on_a_parameter_fails_only_its_configuration(tmp_path: Path) -> None:
    built = tmp_path / "bench-1"
    built.write_text("#!/bin/sh\necho '{\"y\": 5}'\n")
    built.chmod(0o755)
    evaluator = CommandEvaluator(spec(command=["./bench-{x}"], cwd=str(tmp_path)))
    assert evaluator({"x": 1}).values()["y"] == 5.0
    caught = failure(evaluator, x=2)
    assert caught.kind == "crash"
    assert "no file ./bench-2" in caught.message


def test_a_parameter_that_the_command_never_sees_is_warned_about() -> None:
    with pytest.warns(UnusedParameterWarning, match="does not use x"):
        CommandEvaluator(spec(command=["true"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        CommandEvaluator(spec(command=["true"], env={"X": "{x}"}))
        CommandEvaluator(spec(command=["true", "{config_file}"]))


def test_it_can_be_sent_to_another_process() -> None:
    evaluator = pickle.loads(pickle.dumps(script("""print('{"y": 1}')""")))
    assert evaluator({"x": 1}).values()["y"] == 1.0


def test_the_example_runs() -> None:
    example = load_spec(EXAMPLE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluator = CommandEvaluator(example)
    runner = InProcess(["time_ms"], example.protocol())
    space = example.space()
    for config in [space.default(), *space.sample(2, seed=0)]:
        measured = runner.run(evaluator, config, seed=0)
        assert measured.metrics["time_ms"].value > 0.0
        assert len(measured.metrics["time_ms"].samples) == 5
        assert (measured.metrics["relative_error"].value <= 1e-5) == (config["dtype"] != "float16")


def test_a_line_nested_without_end_is_no_json_object() -> None:
    assert "is no JSON object" in failure(script("print('[' * 100_000)")).message


def test_a_commands_last_words_hold_nothing_that_a_terminal_acts_upon() -> None:
    said = failure(script(r"sys.exit('red \x1b[31m text')")).message
    assert said.endswith("red �[31m text")


def test_the_log_holds_both_streams_each_with_its_share() -> None:
    quiet = script('print(json.dumps({"y": 1}))')
    assert quiet({"x": 1}).log == '{"y": 1}\n'
    both = script("""
        print("a" * 200_000)
        print("b" * 10, file=sys.stderr)
        print(json.dumps({"y": 1}))
    """)
    log = both({"x": 1}).log
    assert log is not None and LOG_BYTES - 2 <= len(log) <= LOG_BYTES
    assert log.endswith('a\n{"y": 1}\n--- stderr ---\nbbbbbbbbbb\n')
    loud = script("""
        print("a" * 200_000)
        print("b" * 200_000, file=sys.stderr)
        sys.exit(4)
    """)
    failed = failure(loud).log
    assert failed is not None and failed.endswith("b\n") and LOG_BYTES - 2 <= len(failed) <= LOG_BYTES
    assert abs(failed.count("a") - failed.count("b")) <= 2


def test_a_failure_keeps_what_was_printed_before_it() -> None:
    late = failure(script("print('began', flush=True); time.sleep(60)", timeout_s=1.0))
    assert (late.kind, late.log) == ("timeout", "began\n")
    silent = failure(script("print('no metric here')"))
    assert (silent.kind, silent.log) == ("crash", "no metric here\n")
    typed = failure(script("print('three'); sys.exit(3)", exit_codes={3: "oom"}))
    assert (typed.kind, typed.log) == ("oom", "three\n")


def test_a_command_is_made_again_from_what_a_study_keeps(tmp_path: Path) -> None:
    evaluator = script(
        "print(json.dumps({'y': int(sys.argv[1])}))", exit_codes={3: "oom"}, repeats={"min": 2}, env={"A": "{x}"},
        parameters={"x": {"type": "float", "low": 0.0, "high": 1.0}, "f": {"type": "bool", "when": "x > 0"}},
        command=["{python}", "-c", "", "{x}", ["{f?--f}"]], timeout_s=3.5, cwd=str(tmp_path),
    )  # fmt: skip
    stored = json.loads(json.dumps(evaluator.described()))
    again = CommandSpec.stored(stored)
    assert again == evaluator.spec
    assert again.space().definition_hash() == evaluator.spec.space().definition_hash()
    with pytest.raises(
        UsageError, match=r"the stored command cannot be read \(timeout_s: .*\); go on with its SPACE.yaml"
    ):
        CommandSpec.stored({**stored, "timeout_s": "soon"})
