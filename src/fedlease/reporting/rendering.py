"""A page that needs no network: templates, style, script, plotly and the figures in one file."""

import json
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any

from fedlease.errors import MissingPackageError
from fedlease.reporting.drawing import Figure, clean
from fedlease.wording import counted

__all__ = ["render"]


def render(template: str, figures: Mapping[str, Figure], data: Mapping[str, Any] | None = None, **values: Any) -> str:
    """A page from one of the templates in ``page/``; the same input gives the same text.

    Args:
        template: file name.
        figures: by id; the template says where each stands.
        data: what the page's script needs beside the figures; must be JSON.
        values: what the template names. All text is escaped.

    Raises:
        MissingPackageError: plotly or jinja2 is not installed.
    """
    try:
        from jinja2 import DictLoader, Environment, StrictUndefined
        from markupsafe import Markup
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        package = (error.name or "plotly").partition(".")[0]
        raise MissingPackageError(package, "a report", "pip install plotly jinja2") from error
    files = resources.files("fedlease.reporting") / "page"
    texts = {
        name: (files / name).read_text(encoding="utf-8")
        for name in ("base.html", "parts.html", "samples.html", template, "report.css", "report.js")
    }

    def shown(value: Any) -> Any:
        if not isinstance(value, str) or isinstance(value, Markup):
            return value
        return re.sub(r"(?<=\d) (?=%|[kMGT]?B\b)", "\N{NO-BREAK SPACE}", clean(value))

    environment = Environment(
        loader=DictLoader(texts),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    content = {
        "figures": {name: {"data": figure.data, "layout": figure.layout} for name, figure in figures.items()},
        **(data or {}),
    }
    return environment.get_template(template).render(
        figures=figures,
        # Markup: these are the package's own files, and JSON that holds no character with a meaning in HTML.
        css=Markup(texts["report.css"]),
        js=Markup(texts["report.js"]),
        plotly=Markup(get_plotlyjs().replace("</script", "<\\/script")),
        data=Markup(_embedded(content)),
        counted=counted,
        **values,
    )


def _embedded(content: Any) -> str:
    """JSON that can stand inside a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
