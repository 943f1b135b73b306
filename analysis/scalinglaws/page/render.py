"""The page as one HTML document.

Figures are ``data:`` images, not inline SVG: each image has its own ids, so that the clip paths and
glyphs of several matplotlib figures cannot clash, and nothing in it can run or load anything. A
content security policy forbids the same of the page itself, apart from its own script and style.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib.resources import files
from string import Template
from urllib.parse import quote

from scalinglaws.page.content import Figure, Page, Section, Sentence
from scalinglaws.tables import Cell, Column, Table, columns, csv_text

#: A table with more rows than this has a box to filter them.
_FILTERED = 8


def render(page: Page) -> str:
    """The document; it opens from a file and makes no request. All text of ``page`` is escaped."""
    style, script = _resource("page.css"), _resource("page.js")
    sections = page.all_sections()
    return Template(_resource("page.html")).substitute(
        title=escape(page.title),
        subtitle=escape(page.subtitle),
        generated=escape(page.generated),
        verdict="\n".join(map(_sentence, page.verdict)),
        warnings=_warnings(page.warnings),
        contents="\n".join(
            f'<li><a href="#section-{i}">{escape(section.title)}</a></li>'
            for i, section in enumerate(sections, 1)
        ),
        sections="\n".join(_section(i, section) for i, section in enumerate(sections, 1)),
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
    )


def _resource(name: str) -> str:
    return files("scalinglaws.page").joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The name of an inline script or style in a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _sentence(sentence: Sentence) -> str:
    tag = "" if sentence.level == "finding" else f"<b>{sentence.level.capitalize()}</b> "
    return f'<li class="{sentence.level}">{tag}{escape(sentence.text)}</li>'


def _warnings(warnings: tuple[str, ...]) -> str:
    if not warnings:
        return ""
    items = "\n".join(f"<li>{escape(warning)}</li>" for warning in warnings)
    return (
        '<section class="warnings" aria-labelledby="warnings">'
        f'<h2 id="warnings">Warnings</h2>\n<ul>\n{items}\n</ul></section>'
    )


def _section(number: int, section: Section) -> str:
    paragraphs = [f"<p>{escape(part)}</p>" for part in section.text.split("\n\n") if part.strip()]
    items = [_figure(i) if isinstance(i, Figure) else _table(i) for i in section.items]
    return "\n".join(
        [
            f'<section id="section-{number}"><h2>{escape(section.title)}</h2>',
            *paragraphs,
            '<div class="items">',
            *items,
            "</div></section>",
        ]
    )


def _figure(figure: Figure) -> str:
    if figure.svg:
        kind, suffix, data = "image/svg+xml", "svg", figure.svg.encode()
    else:
        assert figure.png, "a figure has a picture"
        kind, suffix, data = "image/png", "png", figure.png
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    wide = ' class="wide"' if figure.wide else ""
    return (
        f'<figure id="figure-{figure.name}"{wide} data-file="{figure.name}.{suffix}">'
        f'<div class="card"><img src="{source}" alt="{escape(figure.alt)}"></div>'
        f"<figcaption>{escape(figure.caption)}</figcaption></figure>"
    )


def _table(table: Table) -> str:
    shown = list(columns(table))
    head = "".join(f'<th scope="col"{_class(c)}>{escape(c.heading)}</th>' for c in shown)
    rows = zip(*(column.cells for column in shown), strict=True)
    body = "\n".join(
        "<tr>" + "".join(_cell(*pair) for pair in zip(shown, row, strict=True)) + "</tr>"
        for row in rows
    )
    filtered = ' data-filter=""' if len(table.frame) > _FILTERED else ""
    notes = f'<p class="notes">{escape(table.notes)}</p>' if table.notes else ""
    anchor = f"table-{table.name}"
    return (
        f'<div class="table" id="{anchor}"{filtered}>'
        f'<p class="caption" id="{anchor}-caption">{escape(table.caption)}</p>'
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{anchor}-caption">'
        f'<table aria-labelledby="{anchor}-caption"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>{notes}"
        f'<p class="tools"><a download="{table.name}.csv" '
        f'href="data:text/csv;charset=utf-8,{quote(csv_text(table))}">CSV</a></p></div>'
    )


def _class(column: Column) -> str:
    return ' class="number"' if column.numeric else ""


def _cell(column: Column, cell: Cell) -> str:
    value = "" if cell.value is None else f' data-value="{_javascript(cell.value)}"'
    return f"<td{_class(column)}{value}>{escape(cell.text)}</td>"


def _javascript(value: float) -> str:
    """A number as JavaScript's ``Number`` reads it."""
    return repr(value).replace("inf", "Infinity")
