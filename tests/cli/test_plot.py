"""`autotune plot` and `autotune report`: files that a reader opens, offline and in a real browser."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from autotune import Failure, Measurement, Metric, Study
from autotune.errors import UsageError
from autotune.plots import VIEWS, browser, image
from autotune.plots.images import find_browser
from tests.cli.conftest import Run
from tests.shown_studies import BASELINES, make

HOSTILE = "<img src=x onerror=alert(1)>"
STORAGE = "sqlite:///autotune.db"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def studied(run: Run) -> Study:
    """Twelve trials in the default storage of an empty folder."""
    del run  # which chooses the folder
    outcomes: list[Any] = [
        Measurement({"latency_ms": Metric(9.0 - i / 2, 0.125, (9.0, 8.0)), "vram_gib": Metric(4.0 + i)})
        for i in range(10)
    ]
    told = [*outcomes, Failure("oom", f"no room {HOSTILE}"), Failure("crash", "boom")]
    return make(STORAGE, told, name=HOSTILE, constraints=["vram_gib <= 9"], baselines=BASELINES, budget=12)


@pytest.mark.usefixtures("studied")
def test_kinds_are_listed_with_what_they_show(run: Run) -> None:
    ran = run("plot")
    assert ran.code == 0
    for name, view in VIEWS.items():
        assert re.search(rf"^  {name} +{re.escape(view.summary)}", ran.out, re.MULTILINE)
    assert "--set x=..." in ran.out
    listed = {one["kind"]: one for one in run("plot", "--json").json}
    assert list(listed) == list(VIEWS)
    assert listed["samples"]["of_trial"] and set(listed["contour"]["options"]["properties"]) == {"metric", "x", "y"}


@pytest.mark.usefixtures("studied")
def test_a_picture_as_a_page_that_works_offline(run: Run, tmp_path: Path) -> None:
    ran = run("plot", HOSTILE, "--kind", "history", "--out", "history.html", "--json")
    assert ran.json == {"study": HOSTILE, "kind": "history", "trial": None, "out": "history.html"}
    check_offline((tmp_path / "history.html").read_text())


def test_the_figure_itself_as_json_is_the_studys(run: Run, studied: Study) -> None:
    told = run("plot", "--kind", "history", "--set", "pruned=no", "--json").json["figure"]
    assert told == json.loads(studied.plot_history(pruned=False).to_json())
    assert told != json.loads(studied.plot("failures").to_json())
    assert len(studied.plot_samples(3).data[0].y) == 2


@pytest.mark.usefixtures("studied")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--kind", "histroy", "--out", "a.html"], "did you mean 'history'?"),
        (["--kind", "history", "--out", "a.pdf"], "does not end in .png, .svg or .html"),
        (["--kind", "history", "--out", "none/a.svg"], "the folder 'none' does not exist"),
        (["--kind", "history"], "--out is missing"),
        (["--out", "a.svg"], "--kind is missing"),
        (["--kind", "history", "--set", "lg=1", "--out", "a.html"], "did you mean 'log'?"),
        (["--kind", "samples", "--trial", "99", "--out", "a.html"], "no trial 99; it has trials 0 to 11"),
        (["--kind", "reports", "--out", "a.html"], "its evaluator reports none"),
    ],
)
def test_wrong_input_is_one_sentence(run: Run, arguments: list[str], said: str, tmp_path: Path) -> None:
    ran = run("plot", HOSTILE, *arguments)
    assert ran.code == 2 and said in ran.err and len(ran.err.splitlines()) == 1
    assert not list(tmp_path.glob("a.*"))


def test_images_are_drawn_by_a_real_browser(studied: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        find_browser()
    except UsageError as error:
        pytest.skip(str(error))
    figure = studied.plot_history()
    with browser():
        drawn, picture = image(figure, "svg"), image(figure, "png")
    root = ET.fromstring(drawn)
    assert root.tag.endswith("svg") and drawn.count(b'class="point') >= 12
    assert picture.startswith(PNG) and len(picture) > 5000
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    with pytest.raises(UsageError, match=r"none is on the path; install one \(apt-get install chromium\)"):
        image(figure, "png")


class Page(HTMLParser):
    """Tags with their attributes, and the text outside of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        (self.scripts if self._inside in ("script", "style") else self.words).append(data)


def check_offline(text: str) -> Page:
    """No tag names anything outside of the page, no study's text is a tag, and plotly.js is there once at most."""
    page = Page(text)
    assert not [t for t in page.tags if t[0] in ("img", "iframe", "link", "object", "embed")]
    for _, attributes in page.tags:
        assert "src" not in attributes and not any(name.startswith("on") for name in attributes)
        assert (attributes.get("href") or "#").startswith("#")
    assert sum(len(script) > 1_000_000 for script in page.scripts) == 1
    assert all("http" not in script for script in page.scripts if len(script) < 1_000_000)
    assert any(a.get("http-equiv") == "Content-Security-Policy" for _, a in page.tags)
    return page


def test_the_report_holds_result_evidence_and_how_to_repeat_it(run: Run, studied: Study, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("an older one")
    ran = run("report", HOSTILE, "--out", "report.html", "--json")
    assert ran.code == 0, ran.err
    assert set(ran.json["pictures"]) | set(ran.json["left_out"]) == set(VIEWS)
    assert {"history", "failures", "importance", "samples"} <= set(ran.json["pictures"])
    page = check_offline((tmp_path / "report.html").read_text())
    words = " ".join(" ".join(page.words).split())
    assert f"report of a search {HOSTILE}" in words.replace(": report", " report")
    best = studied.best
    assert best is not None and best.number == 5  # later ones need more than 9 GiB
    for said in (
        "6.5 ms",
        "latency_ms, trial 5",
        "+27.8 %",
        f"no room {HOSTILE}",
        "boom",
        "<i>prefetch</i>",
        "reports none",
        "6.5 ± 0.125",
        "autotune.search(..., seed=0, strategy='random', trials=12)",
    ):
        assert said in words, said
    assert sum(tag == "figure" for tag, _ in page.tags) == len(ran.json["pictures"])
    assert {"header", "nav", "main"} <= {tag for tag, _ in page.tags}
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    assert links == [f"#{a['id']}" for tag, a in page.tags if tag == "section"]
    assert "<script>" not in words and words.index("trial 5") < words.index("History")


def test_a_report_of_nothing_and_one_in_the_wrong_place(run: Run, tmp_path: Path) -> None:
    make(STORAGE, [], name="empty")
    ran = run("report", "empty", "--out", "report.html")
    assert ran.code == 0 and "0 pictures" in ran.err
    page = Page((tmp_path / "report.html").read_text())
    assert "There is no trial yet." in " ".join(page.words)
    for arguments, said in (([], "--out is missing"), (["--out", "a.pdf"], "does not end in .html")):
        refused = run("report", "empty", *arguments)
        assert refused.code == 2 and said in refused.err


def test_a_search_of_a_domain_is_repeated_by_the_command_that_the_report_tells(run: Run) -> None:
    from autotune.html_report.report import repeated
    from autotune.study_view import StudyView

    study = make(
        STORAGE,
        [{"latency_ms": 1.0}],
        domain="compression",
        options={"domain_options": {"task": "digits", "ratios": [0.1, 0.5]}, "evaluator": "trained"},
        constraints=["vram_gib <= 9"],
        budget=7,
        seed=3,
    )
    del run
    said = repeated(StudyView.read(study.store, "a"))
    assert said == (
        "autotune search compression --study a --storage sqlite:///again.db --set task=digits --set ratios=0.1,0.5 "
        "--evaluator trained --objective 'minimize latency_ms' --constraint 'vram_gib <= 9' --strategy random "
        "--trials 7 --seed 3"
    )
