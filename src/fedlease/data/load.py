"""Where rows come from.

:func:`load_federation` is the one entry. A source is one module, imported when it is asked for: ``folder`` (own
files), ``glue``, ``flan``, ``quickstart`` and ``synthetic``; a new one is a module and one branch here.
"""

from typing import TYPE_CHECKING

from fedlease.config.sections import SOURCE_TASKS, WITHOUT_PATH

if TYPE_CHECKING:
    from fedlease.config.sections import TaskName
    from fedlease.config.settings import DataSettings
    from fedlease.data.federation import Federation

__all__ = ["load_federation", "source_of"]


def source_of(settings: "DataSettings") -> str:
    """The source that is read: ``data.source``, or ``folder`` when a source that reads no files was given a path.

    The second case is what makes ``--preset quickstart --set data.path=DIR`` mean the caller's own files.
    """
    if settings.path is not None and settings.source in WITHOUT_PATH:
        return "folder"
    return settings.source


def load_federation(settings: "DataSettings", seed: int, task: "TaskName" = "classification") -> "Federation":
    """Reads or makes the rows of every client.

    Args:
        settings: where rows come from and how they are dealt.
        seed: root seed; the same settings, seed and task give the same federation.
        task: what clients optimise: rows have labels for ``classification`` and responses for ``generation``.

    Raises:
        DataError: the rows are not usable, with every fault that was found; or the source or the partition cannot
            serve the task.
        MissingPackageError: the source or partition needs a package that is not installed.
    """
    from fedlease.data.usable import without_unusable

    federation = without_unusable(_load(settings, seed, task), settings)
    return _scored_on_valid(federation) if settings.score_rows == "valid" else federation


def _load(settings: "DataSettings", seed: int, task: "TaskName") -> "Federation":
    source = source_of(settings)
    _check_task(source, settings, task)
    if source == "glue":
        from fedlease.data.sources import glue

        return glue.load(settings, seed)
    if source == "flan":
        from fedlease.data.sources import flan

        return flan.load(settings, seed)
    if source == "quickstart":
        from fedlease.data.sources import quickstart

        return quickstart.load(settings, seed)
    if source == "synthetic":
        from fedlease.data.sources import synthetic

        return synthetic.load(settings, seed, task)
    from fedlease.data.sources import folder

    return folder.load(settings, seed, task)


def _check_task(source: str, settings: "DataSettings", task: "TaskName") -> None:
    from fedlease.errors import DataError

    faults = []
    if task not in SOURCE_TASKS[source]:
        faults.append(
            f"data.source: {source!r} has responses and no labels; set task=generation to train on it"
            if task == "classification"
            else f"data.source: {source!r} has labels and no responses, so task 'generation' cannot be trained on it; "
            "use 'folder', 'flan' or 'synthetic'"
        )
    if task == "generation" and settings.partition != "natural":
        faults.append(
            f"data.partition: {settings.partition!r} skews labels, and rows of task 'generation' have none; "
            "use 'natural'"
        )
    if settings.labels is not None and source != "folder":
        faults.append(f"data.labels: source {source!r} has label lists of its own; it is read for files of your own")
    if settings.labels is not None and task == "generation":
        faults.append("data.labels: rows of task 'generation' have no labels; leave it out")
    if faults:
        raise DataError(faults)


def _scored_on_valid(federation: "Federation") -> "Federation":
    from dataclasses import replace

    from fedlease.data.federation import Federation
    from fedlease.errors import DataError

    without = [client.id for client in federation if not client.valid]
    if without:
        raise DataError(
            f"data.score_rows: 'valid' needs validation rows, clients {without} have none; set data.valid_fraction"
        )
    return Federation.of(
        [replace(client, test=client.valid, valid=()) for client in federation], federation.warnings, federation.skipped
    )
