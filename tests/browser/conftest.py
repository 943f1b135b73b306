"""One browser for the whole session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from browser.chromium import Opened, open_page, start, why_not


@pytest.fixture(scope="session")
def browser_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Opened]]:
    """Open an HTML file: ``browser_page(path, width=1280, dark=False, scripts=True)``."""
    reason = why_not()
    if reason:
        pytest.skip(reason)
    driver = start(tmp_path_factory.mktemp("chromium"))

    def opened(path: Path, width: int = 1280, dark: bool = False, scripts: bool = True) -> Opened:
        return open_page(driver, path, width, dark, scripts)

    try:
        yield opened
    finally:
        driver.quit()
