"""compose.yaml, the Dockerfile and what they name: consistent, and the services' own commands run side by side as processes."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from autotune.store import Store, TrialState
from tests.machine import write_profile

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
WRITTEN = (ROOT / "compose.yaml").read_text(encoding="utf-8")
VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
TRIALS = 8


class UnsetError(Exception):
    """A variable that must be set is not."""


def composed(**given: str) -> Any:
    """compose.yaml as the program reads it: ``${NAME:-default}`` and ``${NAME:?message}`` in values, and ``$$``."""

    def value_of(found: re.Match[str]) -> str:
        name, kind, rest = found.groups()
        if given.get(name):
            return given[name]
        if kind == "?":
            raise UnsetError(rest)
        return rest or ""

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(part) for key, part in value.items()}
        if isinstance(value, list):
            return [filled(part) for part in value]
        return VARIABLE.sub(value_of, value).replace("$$", "$") if isinstance(value, str) else value

    return filled(yaml.safe_load(WRITTEN))


def settings() -> dict[str, str]:
    """.env.example."""
    lines = (ROOT / ".env.example").read_text(encoding="utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def test_a_password_must_be_chosen_and_nothing_else_must() -> None:
    with pytest.raises(UnsetError, match=r"\.env\.example"):
        composed()
    assert settings()["POSTGRES_PASSWORD"] == ""  # none that everybody knows
    services = composed(POSTGRES_PASSWORD="p%40 '$")["services"]
    assert services["database"]["environment"]["POSTGRES_PASSWORD"] == "p%40 '$"
    for name in ("begin", "worker", "dashboard"):
        assert services[name]["environment"]["PGPASSWORD"] == "p%40 '$"
        assert "p%40" not in services[name]["environment"]["AUTOTUNE_STORAGE"]


def test_every_variable_is_in_the_example_with_its_default_and_in_the_guide() -> None:
    used = {name: rest for name, kind, rest in VARIABLE.findall(WRITTEN) if kind == "-"} | {"POSTGRES_PASSWORD": ""}
    assert used == settings()
    guide = (ROOT / "docs" / "docker.md").read_text(encoding="utf-8")
    assert [name for name in used if f"`{name}`" not in guide] == []


def test_ports_are_this_machines_alone_and_what_is_named_exists() -> None:
    compose = composed(POSTGRES_PASSWORD="x")
    services = compose["services"]
    for name, service in services.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert {volume.partition(":")[0] for volume in service.get("volumes", [])} <= set(compose["volumes"])
        assert set(service.get("depends_on", {})) <= set(services)
        assert set(service.get("build", {}).get("args", {})) <= set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))
    assert services["worker"]["deploy"]["replicas"] == 2
    assert "healthcheck" in services["database"] and "healthcheck" not in services["dashboard"]  # the image's own


def test_the_image_is_built_from_what_there_is() -> None:
    stages = [line.split()[1:] for line in DOCKERFILE.splitlines() if line.startswith("COPY ") and "--from" not in line]
    copied = {source for *sources, _ in stages for source in sources}
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert copied == kept and all((ROOT / source).exists() for source in copied)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packages = {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert packages | {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]} <= copied
    (extras,) = re.findall(r"^ARG EXTRAS=(\S+)", DOCKERFILE, re.MULTILINE)
    assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"])
    assert {"dashboard", "postgres"} <= set(extras.split(","))


def test_the_image_runs_as_a_user_of_its_own() -> None:
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.search(r"^USER autotune$", last, re.MULTILINE) and "useradd" in last
    assert fnmatch.fnmatch(last[last.index("ENTRYPOINT") :], 'ENTRYPOINT ?"autotune"?*CMD*')


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that are gone afterwards."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_the_services_run_one_search_together(
    postgres_url: str, tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    """Everything but the containers: the services' commands and environment, the order, the health check, and the end."""
    services = composed(POSTGRES_PASSWORD="x", TRIALS=str(TRIALS))["services"]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "autotune").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m autotune "$@"\n')
    (tmp_path / "bin" / "autotune").chmod(0o755)
    hardware = write_profile(tmp_path)

    def start(name: str) -> subprocess.Popen[str]:
        service = services[name]
        words = [*service.get("entrypoint", ["autotune"]), *service["command"]]
        # What containers would change: where the database is, a port that is free here, and a machine that is measured already.
        words = [w.replace("--trials", f"--set hardware={hardware} --trials") if " " in w else w for w in words]
        if name == "worker":
            words += ["--set", f"hardware={hardware}"]
        words = [str(port) if w == "8501" else "127.0.0.1" if w == "0.0.0.0" else w for w in words]
        environment = {
            **os.environ, **service["environment"], "AUTOTUNE_STORAGE": postgres_url, "PYTHONPATH": str(ROOT),
            "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip
        process = subprocess.Popen(
            words, cwd=tmp_path, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        started.append(process)
        return process

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def end(process: subprocess.Popen[str]) -> str:
        out, err = process.communicate(timeout=250)
        assert process.returncode == 0, out + err
        return out + err

    assert list(services["worker"]["depends_on"]) == list(services["dashboard"]["depends_on"]) == ["begin"]
    end(start("begin"))
    with contextlib.closing(Store(postgres_url, read_only=True)) as store:
        made = store.load_study("shared")
        assert made.budget["trials"] == TRIALS and list(store.trials(made.id)) == []

    dashboard = start("dashboard")
    workers = [start("worker") for _ in range(services["worker"]["deploy"]["replicas"])]
    for worker in workers:
        end(worker)
    with contextlib.closing(Store(postgres_url, read_only=True)) as store:
        trials = store.trials(store.load_study("shared").id)
    assert [t.number for t in trials] == list(range(TRIALS))
    assert Counter(t.state for t in trials) == {TrialState.COMPLETED: TRIALS}
    assert all(t.attempt == 1 for t in trials)
    assert len({t.config_hash for t in trials}) == TRIALS

    (check,) = re.findall(r"^HEALTHCHECK .*\\\n    CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    program, *rest = [word.replace("8501", str(port)) for word in yaml.safe_load(check)]
    assert program == "python"
    deadline = time.monotonic() + 120
    while subprocess.run([sys.executable, *rest], capture_output=True, check=False).returncode:
        assert dashboard.poll() is None and time.monotonic() < deadline
        time.sleep(0.2)
    (stop,) = re.findall(r"^STOPSIGNAL (\w+)$", DOCKERFILE, re.MULTILINE)
    dashboard.send_signal(signal.Signals[stop])
    end(dashboard)
