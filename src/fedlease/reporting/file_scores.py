"""Prints scores of predictions for a file that has labels."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from fedlease.core.wording import counted, listed
from fedlease.reporting.formats import escape, percent, print_note
from fedlease.reporting.tables import Cell, Table, number, score
from fedlease.storage.class_scores import ClassScores, never_predicted
from fedlease.tasks.metric_words import of_metric, short_name

__all__ = ["render_file_scores"]

MOST_LABELS = 20
"""Most labels that are shown; if there are more, those with the fewest rows."""


def render_file_scores(content: Mapping[str, Any], console: Console) -> None:
    """Prints the content that ``--scores`` writes; labels that are never predicted come first."""
    classes = ClassScores.model_validate(content["classes"]) if "classes" in content else None
    found = never_predicted({content["client"]: classes} if classes else {})
    missed = [f"{label!r} ({support})" for _, label, support, _ in found]
    if missed:
        console.print(f"[bold red]Never predicted, of its rows: {escape(listed(missed))}[/]", soft_wrap=True)
    own = of_metric(content["metric"], content["learnt"])
    others = {key.removeprefix("mean_"): short_name(name) for key, name in own.further.items()}
    shown = {key: name for key, name in ({content["metric"]: own.name} | others).items() if key in content}
    words = ", ".join(
        [f"{name} {percent(content[key])} %" for key, name in shown.items()]
        + [f"{name} {content[key]:.4g}" for key, name in own.own_units.items()]
        + [f"{key} {content[key]:.4g}" for key in ("perplexity",) if key in content]
    )
    rows, scored = content["rows"], content["scored"]
    of_all = (
        counted(scored, "row") if scored == rows else f"{scored:,} of {counted(rows, 'row')}, which say what is true"
    )
    console.print(f"{escape(content['client'])}: {words} on {of_all}", soft_wrap=True)
    if content["unknown"]:
        names = listed([repr(name) for name in content["unknown"]])
        print_note(console, f"the client's model does not know {names}: such rows count as wrong")
    if classes is not None:
        console.print(_table(classes).for_terminal())


def _table(classes: ClassScores) -> Table:
    rows = sorted(classes.rows(), key=lambda row: row["support"])
    shown = classes.rows() if len(rows) <= MOST_LABELS else rows[:MOST_LABELS]
    header = ("label", "rows", "predicted", "precision", "recall", "F1")
    cells = tuple(
        (
            Cell(row["label"]),
            number(row["support"]),
            number(row["predicted"]),
            *(score(row[name]) for name in ("precision", "recall", "f1")),
        )
        for row in shown
    )
    some = "" if len(shown) == len(rows) else f", the {len(shown)} rarest of {len(rows)} labels"
    return Table(f"by label, in %{some}", header, cells)
