"""Renders the ``README.md`` of a folder with a model, in the format of the model hub."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedlease._version import __version__
from fedlease.config.settings import Settings
from fedlease.config.tables import task_facts
from fedlease.core.wording import counted, printable

__all__ = ["Kind", "render_card"]

Kind = Literal["client", "expert", "merged"]
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values of ``vllm serve --max-lora-rank``."""

MARKUP = "\\`*_[]|#{}$"


def render_card(kind: Kind, content: Mapping[str, Any], *, tokenizer: Any, method: str, settings: Settings) -> str:
    """Renders the card of a client's adapter, of an expert, or of a merged model.

    Args:
        kind: the kind of model.
        content: values for the template; those of an exported folder are in its ``scores.json``. ``base`` has ``name``
            and ``revision`` by which others can load the base model; the name is None if it is not known.
        tokenizer: tokenizer of the base model, with the padding that it needs.
        method: the method that trained the model.
        settings: settings of the run.
    """
    learnt = task_facts(settings.task).model
    content = {"summed": False, **content}
    template = _environment().get_template(f"{kind}.md.j2")
    return template.render(**content, tokenizer=tokenizer, method=method, s=settings, model=learnt, version=__version__)


@cache
def _environment() -> Environment:
    """The compiled templates, cached since a node writes one card per method and an export one per client."""
    environment = Environment(
        loader=PackageLoader("fedlease", "reporting/cards"),
        undefined=StrictUndefined,
        autoescape=False,  # Markdown: names from data go through the filter ``plain``
        keep_trailing_newline=True,
    )
    environment.filters.update(
        counted=counted, plain=_plain, percent=_percent, ids=_ids, source=_source, vllm_rank=_vllm_rank
    )
    return environment


def _percent(value: float | None) -> str:
    return "not measured" if value is None else f"{100 * value:.1f}"


def _ids(labels: Sequence[str]) -> str:
    """Python source of a dictionary from index to label."""
    return repr(dict(enumerate(labels)))


def _source(base: Mapping[str, Any]) -> str:
    """Python source of the arguments of ``from_pretrained`` for the base model."""
    revision = "" if base["revision"] is None else f", revision={json.dumps(base['revision'])}"
    return json.dumps(base["name"] or "THE BASE MODEL") + revision


def _vllm_rank(rank: int) -> int | None:
    """The smallest ``--max-lora-rank`` that is at least ``rank``; None if there is none."""
    return next((known for known in VLLM_RANKS if known >= rank), None)


def _plain(text: str) -> str:
    """A name from data, escaped for Markdown."""
    safe = printable(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in MARKUP else c for c in safe)
