"""Collects the faults of rows, so that one run reports all of them and groups those of one kind."""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedlease.core.wording import counted, listed
from fedlease.data.dropped import Dropped
from fedlease.errors import DataError

__all__ = ["IN_MEMORY", "SHOWN", "Faults", "FoundFaultsError", "OneRow", "in_memory", "quoted", "shown"]

SHOWN = 20
"""Number of lines in an error; further faults are counted."""

APART = 3
"""With at most this many faults of one kind, each gets its own line; more share one."""

EACH = 10
"""With at most this many clients that have the same fault, each gets its own line; more share one."""

PLACES = 5
"""Number of further places that the line for many faults of one kind names."""

KEPT = 1000
"""Sentences kept per kind; further faults are counted, so that a million faulty rows take no memory."""

IN_MEMORY = "data"
"""The place that messages give for rows in memory; ``data['a']`` for those of client ``a``."""

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80
_short.maxlist = _short.maxdict = 4
_short.maxlevel = 3


def shown(value: object) -> str:
    """A value as a fault shows it: escaped and cut in length and depth."""
    try:
        return _short.repr(value)
    except ValueError:  # Python refuses to write integers of more than 4,300 digits
        return f"a {type(value).__name__} too long to show"


def in_memory(path: Path) -> bool:
    """Whether a place stands for rows in memory instead of a file."""
    return str(path).partition("[")[0] == IN_MEMORY


def quoted(names: Sequence[str], most: int = 12) -> str:
    """Lists names of unknown origin, quoted; beyond ``most``, further ones are counted."""
    return listed([shown(name) for name in names], most)


@dataclass(slots=True)
class _Kind:
    """Faults that differ in their place and value only.

    Attributes:
        apart: with at most this many faults, each gets its own line.
        count: number of faults.
        first: the first :data:`KEPT` faults: number among all faults, sentence, file or client, and line.
    """

    apart: int
    count: int = 0
    first: list[tuple[int, str, str, str]] = field(default_factory=list)

    def lines(self) -> list[tuple[int, str, int]]:
        """Lines as (number, sentence, faults covered): one per fault, or one for all if there are many."""
        if self.count <= self.apart:
            return [(number, fault, 1) for number, fault, _, _ in self.first]
        number, fault, last, _ = self.first[0]
        named = []
        for _, _, place, line in self.first[1 : PLACES + 1]:
            named.append(line if place == last and line else ", ".join(filter(None, (place, line))))
            last = place
        more = " ..." if self.count > PLACES + 1 else ""
        return [(number, f"{fault}; {self.count - 1:,} more like it: {'; '.join(named)}{more}", self.count)]


class Faults:
    """Collects faults so that one run reports all of them.

    Attributes:
        found: sentences in the order in which they were found, at most :data:`KEPT` of one kind.
        count: number of faults.
        dropped: counts rows that cannot be used; None if these are faults.
        of_rows: number of faults that concern rows which could be dropped.
        owner: the client whose rows are being read; ``""`` if that is not known.
    """

    def __init__(self, dropped: Dropped | None = None) -> None:
        self.found: list[str] = []
        self.count = 0
        self.dropped = dropped
        self.owner = ""
        self.of_rows = 0
        self._kinds: dict[str, _Kind] = {}
        self._hints: dict[str, str] = {}

    @property
    def seen(self) -> int:
        """Number of faults and dropped rows so far."""
        return self.count + (self.dropped.rows if self.dropped else 0)

    def dropped_of(self, client: str) -> int:
        """The number of a client's dropped rows."""
        return self.dropped.rows_of(client) if self.dropped else 0

    def add(self, fault: str, *, kind: str | None = None, place: str = "", line: str = "", apart: int = APART) -> None:
        """Notes one fault, a whole sentence.

        Args:
            kind: key that groups faults which mean the same; None groups only equal sentences.
            place: the file, folder or client that has the fault.
            apart: with at most this many faults of the kind, each gets its own line.
        """
        self.count += 1
        group = self._kinds.setdefault(fault if kind is None else f"\0{kind}", _Kind(apart))
        group.count += 1
        if group.count <= KEPT:
            group.first.append((self.count, fault, place, line))
            self.found.append(fault)

    def of_file(self, path: Path, rule: str, kind: str, apart: int = APART) -> None:
        """Notes a fault of a whole file or folder."""
        self.add(f"{path}: {rule}", kind=kind, place=str(path), apart=apart)

    def of_client(self, client: str, rule: str, kind: str) -> None:
        """Notes a fault of a client."""
        self.add(f"client {client!r}: {rule}", kind=kind, place=repr(client), apart=EACH)

    def at(
        self,
        path: Path,
        line: int,
        column: str | None,
        rule: str,
        *,
        kind: str | None = None,
        of_row: bool = False,
    ) -> None:
        """Notes the rule that a row breaks, or that its value in ``column`` breaks.

        Args:
            kind: key that groups such faults; by default the column and the rule without the value received.
            of_row: whether dropping the row would remove the fault.
        """
        self.of_rows += of_row
        place = _place(path, line)
        sentence = f"{path}, {place}{'' if column is None else f', column {shown(column)}'}: {rule}"
        self.add(sentence, kind=kind or f"{column}: {rule.partition(', got ')[0]}", place=str(path), line=place)

    def row(self, path: Path, line: int) -> "OneRow":
        """A receiver of the rules that one row breaks."""
        return OneRow(self, path, line)

    def owner_of(self, line: int) -> str:
        """The client to which the row on a line belongs; ``""`` if that is not known."""
        return self.owner

    def hint(self, about: str, sentence: str) -> None:
        """Adds a sentence with a likely cause and its remedy, to be shown after the faults; one per ``about``."""
        self._hints.setdefault(about, sentence)

    def check(self) -> None:
        """Raises the faults that were found, in at most :data:`SHOWN` lines, and the hints.

        Raises:
            DataError: there are faults.
        """
        if not self.count:
            return
        lines = sorted(line for group in self._kinds.values() for line in group.lines())
        rest = sum(count for _, _, count in lines[SHOWN:])
        more = [f"... and {counted(rest, 'more fault')}"] if rest else []
        raise FoundFaultsError([*(line for _, line, _ in lines[:SHOWN]), *more, *self._hints.values()], self)

    def take(self, error: DataError) -> None:
        """Adds the faults of an error that was raised for a part of the rows."""
        if not isinstance(error, FoundFaultsError):
            for fault in error.faults:
                self.add(fault)
            return
        for key, group in error.collected._kinds.items():
            own = self._kinds.setdefault(key, _Kind(group.apart))
            for number, fault, place, line in group.first[: max(KEPT - len(own.first), 0)]:
                own.first.append((self.count + number, fault, place, line))
                self.found.append(fault)
            own.count += group.count
        self.count += error.collected.count
        self._hints = {**error.collected._hints, **self._hints}


@dataclass(slots=True)
class OneRow:
    """Receives the rules that one row breaks; if the row may be dropped, the first one is the reason.

    Attributes:
        broken: whether the row cannot be used.
    """

    faults: Faults
    path: Path
    line: int
    broken: bool = False

    def __call__(self, column: str | None, rule: str, *, kind: str | None = None) -> None:
        """Notes a rule that the row breaks; parameters are those of :meth:`Faults.at`."""
        dropped = self.faults.dropped
        if dropped is None:
            self.faults.at(self.path, self.line, column, rule, kind=kind, of_row=True)
        elif not self.broken:
            short = rule.partition(", got ")[0]
            reason = kind or (short if column is None else f"column {shown(column)}: {short}")
            dropped.add(self.faults.owner_of(self.line), reason, f"{self.path}, {_place(self.path, self.line)}")
        self.broken = True


def _place(path: Path, line: int) -> str:
    counted_rows = path.suffix in (".parquet", ".arrow") or in_memory(path)
    return f"{'row' if counted_rows else 'line'} {line}"


class FoundFaultsError(DataError):
    """The error that :meth:`Faults.check` raises, with its faults."""

    def __init__(self, lines: Sequence[str], collected: Faults) -> None:
        super().__init__(lines)
        self.collected = collected
