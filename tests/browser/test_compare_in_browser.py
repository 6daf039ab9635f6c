"""The page of a comparison in a real browser: drawn, deaf to hostile names, sorted by hand, on a phone, in the dark."""

from pathlib import Path
from typing import Any

import pytest
from browser.chromium import asked_for, show
from reporting.comparisons import HOSTILE_TASKS, compared, hostile, many

from fedlease.reporting.comparison.page import write_compare_page

SECTIONS = ["compared", "scores", "differences", "curves", "cost"]


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {"compared": compared, "hostile": hostile, "many": many}
    return {name: write_compare_page(make(), tmp_path_factory.mktemp(name)) for name, make in made.items()}


@pytest.mark.parametrize("name", ["compared", "hostile", "many"])
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (390, "dark")])
def test_a_page_is_drawn_without_errors_and_without_requests(
    browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    show(browser, pages[name], width, scheme)
    assert browser.get_log("browser") == []
    assert all(url.startswith(("data:", "blob:")) for url in asked_for(browser))
    sections, plots, drawn, scroll, inner = browser.execute_script(
        """const all = (selector) => [...document.querySelectorAll(selector)];
        return [all('main section').map((s) => s.id), all('.plot').length, all('.plot .main-svg:first-child').length,
                document.documentElement.scrollWidth, innerWidth]"""
    )
    assert sections == SECTIONS
    assert (plots, drawn) == (5, 5)
    assert scroll <= inner == width


def test_hostile_names_stay_text(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["hostile"])
    pwned, elements, scripts, shown, drawn = browser.execute_script(
        """for (const plot of document.querySelectorAll('.plot'))
          Plotly.Fx.hover(plot, [{curveNumber: plot.data.length - 1, pointNumber: 0}]);
        return [typeof window.pwned, document.querySelectorAll('img, iframe, object').length,
                document.querySelectorAll('script').length, document.querySelector('main').textContent,
                document.getElementById('plot-tasks').textContent]"""
    )
    assert (pwned, elements, scripts) == ("undefined", 0, 3)
    assert all(name in shown for name in HOSTILE_TASKS)
    assert "<img src=x" in drawn
    assert browser.get_log("browser") == []


def test_methods_are_sorted_by_number(browser: Any, pages: dict[str, Path]) -> None:
    show(browser, pages["compared"])
    order = """const table = document.querySelector('#scores table');
      const button = [...table.querySelectorAll('thead button')].find((b) => b.textContent.startsWith(arguments[0]));
      button.click();
      return [...table.querySelectorAll('tbody th')].map((cell) => cell.textContent)"""
    assert browser.execute_script(order, "mean") == ["fedit", "fedlease", "local"]
    assert browser.execute_script(order, "mean") == ["local", "fedlease", "fedit"]
    # The first has no difference to itself; it comes after the numbers.
    assert browser.execute_script(order, "fedlease above") == ["local", "fedit", "fedlease"]
