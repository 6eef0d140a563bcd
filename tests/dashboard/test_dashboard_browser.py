"""The real command, a real database, a real browser: every number on the page is the store's."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from autotune import Failure, Study
from autotune.store import Store, TrialRecord, TrialState
from tests.shown_studies import BASELINES, make

NAME = "moe <b>cache</b> & *co*"
_WAIT_S = 60
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1900",
)
_INSTALL = "install it with: apt-get update && apt-get install -y chromium chromium-driver"


@dataclass(frozen=True)
class Page:
    """What a reader sees: cards by label as (text, exact value or None, note), tables by name as rows of such cells."""

    cards: dict[str, tuple[str, str | None, str]]
    tables: dict[str, list[list[tuple[str, str | None]]]]
    traces: list[dict[str, Any]]
    marks: int


_READ = """
const cell = e => [e.innerText.trim(), e.querySelector('span[title]')?.title ?? null];
const cards = Object.fromEntries([...document.querySelectorAll('.at-card')].map(c => [
  c.querySelector('.at-label').innerText,
  [...cell(c.querySelector('.at-value')), c.querySelector('.at-note').innerText]]));
const tables = Object.fromEntries([...document.querySelectorAll('.at-table')].map(t => [
  t.id.slice(3), [...t.querySelectorAll('tbody tr')].map(r => [...r.cells].map(cell))]));
const plot = document.querySelector('.js-plotly-plot');
const traces = plot ? plot.data.map(t => ({name: t.name, mode: t.mode, x: [...t.x], y: [...t.y],
  numbers: t.customdata ? [...t.customdata] : null})) : [];
return {cards, tables, traces, marks: document.querySelectorAll('.scatterlayer .point').length};
"""


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.fail(
            f"this test opens the dashboard in Chromium, and {'chromedriver' if binary else 'it'} is absent; {_INSTALL}"
        )
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (*_FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=Service(driver))
    try:
        yield opened
    finally:
        opened.quit()


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Thirty-one trials: measured ones with awkward digits, infeasible ones, two kinds of failure, one that still runs."""
    outcomes: list[dict[str, float] | Failure | None] = []
    for i in range(30):
        latency = 40.0 / math.sqrt(1 + i) + math.pi * ((7 * i) % 5)
        outcomes.append({"latency_ms": latency, "vram_gib": 3.0 + (i * 7 % 11) / 1.7, "hit_rate": 1 / (i + 3)})
    for i in (5, 11, 17):
        outcomes[i] = Failure("oom", f"trial {i} wanted <i>too much</i>")
    outcomes[23] = Failure("timeout", "no answer in 30 s")
    settings: dict[str, Any] = {"constraints": ["vram_gib <= 8"], "baselines": BASELINES, "budget": 40}
    return make(f"sqlite:///{tmp_path / 'runs.db'}", [*outcomes, None], name=NAME, **settings)


@pytest.fixture
def server(study: Study, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`autotune dashboard` on that store; its process and its address."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [str(Path(sys.executable).with_name("autotune")), "dashboard", "--storage", study.store.url]
    command += ["--port", str(port), "--json"]
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=tmp_path)
    assert process.stdout is not None
    try:
        said = ""
        for line in process.stdout:
            said += line
            if line == "}\n":
                break
        assert said, (tmp_path / "server.log").read_text()
        yield process, json.loads(said)["url"]
    finally:
        process.terminate()
        process.wait(20)
        process.stdout.close()


def read(browser: webdriver.Chrome, table: str) -> Page:
    """The page once that table is there and its chart, where one belongs to it, is drawn."""

    def drawn(driver: webdriver.Chrome) -> Page | None:
        page = Page(**driver.execute_script(_READ))
        return page if table in page.tables and (table == "studies" or page.marks) else None

    return WebDriverWait(browser, _WAIT_S).until(drawn)


def stored(study: Study) -> list[TrialRecord]:
    """What the database holds, read by another connection."""
    with closing(Store(study.store.url, read_only=True)) as store:
        return store.trials(study.record.id)


def check_number(shown: str, exact: str | None, value: float, unit: str) -> None:
    """The exact value is the store's, and what is shown is that, rounded to four digits, with its unit."""
    assert exact is not None and float(exact) == value
    number, _, behind = shown.partition(" ")
    assert behind == unit
    assert math.isclose(float(number), value, rel_tol=5.0001e-4)


def check_study_page(page: Page, trials: list[TrialRecord]) -> None:
    measured = [t for t in trials if t.state is TrialState.COMPLETED]
    failed = [t for t in trials if t.state is TrialState.FAILED]
    feasible = [t for t in measured if t.values["vram_gib"] <= 8]
    best = min(feasible, key=lambda t: t.values["latency_ms"])
    default = trials[0]
    gain = 1 - best.values["latency_ms"] / default.values["latency_ms"]

    check_number(*page.cards["best"][:2], best.values["latency_ms"], "ms")
    assert page.cards["best"][2] == f"latency_ms, trial {best.number}"
    check_number(*page.cards["default"][:2], default.values["latency_ms"], "ms")
    assert page.cards["default"][2] == "latency_ms, trial 0"
    shown_gain, exact_gain, _ = page.cards["gain over default"]
    assert exact_gain is not None and math.isclose(float(exact_gain), gain)
    assert shown_gain == f"+{100 * gain:.1f} %"
    assert page.cards["trials finished"][0] == f"{len(measured) + len(failed)} of 40"
    running = len(trials) - len(measured) - len(failed)
    assert page.cards["trials finished"][2] == f"{len(measured)} completed · {len(failed)} failed · {running} running"

    # Each trial that ended is one mark at its number and its value; a failure at its kind.
    marks = {n: y for t in page.traces if t["mode"] == "markers" for n, y in zip(t["numbers"], t["y"], strict=True)}
    assert marks == {
        **{t.number: t.values["latency_ms"] for t in measured},
        **{t.number: str(t.failure_kind) for t in failed},
    }
    assert page.marks == len(measured) + len(failed)
    lines = {t["name"].split()[0]: t for t in page.traces if t["mode"] == "lines"}
    assert set(lines["default"]["y"]) == {default.values["latency_ms"]}
    running_best = [(n, y) for n, y in zip(lines["incumbent"]["x"], lines["incumbent"]["y"], strict=True)][:-1]
    expected, least = [], math.inf
    for trial in feasible:
        if trial.values["latency_ms"] < least:
            least = trial.values["latency_ms"]
            expected.append((trial.number, least))
    assert running_best == expected

    by_number = {t.number: t for t in trials}
    rows = {row[0][0]: row for row in page.tables["comparison"]}
    assert list(rows) == ["best", "default", *BASELINES]
    assert int(rows["best"][1][0]) == best.number and int(rows["default"][1][0]) == 0
    for label, row in rows.items():
        trial = by_number[int(row[1][0])]
        for cell, (metric, unit) in zip(
            row[2:5], (("latency_ms", "ms"), ("vram_gib", "GiB"), ("hit_rate", "")), strict=True
        ):
            check_number(*cell, trial.values[metric], unit)
        if label != "default":
            assert math.isclose(
                float(row[5][1] or "nan"), 1 - trial.values["latency_ms"] / default.values["latency_ms"]
            )

    parameters = {row[0][0]: row for row in page.tables["parameters"]}
    assert set(parameters) == set(default.config) | set(best.config)
    for name in ("threads", "policy"):
        assert [cell[0] for cell in parameters[name][1:]] == [str(default.config[name]), str(best.config[name])]
    differs = [name for name in parameters if default.config.get(name) != best.config.get(name)]
    assert list(parameters)[: len(differs)] == differs

    kinds = {row[0][0]: row for row in page.tables["failures"]}
    for kind, row in kinds.items():
        of_kind = [t for t in failed if str(t.failure_kind) == kind]
        assert [cell[0] for cell in row[1:]] == [
            str(len(of_kind)),
            f"trial {of_kind[-1].number}",
            of_kind[-1].failure_message,
        ]
    assert sum(int(row[1][0]) for row in kinds.values()) == len(failed)


def test_every_number_on_the_page_is_the_stores(
    browser: webdriver.Chrome, study: Study, server: tuple[subprocess.Popen[str], str], tmp_path: Path
) -> None:
    process, address = server
    browser.get(address)
    (row,) = read(browser, "studies").tables["studies"]
    trials = stored(study)
    states = [
        sum(t.state is s for t in trials)
        for s in (TrialState.COMPLETED, TrialState.FAILED, TrialState.RUNNING, TrialState.WAITING)
    ]
    assert row[0][0] == NAME
    assert [int(cell[0]) for cell in row[3:7]] == states == [26, 4, 1, 0]

    browser.find_element(By.LINK_TEXT, NAME).click()
    page = read(browser, "parameters")
    check_study_page(page, trials)
    assert (row[8], row[9]) == (page.cards["best"][:2], page.cards["gain over default"][:2])
    assert browser.find_element(By.ID, "at-study").text == NAME

    # A search goes on while the page is open: nothing blocks it, and a refresh shows what it found.
    study.tell(study.ask(), {"latency_ms": 1.0 / 3.0, "vram_gib": 2.0, "hit_rate": 0.5})
    browser.find_element(By.XPATH, "//button[.//p[text()='Refresh']]").click()
    WebDriverWait(browser, _WAIT_S).until(
        lambda _: float(read(browser, "parameters").cards["best"][1] or "nan") == 1.0 / 3.0
    )
    WebDriverWait(browser, _WAIT_S).until(lambda _: read(browser, "parameters").marks == 31)
    check_study_page(read(browser, "parameters"), stored(study))

    folder = Path(os.environ.get("AUTOTUNE_ARTIFACTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)
    assert browser.save_screenshot(str(folder / "dashboard.png"))

    assert [e["message"] for e in browser.get_log("browser") if e["level"] == "SEVERE"] == []
    assert "Traceback" not in (tmp_path / "server.log").read_text()
    assert foreign_requests(browser, address) == set()

    process.terminate()
    assert process.wait(20) == 0
    with socket.create_server(("127.0.0.1", int(re.findall(r":(\d+)/", address)[0]))):
        pass  # the server behind the command is gone too


def foreign_requests(browser: webdriver.Chrome, address: str) -> set[str]:
    """Hosts that the page asked for anything, other than the server itself."""
    messages = (json.loads(entry["message"])["message"] for entry in browser.get_log("performance"))
    urls = set()
    for message in messages:
        if message["method"] == "Network.requestWillBeSent":
            urls.add(message["params"]["request"]["url"])
        elif message["method"] == "Network.webSocketCreated":
            urls.add(message["params"]["url"])
    hosts = {u.netloc for u in map(urlsplit, urls) if u.scheme in ("http", "https", "ws", "wss")}
    assert urlsplit(address).netloc in hosts  # the log is there and was read
    return hosts - {urlsplit(address).netloc}
