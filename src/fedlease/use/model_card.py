"""The ``README.md`` of an exported folder, in the form that the model hub reads."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedlease._version import __version__
from fedlease.use.open_run import OpenRun

__all__ = ["model_card"]

MARKUP = "\\`*_[]|#{}$"


def model_card(kind: Literal["client", "expert"], run: OpenRun, content: Mapping[str, Any]) -> str:
    """The card of an exported client or expert.

    Args:
        kind: which.
        run: it comes from.
        content: of its ``scores.json``.
    """
    environment = Environment(
        loader=PackageLoader("fedlease", "use/cards"),
        undefined=StrictUndefined,
        autoescape=False,  # Markdown: names from data go through the filter ``plain``
        keep_trailing_newline=True,
    )
    environment.filters.update(plain=_plain, percent=_percent, ids=_ids)
    return environment.get_template(f"{kind}.md.j2").render(
        **content, base=run.source.public_name, method=run.method, s=run.settings, version=__version__
    )


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.1f}"


def _ids(labels: Sequence[str]) -> str:
    """Python source of index -> label."""
    return repr(dict(enumerate(labels)))


def _plain(text: str) -> str:
    """A name from data inside Markdown: no markup of it takes effect."""
    kept = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    kept = kept.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in MARKUP else c for c in kept)
