"""The test rows of cells, which all variants of a seed share."""

from collections.abc import Sequence
from dataclasses import dataclass

from fedlease.data.load import load_federation
from fedlease.errors import RunFolderError
from fedlease.experiments.cells import Cell
from fedlease.experiments.statistics import RowKeys
from fedlease.storage.environment import read_environment

__all__ = ["ScoredRows"]


@dataclass(frozen=True)
class ScoredRows:
    """The current rows of some cells, by their settings.

    Attributes:
        keys: per seed and client, the test rows, in the order of the scores.
        fingerprints: per seed, SHA-256 over all rows.
    """

    keys: tuple[RowKeys, ...]
    fingerprints: tuple[str, ...]

    @classmethod
    def of(cls, cells: Sequence[Cell], data: object = None) -> "ScoredRows":
        """Reads the rows of every seed, from cells of one variant, or takes them from memory.

        Raises:
            DataError, MissingPackageError: see :func:`fedlease.data.load.load_federation`.
        """
        settings = [cell.settings for cell in cells]
        federations = [load_federation(s.data, s.seed, s.task, data) for s in settings]
        keys = tuple({client.id: client.test for client in federation} for federation in federations)
        return cls(keys, tuple(federation.fingerprint() for federation in federations))

    def check(self, cells: Sequence[Cell]) -> None:
        """Checks that existing runs of one variant, one per seed, began with these rows.

        Raises:
            RunFolderError: a run has other rows, so it cannot be compared with new runs.
        """
        for cell, expected in zip(cells, self.fingerprints, strict=True):
            path = cell.folder / "environment.json"
            if path.is_file() and read_environment(cell.folder).data_fingerprint != expected:
                raise RunFolderError(
                    f"{cell.folder}: the rows have changed since this run began, so it cannot be compared with others; "
                    "choose another --out, or delete the folder to run it again"
                )
