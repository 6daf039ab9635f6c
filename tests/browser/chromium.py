"""A headless Chromium for the tests of pages; whoever imports this is skipped where there is none."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
if CHROMIUM is None or DRIVER is None:
    pytest.skip("chromium or chromedriver is not installed", allow_module_level=True)

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1200,900",
)  # fmt: skip
READY = "return document.documentElement.dataset.ready === 'yes'"


def started(profile: Path) -> Any:
    """A browser that reports what its pages log and ask for."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    # Chromedriver must not hold the tests' own pipe: it would outlive a test that was killed.
    service = webdriver.ChromeService(DRIVER, log_output=subprocess.DEVNULL)
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_page_load_timeout(60)
    return driver


def opened(browser: Any, page: Path, width: int = 1200, scheme: str = "light") -> None:
    """Opens a page; what others have logged or asked for is forgotten."""
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    colours = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", colours)
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    browser.get(page.as_uri())


def show(browser: Any, page: Path, width: int = 1200, scheme: str = "light") -> None:
    """Opens a page of the report and waits until its script has come to its end."""
    opened(browser, page, width, scheme)
    for _ in range(100):
        if browser.execute_script(READY):
            return
        browser.execute_async_script("setTimeout(arguments[0], 100)")
    raise AssertionError("the page's script did not come to its end")


def asked_for(browser: Any) -> list[str]:
    """Addresses that the page asked for, itself left out; what the browser's own pages ask for does not count."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [message["params"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    page = browser.current_url
    return [url for params in sent if params["documentURL"] == page and (url := params["request"]["url"]) != page]
