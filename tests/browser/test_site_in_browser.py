"""The pages of the built site in a browser: they show text and no raw markup, fetch nothing, and have a dark mode."""

import re
from pathlib import Path
from typing import Any

import pytest
from browser.chromium import asked_for, opened, webdriver

pytest.importorskip("mkdocs", reason="mkdocs is not installed")

RAW = re.compile(r":(?:attr|class|data|exc|func|meth|mod|obj):`|^::: |<!-- |\[`|``", re.MULTILINE)
TEXT = "return document.querySelector('article').innerText"
WIDE = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
BROKEN = "return [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.getAttribute('src'))"


@pytest.mark.slow
def test_every_guide_and_a_page_of_the_api_show_what_they_say(built_site: Path, browser: Any) -> None:
    """Pages of the API are of one form, and ``tests/test_docs.py`` reads all of them."""
    assert webdriver is not None
    faults = []
    pages = [page for page in sorted(built_site.rglob("*.html")) if page.name != "404.html"]
    pages = [page for page in pages if page.parent.name != "api" or page.stem == "core"]
    assert len(pages) > 20
    for page in pages:
        opened(browser, page)
        name, text = str(page.relative_to(built_site)), browser.execute_script(TEXT)
        faults += [f"{name}: empty"] * (len(text.split()) < 30)
        faults += [f"{name}: {found}" for found in RAW.findall(text)]
        faults += [f"{name}: no picture {found}" for found in browser.execute_script(BROKEN)]
        faults += [f"{name}: fetches {url}" for url in asked_for(browser) if not url.startswith(("file:", "data:"))]
        errors = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        # The search index of a site on disk is not read: browsers allow it from servers alone.
        faults += [f"{name}: {message}" for message in errors if "search" not in message]
    assert faults == []


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_home_follows_the_readers_colours(built_site: Path, browser: Any, scheme: str, dark: bool) -> None:
    # A page remembers the colours that it was opened with before.
    opened(browser, built_site / "index.html", scheme=scheme)
    browser.execute_script("localStorage.clear()")
    opened(browser, built_site / "index.html", scheme=scheme)
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    lightness = sum(map(int, re.findall(r"\d+", background)[:3])) / 3
    assert (lightness < 128) == dark, background


@pytest.mark.slow
def test_home_fits_a_phone(built_site: Path, browser: Any) -> None:
    opened(browser, built_site / "index.html", width=390)
    assert browser.execute_script(WIDE) <= 0
