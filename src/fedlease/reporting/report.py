"""``report.html``: a run folder as one page that needs no network, and its main figures as pictures."""

import asyncio
import json
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from pathlib import Path
from typing import Any

from fedlease.engines.checkpoint import write_atomically
from fedlease.errors import ConfigError, MissingPackageError
from fedlease.reporting import report_tables as tables
from fedlease.reporting import report_words as words
from fedlease.reporting.advice import advise
from fedlease.reporting.figures import Figure, allocation_figures, clean, label
from fedlease.reporting.figures_run import bytes_figure, score_figures, seconds_figures, usage_figures
from fedlease.reporting.report_data import RunData
from fedlease.reporting.report_reading import read_run
from fedlease.reporting.usage_numbers import short_modules, usage_sentence

__all__ = ["write_pictures", "write_report"]

PICTURES = ("distances", "dendrogram", "silhouettes", "score-means", "usage-depth")
WIDTH = 760


def write_report(out: Path) -> Path:
    """Writes ``report.html`` into a run folder; the same folder gives the same bytes.

    Args:
        out: the folder of a run that is finished, still going, or was interrupted.

    Returns:
        The page.

    Raises:
        RunFolderError: not a run folder, damaged, or of another version.
        MissingPackageError: plotly or jinja2 is not installed.
    """
    page = _render(read_run(out))
    path = out / "report.html"
    write_atomically(path, page.encode("utf-8", errors="replace"))
    return path


def write_pictures(out: Path, folder: Path) -> list[Path]:
    """Writes the main figures of a run as SVG on a white ground.

    Args:
        out: the run folder.
        folder: where to; made where it is missing.

    Returns:
        The pictures, those for which the run has data.

    Raises:
        RunFolderError: not a run folder, damaged, or of another version.
        MissingPackageError: kaleido is not installed.
        ConfigError: no Chromium or Chrome is found, or the folder cannot be written.
    """
    run = read_run(out)
    try:
        import kaleido
    except ImportError as error:
        raise MissingPackageError("kaleido", "pictures of a report", "pip install 'fedlease[pictures]'") from error
    browsers = (os.environ.get("BROWSER_PATH"), *map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    browser = next((found for found in browsers if found), None)
    if browser is None:
        raise ConfigError("pictures: neither chromium nor google-chrome is found; install one or set BROWSER_PATH")
    figures = {name: figure for name, figure in _figures(run).items() if name in PICTURES}

    async def draw() -> dict[str, bytes]:
        # Without MathJax nothing is fetched. A browser run by root cannot use its sandbox.
        async with kaleido.Kaleido(n=1, mathjax=False, path=browser, enable_sandbox=False) as drawer:
            return {
                name: await drawer.calc_fig(
                    {"data": list(figure.data), "layout": {**figure.layout, **_on_white(figure)}},
                    opts={"format": "svg", "width": WIDTH, "height": figure.height},
                )
                for name, figure in figures.items()
            }

    try:
        # A thread of its own: where an event loop is running already, as in a notebook, no second can be started.
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


def _render(run: RunData) -> str:
    try:
        from jinja2 import Environment, StrictUndefined
        from markupsafe import Markup
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        package = (error.name or "plotly").partition(".")[0]
        raise MissingPackageError(package, "a report", "pip install plotly jinja2") from error
    files = resources.files("fedlease.reporting") / "page"
    texts = {name: (files / name).read_text(encoding="utf-8") for name in ("report.html", "report.css", "report.js")}

    def shown(value: Any) -> Any:
        if not isinstance(value, str) or isinstance(value, Markup):
            return value
        return re.sub(r"(?<=\d) (?=%|[kMGT]?B\b)", "\N{NO-BREAK SPACE}", clean(value))

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, finalize=shown, trim_blocks=True, lstrip_blocks=True
    )
    figures = _figures(run)
    return environment.from_string(texts["report.html"]).render(
        run=run,
        headline=words.headline(run),
        facts=words.facts(run),
        advice=advise(run),
        allocation_words=words.allocation_words(run),
        allocation_table=tables.allocation_table(run),
        score_words=words.score_words(run),
        client_table=tables.client_table(run),
        task_table=tables.task_table(run),
        usage_words=usage_sentence(run),
        bytes_table=tables.bytes_table(run),
        time_words=words.time_words(run),
        newcomer_table=tables.newcomer_table(run),
        figures=figures,
        # Markup: these are the package's own files, and JSON that holds no character with a meaning in HTML.
        css=Markup(texts["report.css"]),
        js=Markup(texts["report.js"]),
        plotly=Markup(get_plotlyjs().replace("</script", "<\\/script")),
        data=Markup(_embedded(_page_data(run, figures))),
    )


def _figures(run: RunData) -> dict[str, Figure]:
    found = [*allocation_figures(run), *score_figures(run), *usage_figures(run), *seconds_figures(run)]
    sizes = bytes_figure(run)
    return {figure.id: figure for figure in (*found, *([sizes] if sizes else []))}


def _page_data(run: RunData, figures: dict[str, Figure]) -> dict[str, Any]:
    """What the page's script needs: the figures, and by client what changes with the client picked."""
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
                "y": [round(100 * score, 2) for _, score in points],
                "weights": [routed[module]["weights"] for module in modules if module in routed],
                "experts": [routed[module]["experts_per_token"] for module in modules if module in routed],
            }
        )
    return {
        "figures": {name: {"data": figure.data, "layout": figure.layout} for name, figure in figures.items()},
        "clients": clients,
        "modules": [label(name, 40) for name in short_modules(modules)],
    }


def _embedded(content: Any) -> str:
    """JSON that can stand inside a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _on_white(figure: Figure) -> dict[str, Any]:
    ink, rule = "#1d2329", "#dde1e6"
    axes = {
        name: {"gridcolor": rule, "linecolor": rule, **value}
        for name, value in figure.layout.items()
        if name.startswith(("xaxis", "yaxis"))
    }
    font = {"family": "system-ui, sans-serif", "size": 13, "color": ink}
    return {**axes, "paper_bgcolor": "#ffffff", "plot_bgcolor": "#ffffff", "font": font, "width": WIDTH}
