"""The process of one peer: ``python -m benchmarks.quality.peers.worker MODULE OPTION``. Imports nothing of the project."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
import traceback
from typing import Any, TextIO, cast

from benchmarks.quality.peers.protocol import Answer, PeerModule, PlainParameter, PlainProblem, Stop


def read_problem(given: dict[str, Any]) -> PlainProblem:
    """The problem of a start line."""
    return PlainProblem(
        given["name"],
        tuple(PlainParameter(**{**p, "values": tuple(p["values"])}) for p in given["parameters"]),
        given["objectives"],
        given["seed"],
        given["budget"],
        tuple(given["initial"]),
        tuple((tuple(values), loss) for values, loss in given["table"]),
    )


class _Line:
    """The pipes, and a clock that runs only while the peer thinks."""

    def __init__(self, source: TextIO, sink: TextIO) -> None:
        self._source, self._sink = source, sink
        self._resumed = 0.0

    def say(self, message: dict[str, Any]) -> None:
        self._sink.write(json.dumps(message) + "\n")
        self._sink.flush()

    def hear(self) -> dict[str, Any] | None:
        line = self._source.readline()
        self._resumed = time.perf_counter()
        return json.loads(line) if line else None

    def evaluate(self, config: dict[str, Any]) -> Answer:
        self.say({"config": config, "seconds": time.perf_counter() - self._resumed})
        heard = self.hear()
        if heard is None or heard["status"] == "stop":
            raise Stop
        losses = heard.get("losses")
        return Answer(heard["status"], None if losses is None else tuple(losses))


def main(module: str, option: str) -> None:
    """Serve runs until the harness closes the pipe."""
    # Whatever the peer or its libraries print must not get between the lines.
    sink = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    line = _Line(sys.stdin, sink)
    try:
        peer = cast(PeerModule, importlib.import_module(module))
        line.say({"version": peer.version(), "needs_table": peer.NEEDS_TABLE})
    except Exception as error:  # an import can fail in any way; the harness reports it as not installed
        line.say({"missing": f"{type(error).__name__}: {error}"})
        return
    while (heard := line.hear()) is not None:
        problem = read_problem(heard["start"])
        if heard.get("ask_only"):
            line.say({"refuses": peer.refuses(option, problem)})
            continue
        try:
            peer.search(option, problem, line.evaluate)
            line.say({"end": None})
        except Stop:
            line.say({"end": None})
        except Exception as error:  # a broken run is reported by the harness and ends that run only
            traceback.print_exc()
            line.say({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
