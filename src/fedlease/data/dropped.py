"""Counts the unusable rows that ``data.bad_rows`` allows to drop, so that none is dropped in silence."""

from dataclasses import dataclass, field

from fedlease.config.data import DataSettings
from fedlease.core.wording import counted, listed

__all__ = ["Dropped"]

REASONS = 5
"""Number of reasons that a note names; further ones are counted."""


@dataclass(slots=True)
class _Own:
    """The dropped rows of one client.

    Attributes:
        rows: how many there are.
        reasons: reason -> rows, and where the first one is.
    """

    rows: int = 0
    reasons: dict[str, tuple[int, str]] = field(default_factory=dict)


class Dropped:
    """Collects dropped rows by client and reason; the client ``""`` has the rows whose client is not known.

    Attributes:
        rows: number of all dropped rows.
    """

    def __init__(self) -> None:
        self.rows = 0
        self._own: dict[str, _Own] = {}

    @classmethod
    def of(cls, settings: DataSettings) -> "Dropped | None":
        """A collector if rows may be dropped; None if they are faults."""
        return cls() if settings.bad_rows == "drop" else None

    def add(self, client: str, reason: str, place: str) -> None:
        """Counts one row.

        Args:
            client: whose row it is.
            reason: the rule that the row breaks, without the value received.
            place: file and line.
        """
        self.rows += 1
        own = self._own.setdefault(client, _Own())
        own.rows += 1
        count, first = own.reasons.get(reason, (0, place))
        own.reasons[reason] = (count + 1, first)

    @property
    def clients(self) -> list[str]:
        """Clients that have dropped rows."""
        return [client for client in self._own if client]

    def rows_of(self, client: str) -> int:
        """The number of a client's dropped rows."""
        return self._own[client].rows if client in self._own else 0

    def note(self, client: str, read: int) -> str:
        """One sentence on a client's dropped rows and the reasons; empty if none was dropped.

        Args:
            read: number of the client's rows, including the dropped ones; 0 if that is not known.
        """
        if client not in self._own:
            return ""
        own = self._own[client]
        whose = f"client {client!r}: " if client else ""
        of = f"{own.rows:,} of {counted(read, 'row')}" if read else counted(own.rows, "row")
        unknown = "" if client else " of no known client"
        were = "was" if own.rows == 1 else "were"
        return f"{whose}{of}{unknown} {were} dropped (data.bad_rows): {self.reasons(client)}"

    def reasons(self, client: str) -> str:
        """The reasons why a client's rows were dropped, most frequent first, each with the place of its first row."""
        found = sorted(self._own[client].reasons.items(), key=lambda entry: -entry[1][0])
        return listed([_reason(reason, *more) for reason, more in found], REASONS, separator="; ")


def _reason(reason: str, count: int, first: str) -> str:
    return f"{reason} ({first})" if count == 1 else f"{reason} ({count:,}, the first {first})"
