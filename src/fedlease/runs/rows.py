"""The rows of a run, from files or memory, and their comparison with those with which the run started."""

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
"""Most clients with changed rows that are named."""


def rows_of(settings: Settings, data: object = None) -> Federation:
    """Reads the rows of the settings, or takes those in memory.

    Raises:
        DataError: they cannot be read.
    """
    return load_federation(settings.data, settings.seed, settings.task, data)


def rows_of_run(out: Path, settings: Settings, data: object = None) -> Federation:
    """The rows of a run that was started before; rows in memory must be passed again.

    Raises:
        DataError: they cannot be read.
        RunFolderError: they are no longer those with which the run started, or were in memory and are not given.
    """
    if settings.data.source == "memory" and data is None:
        raise RunFolderError(
            f"{out}: the rows of this run were in memory, not in files; pass the same rows again in Python, as in "
            f"fedlease.resume({str(out)!r}, data=ROWS)"
        )
    federation = rows_of(settings, data)
    if federation.fingerprint() != read_environment(out).data_fingerprint:
        then = {client: card.fingerprint for client, card in read_clients(out).items()}
        now = {rows.id: rows.card().fingerprint for rows in federation}
        other = [client for client in sorted({*then, *now}) if then.get(client) != now.get(client)]
        whose = f", for {quoted(other, FEW)}" if other else ""
        raise RunFolderError(f"{out}: the rows have changed since the start of the run{whose}")
    return federation
