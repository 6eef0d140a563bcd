"""The real command and a real browser, for tests and for the pictures of the documentation."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from playwright.sync_api import Browser, ConsoleMessage, Page, sync_playwright

from dashboard import settings, workers

WAIT_MS = 60_000
_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")
_INSTALL = "install it with: apt-get update && apt-get install -y chromium"
# At the address of a page Streamlit asks for its own files beside that page first, to find out where it is.
_LOOKED_FOR = ("/_stcore/health", "/_stcore/host-config")
_SETTLED = """() => { const settled = document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'
  && document.querySelector('h1')
  && !document.querySelector('[data-testid=stSpinner], [data-testid=stSkeleton], [data-stale=true]')
  && [...document.querySelectorAll('[data-testid=stPlotlyChart]')].every(c => c.querySelector('.main-svg'));
  window.calm = settled ? (window.calm ?? 0) + 1 : 0;
  if (window.calm < 3) return false;
  window.calm = 0;
  return true; }"""


class BrowserMissingError(Exception):
    """There is no Chromium on this machine."""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium, without a window."""
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if binary is None:
        raise BrowserMissingError(f"pages are opened in Chromium, which is absent; {_INSTALL}")
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=binary, args=list(_FLAGS))
        try:
            yield opened
        finally:
            opened.close()


@dataclass(frozen=True)
class Server:
    """A running `autotune dashboard`: its process, address and log, and where it keeps what it knows of its workers."""

    process: subprocess.Popen[str]
    address: str
    log: Path
    state: Path


@contextmanager
def serve(storage: str, folder: Path, *options: str, password: str | None = None) -> Iterator[Server]:
    """`autotune dashboard` on a store, until the end of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("autotune")), "dashboard", "--storage", storage, *options]
    environment = {**os.environ, workers.FOLDER: str(folder / "state")}
    environment.pop(settings.PASSWORD, None)
    if password is not None:
        environment[settings.PASSWORD] = password
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port), "--json"],
            stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder, env=environment,
        )  # fmt: skip
    assert process.stdout is not None
    try:
        said = ""
        for line in process.stdout:
            said += line
            if line == "}\n":
                break
        assert said, (folder / "server.log").read_text()
        yield Server(process, json.loads(said)["url"].rstrip("/"), folder / "server.log", folder / "state")
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


@dataclass
class Tab:
    """One tab of the browser at a server, which notes what goes wrong in it."""

    page: Page
    address: str
    errors: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    @classmethod
    def open(cls, browser: Browser, address: str, *, password: str | None = None, dark: bool = False) -> Tab:
        """A tab with cookies of its own, past the password where there is one."""
        context = browser.new_context(
            viewport={"width": 1440, "height": 1000}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
        )
        context.set_default_timeout(WAIT_MS)
        tab = cls(context.new_page(), address)
        tab.page.on("console", tab._told)
        tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
        tab.page.on("request", lambda request: tab.hosts.add(urlsplit(request.url).netloc))
        tab.page.on("websocket", lambda socket: tab.hosts.add(urlsplit(socket.url).netloc))
        if password is not None:
            answer = context.request.post(f"{address}/login", form={"password": password}, max_redirects=0)
            assert answer.status == 303
        return tab

    def _told(self, message: ConsoleMessage) -> None:
        looked_for = urlsplit(message.location["url"]).path.endswith(_LOOKED_FOR)
        if message.type == "error" and not looked_for:
            self.errors.append(f"{message.text} ({message.location['url']})")

    def close(self) -> None:
        self.page.context.close()

    def go(self, path: str = "/", **address: str) -> None:
        """Open an address, and wait until the page is drawn."""
        self.page.goto(f"{self.address}{path}" + (f"?{urlencode(address)}" if address else ""))
        self.settle()

    def settle(self) -> None:
        """Wait until nothing is drawn any more."""
        self.page.wait_for_selector("[data-testid=stApp]")
        self.page.wait_for_function(_SETTLED, polling=50)

    def choose(self, key: str, option: str) -> None:
        """An option of the box with this key."""
        box = self.page.locator(f".st-key-{key.replace(' ', '-')} input")
        box.click()
        box.fill(option)
        self.page.get_by_role("option", name=option, exact=True).first.click()
        self.settle()

    def section(self, name: str) -> None:
        """A section of a study's page."""
        self.page.locator(".st-key-section").get_by_role("radio", name=name, exact=True).click()
        self.settle()

    def rows(self, table: str) -> list[list[tuple[str, str | None]]]:
        """The cells of a table as a reader sees them, each with the exact value behind it."""
        found: list[list[tuple[str, str | None]]] = self.page.evaluate(
            """name => [...document.querySelectorAll(`#at-${name} tbody tr`)].map(row => [...row.cells].map(
               cell => [cell.innerText.trim(), cell.querySelector('span[title]')?.title ?? null]))""",
            table,
        )
        return [[(text, exact) for text, exact in row] for row in found]
