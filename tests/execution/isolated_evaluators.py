"""Evaluators that the isolated process imports; each does one thing that a search must survive."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from autotune.errors import UsageError
from autotune.measurement import Failure, Measurement, Metric
from autotune.reports import Report

Config = dict[str, Any]


def process_and_seed(config: Config, seed: int) -> dict[str, float]:
    return {"y": float(os.getpid()), "seed": float(seed)}


def behave(config: Config, seed: int) -> object:  # noqa: PLR0911
    """Does what ``config["do"]`` says, and returns this process's number where it survives."""
    match config["do"]:
        case "pid":
            return float(os.getpid())
        case "notes":
            return Measurement({"y": Metric(float(seed))}, {"device": "a"})
        case "mutate":
            config["x"] += 1
            return float(config["x"])
        case "print":
            print(config["text"], end="")
            print("to stderr", file=sys.stderr)
            return 1.0
        case "bytes":
            sys.stdout.buffer.write(b"\xff\x00fine\n")
            return Measurement({"y": Metric(1.0)}, log="of my own", artifacts={"this": Path(__file__).name})
        case "abort":
            print("the last words", flush=True)
            os.abort()
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(3)
        case "sys.exit":
            sys.exit("giving up")
        case "hang":
            time.sleep(3600)
        case "raise":
            raise ValueError("tile 7 is odd\nand has two lines")
        case "invalid":
            raise Failure("invalid", "tile 7 does not divide 64")
        case "nan":
            return float("nan")
        case "usage":
            raise UsageError("the model folder is missing")
        case "unpicklable":
            return Measurement({"y": Metric(1.0)}, {"lock": threading.Lock()})
        case "text":
            return "fast"
        case "killed near the limit":
            hold(config["mib"], 0.3)
            os.kill(os.getpid(), signal.SIGKILL)
        case "hog":
            hold(config["mib"], 3600.0)
        case "hog and survive":
            try:
                hold(config["mib"], 0.0)
            except MemoryError:
                return float(os.getpid())
            return -1.0
        case "chatty":
            print("x" * (1 << 20))
            return 1.0
        case "grandchildren":
            leave_grandchildren(Path(config["pids"]))
            return 1.0
    raise AssertionError(config)


def talk_for_ever(config: Config) -> float:
    print("still here", flush=True)
    time.sleep(3600)
    return 0.0


def climb(config: Config, report: Report) -> dict[str, float]:
    """Reports ``config["steps"]`` times, from another thread where it says so, and then does what it says."""

    def steps() -> None:
        for step in range(config["steps"]):
            report(step, y=float(step), pid=float(os.getpid()))

    if config.get("thread"):
        worker = threading.Thread(target=steps)
        worker.start()
        worker.join()
    else:
        steps()
    if config.get("then") is not None:
        behave({"do": config["then"]}, 0)
    return {"y": float(config["steps"])}


def climb_aloud(config: Config, report: Report) -> dict[str, float]:
    """As `climb`, and prints every value before it is reported."""

    def told(step: int, **values: float) -> None:
        print(values["y"])
        report(step, **values)

    return climb(config, told)


def stubborn(config: Config, report: Report) -> float:
    """Overlooks the signal, and goes on for ever."""
    step = 0
    while True:
        with contextlib.suppress(BaseException):
            report(step, y=1.0)
        step += 1


def hold(mib: int, seconds: float) -> None:
    """Touch so much memory, so that it is resident, and keep it."""
    block = bytearray(mib << 20)
    block[::4096] = b"\1" * len(block[::4096])
    time.sleep(seconds)


def leave_grandchildren(pids: Path) -> None:
    """Start one process in this session, and one that daemonises into a session of its own; write their numbers."""
    sleeper = [sys.executable, "-c", "import time; time.sleep(3600)"]
    first = subprocess.Popen(sleeper)
    start = f"subprocess.Popen({sleeper!r}, start_new_session=True, stdout=subprocess.DEVNULL)"
    orphaned = f"import subprocess; print({start}.pid)"
    second = subprocess.run([sys.executable, "-c", orphaned], stdout=subprocess.PIPE, text=True, check=True).stdout
    pids.write_text(f"{first.pid} {second}")


class Stateful:
    """A picklable object as an evaluator."""

    def __init__(self, offset: float) -> None:
        self.offset = offset

    def __call__(self, config: Config) -> float:
        return float(config["x"]) + self.offset


def repeats_a_step(config: Config, report: Report) -> float:
    report(0, y=1.0)
    report(0, y=2.0)
    return 1.0


def leaves_a_thread(config: Config, report: Report) -> float:
    """Returns while a thread of its own is about to report."""

    def later() -> None:
        time.sleep(0.1)
        with contextlib.suppress(BaseException):
            report(1, y=1.0)

    report(0, y=1.0)
    threading.Thread(target=later, daemon=True).start()
    return 1.0
