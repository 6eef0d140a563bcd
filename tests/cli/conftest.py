"""Run the command line in this process: the same entry point as the console script, its exit code and its output."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from autotune.cli import main
from tests.machine import write_profile


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run("studies", "--json")`` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AUTOTUNE_STORAGE", raising=False)

    def invoke(*arguments: str) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        code = end.value.code
        assert isinstance(code, int) or code is None
        return Ran(code or 0, captured.out, captured.err)

    return invoke


@pytest.fixture(scope="session")
def hardware(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The option that puts the search on the machine made for tests."""
    return f"hardware={write_profile(tmp_path_factory.mktemp('machine'))}"
