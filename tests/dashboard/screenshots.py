"""The documentation's pictures of the dashboard, made by the real command in a real browser.

    python -m tests.dashboard.screenshots --storage sqlite:///pictures.db

makes the store by real searches of some minutes where it does not exist yet, then draws every page of it.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser

import autotune
from autotune.store import Store
from tests.dashboard.browser import Server, Tab, chromium, serve

_IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
_MOST_BYTES = 150_000
_SEARCHES: Mapping[str, tuple[str, int, dict[str, Any]]] = {
    "moe-cache": ("moe-cache", 60, {}),
    "training-layout": ("training-layout", 40, {"options": {"model": "llama3-70b", "gpus": "64"}}),
    "expert-placement": ("expert-placement", 30, {"strategy": "random", "options": {"program_seconds": "0.5"}}),
    "compression": ("compression", 40, {"options": {"task": "digits"}}),
    "compression in 20 rounds": ("compression", 24, {"options": {"task": "digits", "rounds": "20"}}),
    "moe-cache tpe": ("moe-cache", 30, {"strategy": "tpe"}),
}


@dataclass(frozen=True)
class Shot:
    """A picture: the address it is of, what is done there, and the theme."""

    address: Mapping[str, str]
    then: Callable[[Tab], None] = Tab.settle
    dark: bool = False


def _page(name: str, then: Callable[[Tab], None] = Tab.settle) -> Callable[[Tab], None]:
    def go(tab: Tab) -> None:
        tab.page.get_by_role("link", name=name, exact=True).click()
        tab.page.wait_for_function("name => document.querySelector('h1')?.innerText === name", arg=name)
        tab.settle()
        then(tab)

    return go


def _compared(tab: Tab) -> None:
    for name in ("moe-cache", "moe-cache tpe"):
        tab.choose("studies", name)
    tab.page.keyboard.press("Escape")
    tab.page.locator("h1").click()
    tab.settle()


def _form(tab: Tab) -> None:
    tab.choose("domain", "training-layout")
    tab.page.get_by_text("Options of training-layout").click()
    tab.settle()


def _own_picture(tab: Tab) -> None:
    tab.choose("picture", "Accuracy against traffic")


_SHOTS: Mapping[str, Shot] = {
    "studies": Shot({}),
    "study": Shot({"study": "moe-cache"}),
    "study-dark": Shot({"study": "moe-cache"}, dark=True),
    "pictures": Shot({"study": "compression", "section": "Pictures"}, _own_picture),
    "trials": Shot({"study": "training-layout", "section": "Trials"}),
    "failures": Shot({"study": "compression in 20 rounds", "section": "Failures"}),
    "take-away": Shot({"study": "moe-cache", "section": "Take away", "format": "llama.cpp"}),
    "trial": Shot({"study": "moe-cache", "trial": "1"}),
    "compare": Shot({}, _page("Compare", _compared)),
    "launch": Shot({}, _page("Launch", _form)),
    "hardware": Shot({}, _page("Hardware")),
}


def make(storage: str) -> None:
    """Search what the pictures show."""
    for study, (domain, trials, settings) in _SEARCHES.items():
        autotune.search(domain, trials=trials, storage=storage, study=study, seed=0, **settings)


def shoot(browser: Browser, server: Server, shot: Shot) -> bytes:
    """A page as a PNG file of few colours, which is a third as large and looks the same."""
    tab = Tab.open(browser, server.address, dark=shot.dark)
    tab.go(**shot.address)
    shot.then(tab)
    tab.page.mouse.move(2, 500)
    tab.page.evaluate("document.activeElement.blur()")
    image = Image.open(io.BytesIO(tab.page.screenshot()))
    tab.close()
    packed = io.BytesIO()
    image.convert("RGB").quantize(192, dither=Image.Dither.NONE).save(packed, "PNG", optimize=True)
    return packed.getvalue()


def main() -> None:
    """Draw all pictures, or those that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--storage", required=True)
    parser.add_argument("--out", type=Path, default=_IMAGES)
    parser.add_argument("only", nargs="*", help=f"of {', '.join(_SHOTS)}")
    given = parser.parse_args()
    if not Path(given.storage.removeprefix("sqlite:///")).exists():
        make(given.storage)
    Store(given.storage, read_only=True).close()
    with (
        tempfile.TemporaryDirectory() as folder,
        serve(given.storage, Path(folder), "--allow-edit") as server,
        chromium() as browser,
    ):
        for name in given.only or _SHOTS:
            content = shoot(browser, server, _SHOTS[name])
            assert len(content) < _MOST_BYTES, f"{name} has {len(content)} bytes"
            file = given.out / ("dashboard.png" if name == "study" else f"dashboard-{name}.png")
            file.write_bytes(content)
            print(file, len(content))


if __name__ == "__main__":
    main()
