"""The page in a real browser: drawn, deaf to hostile names, usable by hand, on a phone and in the dark."""

import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from browser.chromium import CHROMIUM, asked_for, show
from reporting.report_folders import HOSTILE, IDS, bare, finished, generated, hostile, hostile_samples

from fedlease.reporting.run.page import write_pictures, write_report


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {
        "begun": bare,
        "finished": finished,
        "hostile": hostile,
        "generated": hostile_samples,
        "unscored": partial(generated, scored=False),
    }
    return {name: write_report(make(tmp_path_factory.mktemp(name) / "run")) for name, make in made.items()}


@pytest.mark.parametrize("name", ["begun", "finished", "hostile", "generated", "unscored"])
def test_a_page_is_drawn_without_errors_and_without_requests(browser: Any, pages: dict[str, Path], name: str) -> None:
    show(browser, pages[name])
    assert browser.get_log("browser") == []
    assert all(url.startswith(("data:", "blob:")) for url in asked_for(browser))
    resources = browser.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert all(url.startswith(("data:", "blob:")) for url in resources)
    plots, drawn = browser.execute_script(
        """const count = (selector) => document.querySelectorAll(selector).length;
        return [count('.plot'), count('.plot .main-svg:first-child')]"""
    )
    # A finished FedLEASE run has eleven figures; one that has just begun has none.
    assert (plots, drawn) == ((0, 0) if name == "begun" else (11, 11))


def test_the_test_sees_requests(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<html data-ready=yes><img src='other.png'>")
    show(browser, tmp_path / "page.html")
    assert [url.rsplit("/", 1)[1] for url in asked_for(browser)] == ["other.png"]
    assert browser.get_log("browser") != []


def test_hostile_names_stay_text(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["hostile"])
    script = """
      const plot = document.getElementById('plot-score-tasks');
      const picker = document.querySelector('select.client-picker');
      for (let i = 1; i < picker.options.length; i++) {
        picker.value = picker.options[i].value;
        picker.dispatchEvent(new Event('change'));
        for (const other of document.querySelectorAll('.plot'))
          if (!other.data[0].z) Plotly.Fx.hover(other, [{curveNumber: 0, pointNumber: 0}]);
      }
      return [typeof window.pwned, document.querySelectorAll('img, iframe, object').length,
              document.querySelectorAll('script').length,
              [...picker.options].slice(1).map((o) => o.textContent), plot.textContent]"""
    pwned, images, scripts, names, drawn = browser.execute_script(script)
    assert (pwned, images, scripts) == ("undefined", 0, 3)
    assert set(names[:4]) == set(IDS)
    assert "<img src=x" in drawn
    assert browser.get_log("browser") == []


def test_hostile_answers_are_read_as_text(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["generated"])
    script = """
      const section = document.getElementById('samples');
      const folded = [...section.querySelectorAll('details')].map((client) => client.open);
      section.querySelector('summary').click();
      const texts = [...section.querySelectorAll('details[open] .prompt dd')].map((text) => text.innerText);
      return [typeof window.pwned, document.querySelectorAll('img, iframe, object, b[onmouseover]').length,
              document.querySelectorAll('script').length, folded, texts,
              section.querySelectorAll('details[open] dl').length]"""
    pwned, elements, scripts, folded, texts, rows = browser.execute_script(script)
    assert (pwned, elements, scripts) == ("undefined", 0, 3)
    assert folded == [False] * 4 and rows == 5
    marked = "turn\N{REPLACEMENT CHARACTER}ed\N{REPLACEMENT CHARACTER}[31m"
    assert texts == [*HOSTILE[:3], marked, "\"'><b onmouseover=window.pwned=1>"]
    assert browser.get_log("browser") == []


@pytest.mark.parametrize(("width", "across"), [(1200, 4), (360, 1)])
def test_answers_stand_side_by_side_or_below_each_other(
    browser: Any, pages: dict[str, Path], width: int, across: int
) -> None:
    show(browser, pages["generated"], width, "dark")
    script = """
      for (const client of document.querySelectorAll('#samples details')) client.open = true;
      const cells = [...document.querySelectorAll('#samples dl')[1].querySelectorAll('div:not(.prompt)')];
      const left = cells.map((cell) => cell.getBoundingClientRect().left);
      return [left, document.documentElement.scrollWidth, innerWidth]"""
    left, scroll, inner = browser.execute_script(script)
    # Reference, untrained model, fedlease and fedit.
    assert (len(left), len(set(left))) == (4, across)
    assert scroll <= inner


def test_unfolded_answers_are_printed(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["generated"])
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    seen = """document.querySelector('#samples details').open = true;
      return ['details[open] dl', 'details:not([open]) summary', '.print-only'].map(
        (part) => document.querySelector('#samples ' + part).offsetHeight > 0)"""
    assert browser.execute_script(seen) == [True, False, True]
    seen = """for (const client of document.querySelectorAll('#samples details')) client.open = true;
      return document.querySelector('#samples .print-only').offsetHeight"""
    assert browser.execute_script(seen) == 0
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_a_client_is_picked_where_rounds_have_no_scores(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["unscored"])
    script = """
      const score = document.getElementById('plot-score-tasks');
      const picker = document.querySelector('select.client-picker');
      picker.value = '3';
      picker.dispatchEvent(new Event('change'));
      const picked = score.data.at(-1);
      return [picked.x, picked.y, picked.hovertext, score.layout.xaxis.title.text]"""
    # b1 ends at 50 % after five passes.
    assert browser.execute_script(script) == [
        ["b1"], [50], ["b1<br>passes 5: 50.0 %"], "final scores: rounds were not scored",
    ]  # fmt: skip


def test_a_column_sorts_both_ways_by_mouse_and_by_key(browser: Any, pages: dict[str, Path]) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    show(browser, pages["finished"])
    table = browser.find_element(By.XPATH, "//table[caption[contains(., 'by client')]]")
    header = table.find_element(By.XPATH, ".//thead//th[contains(., 'fedlease')]")

    def clients() -> list[str]:
        return [cell.text for cell in table.find_elements(By.CSS_SELECTOR, "tbody th")]

    assert clients() == ["a0", "a1", "b0", "b1"]
    browser.execute_script("arguments[0].click()", header.find_element(By.TAG_NAME, "button"))
    assert (header.get_attribute("aria-sort"), clients()) == ("ascending", ["b1", "b0", "a1", "a0"])
    header.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert (header.get_attribute("aria-sort"), clients()) == ("descending", ["a0", "a1", "b0", "b1"])


def test_picking_a_client_changes_its_figures(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["finished"])
    script = """
      const usage = document.getElementById('plot-usage-client'), score = document.getElementById('plot-score-tasks');
      const state = () => [usage.getAttribute('aria-label'), usage.data[0].hovertext[0], score.data.at(-1).visible,
                           score.data.at(-1).y, document.querySelectorAll('tr.picked').length];
      const before = state();
      const picker = document.querySelectorAll('select.client-picker')[1];
      picker.value = '3';
      picker.dispatchEvent(new Event('change'));
      return [before, state(), document.querySelector('select.client-picker').value]"""
    before, after, other = browser.execute_script(script)
    assert before[0].startswith("Usage by one client. a0:") and before[2] is False
    assert after[0].startswith("Usage by one client. b1: experts per token from 1.00 to 2.00 over 2 modules")
    assert after[1].startswith("b1<br>0 q<br>expert 1: weight 0.750")
    # b1 was scored untrained, after the warm-up, after one round, and at the end.
    assert after[2:] == [True, [25, 50, 50, 50], 1]
    assert other == "3"


@pytest.mark.parametrize("name", ["begun", "finished", "hostile", "generated", "unscored"])
def test_a_phone_does_not_scroll_sideways(browser: Any, pages: dict[str, Path], name: str) -> None:
    show(browser, pages[name], width=360)
    width, inner = browser.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert inner == 360 and width <= inner


@pytest.mark.parametrize("name", ["finished", "generated"])
def test_the_first_screen_holds_the_verdict_and_its_picture(browser: Any, pages: dict[str, Path], name: str) -> None:
    show(browser, pages[name])
    script = """const end = (part) => document.querySelector('#verdict ' + part).getBoundingClientRect().bottom;
      return [end('.lead'), end('.next'), end('.plot')]"""
    # The screen is 1200 by 800.
    assert max(browser.execute_script(script)) <= 800


def test_notes_are_folded_and_are_on_paper(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["finished"])
    folded = "return document.querySelector('details.notes').open"
    assert browser.execute_script(folded) is False
    browser.execute_cdp_cmd("Page.printToPDF", {})
    assert browser.execute_script(folded) is True


def test_the_dark_scheme_reaches_page_and_figures(browser: Any, pages: dict[str, Path]) -> None:
    script = """return [getComputedStyle(document.body).backgroundColor,
                        document.getElementById('plot-silhouettes').layout.font.color]"""
    show(browser, pages["finished"])
    light = browser.execute_script(script)
    # Changed while the page is open: figures follow.
    colours = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", colours)
    browser.execute_async_script("setTimeout(arguments[0], 300)")
    dark = browser.execute_script(script)
    assert light[0] != dark[0] and light[1] != dark[1]


def test_print_is_light_and_fits_the_paper(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["finished"], scheme="dark")
    browser.execute_script(
        """window.seen = [];
        const plot = document.getElementById('plot-score-means');
        addEventListener('beforeprint', () => seen.push(plot.layout.width, plot.layout.font.color));
        addEventListener('afterprint', () => seen.push(plot.layout.font.color));"""
    )
    browser.execute_cdp_cmd("Page.printToPDF", {})
    width, printed, after = browser.execute_script("return window.seen")
    # A4 less margins of 16 mm is 178 mm, 673 pixels.
    assert width <= 673
    assert (printed, after != printed) == ("#000", True)


def test_pictures_are_drawn_on_white(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("kaleido")
    monkeypatch.setenv("BROWSER_PATH", os.environ.get("BROWSER_PATH", str(CHROMIUM)))
    written = write_pictures(finished(tmp_path / "run"), tmp_path / "pictures")
    assert [path.stem for path in written] == [
        "verdict",
        "distances",
        "dendrogram",
        "silhouettes",
        "score-means",
        "usage-depth",
    ]
    for path in written:
        ground = re.match(r"<svg [^>]*><rect [^>]*style=\"fill: rgb\(([0-9, ]*)\)", path.read_text())
        assert ground is not None and ground[1] == "255, 255, 255"
