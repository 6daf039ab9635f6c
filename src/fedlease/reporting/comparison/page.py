"""Renders a comparison of methods as ``compare.html``, a page that needs no network, and as Markdown."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedlease.files import write_atomically
from fedlease.reporting.comparison import tables, words
from fedlease.reporting.comparison.data import read_comparison
from fedlease.reporting.comparison.figures import comparison_figures
from fedlease.reporting.comparison.figures_cost import cost_figures
from fedlease.reporting.rendering import render
from fedlease.reporting.run.figures_verdict import gains_figure
from fedlease.reporting.verdict import gain_table, step_words

__all__ = ["compare_page", "markdown", "write_compare_page"]


def write_compare_page(content: Mapping[str, Any], out: Path) -> Path:
    """Writes ``compare.html`` from the content of ``compare.json`` into the folder ``out``; returns its path.

    Raises:
        RunFolderError: something is missing in the content or invalid.
        MissingPackageError: plotly or jinja2 is not installed.
    """
    path = out / "compare.html"
    write_atomically(path, compare_page(content).encode("utf-8", errors="replace"))
    return path


def markdown(content: Mapping[str, Any]) -> str:
    """Renders the content of ``compare.json`` as Markdown, with the tables and sentences of the page.

    Raises:
        RunFolderError: something is missing in the content or invalid.
    """
    c = read_comparison(content)
    gains = gain_table(c.verdict, c.words) if c.verdict and c.verdict.gain else None
    shown = [gains, tables.settings_table(c), tables.score_table(c), tables.failed_table(c), tables.cost_table(c)]
    shown.append(tables.rate_table(c))
    lines = [line for table in shown if table for line in (f"{table.caption}:", "", *table.markdown(), "")]
    alarms = c.verdict.alarms if c.verdict else []
    lines = [*(line for alarm in alarms for line in (f"**{alarm}**", "")), *lines]
    lines += [f"- {sentence}" for sentence in words.reading(c)]
    if c.others:
        lines += ["", words.difference_words(c)]
    if c.verdict:
        lines += ["", step_words(c.verdict.next_step)]
    return "\n".join([*lines, "", *(f"- {name}: {value}" for name, value in words.facts(c))]) + "\n"


def compare_page(content: Mapping[str, Any]) -> str:
    """Renders the content of ``compare.json`` as HTML; the same content gives the same text.

    Raises:
        RunFolderError: something is missing in the content or invalid.
        MissingPackageError: plotly or jinja2 is not installed.
    """
    c = read_comparison(content)
    verdict = [gains_figure(c.verdict)] if c.verdict and c.verdict.gain else []
    return render(
        "compare.html",
        {figure.id: figure for figure in (*verdict, *comparison_figures(c), *cost_figures(c))},
        kind="comparison",
        source="compare.json",
        comparison=c,
        title=words.title(c),
        reading=words.reading(c),
        facts=words.facts(c),
        settings_table=tables.settings_table(c),
        score_table=tables.score_table(c),
        failed_table=tables.failed_table(c),
        difference_words=words.difference_words(c),
        cost_table=tables.cost_table(c),
        rate_table=tables.rate_table(c),
    )
