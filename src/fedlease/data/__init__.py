"""Where rows come from.

:func:`load_federation` is the one entry. A source is one module, imported when it is asked for: ``folder`` (own
files), ``glue``, ``quickstart`` and ``synthetic``; a new one is a module and one branch here.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedlease.config import DataSettings
    from fedlease.data.federation import Federation

__all__ = ["load_federation", "source_of"]

_WITHOUT_PATH = ("quickstart", "synthetic")


def source_of(settings: "DataSettings") -> str:
    """The source that is read: ``data.source``, or ``folder`` when a source that reads no files was given a path.

    The second case is what makes ``--preset quickstart --set data.path=DIR`` mean the caller's own files.
    """
    if settings.path is not None and settings.source in _WITHOUT_PATH:
        return "folder"
    return settings.source


def load_federation(settings: "DataSettings", seed: int) -> "Federation":
    """Reads or makes the rows of every client.

    Args:
        settings: where rows come from and how they are dealt.
        seed: root seed; the same settings and seed give the same federation.

    Raises:
        DataError: the rows are not usable; holds every fault that was found.
        MissingPackageError: the source or partition needs a package that is not installed.
    """
    federation = _load(settings, seed)
    return _scored_on_valid(federation) if settings.score_rows == "valid" else federation


def _load(settings: "DataSettings", seed: int) -> "Federation":
    source = source_of(settings)
    if source == "glue":
        from fedlease.data import glue

        return glue.load(settings, seed)
    if source == "quickstart":
        from fedlease.data import quickstart

        return quickstart.load(settings, seed)
    if source == "synthetic":
        from fedlease.data import synthetic

        return synthetic.load(settings, seed)
    from fedlease.data import folder

    return folder.load(settings, seed)


def _scored_on_valid(federation: "Federation") -> "Federation":
    from dataclasses import replace

    from fedlease.data.federation import Federation
    from fedlease.errors import DataError

    without = [client.id for client in federation if not client.valid]
    if without:
        raise DataError(
            f"data.score_rows: 'valid' needs validation rows, clients {without} have none; set data.valid_fraction"
        )
    return Federation.of([replace(client, test=client.valid, valid=()) for client in federation], federation.warnings)
