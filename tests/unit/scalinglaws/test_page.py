"""The page is one document in which all given text is text."""

from __future__ import annotations

import base64
import hashlib
import re
import urllib.parse
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from scalinglaws.errors import AnalysisError
from scalinglaws.page import Figure, Page, Section, Sentence, render
from scalinglaws.tables import Table

HOSTILE = "\"><script>alert('x')</script>&amp; $title"
SVG = '<svg xmlns="http://www.w3.org/2000/svg"><path id="a"/></svg>'
FRAME = pd.DataFrame(
    {
        HOSTILE: [HOSTILE, "b"],
        "loss": [np.inf, 0.1],
        "ci_low": [0, np.nan],
        "ci_high": [np.nan, np.nan],
    }
)
_VOID = {"meta", "link", "img", "input"}


class Reader(HTMLParser):
    """Elements with their attributes, the text between, and a failure where tags do not nest."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(document)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def page(text: str = HOSTILE) -> Page:
    return Page(
        title=text,
        subtitle=text,
        verdict=(Sentence(text), Sentence(text, "open")),
        generated=text,
        warnings=(text,),
        sections=(
            Section(
                text,
                f"{text}\n\nmore",
                (
                    Figure("one", text, text, svg=SVG),
                    Figure("two", text, text, png=b"\x89PNG"),
                    Table("table", text, FRAME, {"loss": text}, notes=text),
                ),
            ),
        ),
        provenance=Table("provenance", text, FRAME),
        checklist=Table("checklist", text, FRAME),
    )


def test_all_text_is_escaped() -> None:
    hostile, plain = Reader(render(page())), Reader(render(page("text")))
    shape = [tag for tag, _ in plain.elements]
    assert [tag for tag, _ in hostile.elements] == shape
    # Titles 2, lines of the head and foot 3, verdict 2, contents 1, section 3, figures 2,
    # captions 3, headings 4, cells 3
    assert hostile.text.count(HOSTILE) == 23
    assert [a["alt"] for a in hostile.all("img")][:2] == [HOSTILE, HOSTILE]


def test_nothing_is_loaded_from_elsewhere() -> None:
    read = Reader(render(page()))
    for tag, attributes in read.elements:
        for name in ("src", "href", "srcset", "action", "poster", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#")), f"<{tag} {name}={value}>"
    assert not re.search(r"url\(|@import", render(page()))


def test_the_policy_names_the_script_and_the_style_that_are_there() -> None:
    document = render(page())
    policy = Reader(document).all("meta")[1]["content"]
    for tag in ("script", "style"):
        text = re.findall(rf"<{tag}>(.*?)</{tag}>", document, re.DOTALL)[0]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in str(policy)
    assert "default-src 'none'" in str(policy)


def test_ids_are_unique_and_links_lead_somewhere() -> None:
    read = Reader(render(page()))
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    inner = [str(a["href"])[1:] for a in read.all("a") if str(a["href"]).startswith("#")]
    assert inner == ["section-1", "section-2", "section-3"]
    assert set(inner) <= set(ids)


def test_figures_are_the_bytes_that_were_given() -> None:
    first, second = Reader(render(page())).all("img")[:2]
    assert base64.b64decode(str(first["src"]).partition(",")[2]) == SVG.encode()
    assert base64.b64decode(str(second["src"]).partition(",")[2]) == b"\x89PNG"


def test_cells_sort_by_raw_numbers_and_download_as_given() -> None:
    read = Reader(render(page()))
    values = [cell.get("data-value") for cell in read.all("td")][:4]
    assert values == [None, "Infinity", None, "0.1"]
    link = next(a for a in read.all("a") if a.get("download") == "table.csv")
    text = urllib.parse.unquote(str(link["href"]).partition(",")[2])
    assert text == FRAME.to_csv(index=False)
    assert not re.search(r"\bnan\b", read.text, re.IGNORECASE)


def test_only_long_tables_are_filtered() -> None:
    def filtered(rows: int) -> bool:
        table = Table("rows", "Rows", pd.DataFrame({"row": range(rows)}))
        made = Page("t", "s", (), "now", sections=(Section("x", items=(table,)),))
        return any("data-filter" in a for a in Reader(render(made)).all("div"))

    assert filtered(30)
    assert not filtered(3)


def test_a_page_without_extras_has_no_empty_parts() -> None:
    text = Reader(render(Page("t", "s", (Sentence("All is well."),), "now"))).text
    assert "All is well." in text
    for part in ("Warnings", "Provenance", "Checklist"):
        assert part not in text


def test_what_cannot_be_shown_is_refused() -> None:
    figure = Figure("one", "", "alt", svg=SVG)
    with pytest.raises(AnalysisError, match="two figures have the name one"):
        Page("t", "s", (), "now", sections=(Section("x", items=(figure, figure)),))
    with pytest.raises(AnalysisError, match="figure one has no picture"):
        Figure("one", "", "alt")
    with pytest.raises(AnalysisError, match="figure one has no alt"):
        Figure("one", "", " ", svg=SVG)
    with pytest.raises(AnalysisError, match="no level `bad`; the levels are finding"):
        Sentence("x", "bad")
