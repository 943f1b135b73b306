"""The report of a real analysis as a browser draws it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from browser.chromium import Opened
from scalinglaws import analyse

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "scalinglaws"))

from simulated import METHODS, write_run


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("run"))
    analyse(run, run, laws=("rectified", "power"), holdout=1)
    return run / "report.html"


@pytest.mark.parametrize("width", [360, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_it_opens_whole_and_quiet(
    browser_page: Callable[..., Opened], report: Path, width: int, dark: bool
) -> None:
    opened = browser_page(report, width=width, dark=dark)
    assert opened.complaints() == []
    assert opened.requests() == [opened.url]
    assert opened.overflow() == 0
    sizes = opened.run(
        "return [...document.querySelectorAll('figure img')].map(i => [i.naturalWidth, i.width])"
    )
    assert len(sizes) >= 12
    assert all(natural > 0 and shown > 0 for natural, shown in sizes)


def test_its_verdict_comes_first_and_its_tables_sort(
    browser_page: Callable[..., Opened], report: Path
) -> None:
    opened = browser_page(report)
    words = opened.run("return document.body.innerText")
    assert words.index("lower than that of random") < words.index("Losses and curves")
    assert all(method in words for method in METHODS)
    column = """
        const box = [...document.querySelectorAll('.table')].find(
            b => b.innerText.includes('The measured losses'));
        const heads = [...box.querySelectorAll('thead th')];
        const place = heads.findIndex(h => h.innerText.startsWith('mean loss'));
        if (arguments[0]) heads[place].querySelector('button').click();
        return [...box.querySelectorAll('tbody tr')].map(r => Number(r.cells[place].innerText));
    """
    opened.run(column, True)
    values = opened.run(column, False)
    assert values == sorted(values) or values == sorted(values, reverse=True)
    assert opened.run(column, True) == values[::-1]
