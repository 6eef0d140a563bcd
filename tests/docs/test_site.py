"""The documentation's site: it builds without a complaint, loads nothing from elsewhere, and tells of everything public."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

import autotune

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# Attributes whose target a browser fetches by itself; a link that somebody clicks may lead anywhere.
FETCHED = {"img": "src", "script": "src", "iframe": "src", "source": "src", "video": "src", "link": "href"}


class Fetched(HTMLParser):
    """What a page makes a browser load, and the names that it can be jumped to."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        target = given.get(FETCHED.get(tag, ""))
        if target and given.get("rel") != "canonical":
            self.targets.append(target)
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        if given.get("id"):
            self.anchors.add(str(given["id"]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Fetched]:
    read: dict[Path, Fetched] = {}
    for path in site.rglob("*.html"):
        read[path] = Fetched()
        read[path].feed(path.read_text(encoding="utf-8"))
    return read


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Fetched]) -> None:
    assert len(pages) > 40
    for path, page in pages.items():
        assert [target for target in page.targets if re.match(r"(https?:)?//", target)] == [], path
    for style in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", style.read_text(encoding="utf-8")) == [], style


def test_everything_that_a_page_refers_to_is_in_the_site(pages: dict[Path, Fetched]) -> None:
    for path, page in pages.items():
        if path.name == "404.html":  # it is served for any address, so that its own are absolute
            continue
        for target in page.targets + page.links:
            file = unquote(target.partition("#")[0].partition("?")[0])
            if file and ":" not in file:
                assert (path.parent / file).exists(), f"{path}: {target}"


def test_everything_public_has_its_place_in_the_reference(site: Path, pages: dict[Path, Fetched]) -> None:
    reference = [page for path, page in pages.items() if path.parent.name == "reference"]
    anchors = {anchor for page in reference for anchor in page.anchors}
    index = (DOCS / "reference" / "index.md").read_text(encoding="utf-8")
    for name in autotune.__all__:
        told = name in ("PRUNERS", "STRATEGIES") or f"autotune.{name}" in anchors
        assert told and f"`{name}`" in index, name


def test_the_gallery_shows_what_there_is() -> None:
    """It is a page that is written by `make gallery`; this fails where that was forgotten."""
    gallery = runpy.run_path(str(ROOT / ".ci" / "gallery.py"))["gallery"]
    pictures = sorted(path.name for path in (DOCS / "images").iterdir())
    written = (DOCS / "gallery.md").read_text(encoding="utf-8")
    assert gallery(pictures) == written, "run: make gallery"
    assert sorted(re.findall(r"!\[[^\]]+\]\(images/([^)]+)\)", written)) == pictures
    with pytest.raises(ValueError, match=r"holiday\.png"):
        gallery([*pictures, "holiday.png"])
