"""Handles clients whose rows cannot be used: ``data.clients`` says whether they are errors or left out."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from fedlease.config.data import DataSettings
from fedlease.core.wording import counted
from fedlease.data.faults import SHOWN, Faults
from fedlease.data.federation import ClientData, Federation
from fedlease.errors import DataError

__all__ = ["RowFaults", "Unusable", "too_few_rows", "without_unusable"]


class Unusable:
    """Separates faults of single clients from faults of the federation.

    Attributes:
        faults: faults of the federation and, unless ``skip``, of clients.
        skip: whether a client with faults is left out; otherwise its faults are those of the federation.
        named: clients with faults.
    """

    def __init__(self, faults: Faults, *, skip: bool) -> None:
        self.faults = faults
        self.skip = skip
        self._own: dict[str, Faults] = {}
        self.named: set[str] = set()

    @contextmanager
    def client(self, client: str) -> Iterator[Faults]:
        """Collects the faults of one client; may be entered several times."""
        own = self._own.setdefault(client, Faults(self.faults.dropped)) if self.skip else self.faults
        before, owner = own.count, own.owner
        own.owner = client
        yield own
        own.owner = owner
        if own.count > before:
            self.named.add(client)

    @property
    def skipped(self) -> dict[str, str]:
        """Client -> reason for leaving it out; empty unless clients are skipped."""
        return {
            client: own.found[0] + (f" (and {counted(own.count - 1, 'more fault')})" if own.count > 1 else "")
            for client, own in sorted(self._own.items())
            if own.count
        }

    def dropped_notes(self, client: str, read: int) -> list[str]:
        """The note of :meth:`fedlease.data.dropped.Dropped.note` in a list; an empty list if there is none."""
        dropped = self.faults.dropped
        return [note] if dropped and (note := dropped.note(client, read)) else []

    def dropped_words(self, client: str, read: int) -> str:
        """A clause on a client's dropped rows, for a fault that it has too few; empty if none were dropped."""
        return "".join(f"; {note.partition(': ')[2]}" for note in self.dropped_notes(client, read))

    def check(self, *, whole: bool = True) -> None:
        """Raises the collected faults, with hints at settings that would tolerate them.

        Args:
            whole: whether these are all clients of a run, so that ``data.bad_rows`` can still be changed.

        Raises:
            DataError: there are faults.
        """
        if self.faults.count > SHOWN and len(self.named) > 1:
            names = ", ".join(map(repr, sorted(self.named)))
            many = f"{len(self.named)} clients cannot be used: {names}"
            self.faults.hint("clients", f"{many}; data.clients=skip goes on without them")
        if whole and self.faults.count == self.faults.of_rows > 0:
            self.faults.hint(
                "bad rows", "data.bad_rows=drop goes on without rows that cannot be used, and counts them."
            )
        self.faults.check()


class RowFaults(Faults):
    """Assigns the faults of rows in a file of several clients to the clients of the rows, where these are known."""

    def __init__(self, unusable: Unusable, owners: Mapping[int, str]) -> None:
        super().__init__(unusable.faults.dropped)
        self._unusable = unusable
        self._owners = owners

    def add(self, fault: str, **more: Any) -> None:
        """Notes a fault of the file."""
        self.count += 1
        self._unusable.faults.add(fault, **more)

    def owner_of(self, line: int) -> str:
        """The client of the row on a line; ``""`` if that is not known."""
        return self._owners.get(line, "")

    def hint(self, about: str, sentence: str) -> None:
        """Adds a hint, see :meth:`Faults.hint`."""
        self._unusable.faults.hint(about, sentence)

    def at(self, path: Path, line: int, column: str | None, rule: str, **more: Any) -> None:
        """Notes a fault of a row, see :meth:`Faults.at`."""
        self.count += 1
        client = self._owners.get(line)
        with nullcontext(self._unusable.faults) if client is None else self._unusable.client(client) as own:
            own.at(path, line, column, rule, **more)


def too_few_rows(client: ClientData, settings: DataSettings) -> str:
    """A clause that a client has too few train rows; empty if it has enough."""
    count, needed = len(client.train), settings.min_train_rows
    if count >= needed:
        return ""
    return f"it has {counted(count, 'train row')}, and data.min_train_rows asks for {needed}"


def without_unusable(federation: Federation, settings: DataSettings) -> Federation:
    """The federation without clients that have too few train rows.

    Raises:
        DataError: such clients must not be left out, or none would be left.
    """
    found = {client.id: too_few_rows(client, settings) for client in federation}
    short = {client: f"client {client!r}: {rule}" for client, rule in found.items() if rule}
    if not short:
        return federation
    if settings.clients == "require" or len(short) == len(federation):
        raise DataError(list(short.values()))
    kept = [client for client in federation if client.id not in short]
    about = tuple(f"client {name!r}" for name in short)
    notes = [note for note in federation.warnings if not note.startswith(about)]
    return Federation.of(kept, notes, {**federation.skipped, **short})
