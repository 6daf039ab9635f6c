"""Renders pages that need no network: one file with style, script, plotly and figures."""

import json
import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from fedlease.core.wording import counted
from fedlease.errors import MissingPackageError
from fedlease.reporting.drawing import Figure, clean

__all__ = ["render"]


def render(template: str, figures: Mapping[str, Figure], data: Mapping[str, Any] | None = None, **values: Any) -> str:
    """Renders a page from one of the ``templates``; the same input gives the same text.

    Args:
        template: file name of the template.
        figures: id -> figure, which the template places.
        data: further JSON values for the page's script.
        values: values that the template names; all text is escaped.

    Raises:
        MissingPackageError: plotly or jinja2 is not installed.
    """
    environment, constant = _environment()
    from markupsafe import Markup

    content = {
        "figures": {name: {"data": figure.data, "layout": figure.layout} for name, figure in figures.items()},
        **(data or {}),
    }
    page: str = environment.get_template(template).render(
        figures=figures, data=Markup(_embedded(content)), counted=counted, **constant, **values
    )
    return page


@cache
def _environment() -> tuple[Any, dict[str, Any]]:
    """The compiled templates, and style, script and plotly of every page; cached, since they have some 5 MB."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
        from markupsafe import Markup
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        package = (error.name or "plotly").partition(".")[0]
        raise MissingPackageError(package, "a report", "pip install plotly jinja2") from error

    def shown(value: Any) -> Any:
        if not isinstance(value, str) or isinstance(value, Markup):
            return value
        return re.sub(r"(?<=\d) (?=%|[kMGT]?B\b)", "\N{NO-BREAK SPACE}", clean(value))

    environment = Environment(
        loader=PackageLoader("fedlease.reporting", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    files = resources.files("fedlease.reporting") / "templates"
    # These are the package's own files, so they are not escaped.
    constant = {key: Markup((files / f"report.{key}").read_text(encoding="utf-8")) for key in ("css", "js")}
    return environment, {**constant, "plotly": Markup(get_plotlyjs().replace("</script", "<\\/script"))}


def _embedded(content: Any) -> str:
    """JSON that is safe inside a script element: nothing in it can end the element or begin a comment."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
