"""Pieces of the page. Every text goes through `markupsafe`, so that names, messages and logs are shown, never interpreted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from autotune.plots.embedding import POLICY, TEXT_BY_THEME

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2430; --soft: #5a6270; --line: #d5d9e0; --back: #ffffff; --panel: #f5f7fa;
  --good: #0a6b4f; --bad: #b3361b; --link: #0b5cad; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --soft: #a6adba; --line: #363c47; --back: #12151b;
  --panel: #1b1f27; --good: #4fc79a; --bad: #ff8f70; --link: #7db8f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 76rem; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif; }
h1 { overflow-wrap: anywhere; line-height: 1.2; margin: 0 0 .3rem; }
h2 { margin: 2.5rem 0 .7rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
h3 { margin: 1.6rem 0 .3rem; font-size: 1.05rem; }
p, li { overflow-wrap: anywhere; } a { color: var(--link); }
.soft { color: var(--soft); } .good { color: var(--good); } .bad { color: var(--bad); }
nav ul { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; list-style: none; padding: 0; margin: 1rem 0 0; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(12rem, 1fr)); gap: .8rem; margin: 0; }
.cards > div { background: var(--panel); border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem; }
.cards dt { color: var(--soft); font-size: .85rem; } .cards dd { margin: 0; font-size: 1.6rem; font-weight: 600; }
.cards dd.note { font-size: .85rem; font-weight: 400; color: var(--soft); }
.scroll { overflow-x: auto; margin: 1.2rem 0; } .scroll:focus-visible { outline: 2px solid var(--link); }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem 1.4rem .35rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; } td.num, th.num { text-align: right; white-space: nowrap; }
td.wrap { min-width: 12rem; overflow-wrap: anywhere; } tr.strong td { font-weight: 650; }
figure { margin: 1.5rem 0; } figcaption h3 { margin: 0; } figcaption p { margin: 0 0 .4rem; color: var(--soft); }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: .4rem; padding: .8rem; overflow-x: auto;
  font-size: .85rem; line-height: 1.35; }
@media print { nav { display: none; } figure, tr { break-inside: avoid; } }
"""

Cell = str | Markup


@dataclass(frozen=True)
class Column:
    """A column's heading, and whether it holds numbers (aligned to the right) or long texts."""

    title: str
    kind: str = ""


def table(caption: str, columns: Sequence[Column], rows: Iterable[Sequence[Cell]], strong: int | None = None) -> Markup:
    """A table that scrolls sideways where it is wider than the page; row number `strong` is set off."""
    head = Markup("").join(Markup("<th scope='col' class='{}'>{}</th>").format(c.kind, c.title) for c in columns)
    body = Markup("").join(
        Markup("<tr class='{}'>{}</tr>").format(
            "strong" if place == strong else "",
            Markup("").join(
                Markup("<td class='{}'>{}</td>").format(c.kind, cell) for c, cell in zip(columns, row, strict=True)
            ),
        )
        for place, row in enumerate(rows)
    )
    return Markup(
        "<div class='scroll' tabindex='0' role='region' aria-label='{}'><table><caption>{}</caption>"
        "<thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>"
    ).format(caption, caption, head, body)


def cards(items: Iterable[tuple[str, Cell, str]]) -> Markup:
    """Headline numbers as ``(label, value, note)``."""
    inner = Markup("").join(
        Markup("<div><dt>{}</dt><dd>{}</dd><dd class='note'>{}</dd></div>").format(*item) for item in items
    )
    return Markup("<dl class='cards'>{}</dl>").format(inner)


def section(name: str, title: str, *parts: Markup) -> Markup:
    """A landmark of the page."""
    return Markup("<section id='{0}' aria-labelledby='{0}-title'><h2 id='{0}-title'>{1}</h2>{2}</section>").format(
        name, title, Markup("").join(parts)
    )


def paragraph(words: Cell, kind: str = "") -> Markup:
    return Markup("<p class='{}'>{}</p>").format(kind, words)


def bullets(items: Iterable[Cell]) -> Markup:
    return Markup("<ul>{}</ul>").format(Markup("").join(Markup("<li>{}</li>").format(item) for item in items))


def preformatted(text: str, label: str) -> Markup:
    return Markup("<pre tabindex='0' role='region' aria-label='{}'>{}</pre>").format(label, text)


def document(title: str, header: Markup, sections: Sequence[tuple[str, str, Markup]], scripts: str) -> str:
    """The whole page, with links to its sections given as ``(name, title, section)``."""
    links = Markup("").join(Markup("<li><a href='#{}'>{}</a></li>").format(name, words) for name, words, _ in sections)
    return str(
        Markup(
            "<!DOCTYPE html>\n<html lang='en'><head><meta charset='utf-8'>"
            "<meta name='viewport' content='width=device-width, initial-scale=1'>{}<title>{}</title><style>{}{}</style></head>"
            "<body><header>{}<nav aria-label='Sections'><ul>{}</ul></nav></header><main>{}</main>{}</body></html>\n"
        ).format(
            Markup(POLICY),
            title,
            Markup(_STYLE),
            Markup(TEXT_BY_THEME),
            header,
            links,
            Markup("").join(one for _, _, one in sections),
            Markup(scripts),
        )
    )
