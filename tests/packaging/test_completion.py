"""Completion as bash asks for it: its own function, with a line as bash takes it apart."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import autotune
from autotune.cli import main
from autotune.cli.completion import mend

ROOT = Path(__file__).parents[2]
Asked = Callable[..., list[str]]
NASTY = ["a b", "it's", 'x"; touch gone; "', "$(touch gone)", "`touch gone`", "<(touch gone)", "-rf", "*", "a\\"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stores, and `autotune` as a program."""
    made = tmp_path_factory.mktemp("shell")
    program = made / "bin" / "autotune"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m autotune "$@"\n')
    program.chmod(0o755)
    space = autotune.SearchSpace([autotune.Int("x", 0, 3)])
    for file, names in (("autotune.db", ["demo-1", "demo-2", "other", *NASTY]), ("runs.db", ["exp:1", "elsewhere"])):
        store = autotune.Store(f"sqlite:///{made / file}")
        for name in names:
            autotune.Study.create(space, "minimize y", default={"x": 0}, name=name, storage=store)
        store.close()
    return made


@pytest.fixture
def asked(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Asked:
    """What this program answers when bash asks about a line, given as bash takes it apart; its last word is being typed."""
    monkeypatch.chdir(folder)
    monkeypatch.delenv("AUTOTUNE_STORAGE", raising=False)

    def ask(*words: str) -> list[str]:
        monkeypatch.setenv("_AUTOTUNE_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", "\n".join(["autotune", *words]))
        monkeypatch.setenv("COMP_CWORD", str(len(words)))
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([])
        said = capsys.readouterr()
        assert end.value.code == 0 and said.err == ""
        return said.out.split()

    return ask


def test_bash_completes_with_the_function_that_is_shown(folder: Path) -> None:
    """The real thing once: `--show-completion` read into a bash, and its function asked as Tab asks it."""
    line = "autotune show --storage sqlite : ///runs.db e"
    script = [
        'eval "$(_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION=1 autotune --show-completion bash)"',
        f"COMP_WORDS=({line}); COMP_CWORD={len(line.split()) - 1}",
        "_autotune_completion autotune",
        'printf "%s\\n" "${COMPREPLY[@]}"',
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("AUTOTUNE_")}
    environment |= {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    command = ["bash", "--norc", "-c", "\n".join(script)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["elsewhere", "exp:1"], "")


def test_studies_come_from_a_store_that_is_only_read(
    asked: Asked, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(folder.glob("*.db"))
    assert asked("show", "") == [
        "other",
        "demo-2",
        "demo-1",
    ]  # the newest first, and none that means something to a shell
    assert asked("trials", "demo") == ["demo-2", "demo-1"]
    assert asked("search", "moe-cache", "--study", "oth") == ["other"]
    assert asked("show", "--storage", "sqlite", ":", "///runs.db", "") == ["elsewhere", "exp:1"]
    assert asked("export", "--storage", "=", "sqlite", ":", "///none.db", "") == []
    assert asked("export", "--storage", "gibberish", "") == []
    monkeypatch.setenv("AUTOTUNE_STORAGE", "sqlite:///runs.db")
    assert asked("show", "") == ["elsewhere", "exp:1"]
    assert sorted(folder.glob("*.db")) == before


def test_what_is_installed_is_completed(asked: Asked) -> None:
    assert {"trials", "trace"} <= set(asked("tr"))
    assert asked("search", "moe") == ["moe-cache"]
    assert {"moe-cache", "expert-placement", "training-layout", "compression"} <= set(asked("domains", ""))
    assert asked("search", "moe-cache", "--strategy", "=", "nsga") == ["nsga2", "nsga3"]
    assert set(asked("search", "--pruner", "")) == set(autotune.PRUNERS)
    assert "history" in asked("plot", "demo-1", "--kind", "hist")
    assert "--strategy-option" in asked("search", "--strategy")


@pytest.mark.parametrize(
    ("words", "mended", "whole"),
    [
        (["autotune", "show", "de"], ["autotune", "show", "de"], True),
        (["autotune", "--storage", "sqlite", ":", "///a", "x"], ["autotune", "--storage", "sqlite:///a", "x"], True),
        (["autotune", "--storage", "=", "sqlite", ":", "///a", "x"], ["autotune", "--storage=sqlite:///a", "x"], True),
        (["autotune", "--strategy", "=", "b"], ["autotune", "--strategy", "b"], True),
        (["autotune", "--strategy", "="], ["autotune", "--strategy", ""], True),
        (["autotune", "show", "exp", ":", "1"], ["autotune", "show", "exp", "1"], False),
        (["autotune", "show", "exp", ":"], ["autotune", "show", "exp", ""], False),
    ],
)
def test_words_that_bash_took_apart_are_put_together(words: list[str], mended: list[str], whole: bool) -> None:
    environment = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    assert mend(environment) is whole
    assert environment["COMP_WORDS"].split("\n") == mended
    assert environment["COMP_CWORD"] == str(len(mended) - 1)
