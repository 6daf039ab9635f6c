"""What every data source gives: clients, each with its own labels and rows."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from fedlease.core.types import ClientId

__all__ = ["ClientData", "Federation", "Row"]


@dataclass(frozen=True, slots=True)
class Row:
    """One example.

    Attributes:
        text: never empty.
        pair: second text of a sentence-pair task, or None.
        label: index into the client's ``labels``.
    """

    text: str
    pair: str | None
    label: int


@dataclass(frozen=True)
class ClientData:
    """One client's rows; they never leave the client.

    Attributes:
        id: the client's name, from the data (folder or column), never from a transport.
        task: what the client's rows are about, for per-task scores; unknown tasks are ``"default"``.
        labels: label names; ``Row.label`` indexes them.
        train: rows to train on.
        valid: rows for choices (learning rate, epochs); empty when ``data.valid_fraction`` is 0.
        test: rows for scores.
    """

    id: ClientId
    task: str
    labels: tuple[str, ...]
    train: tuple[Row, ...]
    valid: tuple[Row, ...]
    test: tuple[Row, ...]


@dataclass(frozen=True)
class Federation:
    """All clients of a run, in sorted order of their ids.

    Attributes:
        clients: id -> rows.
        warnings: plain sentences about what is unusual in the data.
    """

    clients: Mapping[ClientId, ClientData]
    warnings: tuple[str, ...] = field(default=())

    def __iter__(self) -> Iterator[ClientData]:
        return iter(self.clients.values())

    def __len__(self) -> int:
        return len(self.clients)

    @classmethod
    def of(cls, clients: Iterable[ClientData], warnings: Iterable[str] = ()) -> "Federation":
        """Builds a federation with its clients in sorted order."""
        ordered = sorted(clients, key=lambda client: client.id)
        return cls({client.id: client for client in ordered}, tuple(warnings))

    def fingerprint(self) -> str:
        """SHA-256 over every id, task, label list and row: changes when any of them does."""
        digest = hashlib.sha256()
        for client in self:
            for part in (client.id, client.task, *client.labels):
                digest.update(f"{part}\x1f".encode())
            for name, rows in (("train", client.train), ("valid", client.valid), ("test", client.test)):
                digest.update(f"\x1d{name}\x1d".encode())
                for row in rows:
                    digest.update(f"{row.text}\x1f{row.pair}\x1f{row.label}\x1e".encode())
        return digest.hexdigest()
