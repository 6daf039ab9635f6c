"""Labels and probabilities, or answers, for rows that have none yet, by the model of one client."""

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedlease.core.types import ClientId
from fedlease.data.faults import Faults
from fedlease.data.federation import Row
from fedlease.data.reading.csv_rows import as_text
from fedlease.data.reading.examples import read_inputs
from fedlease.data.reading.prompts import read_prompts
from fedlease.data.reading.rows import Table
from fedlease.data.reading.tables import parse_table, read_table, split_name
from fedlease.errors import ConfigError, DataError
from fedlease.files import write_atomically
from fedlease.tasks.base import OnRows
from fedlease.tasks.classification import evaluate
from fedlease.tasks.generation import Generation, write
from fedlease.use.open_run import KnownClient, OpenRun

__all__ = ["STDIN", "Answer", "Prediction", "answer", "predict", "predict_file", "read_rows", "written"]

STDIN = Path("-")
COLUMNS = ("prediction", "probability", "probabilities")


@dataclass(frozen=True)
class Prediction:
    """What a client's model says of one row.

    Attributes:
        label: the most probable.
        probabilities: label -> probability, in the order of the client's labels; they sum to 1.
    """

    label: str
    probabilities: Mapping[str, float]

    @property
    def probability(self) -> float:
        """Of ``label``."""
        return self.probabilities[self.label]


@dataclass(frozen=True)
class Answer:
    """What a client's language model writes.

    Attributes:
        text: without the prompt.
    """

    text: str


def answer(run: OpenRun, client: ClientId, rows: Sequence[Row], on_rows: OnRows | None = None) -> list[Answer]:
    """Answers to prompts, in the order of the rows; their responses are not looked at.

    Args:
        run: opened run folder of a run with ``task: generation``.
        client: whose model.
        rows: prompts.
        on_rows: told after every batch.

    Raises:
        ConfigError: the run has no such client, or is of another task.
    """
    if not isinstance(run.task, Generation):
        raise ConfigError(f"task: {run.out} is a run of {run.settings.task!r}, which writes no answers")
    run.load(client)
    if not rows:
        return []
    encoded = run.task.encode([replace(row, response=None) for row in rows], run.tokenizer)
    return [Answer(text) for text in write(run.resident, encoded, run.task, run.threads, on_rows)]


def predict(run: OpenRun, client: ClientId, rows: Sequence[Row], on_rows: OnRows | None = None) -> list[Prediction]:
    """Predictions in the order of the rows; their labels are not looked at.

    Args:
        run: opened run folder.
        client: whose model.
        rows: texts.
        on_rows: told after every batch.

    Raises:
        ConfigError: the run has no such client, or is of another task.
    """
    if run.settings.task != "classification":
        raise ConfigError(f"task: {run.out} is a run of {run.settings.task!r}, which has no labels")
    known = run.load(client)
    if not rows:
        return []
    logits = evaluate(run.resident, run.encode(rows), run.threads, on_rows)
    predictions = []
    for values in logits.double().softmax(-1).tolist():
        best = max(range(len(values)), key=values.__getitem__)
        predictions.append(Prediction(known.labels[best], dict(zip(known.labels, values, strict=True))))
    return predictions


def predict_file(
    run: OpenRun, client: ClientId, file: Path, out: Path | None = None, on_rows: OnRows | None = None
) -> str:
    """Reads rows, predicts, and writes every row back with what was predicted.

    Args:
        run: opened run folder.
        client: whose model.
        file: JSON Lines, CSV or Parquet with the run's text columns, or ``-``: JSON Lines or CSV on standard input.
        out: ``.jsonl`` or ``.csv``; None writes nothing.
        on_rows: told after every batch.

    Returns:
        The written rows; JSON Lines unless ``out`` is CSV.

    Raises:
        ConfigError: the run has no such client.
        DataError: the rows cannot be used, or ``out`` exists, is of another type or cannot be written; nothing is
            written then.
    """
    suffix = ".jsonl" if out is None else split_name(out)[1]
    if out is not None and suffix not in (".jsonl", ".csv"):
        raise DataError(f"out: must end in .jsonl or .csv, received {out}")
    if out is not None and out.exists():
        raise DataError(f"out: {out} exists; choose another file")
    table, rows = read_rows(run, run.client(client), file)
    ask = answer if run.settings.task == "generation" else predict
    predictions = ask(run, client, rows, on_rows)
    text = written(table, predictions, as_csv=suffix == ".csv")
    if out is not None:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            # Columns that are not read may hold lone surrogates, which JSON writes as this does.
            write_atomically(out, text.encode(errors="backslashreplace"))
        except OSError as error:
            raise DataError(f"out: {out} cannot be written: {error}") from error
    return text


def read_rows(run: OpenRun, known: KnownClient, file: Path) -> tuple[Table, list[Row]]:
    """The rows of a file, with or without a label column.

    Raises:
        DataError: every fault of the file.
    """
    faults, limits = Faults(), run.settings.data.limits
    if file == STDIN:
        content = sys.stdin.buffer.read(limits.file_bytes + 1)
        as_json = content.removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"{", b"["))
        table = parse_table(Path("standard input"), content, faults, csv=not as_json, limits=limits)
    elif not file.exists():
        raise DataError(f"{file}: no such file")
    else:
        table = read_table(file, faults, limits)
    if table is not None and not table.records and not faults.count:
        faults.add(f"{table.path} has no rows")
    if table is None or not table.records:
        faults.check()
        raise AssertionError("unreachable: a file without rows is a fault")
    generation = run.settings.task == "generation"
    taken = [name for name in (COLUMNS[:1] if generation else COLUMNS) if name in table.columns]
    if taken:
        faults.add(f"{table.path}: has a column {', '.join(map(repr, taken))} already, which would be overwritten")
    columns = run.settings.data.columns
    rows = (
        read_prompts(table, columns, faults) if generation else read_inputs(table, columns, faults, pairs=known.pairs)
    )
    faults.check()
    return table, rows


def written(table: Table, predictions: Sequence[Prediction | Answer], *, as_csv: bool) -> str:
    """The rows of a table with ``prediction``, and for labels ``probability`` and ``probabilities``, added.

    In CSV there is one column ``probability of <label>`` per label in the place of ``probabilities``, and a text that a
    spreadsheet would take for a formula has an apostrophe before it, which the readers of rows take away again.
    """
    rows = list(_merged(table, predictions))
    if not as_csv:
        return "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
    target = io.StringIO(newline="")
    first = predictions[0]
    labels = list(first.probabilities) if isinstance(first, Prediction) else []
    plain = [*table.columns, "prediction", *(["probability"] if labels else [])]
    writer = csv.writer(target)
    writer.writerow([as_text(name) for name in (*plain, *(f"probability of {label}" for label in labels))])
    for row in rows:
        # CSV has no lists: a chat that came as one is written as JSON, as it may be read.
        values = [_cell(row.get(column)) for column in plain]
        writer.writerow([*values, *(row["probabilities"][label] for label in labels)])
    return target.getvalue()


def _cell(value: object) -> object:
    listed = isinstance(value, list | dict)
    return as_text(json.dumps(value, ensure_ascii=False, default=str) if listed else value)


def _merged(table: Table, predictions: Sequence[Prediction | Answer]) -> Iterator[dict[str, Any]]:
    for record, prediction in zip(table.records, predictions, strict=True):
        if isinstance(prediction, Answer):
            yield {**record.values, "prediction": prediction.text}
            continue
        yield {
            **record.values,
            "prediction": prediction.label,
            "probability": round(prediction.probability, 6),
            "probabilities": {label: round(value, 6) for label, value in prediction.probabilities.items()},
        }
