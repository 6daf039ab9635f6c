"""Functions for finished runs, one per command: predict, score, export, onboard."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from fedlease.config.tables import task_facts
from fedlease.core.names import ClientId
from fedlease.data.faults import Faults
from fedlease.data.sources.memory import table_of
from fedlease.errors import ConfigError, DataError
from fedlease.reporting.bars import Standing, bars_on
from fedlease.storage.run_folder import read_settings

if TYPE_CHECKING:
    from fedlease.data.federation import Row
    from fedlease.data.reading.rows import Table
    from fedlease.use.onboard import Onboarded
    from fedlease.use.open_run import KnownClient, OpenRun

__all__ = ["export", "onboard", "predict", "score"]


def predict(
    folder: str | Path, client: ClientId, rows: object, *, method: str | None = None, device: str | None = None
) -> list[dict[str, Any]]:
    """Predicts labels, or generates answers, with the model of one client.

    Args:
        folder: run folder.
        client: id of the client.
        rows: a list of texts or prompts; a list of dicts, a DataFrame or a Dataset with the run's text columns; or the
            path of a file. Labels in them are ignored.
        method: a method of the run; None takes the main one.
        device: of the computation; None takes the run's if this machine has it, else the CPU.

    Returns:
        A dict per row: ``prediction`` and, for classifiers, ``probability`` and ``probabilities``, label ->
        probability.

    Raises:
        RunFolderError: the folder has no run, or a damaged one.
        ConfigError: the run does not have the client or method, or this machine does not have the device.
        DataError: the rows have faults; the message has all of them.
    """
    run, known, _, read = _opened(folder, client, rows, method, device)
    from fedlease.use.predict import predict as predicted

    return predicted(run, known.id, read) if read else []


def score(
    folder: str | Path, client: ClientId, rows: object, *, method: str | None = None, device: str | None = None
) -> dict[str, Any]:
    """Scores the model of one client on rows with labels, numbers or responses.

    Args:
        folder: run folder.
        client: id of the client.
        rows: as for :func:`predict`, with the run's columns of labels, numbers or responses.
        method: a method of the run; None takes the main one.
        device: of the computation; None takes the run's if this machine has it, else the CPU.

    Returns:
        The content that ``fedlease predict --scores`` writes: the number of ``rows``, how many of them were ``scored``,
        and the task's metrics; for classifiers also ``classes``, by label; for language models the ``loss`` per token
        and the ``perplexity``.

    Raises:
        RunFolderError: the folder has no run, or a damaged one.
        ConfigError: the run does not have the client or method, or this machine does not have the device.
        DataError: the rows have faults, or no row has a label, number or response.
    """
    run, known, table, read = _opened(folder, client, rows, method, device)
    from fedlease.use.file_scores import score_file
    from fedlease.use.predict import predict as predicted

    found = score_file(run, known, table, predicted(run, known.id, read)) if table is not None and read else None
    if found is None:
        raise DataError(f"rows: none of {len(read):,} can be scored by the columns of the run (data.columns)")
    return found.content


def _opened(
    folder: str | Path, client: ClientId, rows: object, method: str | None, device: str | None
) -> "tuple[OpenRun, KnownClient, Table | None, list[Row]]":
    """The run, the client, the table of rows, and the rows as the task's inputs."""
    settings = read_settings(Path(folder))  # before libraries that take seconds to load
    table = None
    if not isinstance(rows, str | os.PathLike):
        faults, columns = Faults(), settings.data.columns
        if isinstance(rows, Sequence) and rows and all(isinstance(row, str) for row in rows):
            column = columns.prompt if task_facts(settings.task).rows == "responses" else columns.text
            rows = [{column: row} for row in rows]
        table = table_of(rows, "data", settings.data, faults)
        faults.check()
    from fedlease.use.open_run import OpenRun
    from fedlease.use.predict import read_rows

    run = OpenRun(folder, method, device)
    known = run.client(client)
    if table is None:
        return run, known, *read_rows(run, known, Path(str(rows)))
    read = run.task.read_inputs(table, settings.data.columns, faults, pairs=known.pairs) if table.records else []
    faults.check()
    return run, known, table, read


def export(
    folder: str | Path,
    out: str | Path,
    *,
    client: ClientId | None = None,
    expert: int | None = None,
    form: Literal["adapter", "merged"] = "adapter",
    mixture: Literal["folded", "own"] = "folded",
    rank: int | None = None,
    base: str | None = None,
    scores: bool = True,
    data: object = None,
    method: str | None = None,
    device: str | None = None,
) -> Path:
    """Exports models as plain LoRA adapters or merged into their base, to be loaded without fedlease.

    Args:
        folder: run folder.
        out: new folder for the export.
        client: id of the client whose model is exported; without ``client`` and ``expert``, all clients and experts
            are.
        expert: number of the expert that is exported, from 0.
        form: ``adapter``: plain LoRA; ``merged``: a client's whole model.
        mixture: ``folded``: a client's experts as one adapter; ``own``: its own expert.
        rank: rank of a folded adapter; None is experts x r.
        base: hub id of a base that the run loaded from a folder.
        scores: whether to score the models on the rows of the run.
        data: the rows of the run, if they were in memory.
        method: a method of the run; None takes the main one.
        device: of the computation; None takes the run's if this machine has it, else the CPU.

    Returns:
        The folder.

    Raises:
        RunFolderError: the folder has no run or a damaged one, or the rows have changed since the run.
        ConfigError: the run does not have the client or expert, ``out`` exists, or arguments contradict each other.
    """
    if client is not None and expert is not None:
        raise ConfigError(f"export: at most one of client and expert can be given, received {client!r} and {expert!r}")
    if expert is not None and form == "merged":
        raise ConfigError("form: merged is only for a client's model; an expert is exported as an adapter")
    read_settings(Path(folder))  # before libraries that take seconds to load
    from fedlease.use.export import Exporter
    from fedlease.use.open_run import OpenRun

    run = OpenRun(folder, method, device, quantisation="none" if form == "merged" else None)
    exporter, path = Exporter(run, scores=scores, data=data, base=base), Path(out)
    if client is not None:
        return exporter.client(client, path, form=form, mixture=mixture, rank=rank)
    if expert is not None:
        return exporter.expert(expert, path)
    return exporter.everything(path, form=form, mixture=mixture, rank=rank)


def onboard(
    folder: str | Path,
    client: ClientId,
    data: str | Path,
    *,
    epochs: int | None = None,
    device: str | None = None,
    progress: bool = True,
) -> "Onboarded":
    """Brings a new client into a finished run: places it with an expert if there are any, trains it and compares.

    Args:
        folder: run folder.
        client: id of the new client.
        data: its folder with train and test files, or one file.
        epochs: passes of local training after the placement; None takes as many as in the run.
        device: of the computation; None takes the run's if this machine has it, else the CPU.
        progress: whether to show progress on standard error or in the notebook.

    Returns:
        The placement, if any, and the scores of the models that the client could use.

    Raises:
        RunFolderError: the folder has no run, or a damaged one.
        ConfigError: the id is taken, or the folder has only one client's model.
        DataError: the rows have faults; the message has all of them.
        RunFailedError: training diverged; nothing is written.
    """
    read_settings(Path(folder))  # before libraries that take seconds to load
    if not isinstance(data, str | os.PathLike):
        raise DataError(f"data: must be the path of the newcomer's files, received a {type(data).__name__}")
    bars, now = bars_on(Console(stderr=True)), Standing("onboarding", 0, 0, asked=1, client=client)

    def on_batch(phase: str, done: int, total: int, loss: float) -> None:
        if phase != now.step:
            now.step = phase
            bars.begin(now)
            bars.step(now)
        now.batch, now.batches, now.loss = done, total, loss
        bars.show(now)

    if progress:
        bars.waits(f"Run folder {folder}: loading libraries and model")
    try:
        from fedlease.use.onboard import onboard as bring_in
        from fedlease.use.open_run import OpenRun

        run = OpenRun(folder, device=device)
        return bring_in(run, client, Path(data), epochs, on_batch if progress else None)
    finally:
        bars.close()
