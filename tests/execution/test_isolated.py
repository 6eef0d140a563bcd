from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import isolated_evaluators as evaluators
import psutil
import pytest

from autotune import Categorical, SearchSpace, search
from autotune.errors import UsageError
from autotune.execution import Isolated, Limits, details
from autotune.execution.process import SessionProcess, describe_exit
from autotune.measurement import LOG_BYTES, Failure, Protocol
from autotune.store import Store


@pytest.fixture(scope="module")
def runner() -> Iterator[Isolated]:
    """One for all tests: whatever one of them does to its process, the next must find it usable."""
    with Isolated(["y"]) as isolated:
        yield isolated


def failure(runner: Isolated, **config: object) -> Failure:
    with pytest.raises(Failure) as caught:
        runner.run(evaluators.behave, config, 0)
    return caught.value


def pid_of(runner: Isolated) -> int:
    return int(runner.run(evaluators.behave, {"do": "pid"}, 0).values()["y"])


def is_gone(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    return True


def eventually_gone(pid: int) -> bool:
    for _ in range(200):
        if is_gone(pid):
            return True
        time.sleep(0.05)
    return False


def test_it_measures_in_another_process_and_uses_it_again(runner: Isolated) -> None:
    assert pid_of(runner) == pid_of(runner) != os.getpid()
    measured = runner.run(evaluators.behave, {"do": "notes"}, seed=7)
    assert (measured.values(), measured.notes) == ({"y": 7.0}, {"device": "a"})


def test_an_evaluator_may_be_an_object_and_another_one_replaces_its_process(runner: Isolated) -> None:
    before = pid_of(runner)
    assert runner.run(evaluators.Stateful(0.5), {"x": 1}, 0).values() == {"y": 1.5}
    assert is_gone(before)


def test_a_process_for_each_configuration_serves_all_its_repeats() -> None:
    runner = Isolated(["y"], Protocol(warmup=1, min_repeats=3, max_repeats=3, target=None), reuse=False)
    first = runner.run(evaluators.process_and_seed, {}, 0).metrics["y"].samples
    second = runner.run(evaluators.process_and_seed, {}, 0).metrics["y"].samples
    assert len(first) == len(second) == 3
    assert len(set(first)) == len(set(second)) == 1
    assert first[0] != second[0]
    assert is_gone(int(first[0]))


def test_the_configuration_stays_the_callers(runner: Isolated) -> None:
    config = {"do": "mutate", "x": 1}
    assert runner.run(evaluators.behave, config, 0).values() == {"y": 2.0}
    assert config["x"] == 1


@pytest.mark.parametrize(
    ("do", "message", "known"),
    [
        ("abort", "SIGABRT", "the last words"),
        ("segfault", "SIGSEGV", "in behave"),
        ("exit", "exited with code 3", ""),
        ("sys.exit", "SystemExit: giving up", "in behave"),
        ("raise", "ValueError: tile 7 is odd and has two lines", "isolated_evaluators.py"),
    ],
)
def test_a_crash_is_a_failure_and_the_next_configuration_gets_a_new_process(
    runner: Isolated, do: str, message: str, known: str
) -> None:
    before = pid_of(runner)
    caught = failure(runner, do=do)
    assert caught.kind == "crash"
    assert message in caught.message
    assert "\n" not in caught.message
    assert known in details(caught)
    assert is_gone(before)
    assert pid_of(runner) != before


@pytest.mark.parametrize(("do", "kind"), [("invalid", "invalid"), ("nan", "nan")])
def test_a_deliberate_failure_keeps_the_process(runner: Isolated, do: str, kind: str) -> None:
    before = pid_of(runner)
    assert failure(runner, do=do).kind == kind
    assert pid_of(runner) == before


@pytest.mark.parametrize("end", ["timeout", "close"])
def test_descendants_end_with_the_process_daemons_included(tmp_path: Path, end: str) -> None:
    pids = tmp_path / "pids"
    with Isolated(["y"]) as runner:
        runner.run(evaluators.behave, {"do": "grandchildren", "pids": str(pids)}, 0)
        in_session, daemonised = map(int, pids.read_text().split())
        assert not is_gone(in_session)
        assert not is_gone(daemonised)
        if end == "timeout":
            runner.limits = Limits(time_s=0.5)
            caught = failure(runner, do="hang")
            assert (caught.kind, caught.message) == ("timeout", "no result within 0.5 s")
    assert eventually_gone(in_session)
    assert eventually_gone(daemonised)


def test_memory_over_the_limit_is_oom_and_the_search_goes_on() -> None:
    with Isolated(["y"], memory_limit_gib=0.4, time_limit_s=60) as runner:
        caught = failure(runner, do="hog", mib=700)
        assert caught.kind == "oom"
        assert "0.4 GiB" in caught.message
        assert pid_of(runner) > 0


def test_a_hard_limit_is_a_memory_error_inside_the_evaluator() -> None:
    with Isolated(["y"], memory_limit_gib=0.75, hard_memory_limit=True, time_limit_s=60) as runner:
        survived = runner.run(evaluators.behave, {"do": "hog and survive", "mib": 1500}, 0)
        assert survived.values()["y"] > 0
        assert failure(runner, do="hog", mib=1500).kind == "oom"


def test_a_kill_near_the_memory_limit_is_oom_and_far_from_it_a_crash() -> None:
    with Isolated(["y"], memory_limit_gib=0.6) as runner:
        pid_of(runner)
        assert runner._worker is not None
        own = psutil.Process(runner._worker.process.pid).memory_info().rss >> 20
        near = failure(runner, do="killed near the limit", mib=int(0.6 * 1024 * 0.96) - own)
        far = failure(runner, do="killed near the limit", mib=1)
    assert (near.kind, far.kind) == ("oom", "crash")
    assert "SIGKILL" in near.message


def test_mistakes_of_the_caller_are_usage_errors(runner: Isolated) -> None:
    with pytest.raises(UsageError, match=r"<lambda>.*top level of a module"):
        runner.run(lambda config: 1.0, {}, 0)
    with pytest.raises(UsageError, match="the model folder is missing"):
        runner.run(evaluators.behave, {"do": "usage"}, 0)
    with pytest.raises(UsageError, match="returned str"):
        runner.run(evaluators.behave, {"do": "text"}, 0)
    with pytest.raises(UsageError, match="cannot be sent back"):
        runner.run(evaluators.behave, {"do": "unpicklable"}, 0)
    with pytest.raises(UsageError, match="configuration cannot be sent"):
        runner.run(evaluators.behave, {"do": threading.Lock()}, 0)
    with pytest.raises(UsageError, match="time limit in seconds is 0"):
        Isolated(["y"], time_limit_s=0)
    with pytest.raises(UsageError, match="without memory_limit_gib"):
        Isolated(["y"], hard_memory_limit=True)
    assert pid_of(runner) > 0


def test_a_chatty_evaluator_does_not_block(runner: Isolated) -> None:
    assert runner.run(evaluators.behave, {"do": "chatty"}, 0).values() == {"y": 1.0}


def test_ctrl_c_ends_the_process_and_propagates(runner: Isolated) -> None:
    child = pid_of(runner)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        runner.run(evaluators.behave, {"do": "hang"}, 0)
    assert is_gone(child)


def test_an_abandoned_runner_leaves_no_process() -> None:
    runner = Isolated(["y"])
    child = pid_of(runner)
    del runner
    gc.collect()
    assert is_gone(child)


SCRIPT = """
from autotune.errors import UsageError
from autotune.execution import Isolated

def evaluate(config):
    return config["x"] + 1.0

def main():
    with Isolated(["y"]) as runner:
        print(runner.run(evaluate, {"x": 1}, 0).values()["y"])
"""


def run_script(path: Path, text: str) -> subprocess.CompletedProcess[str]:
    path.write_text(textwrap.dedent(text))
    return subprocess.run([sys.executable, str(path)], capture_output=True, text=True, check=False)


def test_an_evaluator_of_the_script_itself_works_where_the_script_is_guarded(tmp_path: Path) -> None:
    guarded = run_script(tmp_path / "guarded.py", SCRIPT + "\nif __name__ == '__main__':\n    main()\n")
    assert guarded.stdout == "2.0\n", guarded.stderr
    unguarded = run_script(tmp_path / "unguarded.py", SCRIPT + "\nmain()\n")
    assert "UsageError" in unguarded.stderr
    assert "if __name__ == '__main__':" in unguarded.stderr


def test_an_evaluator_of_an_interactive_session_is_refused_with_the_way_out() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT + "\nmain()\n"], capture_output=True, text=True, check=False)
    assert "interactive session" in done.stderr
    assert "move it into a .py file" in done.stderr


def test_the_process_dies_when_the_search_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "search.py"
    script.write_text(
        textwrap.dedent("""
        import os, time
        from pathlib import Path
        from autotune.execution import Isolated

        def evaluate(config):
            Path(config["pid"]).write_text(str(os.getpid()))
            time.sleep(3600)

        if __name__ == "__main__":
            Isolated(["y"]).run(evaluate, {"pid": __file__ + ".pid"}, 0)
        """)
    )
    search = subprocess.Popen([sys.executable, str(script)])
    written = Path(f"{script}.pid")
    try:
        for _ in range(400):
            if written.exists() and written.read_text():
                break
            time.sleep(0.05)
        child = int(written.read_text())
    finally:
        search.kill()
        search.wait()
    assert eventually_gone(child)


def test_exit_codes_in_words() -> None:
    assert describe_exit(-11) == "was killed by SIGSEGV (signal 11)"
    assert describe_exit(3) == "exited with code 3"
    assert describe_exit(139) == "exited with code 139 (128 + SIGSEGV)"


def test_what_it_printed_is_the_log_of_the_measurement(runner: Isolated) -> None:
    assert runner.run(evaluators.behave, {"do": "pid"}, 0).log is None
    for text in ("one\n", "two\n"):  # each call's own
        assert runner.run(evaluators.behave, {"do": "print", "text": text}, 0).log == f"{text}to stderr\n"
    long = runner.run(evaluators.behave, {"do": "chatty"}, 0).log
    assert long is not None and long == "x" * (LOG_BYTES - 1) + "\n"


def test_the_log_of_repeats_holds_all_of_them() -> None:
    with Isolated(["y"], Protocol(warmup=1, min_repeats=2, max_repeats=2, target=None)) as isolated:
        measured = isolated.run(evaluators.behave, {"do": "print", "text": "a\n"}, 0)
    assert measured.log == "a\nto stderr\n" * 2


def test_invalid_bytes_are_replaced_and_files_are_whole_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(evaluators.__file__).parent
    monkeypatch.chdir(folder)
    with Isolated(["y"]) as isolated:
        measured = isolated.run(evaluators.behave, {"do": "bytes"}, 0)
    assert measured.log == "\ufffd\x00fine\nof my own\n"
    assert measured.artifacts == {"this": str(folder / "isolated_evaluators.py")}


def test_a_failure_has_the_log_of_its_process(runner: Isolated) -> None:
    log = failure(runner, do="abort").log
    assert log is not None and log.startswith("the last words\n") and "Fatal Python error: Aborted" in log
    raised = failure(runner, do="raise").log
    assert raised is not None and 'raise ValueError("tile 7 is odd' in raised
    assert failure(runner, do="invalid").log is None
    with Isolated(["y"], time_limit_s=0.5) as isolated, pytest.raises(Failure) as late:
        isolated.run(evaluators.talk_for_ever, {}, 0)
    assert late.value.kind == "timeout"
    assert late.value.log is not None and late.value.log.startswith("still here\n")


def test_the_log_of_a_crash_is_kept_with_the_trial(tmp_path: Path) -> None:
    space = SearchSpace([Categorical("do", ["pid", "abort"])])
    store = Store(f"sqlite:///{tmp_path}/a.db")
    search(space, evaluators.behave, "y", trials=2, storage=store, runner=Isolated(["y"]))
    fine, crashed = sorted(store.trials(store.load_study("study").id), key=lambda t: t.state)
    assert (fine.config["do"], crashed.config["do"]) == ("pid", "abort")
    log = store.log(crashed.id)
    assert store.log(fine.id) is None and log is not None and log.startswith("the last words\n")
    store.close()


def test_a_stream_settles_while_a_process_prints_without_end() -> None:
    process = SessionProcess([sys.executable, "-c", "while True: print('y' * 4000)"])
    while not process.stdout.text():
        time.sleep(0.01)
    assert set(process.stdout.settle()) <= {"y", "\n"}
    assert process.end() == -signal.SIGKILL
