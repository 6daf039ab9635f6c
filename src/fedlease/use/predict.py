"""Predictions of labels with probabilities, or generated answers, by the model of one client."""

import csv
import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedlease.core.types import ClientId
from fedlease.data.faults import Faults
from fedlease.data.federation import Row
from fedlease.data.reading.csv_rows import as_text
from fedlease.data.reading.forms import Form
from fedlease.data.reading.rows import Table
from fedlease.data.reading.tables import parse_table, read_table, split_name
from fedlease.errors import DataError
from fedlease.files import write_atomically
from fedlease.storage.run_files import as_json
from fedlease.tasks.base import OnRows
from fedlease.use.file_scores import FileScores, score_file
from fedlease.use.open_run import KnownClient, OpenRun

__all__ = ["STDIN", "predict", "predict_file", "read_rows", "written"]

STDIN = Path("-")


def predict(run: OpenRun, client: ClientId, rows: Sequence[Row], on_rows: OnRows | None = None) -> list[dict[str, Any]]:
    """Predicts labels with their probabilities, or generates answers; labels in the rows are ignored.

    Args:
        run: opened run folder.
        client: id of the client.
        rows: texts or prompts.
        on_rows: called after every batch.

    Returns:
        A dictionary per row with the task's ``prediction_columns``: ``prediction`` and, for classifiers,
        ``probability`` and ``probabilities``, label -> probability in the order of the client's labels.

    Raises:
        ConfigError: the run does not have the client.
    """
    known = run.load(client)
    if not rows:
        return []
    encoded = run.encode([replace(row, response=None) for row in rows], known.scale)
    return run.task.predict(run.resident, encoded, known.labels, run.threads, on_rows)


def predict_file(
    run: OpenRun,
    client: ClientId,
    file: Path,
    out: Path | None = None,
    on_rows: OnRows | None = None,
    scores: Path | None = None,
    on_scores: Callable[[FileScores], None] | None = None,
) -> str:
    """Reads rows, and writes them with their predictions; rows with labels are also scored.

    Args:
        run: opened run folder.
        client: id of the client.
        file: JSON Lines, CSV or Parquet with the run's text columns, or ``-``: JSON Lines or CSV on standard input.
        out: ``.jsonl`` or ``.csv``; None writes nothing.
        on_rows: called after every batch.
        scores: file to write the scores to, as JSON; None writes none.
        on_scores: receives the scores of a file that has labels.

    Returns:
        The written rows; JSON Lines unless ``out`` is CSV.

    Raises:
        ConfigError: the run does not have the client.
        DataError: the rows cannot be used, or have no labels although ``scores`` is given; or ``out`` or ``scores``
            exists, has another type or cannot be written. Nothing is written then.
    """
    suffix = ".jsonl" if out is None else split_name(out)[1]
    if out is not None and suffix not in (".jsonl", ".csv"):
        raise DataError(f"out: must end in .jsonl or .csv, received {out}")
    for name, path in (("out", out), ("scores", scores)):
        if path is not None and path.exists():
            raise DataError(f"{name}: {path} exists; choose another file")
    known = run.client(client)
    table, rows = read_rows(run, known, file)
    predictions = predict(run, client, rows, on_rows)
    found = score_file(run, known, table, predictions)
    if found is None and scores is not None:
        column = run.settings.data.columns.label
        raise DataError(f"scores: {table.path} has nothing to score by (data.columns.label={column})")
    text = written(table, predictions, as_csv=suffix == ".csv")
    if out is not None:
        # Columns that are not read may have lone surrogates, which are escaped as in JSON.
        _write("out", out, text.encode(errors="backslashreplace"))
    if found is not None and scores is not None:
        _write("scores", scores, as_json(found.content))
    if found is not None and on_scores is not None:
        on_scores(found)
    return text


def _write(name: str, path: Path, blob: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, blob)
    except OSError as error:
        raise DataError(f"{name}: {path} cannot be written: {error}") from error


def read_rows(run: OpenRun, known: KnownClient, file: Path) -> tuple[Table, list[Row]]:
    """The rows of a file, with or without a label column.

    Raises:
        DataError: the file has faults; the message has all of them.
    """
    faults, limits, form = Faults(), run.settings.data.limits, Form.of(run.settings.data)
    if file == STDIN:
        content = sys.stdin.buffer.read(limits.file_bytes + 1)
        as_json = content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"{", b"["))
        table = parse_table(Path("standard input"), content, faults, csv=not as_json, limits=limits, form=form)
    elif not file.exists():
        raise DataError(f"{file}: no such file")
    else:
        table = read_table(file, faults, limits, form)
    if table is not None and not table.records and not faults.count:
        faults.add(f"{table.path} has no rows")
    if table is None or not table.records:
        faults.check()
        raise AssertionError("unreachable: a file without rows is a fault")
    taken = [name for name in run.task.prediction_columns if name in table.columns]
    if taken:
        faults.add(f"{table.path}: already has a column {', '.join(map(repr, taken))}, which would be overwritten")
    rows = run.task.read_inputs(table, run.settings.data.columns, faults, pairs=known.pairs)
    faults.check()
    return table, rows


def written(table: Table, predictions: Sequence[Mapping[str, Any]], *, as_csv: bool) -> str:
    """The rows of a table with the columns of their predictions added; numbers have six decimals.

    In CSV, ``probabilities`` becomes one column ``probability of <label>`` per label, and a text that a spreadsheet
    would take for a formula gets a leading apostrophe, which the readers of rows remove again.
    """
    rows = [
        {**record.values, **{name: _rounded(value) for name, value in prediction.items()}}
        for record, prediction in zip(table.records, predictions, strict=True)
    ]
    if not as_csv:
        return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    target = io.StringIO(newline="")
    labels = list(predictions[0].get("probabilities", ()))
    plain = [*table.columns, *(name for name in predictions[0] if name != "probabilities")]
    writer = csv.writer(target)
    writer.writerow([as_text(name) for name in (*plain, *(f"probability of {label}" for label in labels))])
    for row in rows:
        # CSV has no lists: a chat is written as JSON, which can be read again.
        values = [_cell(row.get(column)) for column in plain]
        writer.writerow([*values, *(row["probabilities"][label] for label in labels)])
    return target.getvalue()


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _rounded(inner) for name, inner in value.items()}
    return round(value, 6) if isinstance(value, float) else value


def _cell(value: object) -> object:
    listed = isinstance(value, list | dict)
    return as_text(json.dumps(value, ensure_ascii=False, default=str) if listed else value)
