"""Collects the faults of rows, so that one run reports all of them and tells equal ones once."""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedlease.core.wording import counted, listed
from fedlease.errors import DataError

__all__ = ["SHOWN", "Faults", "FoundFaultsError", "quoted", "shown", "where"]

SHOWN = 20
"""Lines of faults before the rest are only counted."""

APART = 3
"""Up to so many faults of one kind have a line each."""

PLACES = 5
"""Places of further faults of a kind that are named."""

KEPT = 1000
"""Sentences kept per kind; more are counted, so that a million faulty rows take no memory."""

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


def quoted(names: Sequence[str], most: int = 12) -> str:
    """Names of unknown origin with quotes and commas; of many, the first ones and how many more there are."""
    return listed([shown(name) for name in names], most)


def where(path: Path, line: int) -> str:
    """A row's place as faults name it."""
    return f"{path}, {_line(path, line)}"


def _line(path: Path, line: int) -> str:
    return f"{'row' if path.suffix == '.parquet' else 'line'} {line}"


@dataclass(slots=True)
class _Kind:
    """Faults that differ in their place and value only.

    Attributes:
        apart: up to so many have a line each.
        count: how many there are.
        sentences: the first ones, after their number among all faults.
        places: where those are: file or client, and line.
    """

    apart: int
    count: int = 0
    sentences: list[tuple[int, str]] = field(default_factory=list)
    places: list[tuple[str, str]] = field(default_factory=list)

    def lines(self) -> list[tuple[int, str]]:
        """One line per fault, or, of many, the first one and the places of the others."""
        if self.count <= self.apart:
            return self.sentences
        last = self.places[0][0]
        named = []
        for path, line in self.places[1 : PLACES + 1]:
            named.append(line if path == last and line else ", ".join(filter(None, (path, line))))
            last = path
        more = " ..." if self.count > PLACES + 1 else ""
        number, first = self.sentences[0]
        return [(number, f"{first}; {self.count - 1:,} more like it: {'; '.join(named)}{more}")]


class Faults:
    """Collects faults so that one run reports all of them.

    Attributes:
        found: sentences, in the order in which they were found; of one kind, the first :data:`KEPT`.
        count: how many faults there are.
    """

    def __init__(self) -> None:
        self.found: list[str] = []
        self.count = 0
        self._kinds: dict[str, _Kind] = {}
        self._hints: dict[str, str] = {}

    def add(self, fault: str, *, kind: str | None = None, place: str = "", line: str = "", apart: int = APART) -> None:
        """Notes one fault.

        Args:
            fault: the whole sentence.
            kind: what it has in common with faults that mean the same; None: nothing.
            place: the file, folder or client that has it.
            line: where in the file.
            apart: up to so many of the kind have a line each.
        """
        self.count += 1
        group = self._kinds.setdefault(fault if kind is None else f"\0{kind}", _Kind(apart))
        group.count += 1
        if group.count <= KEPT:
            group.sentences.append((self.count, fault))
            group.places.append((place, line))
            self.found.append(fault)

    def at(self, path: Path, line: int, column: str | None, rule: str, *, kind: str | None = None) -> None:
        """Notes a fault of one row, or of one value where ``column`` is given.

        Args:
            path: the file.
            line: 1-based.
            column: the value's.
            rule: what it breaks.
            kind: what such faults have in common; by default the column and the rule without the value received.
        """
        sentence = f"{where(path, line)}{'' if column is None else f', column {shown(column)}'}: {rule}"
        self.add(
            sentence, kind=kind or f"{column}: {rule.partition(', got ')[0]}", place=str(path), line=_line(path, line)
        )

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
        lines = [
            (number, line, group.count if group.count > group.apart else 1)
            for group in self._kinds.values()
            for number, line in group.lines()
        ]
        lines.sort()
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
            for (number, sentence), place in zip(group.sentences, group.places, strict=True):
                if len(own.sentences) < KEPT:
                    own.sentences.append((self.count + number, sentence))
                    own.places.append(place)
                    self.found.append(sentence)
            own.count += group.count
        self.count += error.collected.count
        self._hints = {**error.collected._hints, **self._hints}


class FoundFaultsError(DataError):
    """What :meth:`Faults.check` raises; the faults can be collected further.

    Args:
        lines: the message's.
        collected: where they come from.
    """

    def __init__(self, lines: Sequence[str], collected: Faults) -> None:
        super().__init__(lines)
        self.collected = collected
