"""The ``README.md`` of an exported folder."""

from collections.abc import Mapping
from typing import Any

from fedlease.reporting.model_card import Kind, render_card
from fedlease.use.open_run import OpenRun

__all__ = ["model_card"]


def model_card(kind: Kind, run: OpenRun, content: Mapping[str, Any]) -> str:
    """The card of an exported client or expert.

    Args:
        kind: which.
        run: it comes from.
        content: of its ``scores.json``.
    """
    base, tokenizer = run.loaded.source.public_name, run.tokenizer
    return render_card(kind, content, base=base, tokenizer=tokenizer, method=run.method, settings=run.settings)
