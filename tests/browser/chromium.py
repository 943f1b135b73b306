"""A real headless Chromium: what it asks the network for, what it says, and what it draws."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = tuple(
    (
        "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --disable-dev-shm-usage"
    ).split()
)


def why_not() -> str:
    """Why no browser can run here; empty where one can."""
    if not _browser():
        return "no Chromium on the path: install chromium"
    return "" if shutil.which("chromedriver") else "no chromedriver: install chromium-driver"


def _browser() -> str | None:
    return next(filter(None, map(shutil.which, _NAMES)), None)


def start(profile: Path) -> webdriver.Chrome:
    options = webdriver.ChromeOptions()
    options.binary_location = _browser() or ""
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options, Service(shutil.which("chromedriver")))


@dataclass(frozen=True)
class Opened:
    """A page as opened, at a width in CSS pixels."""

    driver: webdriver.Chrome
    url: str

    def run(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def complaints(self) -> list[str]:
        """What the console has said since the page was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Addresses asked for since the page was opened, what lies in the page itself apart."""
        messages = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        urls = [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]
        return [url for url in urls if not url.startswith("data:")]

    def overflow(self) -> int:
        """Pixels by which the page is wider than its window."""
        root = "document.documentElement"
        return int(self.run(f"return {root}.scrollWidth - {root}.clientWidth"))


def open_page(
    driver: webdriver.Chrome, path: Path, width: int, dark: bool, scripts: bool
) -> Opened:
    def tell(command: str, **parameters: object) -> None:
        driver.execute_cdp_cmd(command, parameters)

    tell(
        "Emulation.setDeviceMetricsOverride",
        width=width,
        height=900,
        deviceScaleFactor=1,
        mobile=False,
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    tell("Emulation.setEmulatedMedia", features=[scheme])
    tell("Emulation.setScriptExecutionDisabled", value=not scripts)
    driver.get("about:blank")
    for log in ("browser", "performance"):
        driver.get_log(log)
    driver.get(path.resolve().as_uri())
    return Opened(driver, path.resolve().as_uri())
