"""Renders a run folder as ``report.html``, a page that needs no network, and its main figures as pictures."""

import asyncio
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from fedlease.core.wording import COUNTING
from fedlease.errors import ConfigError, MissingPackageError, RunFolderError, within_limits
from fedlease.files import locked, write_atomically
from fedlease.reporting.comparison.page import write_compare_page
from fedlease.reporting.drawing import Figure, label
from fedlease.reporting.rendering import render
from fedlease.reporting.run import tables, words
from fedlease.reporting.run.certainty import certainty_table, certainty_words
from fedlease.reporting.run.classes import class_table, confusion_tables
from fedlease.reporting.run.data import RunData
from fedlease.reporting.run.figures_clients import allocation_figures
from fedlease.reporting.run.figures_run import bytes_figures, score_figures, seconds_figures, usage_figures
from fedlease.reporting.run.figures_verdict import verdict_figures
from fedlease.reporting.run.reading import read_run
from fedlease.reporting.run.samples import shown_samples
from fedlease.reporting.run.usage_numbers import short_modules, usage_sentence
from fedlease.reporting.run.verdict import conclude
from fedlease.reporting.tables import allocation_table
from fedlease.reporting.verdict import task_lines
from fedlease.storage.documents import read_object
from fedlease.storage.run_folder import read_settings
from fedlease.storage.verdict import Verdict

__all__ = ["write_pictures", "write_report"]

PICTURES = ("verdict", "distances", "similarities", "dendrogram", "silhouettes", "score-means", "usage-depth")
WIDTH = 760
REPORT_LOCK = ".report.lock"
"""A lock other than the run's, so that a report can be written during the run."""
REPORT_SECONDS = 60.0
"""Seconds to wait for another process that writes the page."""


def write_report(out: Path) -> Path:
    """Writes ``report.html`` into a run folder; the same folder gives the same bytes.

    In the folder of a comparison it writes ``compare.html`` from ``compare.json``.

    Args:
        out: folder of a comparison, or of a run that is finished, running or interrupted.

    Returns:
        The path of the page.

    Raises:
        RunFolderError: it is not a run folder, is damaged, or has another version.
        MissingPackageError: plotly or jinja2 is not installed.
    """
    if _is_comparison(out):
        return write_compare_page(read_object(out / "compare.json"), out)
    read_settings(out)  # fails for other folders before anything is written
    # The lock keeps a page that was begun earlier from replacing a newer one.
    path = out / "report.html"
    room = within_limits(f"the report of {out} was not written", f"make room, then: fedlease report {out}", out)
    with room, locked(out, "report", wait=REPORT_SECONDS, name=REPORT_LOCK):
        write_atomically(path, _render(read_run(out)).encode("utf-8", errors="replace"))
    return path


def write_pictures(out: Path, folder: Path) -> list[Path]:
    """Writes the main figures of a run as SVG on a white background.

    Args:
        out: the run folder.
        folder: folder for the pictures, which is made if it is missing.

    Returns:
        The paths of the pictures for which the run has data.

    Raises:
        RunFolderError: it is not a run folder, is that of a comparison, is damaged, or has another version.
        MissingPackageError: kaleido is not installed.
        ConfigError: no Chromium or Chrome is found, or the folder cannot be written.
    """
    if _is_comparison(out):
        raise RunFolderError(f"{out} holds a comparison: pictures are drawn of one run, OUT/<method>/seed-<s>")
    run = read_run(out)
    try:
        import kaleido
    except ImportError as error:
        raise MissingPackageError("kaleido", "pictures of a report", "pip install 'fedlease[pictures]'") from error
    browsers = (os.environ.get("BROWSER_PATH"), *map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    browser = next((found for found in browsers if found), None)
    if browser is None:
        raise ConfigError("pictures: neither chromium nor google-chrome is found; install one or set BROWSER_PATH")
    figures = {name: figure for name, figure in _figures(run, conclude(run)).items() if name in PICTURES}

    async def draw() -> dict[str, bytes]:
        # Without MathJax nothing is fetched. A browser that root runs cannot use its sandbox.
        async with kaleido.Kaleido(n=1, mathjax=False, path=browser, enable_sandbox=False) as drawer:
            return {
                name: await drawer.calc_fig(
                    {"data": list(figure.data), "layout": {**figure.layout, **_on_white(figure)}},
                    opts={"format": "svg", "width": WIDTH, "height": figure.height},
                )
                for name, figure in figures.items()
            }

    try:
        # In a notebook this thread already has an event loop, and another one needs another thread.
        with ThreadPoolExecutor(max_workers=1) as pool:
            drawn = pool.submit(lambda: asyncio.run(draw())).result()
    except RuntimeError as error:
        raise ConfigError(f"pictures: the browser {browser} cannot draw: {type(error).__name__}") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in drawn.items():
            write_atomically(folder / f"{name}.svg", picture)
    except OSError as error:
        raise ConfigError(f"pictures: {folder} cannot be written: {error}") from error
    return [folder / f"{name}.svg" for name in drawn]


def _is_comparison(out: Path) -> bool:
    return (out / "compare.json").is_file() and not (out / "config.yaml").exists()


def _render(run: RunData) -> str:
    verdict = conclude(run)
    figures = _figures(run, verdict)
    tasks = {client: row.task for client, row in run.clients.items()}
    return render(
        "report.html",
        figures,
        _page_data(run),
        kind="report",
        source="the run folder",
        run=run,
        headline=words.headline(run),
        facts=words.facts(run),
        verdict=verdict,
        task_lines=task_lines(verdict),
        counting=COUNTING,
        allocation_words=[*words.allocation_words(run), *certainty_words(run)],
        allocation_table=allocation_table(run.grouping, tasks) if run.grouping else None,
        certainty_table=certainty_table(run),
        score_words=words.score_words(run),
        client_table=tables.client_table(run, verdict),
        task_table=tables.task_table(run),
        class_table=class_table(run),
        confusions=confusion_tables(run),
        samples=shown_samples(run),
        usage_words=usage_sentence(run),
        bytes_table=tables.bytes_table(run),
        time_words=words.time_words(run),
        newcomer_table=tables.newcomer_table(run),
    )


def _figures(run: RunData, verdict: Verdict) -> dict[str, Figure]:
    groups = (allocation_figures, score_figures, usage_figures, seconds_figures, bytes_figures)
    every = [*verdict_figures(run, verdict), *(figure for drawn in groups for figure in drawn(run))]
    return {figure.id: figure for figure in every}


def _page_data(run: RunData) -> dict[str, Any]:
    """Parts of the page that change with the chosen client, by client."""
    usage = run.usage()
    modules = list(next((row for row in usage.values() if row), {}))
    clients = []
    for client in run.clients:
        points = [(point.passes, point.scores[client]) for point in run.main.points if client in point.scores]
        routed = usage.get(client, {})
        clients.append(
            {
                "name": label(client, 30),
                "x": [passes for passes, _ in points],
                # for figures with names along their axis instead of passes
                **({} if run.learnt.score_rounds else {"at": [label(client, 30)] * len(points)}),
                "y": [round(100 * score, 2) for _, score in points],
                "weights": [routed[module].weights for module in modules if module in routed],
                "experts": [routed[module].experts_per_token for module in modules if module in routed],
            }
        )
    return {"clients": clients, "modules": [label(name, 40) for name in short_modules(modules)]}


def _on_white(figure: Figure) -> dict[str, Any]:
    ink, rule = "#1d2329", "#dde1e6"
    axes = {
        name: {"gridcolor": rule, "linecolor": rule, **value}
        for name, value in figure.layout.items()
        if name.startswith(("xaxis", "yaxis"))
    }
    font = {"family": "system-ui, sans-serif", "size": 13, "color": ink}
    return {**axes, "paper_bgcolor": "#ffffff", "plot_bgcolor": "#ffffff", "font": font, "width": WIDTH}
