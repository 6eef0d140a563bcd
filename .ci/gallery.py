"""Writes docs/gallery.md: the pictures that lie in docs/images, and every picture that `autotune plot` can draw.

A file is named `dashboard.png` or `dashboard-PAGE.png`, `plot-KIND.png`, or `plot-DOMAIN-KIND.png`. `make gallery` runs this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from autotune.domain import domain_names, load_domain
from autotune.plots import VIEWS
from autotune.viewing import View, Viewing

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {
    "": "A study: its history, and its best configuration beside the default",
    "studies": "All studies of a store, to search, sort, compare and archive",
    "study": "A study: its best configuration beside the default, its history, its failures",
    "compare": "Studies beside each other",
    "trial": "A trial: every sample, the environment, the log, and its failure explained",
    "launch": "Starting a search from a form, watching and stopping it",
    "hardware": "The machines that measured, with links and computation against their rooflines",
    "pictures": "A picture of a study, chosen from all that there are",
    "trials": "Trials by pages, sorted and filtered",
    "failures": "Failures by cause, with their messages",
    "take-away": "The configuration by any exporter of the domain, to copy or download",
    "dark": "The dark theme",
}
_BEGIN = """\
# Gallery

Pages of the [dashboard](dashboard.md) and pictures of `autotune plot`, on studies that were really searched. This page is
written by `make gallery`.
"""
_PLOTS = """
## Pictures of a study

`autotune plot STUDY --kind KIND --out FILE` draws any of them as png, svg or html, `study.plot(KIND)` returns it as a Plotly
figure, and the dashboard and `autotune report` show them. Click in the legend to hide, drag to zoom.
"""


def _table(views: Mapping[str, View]) -> str:
    rows = "".join(f"| `{name}` | {view.title} | {view.summary} |\n" for name, view in views.items())
    return f"\n| kind | picture | how it is read |\n| --- | --- | --- |\n{rows}"


def _shown(pictures: Mapping[str, str]) -> str:
    return "".join(f"\n![{text}](images/{name})\n" for name, text in pictures.items())


def _pages(files: list[str]) -> Iterator[tuple[str, str]]:
    for name in files:
        page = Path(name).stem.removeprefix("dashboard").lstrip("-")
        # A page may be there several times, as ``study-dark`` is.
        known = next((PAGES[part] for part in (page, page.partition("-")[0]) if part in PAGES), page.replace("-", " "))
        yield name, f"The dashboard. {known}"


def _drawn(files: list[str], prefix: str, views: Mapping[str, View]) -> dict[str, str]:
    named = {f"{prefix}{kind}.png": f"{view.title}. {view.summary}" for kind, view in views.items()}
    return {name: named[name] for name in files if name in named}


def gallery(files: list[str]) -> str:
    """The page for these files of docs/images.

    Raises:
        ValueError: for a file that is named like nothing that there is.
    """
    pages = dict(_pages([name for name in files if name.startswith("dashboard")]))
    own = _drawn(files, "plot-", VIEWS)
    text = _BEGIN + "\n## The dashboard\n" + _shown(pages) + _PLOTS + _table(VIEWS) + _shown(own)
    told = {*pages, *own}
    for name in domain_names():
        domain = load_domain(name)
        if isinstance(domain, Viewing):
            views = domain.views()
            drawn = _drawn(files, f"plot-{name}-", views)
            text += f"\n### {name}\n" + _table(views) + _shown(drawn)
            told |= set(drawn)
    unknown = sorted(set(files) - told)
    if unknown:
        raise ValueError(f"docs/images/{unknown[0]} is named neither dashboard-PAGE.png nor plot-[DOMAIN-]KIND.png")
    return text


def main() -> None:
    """Writes the page."""
    pictures = sorted(path.name for path in (DOCS / "images").iterdir() if path.is_file())
    (DOCS / "gallery.md").write_text(gallery(pictures), encoding="utf-8")


if __name__ == "__main__":
    main()
