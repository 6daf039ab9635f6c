"""Reads the files of one federation by its settings."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from fedlease.config.data import DataSettings
from fedlease.config.tables import RowKind
from fedlease.data.dropped import Dropped
from fedlease.data.faults import Faults
from fedlease.data.reading.examples import Example, read_examples
from fedlease.data.reading.forms import Form, guess_notes
from fedlease.data.reading.looks import add_hints
from fedlease.data.reading.prompts import read_prompt_examples
from fedlease.data.reading.rows import Table
from fedlease.data.reading.tables import read_table

__all__ = ["Reader", "examples_of"]


@dataclass
class Reader:
    """Reads files of one federation.

    Attributes:
        notes: notes of what is unusual, one sentence each.
        tables: the tables that were read, without their rows.
        dropped: counts rows that cannot be used; None if these are faults.
    """

    settings: DataSettings
    kind: RowKind
    notes: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    dropped: Dropped | None = field(init=False)

    def __post_init__(self) -> None:
        self.dropped = Dropped.of(self.settings)

    def table(self, path: Path, faults: Faults) -> Table | None:
        """Reads a file, see :func:`fedlease.data.reading.tables.read_table`."""
        table = read_table(path, faults, self.settings.limits, Form.of(self.settings))
        if table is not None:
            self.tables.append(replace(table, records=()))
        return table

    def examples(self, table: Table, faults: Faults) -> list[Example]:
        """Reads rows, see :func:`examples_of`."""
        return examples_of(table, self.settings, faults, self.kind)

    def every_note(self) -> list[str]:
        """All notes, those about guesses first."""
        return [*guess_notes(self.tables), *self.notes]


def examples_of(table: Table, settings: DataSettings, faults: Faults, kind: RowKind) -> list[Example]:
    """The usable rows of a table; if there are faults, adds hints at their cause."""
    before = faults.count
    if kind == "responses":
        examples = read_prompt_examples(table, settings.columns, faults)
    else:
        examples = read_examples(table, settings.columns, faults, kind, settings.label_separator)
    if faults.count > before:
        add_hints(table, settings.columns, kind, faults)
    return examples
