"""Collects the faults of rows, so that one run reports all of them and tells equal ones once."""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedlease.core.wording import counted, listed
from fedlease.data.dropped import Dropped
from fedlease.errors import DataError

__all__ = ["IN_MEMORY", "SHOWN", "Faults", "FoundFaultsError", "OneRow", "in_memory", "quoted", "shown"]

SHOWN = 20
"""Lines of faults before the rest are only counted."""

APART = 3
"""Number of faults of one kind up to which each has a line."""

EACH = 10
"""Number of clients with the same fault up to which each has a line."""

PLACES = 5
"""Places of further faults of a kind that are named."""

KEPT = 1000
"""Sentences kept per kind; more are counted, so that a million faulty rows take no memory."""

IN_MEMORY = "data"
"""The place of rows in memory, which are counted like those of Parquet; of a client's, ``data['a']``."""

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80
_short.maxlist = _short.maxdict = 4
_short.maxlevel = 3


def shown(value: object) -> str:
    """A value as a fault shows it: escaped and cut in length and depth."""
    try:
        return _short.repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return f"a {type(value).__name__} too long to show"


def in_memory(path: Path) -> bool:
    """Whether a place is one of rows in memory, and no file."""
    return str(path).partition("[")[0] == IN_MEMORY


def quoted(names: Sequence[str], most: int = 12) -> str:
    """Names of unknown origin with quotes and commas; of many, the first ones and how many more there are."""
    return listed([shown(name) for name in names], most)


@dataclass(slots=True)
class _Kind:
    """Faults that differ in their place and value only.

    Attributes:
        apart: up to so many have a line each.
        count: how many there are.
        first: of the first ones, the number among all faults, the sentence, the file or client, and the line.
    """

    apart: int
    count: int = 0
    first: list[tuple[int, str, str, str]] = field(default_factory=list)

    def lines(self) -> list[tuple[int, str, int]]:
        """Number, sentence and how many faults it covers: one per fault or, of many, the first with further places."""
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
        found: sentences, in the order in which they were found; of one kind, the first :data:`KEPT`.
        count: how many faults there are.
        dropped: counts rows that cannot be used; None where they are faults.
        of_rows: how many of them are of rows that could be dropped.
        owner: the client whose rows are read; ``""`` where that is not known.
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
        """Faults and dropped rows that were noted so far."""
        return self.count + (self.dropped.rows if self.dropped else 0)

    def dropped_of(self, client: str) -> int:
        """The number of a client's dropped rows."""
        return self.dropped.rows_of(client) if self.dropped else 0

    def add(self, fault: str, *, kind: str | None = None, place: str = "", line: str = "", apart: int = APART) -> None:
        """Notes one fault, a whole sentence.

        Args:
            kind: what it has in common with faults that mean the same; None: nothing.
            place: the file, folder or client that has it.
            apart: up to so many of the kind have a line each.
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
        """Notes a fault of a client; up to :data:`EACH` clients with the same fault have a line each."""
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
        """Notes the rule that one row breaks, or one value where ``column`` is given.

        ``kind`` is what such faults have in common, by default the column and the rule without the value received;
        ``of_row`` says that nothing is wrong but this row.
        """
        self.of_rows += of_row
        place = _place(path, line)
        sentence = f"{path}, {place}{'' if column is None else f', column {shown(column)}'}: {rule}"
        self.add(sentence, kind=kind or f"{column}: {rule.partition(', got ')[0]}", place=str(path), line=place)

    def row(self, path: Path, line: int) -> "OneRow":
        """Receives what is wrong with one row: faults, or the reason for which it is dropped."""
        return OneRow(self, path, line)

    def owner_of(self, line: int) -> str:
        """The client whose row stands on a line; ``""`` where that is not known."""
        return self.owner

    def hint(self, about: str, sentence: str) -> None:
        """Adds what the rows look like and what mends it, which follows the faults; once per ``about``."""
        self._hints.setdefault(about, sentence)

    def check(self) -> None:
        """Raises what was found, at most :data:`SHOWN` lines in full, and the hints.

        Raises:
            DataError: something was found.
        """
        if not self.count:
            return
        lines = sorted(line for group in self._kinds.values() for line in group.lines())
        rest = sum(count for _, _, count in lines[SHOWN:])
        more = [f"... and {counted(rest, 'more fault')}"] if rest else []
        raise FoundFaultsError([*(line for _, line, _ in lines[:SHOWN]), *more, *self._hints.values()], self)

    def take(self, error: DataError) -> None:
        """Notes the faults of an error that was raised for a part of the rows."""
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
    """Receives the rules that one row breaks; the first one is the reason for which it is dropped, if it may be.

    Attributes:
        broken: whether the row cannot be used.
    """

    faults: Faults
    path: Path
    line: int
    broken: bool = False

    def __call__(self, column: str | None, rule: str, *, kind: str | None = None) -> None:
        """Notes a rule, as :meth:`Faults.at`."""
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
