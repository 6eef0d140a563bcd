"""Who gets in: over plain HTTP, at the real command's server."""

from __future__ import annotations

import http.client
import re
import socket
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

import pytest

from tests.dashboard.browser import serve
from tests.shown_studies import make

pytestmark = pytest.mark.slow

PASSWORD = "päss & wörd"
_PATHS = ("/", "/study?study=a", "/static/index.html", "/_stcore/host-config", "/media/x", "/anything")
_UPGRADE = {
    "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol": "streamlit",
}  # fmt: skip


def ask(
    address: str,
    path: str = "/",
    method: str = "GET",
    body: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of one answer; an accepted websocket is 101."""
    with closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)) as connection:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        text = "" if answer.status == 101 else answer.read().decode("utf-8", "replace")
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, text


def log_in(address: str, password: str, to: str = "/") -> tuple[int, dict[str, str], str]:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    return ask(address, f"/login?{urlencode({'to': to})}", "POST", urlencode({"password": password}), form)


@pytest.fixture
def storage(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    make(url, [{"latency_ms": 5.0}]).store.close()
    return url


def test_a_password_stands_before_everything(storage: str, tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n", encoding="utf-8")
    with serve(storage, tmp_path / "server", "--password-file", str(file)) as server:
        for path in _PATHS:
            status, _, body = ask(server.address, path)
            assert status == 401 and 'type="password"' in body and "latency" not in body
        assert ask(server.address, "/_stcore/health")[0] == 200
        assert ask(server.address, "/_stcore/stream", headers=_UPGRADE)[0] == 403
        for forged in ("x", "", "0" * 64, "é"):
            cookie = {"Cookie": f"autotune_visitor={quote(forged)}"}
            assert ask(server.address, headers=cookie)[0] == 401
            assert ask(server.address, "/_stcore/stream", headers={**_UPGRADE, **cookie})[0] == 403

        began = time.monotonic()
        status, headers, body = log_in(server.address, "pass & word")
        assert (status, "set-cookie" in headers) == (401, False) and "not the password" in body
        assert time.monotonic() - began >= 1.0  # so that guessing is slow
        assert log_in(server.address, "")[0] == 401
        assert log_in(server.address, "x" * 10_000)[0] == 413

        status, headers, _ = log_in(server.address, PASSWORD, to="/study?study=a")
        assert (status, headers["location"]) == (303, "/study?study=a")
        assert (
            re.search(r"httponly", headers["set-cookie"], re.I) and "samesite=strict" in headers["set-cookie"].lower()
        )
        cookie = {"Cookie": headers["set-cookie"].partition(";")[0]}
        status, _, body = ask(server.address, "/study?study=a", headers=cookie)
        assert status == 200 and "<script" in body
        assert ask(server.address, "/_stcore/stream", headers={**_UPGRADE, **cookie})[0] == 101
        for elsewhere in ("https://example.org/", "//example.org/", "/\\example.org"):
            assert log_in(server.address, PASSWORD, to=elsewhere)[1]["location"] == "/"
        assert "Traceback" not in server.log.read_text()


def test_whom_a_proxy_names_and_the_end_of_the_command(storage: str, tmp_path: Path) -> None:
    with serve(storage, tmp_path / "server", "--user-header", "X-Forwarded-User") as server:
        named = {"X-Forwarded-User": "ada@example.org"}
        for path in _PATHS[:3]:
            status, _, body = ask(server.address, path)
            assert status == 403 and "X-Forwarded-User" in body
            assert ask(server.address, path, headers={"X-Forwarded-User": ""})[0] == 403
            assert ask(server.address, path, headers=named)[0] == 200
        assert ask(server.address, "/_stcore/stream", headers=_UPGRADE)[0] == 403
        assert ask(server.address, "/_stcore/stream", headers={**_UPGRADE, **named})[0] == 101

        server.process.terminate()
        assert server.process.wait(20) == 0
        with socket.create_server(("127.0.0.1", urlsplit(server.address).port or 0)):
            pass  # the server behind the command is gone too
