"""The rows of a run's clients, read again and checked to be those of the run."""

from functools import cached_property
from pathlib import Path

from fedlease.core.types import ClientId, ClientModel
from fedlease.data.federation import ClientData, Federation
from fedlease.data.sources.folder import load_client
from fedlease.errors import ConfigError, RunFolderError
from fedlease.runs.open import rows_of_run
from fedlease.storage.newcomers import read_newcomers
from fedlease.use.open_run import OpenRun

__all__ = ["RowsOfRun"]


class RowsOfRun:
    """Reads the federation of a run when a client's rows are first needed.

    Args:
        run: opened run folder.
    """

    def __init__(self, run: OpenRun) -> None:
        self.run = run

    def of(self, client: ClientId) -> ClientData:
        """One client's rows.

        Raises:
            ConfigError: the run has no such client, or it is a node's own model, which does not state where they are.
            DataError: rows cannot be read.
            RunFolderError: the rows are no longer those that the client was trained and scored on.
        """
        if not self.run.client(client).newcomer:
            if isinstance(self.run.saved.state, ClientModel):
                raise ConfigError(f"{self.run.out}: does not state where the rows of {client!r} are: use --no-scores")
            return self._federation.clients[client]
        settings = self.run.settings
        entry = read_newcomers(self.run.out)[client]
        if entry.data is None:
            raise RunFolderError(f"{self.run.out}: does not state where the rows of client {client!r} are")
        data = load_client(Path(entry.data), client, settings.data, settings.seed, settings.task)
        if Federation.of([data]).fingerprint() != entry.data_fingerprint:
            raise RunFolderError(f"{self.run.out}: the rows of client {client!r} have changed since it was onboarded")
        return data

    @cached_property
    def _federation(self) -> Federation:
        return rows_of_run(self.run.out, self.run.settings)
