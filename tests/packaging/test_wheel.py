"""The wheel: built from a copy of the sources, installed in an environment of its own, used in an empty folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Sequence
from email.parser import Parser
from pathlib import Path

import pytest

import autotune

ROOT = Path(__file__).parents[2]
PACKAGES = ("autotune", "dashboard", "evaluators", "search_spaces")
LOOSE = ("pyproject.toml", "README.md", "LICENSE")


def ran(command: Sequence[str | Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command that succeeds, with nothing of this process's settings."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("AUTOTUNE_", "PYTHON"))}
    inherited["NUMBA_DISABLE_JIT"] = "1"  # compiling takes longer than three trials do without
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, env=inherited, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done


def files_of(root: Path) -> set[str]:
    """All files of the packages, compiled ones aside, as they would be named in a wheel."""
    found = (path for package in PACKAGES for path in (root / package).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix() for path in found if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, since building writes beside the sources."""
    copy = tmp_path_factory.mktemp("source")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in LOOSE:
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """The wheel (made from the sdist, as `build` does), the sdist, and what was said while they were made."""
    out = tmp_path_factory.mktemp("dist")
    said = ran([sys.executable, "-m", "build", "--no-isolation", "--outdir", out], source)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist, said.stdout + said.stderr


@pytest.fixture(scope="module")
def program(built: tuple[Path, Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`autotune` of an environment that has the wheel, and of this one only the libraries."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False, symlinks=True)
    python = home / "bin" / "python"
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    ran([*pip, "install", "--quiet", "--no-index", "--no-deps", built[0]], home)
    # A folder that a .pth file names has its own .pth files passed over, so the checkout that is installed there is not found.
    (own,) = home.glob("lib/python*/site-packages")
    (own / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return home / "bin" / "autotune"


def test_the_wheel_has_every_file_of_the_packages_and_nothing_else(source: Path, built: tuple[Path, Path, str]) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
        assert {name: wheel.getinfo(name).file_size for name in held if not name.endswith(".py")} == {
            name: (source / name).stat().st_size for name in files_of(source) if not name.endswith(".py")
        }
    assert held == files_of(source)
    for part in ("script.py.mako", "py.typed", ".npz", "profiles/", "migrations/versions/0001", "dashboard/app.py"):
        assert any(part in name for name in held), part


def test_the_sdist_has_all_of_it_too_and_no_rubbish(source: Path, built: tuple[Path, Path, str]) -> None:
    with tarfile.open(built[1]) as archive:
        held = {name.partition("/")[2] for name in archive.getnames() if not name.endswith("/")}
    assert files_of(source) <= held and set(LOOSE) <= held
    assert not [
        name for name in held if name.endswith((".pyc", ".db", "Thumbs.db")) or name.startswith(("build", ".venv"))
    ]


def test_building_warns_of_nothing(built: tuple[Path, Path, str]) -> None:
    assert [line for line in built[2].splitlines() if "warning" in line.lower() or "deprecat" in line.lower()] == []


def test_metadata(built: tuple[Path, Path, str]) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        (path,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        meta = Parser().parsestr(wheel.read(path).decode())
        (points,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
        entry_points = wheel.read(points).decode()
    assert meta["Version"] == autotune.__version__
    assert meta["Requires-Python"] == ">=3.11" and meta["License-Expression"] == "Apache-2.0"
    assert meta["Description-Content-Type"] == "text/markdown" and "# autotune" in str(meta.get_payload())
    assert {"dashboard", "plots", "postgres", "all"} <= set(meta.get_all("Provides-Extra", []))
    assert "autotune = autotune.cli:main" in entry_points and "[autotune.domains]" in entry_points


def test_the_installed_program_searches_outside_the_repository(program: Path, tmp_path: Path) -> None:
    """The whole way: entry points, the shipped trace and preset, a shipped profile, the migrations, and reading it again."""

    def says(*words: str) -> str:
        return ran([program, *words], tmp_path).stdout

    assert says("--version").strip() == f"autotune {autotune.__version__}"
    listed = {domain["domain"] for domain in json.loads(says("domains", "--json"))}
    assert listed == {"moe-cache", "expert-placement", "training-layout", "compression"}
    of = "import " + ", ".join(PACKAGES) + "; print(*(m.__file__ for m in (" + ", ".join(PACKAGES) + ")), sep='\\n')"
    files = ran([program.parent / "python", "-c", of], tmp_path).stdout.splitlines()
    assert len(files) == len(PACKAGES) and all(Path(file).is_relative_to(program.parents[1]) for file in files)

    profile = sorted((ROOT / "autotune/hardware/profiles").glob("*.json"))[0].stem
    options = ["--set", f"hardware={profile}", "--trials", "3", "--seed", "0", "--strategy", "random"]
    found = json.loads(says("search", "moe-cache", *options, "--json"))
    assert found["trials"]["completed"] == 3
    assert (tmp_path / "autotune.db").is_file()
    plan = json.loads(says("export", "moe-cache", "--format", "plan", "--trial", "0"))
    assert len(plan["layers"]) == 8
