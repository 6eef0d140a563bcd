"""The harness's side of a peer: starts its process, answers its proposals, and ends it."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from autotune.errors import AutotuneError
from autotune.space import Bool, Categorical, Float, Int, Ordinal, Parameter
from benchmarks.quality.peers import PEERS
from benchmarks.quality.problem import Problem
from benchmarks.quality.session import BudgetSpentError, Reply, Session

_ROOT = Path(__file__).resolve().parents[3]
_PATHS = re.compile(r"\s*\(/[^)]*\)")  # where a module lies says nothing to the reader of a report
_ONE_CORE = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
RUN_LIMIT_S = 3600.0  # a peer that hangs is ended; the slowest known needs half of it for 200 evaluations


class PeerError(AutotuneError):
    """A peer broke down in the middle of a run."""


class PeerClient:
    """One running peer. Use `start`; the process serves any number of runs."""

    def __init__(self, name: str, process: subprocess.Popen[str], log: Any) -> None:
        self.name, self._process, self._log = name, process, log
        self.version = ""
        self.needs_table = False

    @classmethod
    def start(cls, name: str, pythons: Sequence[str]) -> PeerClient | str:
        """The peer in the first interpreter that has it, or why none does."""
        module, option = PEERS[name]
        reasons = []
        for python in pythons:
            if not Path(python).exists():
                continue
            # Its own words go to a file: a pipe that nobody reads would block it.
            log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the client
            process = subprocess.Popen(
                [python, "-m", "benchmarks.quality.peers.worker", module, option],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=_ROOT,
                env={**os.environ, "PYTHONPATH": str(_ROOT), **dict.fromkeys(_ONE_CORE, "1")},
            )
            client = cls(name, process, log)
            said = client._hear()
            if said is not None and "version" in said:
                client.version, client.needs_table = said["version"], said["needs_table"]
                return client
            client.close()
            reasons.append(_PATHS.sub("", said["missing"]) if said else "its process ended at once")
        return f"not installed ({'; '.join(dict.fromkeys(reasons)) or 'none of the interpreters exists'})"

    def refuses(self, problem: Problem) -> str | None:
        """Why it cannot search that problem; None where it can."""
        if any(p.size is not None or p.when is not None for p in problem.space.parameters):
            return "plain parameters only"
        if self.needs_table and not problem.complete:
            return "recorded spaces only"
        self._say({"start": plain(problem, 0, 1, [], table=False), "ask_only": True})
        said = self._hear()
        if said is None:
            raise PeerError(f"peer {self.name!r} ended before its first run: {self._last_words()}")
        reason: str | None = said["refuses"]
        return reason

    def search(self, session: Session) -> None:
        """One run.

        Raises:
            PeerError: when the peer breaks or hangs; what it has evaluated stays in the session.
        """
        start = plain(session.problem, session.seed, session.settings.budget, session.initial, table=self.needs_table)
        self._say({"start": start})
        clock = threading.Timer(RUN_LIMIT_S, self._process.kill)
        clock.daemon = True
        clock.start()
        try:
            while (said := self._hear()) is not None:
                if "end" in said:
                    return
                if "error" in said:
                    raise PeerError(f"peer {self.name!r} broke: {said['error']}")
                try:
                    self._say(_line(session.submit(said["config"], said["seconds"])))
                except BudgetSpentError:
                    self._say({"status": "stop"})
        finally:
            clock.cancel()
        raise PeerError(f"peer {self.name!r} ended in the middle of a run: {self._last_words()}")

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def _say(self, message: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise PeerError(f"peer {self.name!r} has ended: {self._last_words()}") from None

    def _hear(self) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        return lines[-1] if lines else "it said nothing"


def plain(problem: Problem, seed: int, budget: int, initial: Sequence[Any], *, table: bool) -> dict[str, Any]:
    """A problem in the protocol's terms."""
    rows: list[Any] = []
    listed = problem.space.enumerate() if table else None
    if listed is not None:
        for config, losses in zip(listed, problem.population.tolist(), strict=True):
            rows.append([list(config.values()), None if math.isnan(losses[0]) else losses[0]])
    return {
        "name": f"{problem.name}-{problem.digest}",
        "parameters": [_parameter(p) for p in problem.space.parameters],
        "objectives": len(problem.objectives),
        "seed": seed,
        "budget": budget,
        "initial": list(initial),
        "table": rows,
    }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    match parameter:
        case Float():
            span = {"low": parameter.low, "high": parameter.high, "log": parameter.log}
            return {"name": parameter.name, "kind": "float", "values": [], **span}
        case Int(step=1):
            span = {"low": parameter.low, "high": parameter.high, "log": parameter.log}
            return {"name": parameter.name, "kind": "int", "values": [], **span}
        case Int():
            steps = [parameter.low + i * parameter.step for i in range(parameter.n_values)]
            return {"name": parameter.name, "kind": "ordinal", "values": steps}
        case Ordinal():
            return {"name": parameter.name, "kind": "ordinal", "values": list(parameter.values)}
        case Bool():
            return {"name": parameter.name, "kind": "bool", "values": [False, True]}
        case Categorical():
            return {"name": parameter.name, "kind": "categorical", "values": list(parameter.choices)}
    raise TypeError(f"parameter {parameter.name!r} is a {type(parameter).__name__}, which peers are not told of")


def _line(reply: Reply) -> dict[str, Any]:
    return {"status": reply.status, "losses": None if reply.losses is None else list(reply.losses)}
