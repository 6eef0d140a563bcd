"""The real command, a real database with a study of every domain, a real browser."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shlex
import time
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser

from autotune import Failure, Pruned, UsageError
from autotune.exporting import export_config, exporters_of
from autotune.plots import VIEWS, views_of
from autotune.store import Store, TrialRecord, TrialState
from autotune.study_view import StudyView
from dashboard import workers
from dashboard.screens.study import SECTIONS
from tests.dashboard.browser import BrowserMissingError, Server, Tab, chromium, serve
from tests.shown_studies import BASELINES, DOMAINS, make, search_every_domain

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("dashboard")]

NAME = "moe <b>cache</b> & *co*"
ENGINES = ("importance", "parallel", "contour", "pareto")  # of all that tests/plots draws, those with least in common
PASSWORD = "open, sesame ✓"
_PATIENCE_S = 60.0
_PLOT = """() => { const plot = document.querySelector('.js-plotly-plot');
  return {marks: document.querySelectorAll('.scatterlayer .point').length,
    traces: plot.data.map(t => ({name: t.name, mode: t.mode, x: [...t.x], y: [...t.y],
      numbers: t.customdata ? [...t.customdata] : []}))}; }"""
_CARDS = """() => Object.fromEntries([...document.querySelectorAll('.at-card')].map(card => [
  card.querySelector('.at-label').innerText, [card.querySelector('.at-value').innerText.trim(),
  card.querySelector('.at-value span[title]')?.title ?? null, card.querySelector('.at-note').innerText]]))"""


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a store with a study of every domain and one with all that can go wrong."""
    folder = tmp_path_factory.mktemp("shown")
    url = f"sqlite:///{folder / 'runs.db'}"
    search_every_domain(url, folder)
    outcomes: list[Any] = []
    for i in range(30):
        latency = 40.0 / math.sqrt(1 + i) + math.pi * ((7 * i) % 5)
        outcomes.append({"latency_ms": latency, "vram_gib": 3.0 + (i * 7 % 11) / 1.7, "hit_rate": 1 / (i + 3)})
    for i in (5, 11, 17):
        outcomes[i] = Failure("oom", f"trial {i} wanted <i>too much</i>")
    outcomes[23] = Failure("timeout", "no answer in 30 s")
    outcomes[26] = Pruned("behind <script>alert(1)</script>")
    make(url, [*outcomes, None], name=NAME, constraints=["vram_gib <= 8"], baselines=BASELINES, budget=40)
    return url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    try:
        with chromium() as opened:
            yield opened
    except BrowserMissingError as missing:
        pytest.fail(str(missing))


@pytest.fixture(scope="module")
def server(storage: str, browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that lets visitors change things, behind a password. Its first visitor comes by a bookmark of a page."""
    with serve(storage, tmp_path_factory.mktemp("server"), "--allow-edit", password=PASSWORD) as running:
        tab = Tab.open(browser, running.address, password=PASSWORD)
        tab.go("/study", study=NAME)
        assert tab.page.locator(".at-card").count() > 0
        tab.close()
        yield running
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(workers.FOLDER, str(running.state))
            for worker in workers.known(storage):
                if worker.process is not None:
                    worker.process.kill()


@pytest.fixture
def opened(browser: Browser, server: Server) -> Iterator[Callable[..., Tab]]:
    """Opens tabs. At the end no script of any broke, none asked another host, and no page broke on the server."""
    tabs: list[Tab] = []

    def open_tab(**how: Any) -> Tab:
        tabs.append(Tab.open(browser, server.address, password=PASSWORD, **how))
        return tabs[-1]

    yield open_tab
    for tab in tabs:
        tab.close()
    assert [error for tab in tabs for error in tab.errors] == []
    assert {host for tab in tabs for host in tab.hosts} == {server.address.removeprefix("http://")}
    assert "Traceback" not in server.log.read_text()


@pytest.fixture
def tab(opened: Callable[..., Tab]) -> Tab:
    return opened()


def stored(storage: str, name: str) -> list[TrialRecord]:
    """What the database holds, read by another connection."""
    with closing(Store(storage, read_only=True)) as store:
        return store.trials(store.load_study(name).id)


def until(holds: Callable[[], bool]) -> None:
    """Wait for what happens in another process."""
    end = time.monotonic() + _PATIENCE_S
    while not holds():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


# ---------------------------------------------------------------- numbers


def check_number(shown: str, exact: str | None, value: float, unit: str) -> None:
    """The exact value is the store's, and what is shown is that, rounded to four digits, with its unit."""
    assert exact is not None and float(exact) == value
    number, _, behind = shown.partition(" ")
    assert behind == unit
    assert math.isclose(float(number), value, rel_tol=5.0001e-4)


def check_overview(tab: Tab, trials: list[TrialRecord]) -> None:
    measured = [t for t in trials if t.state is TrialState.COMPLETED]
    failed = [t for t in trials if t.state is TrialState.FAILED]
    pruned = [t for t in trials if t.state is TrialState.PRUNED]
    feasible = [t for t in measured if t.values["vram_gib"] <= 8]
    best = min(feasible, key=lambda t: t.values["latency_ms"])
    default = trials[0]
    gain = 1 - best.values["latency_ms"] / default.values["latency_ms"]

    cards = tab.page.evaluate(_CARDS)
    check_number(cards["best"][0], cards["best"][1], best.values["latency_ms"], "ms")
    assert cards["best"][2] == f"latency_ms, trial {best.number}"
    check_number(cards["default"][0], cards["default"][1], default.values["latency_ms"], "ms")
    assert cards["default"][2] == "latency_ms, trial 0"
    assert math.isclose(float(cards["gain over default"][1]), gain)
    assert cards["gain over default"][0] == f"+{100 * gain:.1f} %"
    assert cards["trials finished"][0] == f"{len(measured) + len(failed) + len(pruned)} of 40"
    states = f"{len(measured)} completed · {len(failed)} failed · {len(pruned)} pruned · 1 running"
    assert cards["trials finished"][2] == states

    # Each trial that ended is one mark at its number and its value; what has no value at why.
    plot = tab.page.evaluate(_PLOT)
    marks = {n: y for t in plot["traces"] if t["mode"] == "markers" for n, y in zip(t["numbers"], t["y"], strict=True)}
    assert marks == {
        **{t.number: t.values["latency_ms"] for t in measured},
        **{t.number: str(t.failure_kind) for t in failed},
        **{t.number: "pruned" for t in pruned},
    }
    assert plot["marks"] == len(marks)
    lines = {t["name"].split()[0]: t for t in plot["traces"] if t["mode"] == "lines"}
    assert set(lines["default"]["y"]) == {default.values["latency_ms"]}
    expected, least = [], math.inf
    for trial in feasible:
        if trial.values["latency_ms"] < least:
            least = trial.values["latency_ms"]
            expected.append((trial.number, least))
    assert list(zip(lines["incumbent"]["x"], lines["incumbent"]["y"], strict=True))[:-1] == expected

    rows = {row[0][0]: row for row in tab.rows("comparison")}
    assert list(rows) == ["best", "default", *BASELINES]
    assert int(rows["best"][1][0]) == best.number and int(rows["default"][1][0]) == 0
    for label, row in rows.items():
        trial = trials[int(row[1][0])]
        for cell, (metric, unit) in zip(
            row[2:5], (("latency_ms", "ms"), ("vram_gib", "GiB"), ("hit_rate", "")), strict=True
        ):
            check_number(*cell, trial.values[metric], unit)
        if label != "default":
            expected_gain = 1 - trial.values["latency_ms"] / default.values["latency_ms"]
            assert math.isclose(float(row[5][1] or "nan"), expected_gain)

    parameters = {row[0][0]: row for row in tab.rows("parameters")}
    assert set(parameters) == set(default.config) | set(best.config)
    for name in ("threads", "policy"):
        assert [cell[0] for cell in parameters[name][1:]] == [str(default.config[name]), str(best.config[name])]
    differs = [name for name in parameters if default.config.get(name) != best.config.get(name)]
    assert list(parameters)[: len(differs)] == differs


def test_every_number_on_the_page_is_the_stores(tab: Tab, storage: str) -> None:
    tab.go()
    listed = {row[0][0]: row for row in tab.rows("studies")}
    assert sorted(listed) == sorted([NAME, *DOMAINS])
    trials = stored(storage, NAME)
    row = listed[NAME]
    assert [int(cell[0]) for cell in row[3:8]] == [25, 4, 1, 1, 0]

    tab.page.get_by_role("link", name=NAME, exact=True).click()
    tab.page.wait_for_selector("#at-study")
    tab.page.wait_for_selector("#at-parameters")
    tab.page.wait_for_selector(".js-plotly-plot .main-svg")
    tab.settle()
    check_overview(tab, trials)
    cards = tab.page.evaluate(_CARDS)
    assert [row[9], row[10]] == [tuple(cards["best"][:2]), tuple(cards["gain over default"][:2])]
    assert tab.page.locator("#at-study").inner_text() == NAME

    tab.section("Failures")
    failed = [t for t in trials if t.state is TrialState.FAILED]
    kinds = {row[0][0]: [cell[0] for cell in row[1:]] for row in tab.rows("failures")}
    for kind, (count, last, message) in kinds.items():
        of_kind = [t for t in failed if str(t.failure_kind) == kind]
        assert [int(count), int(last)] == [len(of_kind), of_kind[-1].number]
        assert message == of_kind[-1].failure_message
    assert sum(int(count) for count, *_ in kinds.values()) == len(failed)
    assert [row[2][0] for row in tab.rows("pruned")] == ["behind <script>alert(1)</script>"]

    tab.section("Trials")
    for row in tab.rows("trials"):
        trial = trials[int(row[0][0])]
        assert row[1][0] == trial.state.value + (f": {trial.failure_kind}" if trial.failure_kind else "")
        if trial.metrics:
            check_number(*row[3], trial.values["latency_ms"], "ms")
    assert len(tab.rows("trials")) == len(trials)


def test_a_search_is_followed_without_a_click_and_nothing_chosen_is_lost(tab: Tab, storage: str) -> None:
    study = make(storage, [{"latency_ms": 5.0}, {"latency_ms": 4.0}], name="followed")
    tab.go(study="followed", section="Trials")
    tab.choose("by", "latency_ms")
    assert [row[3][0] for row in tab.rows("trials")] == ["4 ms", "5 ms"]
    study.tell(study.ask(), {"latency_ms": 1.0 / 3.0})
    tab.page.wait_for_function("() => document.querySelectorAll('#at-trials tbody tr').length === 3")
    tab.settle()
    assert tab.rows("trials")[0][3] == ("0.3333 ms", str(1.0 / 3.0))
    assert tab.page.evaluate(_CARDS)["best"][1] == str(1.0 / 3.0)
    assert tab.page.get_by_role("radio", name="Trials").get_attribute("aria-checked") == "true"
    assert tab.page.locator(".st-key-by input").input_value() == "latency_ms"
    assert "section=Trials" in tab.page.url and "by=latency_ms" in tab.page.url


# ---------------------------------------------------------------- pages, sections, pictures


# What axe-core finds in the frame that Streamlit draws around every page, which no page of ours can change.
_STREAMLITS_OWN: dict[str, str] = {}


def violations(tab: Tab, place: str) -> list[str]:
    """What axe-core finds serious or critical on a page."""
    found = Axe().run(tab.page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{place}: {violation['id']} at {node['target']}: {node['html'][:200]} {[c['message'] for c in node['any']]}"
        for violation in found
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
        if not any(own in " ".join(map(str, node["target"])) for own in _STREAMLITS_OWN)
    ]


def nothing_broke(tab: Tab) -> None:
    assert tab.page.locator("[data-testid=stException]").count() == 0
    assert "could not be drawn" not in tab.page.inner_text("body")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_page_is_accessible(opened: Callable[..., Tab], tmp_path: Path, dark: bool) -> None:
    tab = opened(dark=dark)
    folder = Path(os.environ.get("AUTOTUNE_ARTIFACTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)

    def look(place: str) -> None:
        nothing_broke(tab)
        tab.page.screenshot(path=folder / f"dashboard-{place}-{'dark' if dark else 'light'}.png", full_page=True)
        found.extend(violations(tab, place))

    found: list[str] = []
    tab.go()
    look("studies")
    for link in () if dark else ("Compare", "Launch", "Hardware"):  # they are made of what the others are made of
        tab.page.get_by_role("link", name=link, exact=True).click()
        tab.page.wait_for_function("name => document.querySelector('h1')?.innerText === name", arg=link)
        tab.settle()
        if link == "Compare":
            for name in ("moe-cache", "compression"):
                tab.choose("studies", name)
            tab.page.keyboard.press("Escape")
        look(link.lower())
    tab.go(study=NAME)
    for section in SECTIONS[:3] if dark else SECTIONS:
        tab.section(section)
        look(f"study-{section.lower().replace(' ', '-')}")
    tab.go(study=NAME, trial="5")
    look("trial-failed")
    tab.go(study="moe-cache", trial="1")
    look("trial")
    assert not found, "\n".join(found)


def test_every_picture_of_the_domains_and_some_of_the_engines(tab: Tab, storage: str) -> None:
    with closing(Store(storage, read_only=True)) as store:
        studies = {summary.study.name: summary.study for summary in store.studies()}
    for name in (NAME, *DOMAINS):
        tab.go(study=name)
        tab.section("Pictures")
        views = views_of(studies[name])
        kinds = ENGINES if name == NAME else [kind for kind in views if kind not in VIEWS]
        shown = set()
        for kind in kinds:
            tab.choose("picture", views[kind].title)
            nothing_broke(tab)
            if tab.page.locator(".js-plotly-plot").count():
                shown.add(kind)
        assert shown == set(kinds)


def test_the_sections_are_reached_and_chosen_by_the_keyboard(tab: Tab) -> None:
    tab.go(study="moe-cache")
    focused = "() => document.activeElement.closest('.st-key-section') ? document.activeElement.innerText : ''"
    for _ in range(40):
        tab.page.keyboard.press("Tab")
        if tab.page.evaluate(focused):
            break
    assert tab.page.evaluate(focused) == "Overview"
    for section in ("Pictures", "Trials"):
        tab.page.keyboard.press("ArrowRight")
        assert tab.page.evaluate(focused) == section
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector("#at-trials")
    tab.settle()
    assert "section=Trials" in tab.page.url


# ---------------------------------------------------------------- take away


def check_file(name: str, content: bytes) -> None:
    """A file is what its suffix says."""
    suffix = Path(name).suffix
    if suffix == ".pt":
        assert torch.load(io.BytesIO(content), weights_only=True) is not None
        return
    text = content.decode()
    if suffix == ".json":
        assert json.loads(text)
    elif suffix == ".toml":
        assert tomllib.loads(text)
    elif suffix == ".py":
        compile(text, name, "exec")
    else:
        assert suffix in (".args", ".sh", ".ini"), name
        words = shlex.split(text, comments=True)
        assert words[0].startswith("-") or "=" in words[0]


@pytest.mark.parametrize("study", DOMAINS)
def test_every_format_is_downloaded_and_can_be_read(tab: Tab, storage: str, study: str, tmp_path: Path) -> None:
    with closing(Store(storage, read_only=True)) as store:
        view = StudyView.read(store, study)
    best = view.best or view.pareto[0]
    formats = ["json", *exporters_of(view.study)]
    tab.go(study=study, section="Take away")
    read = []
    for name in formats:
        tab.choose("format", name)
        button = tab.page.get_by_role("button", name="Download", exact=True)
        if not button.count():
            with pytest.raises(UsageError) as refused:
                export_config(view.study, name, best)
            assert str(refused.value) in tab.page.inner_text("body")
            continue
        with tab.page.expect_download() as downloading:
            button.click()
        file = tmp_path / downloading.value.suggested_filename
        downloading.value.save_as(file)
        if file.suffix == ".zip":
            with zipfile.ZipFile(file) as archive:
                for member in archive.namelist():
                    check_file(member, archive.read(member))
        else:
            check_file(file.name, file.read_bytes())
        read.append(name)
    assert len(read) >= len(formats) - 2


# ---------------------------------------------------------------- searches


def test_a_search_is_launched_watched_stopped_and_gone_on_with(tab: Tab, storage: str) -> None:
    page = tab.page

    def state() -> tuple[str, int]:
        with closing(Store(storage, read_only=True)) as store:
            found = store.find_study("launched")
            return ("", 0) if found is None else (found.state, len(store.trials(found.id)))

    tab.go()
    page.get_by_role("link", name="Launch", exact=True).click()
    page.wait_for_selector(".st-key-study-name")
    tab.settle()
    tab.choose("domain", "expert-placement")
    main = page.get_by_test_id("stMainBlockContainer")  # Streamlit's own header has a button to stop drawing
    page.locator(".st-key-study-name input").fill("launched")
    page.locator(".st-key-trials input").fill("5000")
    tab.choose("strategy", "random")
    page.get_by_text("Options of expert-placement").click()
    page.locator(".st-key-option-expert-placement-program_seconds input").fill("0.2")
    page.get_by_role("button", name="Launch", exact=True).click()
    page.get_by_text("Launched, in a process of its own").wait_for()
    until(lambda: state()[1] > 2)
    page.get_by_text(re.compile("process .* runs")).wait_for()
    main.get_by_role("button", name="Stop").click()
    page.get_by_text(re.compile("process .* ended")).wait_for()
    stopped, trials = state()
    assert stopped == "interrupted" and trials < 5000
    with closing(Store(storage, read_only=True)) as store:
        assert "the dashboard" in str(store.load_study("launched").stop_reason)

    tab.go(study="launched")
    assert tab.page.evaluate(_CARDS)["trials finished"][0].startswith(str(trials))
    page.get_by_role("button", name="Resume").click()
    until(lambda: state()[1] > trials)
    main.get_by_role("button", name="Stop").click()
    until(lambda: state()[0] == "interrupted")
