"""The dashboard on a large study, and what it costs those who write.

    python -m benchmarks.dashboard --part paint [--trials 10000] [--repeats 7] [--json FILE]
    python -m benchmarks.dashboard --part writers [--workers 16] [--seconds 20] [--rounds 5] [--postgres URL]

`paint`: in a real browser with nothing cached, how long a study's page takes from the address to the headline numbers and to
the drawn history, how long after a new trial is stored the page shows it when it is asked to refresh, and how long until it
shows it by itself; beside optuna-dashboard on the same study, exported, until its history is drawn.
`writers`: workers that each evaluate for half a second and write to one study, by turns with and without browsers that keep
its pages open; what matters is the ratio of a turn with pages to those before and after it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import psutil
from playwright.sync_api import Browser, Page, sync_playwright

from autotune import Categorical, Failure, Float, Int, Measurement, Metric, SearchSpace, Study

STUDY = "large"
_EVALUATION_S = 0.5
_LIMIT_MS = 120_000
SPACE = SearchSpace(
    [
        Float("share", 0.0, 1.0, size=16, default=0.5),
        Categorical("policy", ["lru", "lfu", "fifo"], default="lru"),
        Int("threads", 1, 64, default=8),
        Float("rate", 1e-5, 1e-1, log=True, default=1e-3),
    ]
)


def fill(url: str, trials: int) -> Study:
    """A study of so many trials: a falling objective with noise, a constraint, one failure in twenty."""
    study = Study.create(
        SPACE,
        "latency_ms",
        constraints=["vram_gib <= 20"],
        storage=url,
        name=STUDY,
        strategy="random",
        budget=10 * trials,
    )
    chance = np.random.default_rng(0)
    while len(study.trials) < trials:
        for trial in study.ask(min(200, trials - len(study.trials))):
            study.tell(trial, _outcome(chance, trial.number))
    return study


def _outcome(chance: np.random.Generator, number: int) -> Measurement | Failure:
    if number and chance.random() < 0.05:
        return Failure("oom", f"trial {number} wanted {chance.integers(25, 90)} GiB")
    latency = 5.0 + 40.0 / np.sqrt(1 + number) + chance.exponential(4.0)
    return Measurement(
        {
            "latency_ms": Metric(float(latency), float(latency) * 0.02),
            "vram_gib": Metric(float(chance.uniform(4, 24))),
            "throughput": Metric(float(1e3 / latency)),
        }
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@contextmanager
def dashboard(url: str) -> Iterator[str]:
    """`autotune dashboard` on a store; its address."""
    port = free_port()
    command = [sys.executable, "-m", "autotune", "dashboard", "--storage", url, "--port", str(port), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("}"):
                break
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def optuna_dashboard(url: str) -> Iterator[str]:
    """optuna-dashboard on an Optuna storage."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("optuna-dashboard")), url, "--port", str(port), "--host", "127.0.0.1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def chromium() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


def _drawn(page: Page) -> None:
    page.wait_for_function("() => document.querySelector('.js-plotly-plot')?._fullLayout", timeout=_LIMIT_MS)


def _finished(page: Page) -> str:
    """The card of finished trials."""
    found: str = page.evaluate(
        "() => [...document.querySelectorAll('.at-card')].find(c => c.innerText.startsWith('trials finished'))?.innerText ?? ''"
    )
    return found


def paint(trials: int, repeats: int, folder: Path) -> dict[str, Any]:
    """Seconds of first paints and refreshes."""
    url = f"sqlite:///{folder / 'large.db'}"
    began = time.perf_counter()
    study = fill(url, trials)
    print(f"{trials} trials written in {time.perf_counter() - began:.0f} s", file=sys.stderr)
    chance = np.random.default_rng(1)
    found: dict[str, Any] = {"trials": trials}
    with chromium() as browser, dashboard(url) as address:
        target = f"{address}study?{urlencode({'study': STUDY})}"
        first = browser.new_page()
        first.goto(address)  # what a server does once in its life is not what is measured
        first.wait_for_selector("#at-studies", timeout=_LIMIT_MS)
        first.close()
        found |= {name: [] for name in ("paint_s", "picture_s", "refresh_s", "live_s")}
        for _ in range(repeats):
            page = browser.new_page()
            began = time.perf_counter()
            page.goto(target)
            page.wait_for_selector(".at-card", timeout=_LIMIT_MS)
            found["paint_s"].append(time.perf_counter() - began)
            _drawn(page)
            found["picture_s"].append(time.perf_counter() - began)
            for name, by_hand in (("refresh_s", True), ("live_s", False)):
                page.wait_for_timeout(3_000)
                trial = study.ask()
                study.tell(trial, _outcome(chance, trial.number))
                before = _finished(page)
                began = time.perf_counter()
                if by_hand:
                    page.get_by_role("button", name="Refresh").click()
                page.wait_for_function(
                    "before => [...document.querySelectorAll('.at-card')].some(c => c.innerText.startsWith('trials finished')"
                    " && c.innerText !== before)",
                    arg=before,
                    timeout=_LIMIT_MS,
                )
                found[name].append(time.perf_counter() - began)
            page.close()
        found["pictures_s"] = _pictures(browser, target)
    found["optuna_dashboard_picture_s"] = _beside(study, repeats, folder)
    return found


def _pictures(browser: Browser, target: str) -> dict[str, float]:
    """Seconds until each picture of the page stands, the first time that it is asked for."""
    from autotune.plots import VIEWS  # noqa: PLC0415

    taken = {}
    for kind, view in VIEWS.items():
        page = browser.new_page()
        began = time.perf_counter()
        page.goto(f"{target}&{urlencode({'section': 'Pictures', 'picture': view.title})}")
        page.wait_for_selector(".js-plotly-plot, [data-testid=stAlert]", timeout=_LIMIT_MS)
        taken[kind] = time.perf_counter() - began
        page.close()
    return taken


def _beside(study: Study, repeats: int, folder: Path) -> list[float]:
    """optuna-dashboard's page of the same study, exported: until its history is drawn."""
    from autotune.integrations.optuna_export import export_study  # noqa: PLC0415

    url = f"sqlite:///{folder / 'optuna.db'}"
    export_study(study, url)
    drawn = []
    with chromium() as browser, optuna_dashboard(url) as address:
        for _ in range(repeats):
            page = browser.new_page()
            began = time.perf_counter()
            page.goto(f"{address}dashboard/studies/1")
            _drawn(page)
            drawn.append(time.perf_counter() - began)
            page.close()
    return drawn


# ---------------------------------------------------------------------------------------------------------- writers


def _work(url: str, place: int, stop: Any, count: Any) -> None:
    study = Study.load(STUDY, storage=url)
    chance = np.random.default_rng(place)
    while not stop.is_set():
        trial = study.ask()
        time.sleep(_EVALUATION_S)
        study.tell(trial, _outcome(chance, trial.number))
        with count.get_lock():
            count.value += 1


def _step_back() -> None:
    """The browsers of this process take what others leave of the cores, as if they ran on a reader's own machine."""
    for process in psutil.Process().children(recursive=True):
        if process.name().startswith("chrom"):
            process.nice(19)


def writers(url: str, workers: int, seconds: float, rounds: int, trials: int, *, aside: bool) -> dict[str, Any]:
    """Trials per second with and without pages open, by turns."""
    fill(url, trials)
    context = multiprocessing.get_context("spawn")
    stop, count = context.Event(), context.Value("i", 0)
    processes = [context.Process(target=_work, args=(url, place, stop, count)) for place in range(workers)]
    for process in processes:
        process.start()
    alone, watched, errors = [], [], 0
    try:
        while not count.value:
            time.sleep(0.1)
        time.sleep(5)  # all of them are at work
        with chromium() as browser, dashboard(url) as address:
            for _ in range(rounds):
                alone.append(_rate(count, seconds))
                pages = [browser.new_page() for _ in range(2)]
                pages[0].goto(f"{address}study?{urlencode({'study': STUDY})}")
                pages[1].goto(address)
                pages[0].wait_for_selector(".at-card", timeout=_LIMIT_MS)
                _drawn(pages[0])
                if aside:
                    _step_back()
                watched.append(_rate(count, seconds))
                errors += sum(
                    page.locator("[data-testid=stException], [data-testid=stAlertContentError]").count()
                    for page in pages
                )
                for page in pages:
                    page.close()
                time.sleep(2)
            alone.append(_rate(count, seconds))
    finally:
        stop.set()
        for process in processes:
            process.join(30)
    # Proposals take longer the more trials there are, so that a turn is compared with those before and after it.
    without = [(before + after) / 2 for before, after in itertools.pairwise(alone)]
    ratios = [with_pages / expected for with_pages, expected in zip(watched, without, strict=True)]
    return {
        "alone_per_s": alone,
        "watched_per_s": watched,
        "lost": 1 - statistics.median(ratios),
        "pages_failed": errors,
    }


def _rate(count: Any, seconds: float) -> float:
    before, began = count.value, time.perf_counter()
    time.sleep(seconds)
    rate: float = (count.value - before) / (time.perf_counter() - began)
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("paint", "writers"), help="both without it")
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each turn")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--postgres", help="store of the writers; SQLite without it")
    parser.add_argument("--browser-aside", action="store_true", help="the browser takes what others leave of the cores")
    parser.add_argument("--json", type=Path, help="write the results there too")
    given = parser.parse_args()
    results: dict[str, Any] = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.part in (None, "paint"):
            results["paint"] = found = paint(given.trials, given.repeats, folder)
            print(f"\n{found['trials']} trials | median s | worst s\n--- | --- | ---")
            for what in [name for name in found if name.endswith("_s") and name != "pictures_s"]:
                print(f"{what} | {statistics.median(found[what]):.2f} | {max(found[what]):.2f}")
            for kind, seconds in found["pictures_s"].items():
                print(f"picture {kind} | {seconds:.2f} |")
        if given.part in (None, "writers"):
            url = given.postgres or f"sqlite:///{folder / 'writers.db'}"
            results["writers"] = found = writers(
                url, given.workers, given.seconds, given.rounds, 2_000, aside=given.browser_aside
            )
            print(f"\n{given.workers} workers: {found}")
    if given.json:
        given.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
