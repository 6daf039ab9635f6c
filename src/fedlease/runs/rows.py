"""The rows of a run: those that its settings name, or those that were in memory, compared with the run's own."""

from pathlib import Path

from fedlease.config.settings import Settings
from fedlease.data.faults import quoted
from fedlease.data.federation import Federation
from fedlease.data.load import load_federation
from fedlease.errors import RunFolderError
from fedlease.storage.environment import read_environment
from fedlease.storage.run_folder import read_clients

__all__ = ["rows_of", "rows_of_run"]

FEW = 5
"""Number of clients with other rows up to which they are named."""


def rows_of(settings: Settings, data: object = None) -> Federation:
    """The rows that settings name, or those in memory.

    Raises:
        DataError: they cannot be read.
    """
    return load_federation(settings.data, settings.seed, settings.task, data)


def rows_of_run(out: Path, settings: Settings, data: object = None) -> Federation:
    """The rows of a run; where they were in memory, they are needed again.

    Raises:
        DataError: they cannot be read.
        RunFolderError: they are no longer those that the run began with, or were in memory and are not given.
    """
    if settings.data.source == "memory" and data is None:
        raise RunFolderError(
            f"{out}: the rows of this run were in memory and are in no file; pass the same ones in Python again, as in "
            f"fedlease.resume({str(out)!r}, data=ROWS)"
        )
    federation = rows_of(settings, data)
    if federation.fingerprint() != read_environment(out).data_fingerprint:
        then = {client: card.fingerprint for client, card in read_clients(out).items()}
        now = {rows.id: rows.card().fingerprint for rows in federation}
        other = [client for client in sorted({*then, *now}) if then.get(client) != now.get(client)]
        whose = f": those of {quoted(other, FEW)} are others" if other else ""
        raise RunFolderError(f"{out}: the rows have changed since the run began{whose}")
    return federation
