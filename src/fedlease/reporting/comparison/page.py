"""``compare.html``: a comparison of methods as one page that needs no network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlease.files import write_atomically
from fedlease.reporting.comparison import tables, words
from fedlease.reporting.comparison.data import read_comparison
from fedlease.reporting.comparison.figures import comparison_figures
from fedlease.reporting.rendering import render

__all__ = ["compare_page", "write_compare_page"]


def write_compare_page(content: Mapping[str, Any], out: Path) -> Path:
    """Writes ``compare.html``.

    Args:
        content: of ``compare.json``.
        out: the comparison's folder.

    Returns:
        The page.

    Raises:
        RunFolderError: something is missing in the content, or not what it should be.
        MissingPackageError: plotly or jinja2 is not installed.
    """
    path = out / "compare.html"
    write_atomically(path, compare_page(content).encode("utf-8", errors="replace"))
    return path


def compare_page(content: Mapping[str, Any]) -> str:
    """The page as text; the same content gives the same text, in whatever folder.

    Args:
        content: of ``compare.json``.

    Raises:
        RunFolderError: something is missing in the content, or not what it should be.
        MissingPackageError: plotly or jinja2 is not installed.
    """
    c = read_comparison(content)
    return render(
        "compare.html",
        {figure.id: figure for figure in comparison_figures(c)},
        kind="comparison",
        source="compare.json",
        comparison=c,
        title=words.title(c),
        reading=words.reading(c),
        facts=words.facts(c),
        settings_table=tables.settings_table(c),
        score_table=tables.score_table(c),
        difference_words=words.difference_words(c),
        cost_table=tables.cost_table(c),
        rate_table=tables.rate_table(c),
    )
