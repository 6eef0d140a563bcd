"""`autotune dashboard` refuses what cannot work before it starts a server."""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.errors import UsageError
from dashboard.cli import dashboard
from tests.shown_studies import make


@pytest.fixture
def storage(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    make(url, [{"latency_ms": 5.0}]).store.close()
    return url


def test_missing_database_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'none.db'}"
    command = [str(Path(sys.executable).with_name("autotune")), "dashboard", "--storage", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"autotune: storage '{url}' does not exist")
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_unknown_study(storage: str) -> None:
    with pytest.raises(UsageError, match=r"study 'b' does not exist .* it holds: a"):
        dashboard(storage=storage, study="b")


def test_port_in_use(storage: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"--port {port} on 127.0.0.1 cannot be used: address already in use"):
            dashboard(storage=storage, port=port)


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host"])
def test_host_that_cannot_be_bound(storage: str, host: str) -> None:
    with pytest.raises(UsageError, match=r"--host|--port"):
        dashboard(storage=storage, host=host)


def test_missing_extra(storage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "streamlit" else found(name))
    with pytest.raises(UsageError, match=r'needs streamlit; .* pip install "autotune\[dashboard\]"'):
        dashboard(storage=storage)


def test_command_line_does_not_pay_for_the_page() -> None:
    code = "import sys, dashboard.cli; print([m for m in ('streamlit', 'plotly') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
