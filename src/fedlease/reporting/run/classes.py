"""Tables of a classifier's scores by class, and of its confusion of classes."""

from fedlease.reporting.run.data import RunData
from fedlease.reporting.tables import Cell, Table, number, score

__all__ = ["class_table", "confusion_tables"]

LABELS = 20
"""Most labels of a confusion matrix; a wider one cannot be read."""
CLIENTS = 100
"""Most clients of a page with confusion matrices; summary.json has all."""


def class_table(run: RunData) -> Table | None:
    """Tabulates every class of every client under the main method; None for a task without classes."""
    classes = run.main.summary.classes if run.main.summary is not None else {}
    if not classes:
        return None
    places = {client: place for place, client in enumerate(run.clients)}
    rows = tuple(
        (
            Cell(client, client=places.get(client)),
            Cell(row["label"]),
            number(row["support"]),
            Cell("never" if row["support"] and not row["predicted"] else f"{row['predicted']:,}", row["predicted"]),
            *(score(row[name]) for name in ("precision", "recall", "f1")),
        )
        for client, found in sorted(classes.items())
        for row in found.rows()
    )
    header = ("client", "class", "test rows", "predicted", "precision", "recall", "F1")
    return Table(f"Scores by class in %, {run.main.name}", header, rows)


def confusion_tables(run: RunData) -> list[Table]:
    """Confusion matrices, one per client with true classes as rows; [] if there are too many clients."""
    classes = run.main.summary.classes if run.main.summary is not None else {}
    if len(classes) > CLIENTS:
        return []
    return [
        Table(
            f"Confusion matrix of {client}, true class by predicted class",
            ("true class", *(f"predicted {label}" for label in found.labels)),
            tuple((Cell(label), *map(number, row)) for label, row in zip(found.labels, found.confusion, strict=True)),
        )
        for client, found in sorted(classes.items())
        if 0 < len(found.confusion) <= LABELS
    ]
