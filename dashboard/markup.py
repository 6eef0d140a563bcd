"""HTML for the page. Every text goes through `markupsafe`, so that names and logs are shown, never interpreted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from markupsafe import Markup

from autotune import text
from autotune.objective import unit_of

# Colours mix with the text's own, so that one sheet fits the light and the dark theme. The last rules give parts that are
# Streamlit's the contrast of 4.5 that WCAG asks for.
STYLE = Markup("""<style>
.block-container { padding: 4.5rem 3rem 3rem; }
.at-name { margin: 0; padding: 0; }
.at-muted { opacity: .75; }
.at-name { font-size: 1.6rem; font-weight: 650; overflow-wrap: anywhere; line-height: 1.25; }
.at-cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .75rem; }
.at-card { border: 1px solid color-mix(in srgb, currentColor 16%, transparent); border-radius: .6rem; padding: .7rem .9rem; }
.at-card .at-label { font-size: .8rem; opacity: .7; }
.at-card .at-value { font-size: 1.7rem; font-weight: 600; line-height: 1.3; font-variant-numeric: tabular-nums; }
.at-card .at-note { font-size: .8rem; opacity: .7; overflow-wrap: anywhere; }
.at-scroll { overflow-x: auto; }
.at-table { border-collapse: collapse; min-width: 40%; font-size: .92rem; font-variant-numeric: tabular-nums; }
.at-table th { text-align: left; font-weight: 600; font-size: .8rem; opacity: .75; }
.at-table th, .at-table td { padding: .4rem 1.3rem .4rem 0; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid color-mix(in srgb, currentColor 12%, transparent); }
.at-table .at-num { text-align: right; }
.at-table td.at-wrap { white-space: normal; min-width: 9rem; overflow-wrap: anywhere; }
.at-table td.at-wrap:last-child { min-width: 20rem; }
.at-table tr.at-strong td { font-weight: 650; }
.at-table tr.at-same td { opacity: .75; }
.at-good { color: light-dark(#15803d, #4ade80); } .at-bad { color: light-dark(#b91c1c, #f87171); }
.at-table a { color: light-dark(#1d4ed8, #93c5fd); }
.at-bars { display: flex; align-items: flex-end; gap: 1px; height: 2.2rem;
  width: 22rem; max-width: 35vw; margin-bottom: .15rem; }
.at-bars span { flex: 1 1 0; min-width: 1px; min-height: 1px; background: #3b82f6; border-radius: 1px 1px 0 0; }
.stApp [data-testid=stCaptionContainer] { color: inherit; opacity: .75; }
.stApp [data-testid=stButtonGroup] [aria-checked=true] p { color: light-dark(#9f1239, #fecdd3); }
.stApp code .token { color: inherit; }
.stApp code .token.property { color: light-dark(#1d4ed8, #93c5fd); }
.stApp code .token:is(.string, .number, .boolean) { color: light-dark(#166534, #86efac); }
</style>""")


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its content, and whether it is a number (aligned to the right) or may wrap."""

    content: str | Markup
    numeric: bool = False
    wraps: bool = False

    def html(self, tag: str = "td") -> Markup:
        kind = " ".join(name for name, on in (("at-num", self.numeric), ("at-wrap", self.wraps and tag == "td")) if on)
        return Markup("<{0} class='{1}'>{2}</{0}>").format(tag, kind, self.content)


@dataclass(frozen=True)
class Row:
    """A row of a table; `kind` is a class of the style sheet."""

    cells: Sequence[Cell]
    kind: str = ""


def table(name: str, columns: Sequence[Cell], rows: Sequence[Row]) -> Markup:
    """A table that scrolls sideways where it is wider than the page. `name` identifies it in the document."""
    head = Markup("").join(column.html("th") for column in columns)
    body = Markup("").join(
        Markup("<tr class='{}'>{}</tr>").format(row.kind, Markup("").join(cell.html() for cell in row.cells))
        for row in rows
    )
    return Markup(
        "<div class='at-scroll'><table class='at-table' id='at-{}'><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(name, head, body)


def cards(items: Sequence[tuple[str, str | Markup, str | Markup]]) -> Markup:
    """Headline numbers as ``(label, value, note)``."""
    inner = Markup("").join(
        Markup(
            "<div class='at-card'><div class='at-label'>{}</div><div class='at-value'>{}</div>"
            "<div class='at-note'>{}</div></div>"
        ).format(label, value, note)
        for label, value, note in items
    )
    return Markup("<div class='at-cards'>{}</div>").format(inner)


def exact(value: float | None, unit: str = "", half_width: float | None = None) -> Markup:
    """A rounded number with its unit; pointing at it shows every digit that the store holds."""
    if value is None or math.isnan(value):
        return Markup("<span title='no number is stored'>{}</span>").format(text.NOTHING)
    noise = f" ± {text.number(half_width)}" if half_width else ""
    return Markup("<span title='{}'>{}</span>").format(
        f"{value!r}", text.number(value) + noise + (f" {unit}" if unit else "")
    )


def metric_cell(name: str, value: float | None, half_width: float | None = None) -> Cell:
    """A metric's value with the unit that its name ends in."""
    return Cell(exact(value, unit_of(name), half_width), numeric=True)


def gain(value: float | None) -> Markup:
    """A relative gain, green when better and red when worse."""
    kind = "" if not value else "at-good" if value > 0 else "at-bad"
    title = "undefined" if value is None else repr(value)
    return Markup("<span class='{}' title='{}'>{}</span>").format(kind, title, text.percent(value))


def study_link(name: str) -> Markup:
    """A link to the study's own address."""
    return Markup("<a href='./?{}' target='_self'>{}</a>").format(urlencode({"study": name}), name)


def trial_link(study: str, number: int) -> Markup:
    """A link to the trial's own address."""
    query = urlencode({"study": study, "trial": number})
    return Markup("<a href='./?{}' target='_self' aria-label='trial {}'>{}</a>").format(query, number, number)


def value_cell(value: Any, scale: tuple[float, float] | None = None) -> Cell:
    """A parameter's value; a vector of numbers as bars between `scale`'s ends (which contain zero) over its summary."""
    if value is None:
        return Cell(
            Markup("<span class='at-muted' title='inactive in this configuration'>{}</span>").format(text.NOTHING)
        )
    words = text.value_text(value)
    if not text.is_numeric_vector(value) or scale is None:
        return Cell(words, wraps=True)
    low, high = scale
    bars = Markup("").join(
        Markup("<span style='height:{:.1f}%' title='{}'></span>").format(
            100 * (v - low) / (high - low), f"element {index}: {v!r}"
        )
        for index, v in enumerate(value)
    )
    return Cell(Markup("<div class='at-bars'>{}</div>{}").format(bars, words), wraps=True)


def common_scale(*vectors: Any) -> tuple[float, float] | None:
    """Ends of a scale on which these vectors can be compared, zero included; None where none is a vector of numbers."""
    values = [float(v) for vector in vectors if text.is_numeric_vector(vector) for v in vector]
    low, high = min([0.0, *values]), max([0.0, *values])
    return (low, high) if high > low and math.isfinite(high - low) else None
