"""Pages drawn by Streamlit's own test harness, without a server."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from typing import Any

import numpy as np
from streamlit.testing.v1 import AppTest

_TIMEOUT_S = 60


def _script(name: str) -> None:
    from importlib import import_module

    from dashboard import visit
    from dashboard.settings import Settings

    visit.page(Settings.read(), import_module(f"dashboard.screens.{name}").show)()


def page(name: str, **address: str) -> AppTest:
    """A page of `dashboard.screens` as yet undrawn, at an address with these parameters."""
    made = AppTest.from_function(_script, default_timeout=_TIMEOUT_S, kwargs={"name": name})
    for key, value in address.items():
        made.query_params[key] = value
    return made


def draw(made: AppTest) -> AppTest:
    """Draw it, anew where it was drawn before. A page that breaks fails the test."""
    made.run()
    assert not made.exception, made.exception[0].message
    return made


def drawn(name: str, **address: str) -> AppTest:
    """A page, drawn."""
    return draw(page(name, **address))


def said(made: AppTest) -> str:
    """Every message on the page."""
    kinds = (made.info, made.warning, made.error, made.success, made.caption, made.code)
    return "\n".join(element.value for kind in kinds for element in kind)


def html(made: AppTest) -> str:
    """Tables, cards and headings."""
    return "\n".join(element.proto.body for element in made.get("html"))


def charts(made: AppTest) -> list[dict[str, Any]]:
    """The pictures on the page, as Plotly is given them."""
    return [json.loads(element.proto.spec) for element in made.get("plotly_chart")]


def numbers(column: Any) -> list[float]:
    """A column of a picture, which Plotly packs where it is an array."""
    if isinstance(column, dict):
        return np.frombuffer(base64.b64decode(column["bdata"]), column["dtype"]).tolist()  # type: ignore[no-any-return]
    return list(column)


def marks(made: AppTest) -> dict[int, Any]:
    """Height of every trial's mark in the one picture by the trial's number; failures have their kind as height."""
    (chart,) = charts(made)
    found: dict[int, Any] = {}
    for trace in chart["data"]:
        if trace.get("mode") == "markers" and trace.get("customdata"):
            for number, y in zip(trace["customdata"], trace["y"], strict=True):
                assert number not in found
                found[number] = y
    return found


def rows(made: AppTest, table: str) -> list[list[str]]:
    """The texts of a table's cells."""
    for element in made.get("html"):
        found = _Table(table)
        found.feed(element.proto.body)
        if found.found:
            return [row for row in found.rows if row]  # the head has no cells of this kind
    raise AssertionError(f"no table {table!r} on this page")


class _Table(HTMLParser):
    """The cells of the body of one table."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.id = f"at-{name}"
        self.rows: list[list[str]] = []
        self.found = self._in = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._in = dict(attrs).get("id") == self.id
            self.found |= self._in
        elif self._in and tag == "tr":
            self.rows.append([])
        elif self._in and tag == "td":
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self._in and self.rows and self.rows[-1]:
            self.rows[-1][-1] += data
