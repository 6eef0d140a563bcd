"""Figures inside HTML that works offline: their data as JSON, and plotly.js once."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go

POLICY = (
    "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; worker-src blob:; form-action 'none'; base-uri 'none'\">"
)
"""What forbids a page any request: all that it shows is in it. Plotly compiles its WebGL code, hence ``unsafe-eval``."""

# Texts of figures are of one grey that is read on every background; here the reader's theme is known, and gives them more.
TEXT_BY_THEME = """
.at-figure { width: 100%; }
.at-figure .parcoords text { text-shadow: none !important; }
.at-figure .main-svg > :not(.hoverlayer) text, .at-figure .parcoords text { fill: #3c4048 !important; }
@media (prefers-color-scheme: dark) {
  .at-figure .main-svg > :not(.hoverlayer) text, .at-figure .parcoords text { fill: #d4d7dd !important; }
}
"""

_DRAW = """
for (const place of document.querySelectorAll('.at-figure')) {
  const told = JSON.parse(document.getElementById(place.id + '-data').textContent);
  Plotly.newPlot(place, told.data, told.layout, {displaylogo: false, responsive: true, plotlyServerURL: ''});
}
"""


def embedded(figure: go.Figure, name: str, label: str) -> str:
    """A figure's place in a page and its data; `scripts` draws it.

    Args:
        name: what identifies the place in the page, letters, digits and ``-``.
        label: what is read aloud in place of the picture; escaped here.
    """
    data = str(figure.to_json()).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    height = f" style='min-height:{figure.layout.height}px'" if figure.layout.height else ""
    return (
        f"<div class='at-figure' id='{name}' role='group' aria-label=\"{html.escape(label)}\"{height}></div>"
        f"<script type='application/json' id='{name}-data'>{data}</script>"
    )


def scripts() -> str:
    """plotly.js, and the lines that draw every embedded figure; belongs at the end of a page, once."""
    from plotly.offline import get_plotlyjs  # noqa: PLC0415

    return f"<script>{get_plotlyjs()}</script><script>{_DRAW}</script>"


def page(figure: go.Figure) -> str:
    """A page of one figure that follows the reader's light or dark theme."""
    head = (
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"{POLICY}<title>autotune: a picture</title>"
    )
    style = f"<style>:root {{ color-scheme: light dark; }} body {{ margin: 1rem; }} {TEXT_BY_THEME}</style></head>"
    return (
        f"{head}{style}<body><main>{embedded(figure, 'figure', 'A picture of a study')}</main>{scripts()}</body></html>"
    )
