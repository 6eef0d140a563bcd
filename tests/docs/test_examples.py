"""What README and the guides show runs: the Python, the YAML, the guide's domain as a package, every command's options."""

from __future__ import annotations

import gzip
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import autotune
from autotune.cli import main
from autotune.command import load_spec

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

ROUTES = """\
# route_trace v1 model=small n_layer=1 n_expert=4 n_expert_used=2
# layer=0 expert_bytes=1000 dense_bytes=500
turn,phase,step,layer,slot,expert,weight
0,0,0,0,0,1,0.6
0,0,0,0,1,2,0.4
0,1,1,0,0,3,0.7
0,1,1,0,1,1,0.3
"""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def shown(page: str, language: str) -> str:
    """The one example in this language on a page."""
    (found,) = blocks(ROOT / page, language)
    return found


def executed(source: str, **given: Any) -> dict[str, Any]:
    exec(compile(source, "example", "exec"), given)
    return given


def commands() -> list[str]:
    """Every command line of ours in a plain block, without its remark."""
    lines = [line.strip() for page in PAGES for block in blocks(page, "") for line in block.splitlines()]
    return sorted({line.partition("  #")[0].strip() for line in lines if line.startswith("autotune ")})


def layout_cost(config: dict[str, Any]) -> dict[str, float]:
    return {"latency_ms": 10.0 / config["tp"] + config["pp"] + config["lr"], "vram_gib": 40.0 / config["tp"]}


def test_no_page_with_python_is_forgotten() -> None:
    with_python = {page.relative_to(ROOT).as_posix() for page in PAGES if blocks(page, "python")}
    assert with_python == {
        "README.md",
        "docs/bring-your-own-domain.md",
        "docs/command-tuning.md",
        "docs/flower.md",  # tests/integrations/test_flower_simulation.py runs it
        "docs/integrations.md",  # tests/integrations/test_loggers.py runs it
        "docs/pruning.md",
        "docs/strategies.md",
        "docs/traces.md",
        "docs/training-layout.md",
    }


def test_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    result = executed(shown("README.md", "python"), evaluate=layout_cost)["result"]
    assert result.best.metrics["vram_gib"] <= 24
    assert str(result.best.config) in capsys.readouterr().out
    assert autotune.Study.load("layout", "sqlite:///runs.db").best is not None


def test_a_strategy_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    space = autotune.SearchSpace([autotune.Int("x", 0, 50)])
    executed(shown("docs/strategies.md", "python"), space=space, evaluate=lambda config: (config["x"] - 30) ** 2)


def test_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.route.csv.gz").write_bytes(gzip.compress(ROUTES.encode()))
    executed(shown("docs/traces.md", "python"))
    assert Path("first.moetrace.npz").is_file()


def test_training_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    result = executed(shown("docs/training-layout.md", "python"))["result"]
    assert str(result.best.config) in capsys.readouterr().out


def test_pruning(capsys: pytest.CaptureFixture[str]) -> None:
    result = executed(shown("docs/pruning.md", "python"))["result"]
    assert result.trials["pruned"] > 0 and result.trials["completed"] + result.trials["pruned"] == 30
    assert f"{result.trials['pruned']} pruned" in capsys.readouterr().out


def test_a_command_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    page = Path("examples/matmul/space.yaml")
    page.write_text(page.read_text().replace("trials: 40", "trials: 2"))
    result = executed(shown("docs/command-tuning.md", "python"))["result"]
    assert result.trials["completed"] == 2


def test_the_specification_of_the_guide(tmp_path: Path) -> None:
    whole = [block for block in blocks(ROOT / "docs/command-tuning.md", "yaml") if "parameters:" in block]
    assert whole
    for text in whole:
        path = tmp_path / "space.yaml"
        path.write_text(text)
        assert load_spec(path).name == "matmul"


@pytest.mark.parametrize("line", commands())
def test_commands_name_verbs_and_options_that_exist(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """``--help`` is acted upon only after all that stands before it was parsed."""
    ours = [word for word in shlex.split(line.partition(" -- ")[0])[1:] if word != "VERB"]
    with pytest.raises(SystemExit) as end:
        main([*ours, "--help"])
    assert end.value.code == 0, capsys.readouterr().err


def test_the_domain_of_the_guide_is_a_package_that_pip_installs(tmp_path: Path) -> None:
    package = tmp_path / "source" / "my_package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    source = shown("docs/bring-your-own-domain.md", "python")
    assert len(source.splitlines()) < 80
    (package / "block_sum.py").write_text(source)
    (tmp_path / "source" / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n\n'
        '[project]\nname = "my-package"\nversion = "1"\n\n' + shown("docs/bring-your-own-domain.md", "toml")
    )
    installed = tmp_path / "installed"
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", str(installed)]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *options, str(tmp_path / "source")]
    subprocess.run(pip, check=True, capture_output=True)

    def ran(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": f"{installed}{os.pathsep}{ROOT}"}
        command = [sys.executable, "-m", "autotune", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "numbers to add" in ran("domains", "block-sum")
    assert "gain over default" in ran("search", "block-sum", "--set", "length=1000", "--trials", "5")
    assert "blocks of 256 numbers" in ran("show", "block-sum")
    assert ran("export", "block-sum", "--format", "env", "--trial", "0") == "BLOCK=256\n"
    assert "Lower is faster." in ran("plot", "block-sum")
    ran("plot", "block-sum", "--kind", "blocks", "--out", "blocks.html")
    assert "time_ms" in (tmp_path / "blocks.html").read_text()
