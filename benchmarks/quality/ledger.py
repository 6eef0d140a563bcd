"""Finished runs as lines of JSON, appended one by one, so that a benchmark that is stopped goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from autotune.errors import UsageError
from benchmarks.quality.problem import Problem
from benchmarks.quality.session import Settings


@dataclass(frozen=True)
class Key:
    """What a run is identified by."""

    problem: str
    digest: str
    searcher: str
    seed: int
    settings: Settings

    @classmethod
    def of(cls, problem: Problem, searcher: str, seed: int, settings: Settings) -> Key:
        return cls(problem.name, problem.digest, searcher, seed, settings)

    def line(self) -> dict[str, Any]:
        """The key's part of a stored line."""
        flat = asdict(self)
        return {**{name: value for name, value in flat.items() if name != "settings"}, **flat["settings"]}

    @classmethod
    def read(cls, line: dict[str, Any]) -> Key:
        return cls(
            line["problem"], line["digest"], line["searcher"], line["seed"], Settings(line["budget"], line["initial"])
        )


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        true: noise-free losses by evaluation, None for a failure.
        seen: the same as observed.
        seconds: the searcher's own before each evaluation.
        infeasible, duplicates: free proposals.
        stalled: whether it ended because it made only free proposals.
    """

    key: Key
    version: str
    true: list[list[float] | None]
    seen: list[list[float] | None]
    seconds: list[float]
    infeasible: int
    duplicates: int
    stalled: bool


class Ledger:
    """A file of runs, and of searchers that were absent, refused a problem or broke.

    Raises:
        UsageError: for a file whose lines are not of this kind. A last line that was cut off is overlooked.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.runs: dict[Key, Run] = {}
        self.absent: dict[str, str] = {}
        self.refused: dict[tuple[str, str], str] = {}
        self.broke: dict[Key, str] = {}
        for line in self._lines():
            self._take(line)

    def add_run(self, key: Key, version: str, record: dict[str, Any], about: dict[str, Any]) -> None:
        """Keep a finished run; `about` is written down and not read back."""
        self._append({"kind": "run", **key.line(), "version": version, **about, **record})

    def add_absent(self, searcher: str, reason: str) -> None:
        """A searcher that cannot be had on this machine."""
        self._append({"kind": "absent", "searcher": searcher, "reason": reason})

    def add_refused(self, searcher: str, problem: str, reason: str) -> None:
        """A problem that a searcher cannot search."""
        if self.refused.get((searcher, problem)) != reason:
            self._append({"kind": "refused", "searcher": searcher, "problem": problem, "reason": reason})

    def add_broke(self, key: Key, reason: str) -> None:
        """A run that the searcher did not survive; it is tried again by the next benchmark."""
        self._append({"kind": "broke", **key.line(), "reason": reason})

    def _append(self, line: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        cut_off = self.path.exists() and self.path.stat().st_size > 0 and not _ends_with_newline(self.path)
        text = ("\n" if cut_off else "") + json.dumps(line, separators=(",", ":")) + "\n"
        # One write of one descriptor opened for appending: two processes may share a file.
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
        self._take(line)

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        for number, text in enumerate(self.path.read_text().splitlines(), 1):
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue  # cut off when a process was killed; that run is not there and will be run again
            if not isinstance(line, dict) or "kind" not in line:
                raise UsageError(f"{self.path}, line {number}, is no run of this benchmark; give another --runs file")
            yield line

    def _take(self, line: dict[str, Any]) -> None:
        match line["kind"]:
            case "run":
                key = Key.read(line)
                self.runs[key] = Run(
                    key, line["version"], line["losses"], line["observed"] or line["losses"], line["seconds"],
                    line["infeasible"], line["duplicates"], line["stalled"],
                )  # fmt: skip
                self.absent.pop(key.searcher, None)
                self.broke.pop(key, None)
            case "absent":
                self.absent[line["searcher"]] = line["reason"]
            case "refused":
                self.refused[line["searcher"], line["problem"]] = line["reason"]
            case "broke":
                self.broke[Key.read(line)] = line["reason"]


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
