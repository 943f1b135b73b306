"""The analysis page as a browser draws it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from browser.chromium import Opened
from scalinglaws.page import Figure, Page, Section, Sentence, render
from scalinglaws.tables import Table

Open = Callable[..., Opened]
HOSTILE = "<script>document.title='taken'</script>"


def drawn(kind: str, colour: str) -> bytes:
    """A real matplotlib figure with a clipped curve, as all of a report have."""
    tokens = np.geomspace(64e3, 3.2e6, 50)
    figure, axes = plt.subplots(figsize=(3.5, 2.9))
    for shift, line in ((0.0, "-"), (0.05, "--")):
        axes.plot(tokens, 3 + shift + 30 * tokens**-0.35, line, color=colour)
    axes.fill_between(tokens, 3 + 29 * tokens**-0.35, 3 + 31 * tokens**-0.35, alpha=0.2)
    axes.set(xscale="log", xlabel="training tokens", ylabel="eval loss (nats/token)")
    out = io.BytesIO()
    figure.savefig(out, format=kind, bbox_inches="tight")
    plt.close(figure)
    return out.getvalue()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    differences = pd.DataFrame(
        {
            "method": ["tracin", "perplexity", HOSTILE, *[f"other-{i}" for i in range(8)]],
            "reference": "random",
            "budget": [640_000, 64_000, 3_130_000, *[100_000.0 * (i + 1) for i in range(8)]],
            "difference": [-0.0213, 0.0102, np.nan, *np.linspace(-0.1, 0.1, 8)],
            "ci_low": [-0.034, -0.002, np.nan, *np.linspace(-0.2, 0.0, 8)],
            "ci_high": [np.nan, 0.022, np.nan, *np.linspace(0.0, 0.2, 8)],
            "p": [0.0004, 0.09, np.nan, *np.linspace(0.01, 0.9, 8)],
            "p_holm": [0.0012, 0.18, np.nan, *np.linspace(0.02, 1.0, 8)],
            "pairs": 3,
            "paired": True,
        }
    )
    cells = pd.DataFrame(
        {
            "number": ["loss of tracin at 640k", "loss of random at 640k"],
            "cell": ["tracin-640k-seed1", "random-640k-seed1"],
            "fingerprint": ["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"] * 2,
        }
    )
    checks = pd.DataFrame({"check": ["three seeds or more", "held-out data"], "met": [True, False]})
    page = Page(
        title="Scaling laws of three selection methods",
        subtitle="GPT-2 small on Wikitext: three budgets, three seeds, one base model.",
        verdict=(
            Sentence("At 640k tokens tracin is 0.021 nats/token better than random."),
            Sentence("Perplexity falls behind random below 100k tokens.", "caution"),
            Sentence("Whether the two curves cross beyond 3.13M is not told.", "open"),
        ),
        generated="2026-01-02 03:04 UTC",
        warnings=(f"left out 1 row of {HOSTILE}: its loss is no number",),
        sections=(
            Section(
                "Losses",
                "Points are seeds; bands hold 95 % of bootstrap draws.\n\nLess is better.",
                (
                    Figure(
                        "loss",
                        "Loss against tokens.",
                        "Two curves fall with tokens.",
                        svg=drawn("svg", "#0072B2").decode(),
                    ),
                    Figure(
                        "residuals",
                        "The same again, in another colour.",
                        "Two more curves.",
                        svg=drawn("svg", "#D55E00").decode(),
                    ),
                    Figure(
                        "bitmap",
                        "A bitmap.",
                        "Two curves as a bitmap.",
                        png=drawn("png", "#009E73"),
                        wide=True,
                    ),
                ),
            ),
            Section(
                "Differences",
                items=(
                    Table(
                        "differences",
                        "Differences to the reference, in nats a token",
                        differences,
                        notes="Holm's correction covers the whole table.",
                    ),
                ),
            ),
        ),
        provenance=Table("provenance", "Where each number comes from", cells),
        checklist=Table("checklist", "What a careful reader asks", checks),
    )
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(render(page), encoding="utf-8")
    return file


def column(page: Opened, place: int) -> list[str]:
    cells = page.driver.find_elements(
        By.CSS_SELECTOR, f"#table-differences tbody td:nth-child({place})"
    )
    return [cell.text for cell in cells]


def press_heading(page: Opened, place: int) -> str | None:
    heading = page.driver.find_element(By.CSS_SELECTOR, f"#table-differences th:nth-child({place})")
    heading.find_element(By.TAG_NAME, "button").click()
    return heading.get_attribute("aria-sort")


def test_it_asks_for_nothing_and_complains_of_nothing(browser_page: Open, path: Path) -> None:
    page = browser_page(path)
    assert page.requests() == [page.url]
    assert page.complaints() == []
    assert page.driver.title == "Scaling laws of three selection methods"


def test_names_are_text(browser_page: Open, path: Path) -> None:
    page = browser_page(path)
    assert HOSTILE in column(page, 1)
    assert page.run("return document.scripts.length") == 1


def test_the_policy_stops_what_is_not_the_pages_own(browser_page: Open, path: Path) -> None:
    page = browser_page(path)
    page.run(
        "const s = document.createElement('script'); s.textContent = 'window.taken = 1';"
        "document.body.append(s); const i = new Image(); i.src = 'http://127.0.0.1:9/x.png';"
        "document.body.append(i);"
    )
    assert page.run("return window.taken") is None
    assert any("Content Security Policy" in message for message in page.complaints())


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("scripts", [True, False])
def test_figures_are_drawn_and_nothing_overflows(
    browser_page: Open, path: Path, width: int, scripts: bool
) -> None:
    page = browser_page(path, width=width, scripts=scripts)
    images = page.driver.find_elements(By.CSS_SELECTOR, "figure img")
    assert len(images) == 3
    for image in images:
        assert image.size["width"] > 250
        assert image.size["height"] > 150
        assert int(image.get_property("naturalWidth")) > 0  # type: ignore[arg-type]
        assert image.get_attribute("alt")
    assert page.overflow() == 0
    assert len(column(page, 1)) == 11


def test_a_wide_table_scrolls_in_its_box_on_a_phone(browser_page: Open, path: Path) -> None:
    page = browser_page(path, width=360)
    box = "document.querySelector('#table-differences .scroll')"
    assert page.run(f"return {box}.scrollWidth > {box}.clientWidth")


def test_sorting_is_by_number_and_toggles(browser_page: Open, path: Path) -> None:
    page = browser_page(path)
    assert press_heading(page, 3) == "ascending"
    up = column(page, 3)
    assert up[:2] == ["64k", "100k"]
    assert up[-1] == "3.13M"
    assert press_heading(page, 3) == "descending"
    assert column(page, 3)[0] == "3.13M"


def test_a_missing_number_is_last_both_ways(browser_page: Open, path: Path) -> None:
    page = browser_page(path)
    for expected in ("ascending", "descending"):
        assert press_heading(page, 4) == expected
        assert column(page, 4)[-1] == "—"
    assert column(page, 4)[0].startswith("0.1000 [")


def test_sorting_works_from_the_keyboard(browser_page: Open, path: Path) -> None:
    page = browser_page(path)
    button = page.driver.find_element(By.CSS_SELECTOR, "#table-differences th button")
    before = column(page, 1)
    button.send_keys(Keys.ENTER)
    assert column(page, 1) == sorted(before, key=str.lower)


def test_rows_are_filtered(browser_page: Open, path: Path) -> None:
    page = browser_page(path)
    page.driver.find_element(By.CSS_SELECTOR, "#table-differences input").send_keys("trac rand")
    assert [name for name in column(page, 1) if name] == ["tracin"]


def test_a_table_is_copied_as_csv(browser_page: Open, path: Path) -> None:
    page = browser_page(path)
    page.run("navigator.clipboard.writeText = async (text) => { window.copied = text; };")
    box = page.driver.find_element(By.ID, "table-checklist")
    box.find_element(By.CSS_SELECTOR, ".tools button").click()
    assert page.run("return window.copied") == (
        "check,met\nthree seeds or more,True\nheld-out data,False\n"
    )


def test_a_figure_enlarges_zooms_and_closes(browser_page: Open, path: Path) -> None:
    page = browser_page(path)
    is_open = "return document.querySelector('dialog').open"
    opener = page.driver.find_element(By.CSS_SELECTOR, "#figure-loss button")
    opener.send_keys(Keys.ENTER)
    assert page.run(is_open)
    large = page.driver.find_element(By.CSS_SELECTOR, "dialog img")
    page.run("return document.querySelector('dialog img').decode()")
    fitted = large.size["width"]
    assert fitted > 600
    view = "document.querySelector('.view')"
    assert page.run(f"return {view}.scrollHeight <= {view}.clientHeight")
    ActionChains(page.driver).send_keys("+").perform()
    assert large.size["width"] > fitted * 1.2
    ActionChains(page.driver).send_keys(Keys.ESCAPE).perform()
    assert not page.run(is_open)
    assert page.run("return document.activeElement.parentElement.id") == "figure-loss"
    opener.click()
    assert page.run(is_open)


CONTRASTS = """
const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
const light = (colour) => parse(colour).slice(0, 3).map((c) => c / 255)
  .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (node) => {
  const colour = getComputedStyle(node).backgroundColor;
  return parse(colour)[3] === 0 ? behind(node.parentElement) : colour;
};
return [...document.querySelectorAll('body :is(h1, h2, p, li, a, b, td, th, figcaption, button)')]
  .filter((node) => node.textContent.trim() && node.checkVisibility())
  .map((node) => {
    const [a, b] = [getComputedStyle(node).color, behind(node)].map(light).sort((x, y) => y - x);
    return [(a + 0.05) / (b + 0.05), node.outerHTML.slice(0, 80)];
  });
"""


def test_dark_and_light_differ_and_can_be_read(browser_page: Open, path: Path) -> None:
    papers = set()
    for dark in (False, True):
        page = browser_page(path, dark=dark)
        papers.add(page.run("return getComputedStyle(document.body).backgroundColor"))
        contrasts = page.run(CONTRASTS)
        assert len(contrasts) > 50
        assert [pair for pair in contrasts if pair[0] < 4.5] == []
        card = "return getComputedStyle(document.querySelector('.card')).backgroundColor"
        assert page.run(card) == "rgb(255, 255, 255)"
    assert len(papers) == 2


def test_all_is_there_without_scripts(browser_page: Open, path: Path) -> None:
    page = browser_page(path, scripts=False)
    text = page.driver.find_element(By.TAG_NAME, "main").text
    for part in (
        "tracin is 0.021",
        "Caution",
        "Warnings",
        "Losses",
        "bootstrap draws",
        "Provenance",
        "Checklist",
        "Holm's correction",
        HOSTILE,
    ):
        assert part.lower() in text.lower()
    assert page.driver.find_elements(By.CSS_SELECTOR, "main button, main input") == []
    assert page.complaints() == []


def test_headings_are_in_order(browser_page: Open, path: Path) -> None:
    page = browser_page(path)
    levels = page.run("return [...document.querySelectorAll('h1,h2,h3')].map((h) => h.tagName)")
    assert levels == ["H1", *["H2"] * 5]
