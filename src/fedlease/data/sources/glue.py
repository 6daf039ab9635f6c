"""GLUE, from the Hugging Face hub or from a folder of files.

Wang et al., "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding", ICLR 2019,
https://arxiv.org/abs/1804.07461. The labels of GLUE's test split are not public, so train and validation rows are
pooled, dealt to clients and split there.

A folder holds ``<task>.jsonl`` (or another known file type) with the hub's column names, an integer ``label`` and
optionally ``split``; rows of the split ``test`` are left out.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from fedlease.config.data import DataSettings
from fedlease.config.tables import RowKind
from fedlease.core.wording import counted
from fedlease.data.dealing import Pool, drop_duplicates, federation
from fedlease.data.faults import Faults
from fedlease.data.federation import Federation, Row
from fedlease.data.partition import deal
from fedlease.data.reading.forms import Form, guess_notes
from fedlease.data.reading.tables import SUFFIXES, read_table
from fedlease.data.reading.values import text_of
from fedlease.data.sources.hub import load_split
from fedlease.errors import DataError

__all__ = ["HUB_ID", "TASKS", "GlueTask", "load"]

HUB_ID = "nyu-mll/glue"


class GlueTask(NamedTuple):
    """The columns of a task's texts, and the names of its labels.

    Attributes:
        text: column of the (first) text.
        text_pair: column of the second text, or None.
        labels: names in the order of the hub's label numbers.
        validation: the hub's validation split, whose labels are public.
    """

    text: str
    text_pair: str | None
    labels: tuple[str, ...]
    validation: str = "validation"


TASKS: Mapping[str, GlueTask] = {
    "sst2": GlueTask("sentence", None, ("negative", "positive")),
    "qnli": GlueTask("question", "sentence", ("entailment", "not_entailment")),
    "mrpc": GlueTask("sentence1", "sentence2", ("not_equivalent", "equivalent")),
    "qqp": GlueTask("question1", "question2", ("not_duplicate", "duplicate")),
    "cola": GlueTask("sentence", None, ("unacceptable", "acceptable")),
    "rte": GlueTask("sentence1", "sentence2", ("entailment", "not_entailment")),
    "mnli": GlueTask("premise", "hypothesis", ("entailment", "neutral", "contradiction"), "validation_matched"),
    "wnli": GlueTask("sentence1", "sentence2", ("not_entailment", "entailment")),
}


def load(settings: DataSettings, seed: int, kind: RowKind = "labels") -> Federation:
    """Reads the tasks of ``settings.tasks`` and deals them to clients.

    Raises:
        DataError: a file is missing or faulty, the hub cannot be reached, or there are too few rows.
        MissingPackageError: the partition needs a package that is not installed.
    """
    faults, notes, pools, folder = Faults(), list[str](), [], settings.path
    if folder is not None and not folder.is_dir():
        raise DataError(f"data.path: {str(folder)!r} is not a folder of GLUE files such as sst2.jsonl")
    for task in dict.fromkeys(settings.tasks):
        read = _from_hub(task, notes) if folder is None else _from_folder(folder, task, faults, notes, settings)
        rows, dropped = drop_duplicates(read)
        if dropped:
            notes.append(f"task {task!r}: {counted(dropped, 'duplicate row')} dropped")
        pools.append(Pool(task, TASKS[task].labels, rows))
    faults.check()
    clients, warned = deal(pools, settings, seed)
    return federation(clients, notes + warned)


def _from_folder(folder: Path, task: str, faults: Faults, notes: list[str], settings: DataSettings) -> Iterator[Row]:
    spec = TASKS[task]
    files = [folder / f"{task}{suffix}" for suffix in SUFFIXES if (folder / f"{task}{suffix}").is_file()]
    if len(files) != 1:
        found = ", ".join(map(str, files)) if files else f"{folder} has no {task}.jsonl (or {', '.join(SUFFIXES[1:])})"
        faults.add(f"data.tasks: task {task!r} needs one file, and {'there are several: ' if files else ''}{found}")
        return
    table = read_table(files[0], faults, settings.limits, Form.of(settings))
    if table is None:
        return
    notes += guess_notes([table])
    needed = [name for name in (spec.text, spec.text_pair, "label") if name is not None]
    absent = [name for name in needed if name not in table.columns]
    for name in absent:
        faults.add(f"{table.path}: no column {name!r}; it has {', '.join(map(repr, table.columns)) or 'no rows'}")
    for record in () if absent else table.records:
        if record.values.get("split") == "test":
            continue
        fault = partial(faults.at, table.path, record.line)
        texts = [text_of(record, name, fault) for name in needed[:-1]]
        label = record.values.get("label")
        number = int(label) if isinstance(label, str) and label.isdecimal() else label
        if label in spec.labels:
            number = spec.labels.index(label)
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(spec.labels):
            fault("label", f"a label of {task} must be an integer from 0 to {len(spec.labels) - 1}, got {label!r}")
        elif None not in texts:
            yield _row({**record.values, "label": number}, spec)


def _row(values: Mapping[str, Any], spec: GlueTask) -> Row:
    return Row(values[spec.text], values[spec.text_pair] if spec.text_pair else None, int(values["label"]))


def _from_hub(task: str, notes: list[str]) -> Iterator[Row]:
    spec, empty = TASKS[task], 0
    shown, files = f"{HUB_ID} {task!r}", f"{task}.jsonl"
    splits = [load_split(HUB_ID, task, split=split, shown=shown, files=files) for split in ("train", spec.validation)]
    for values in chain.from_iterable(splits):
        row = _row(values, spec)
        if row.text.strip() and (row.text_pair is None or row.text_pair.strip()):
            yield row
        else:
            empty += 1
    if empty:
        notes.append(f"task {task!r}: {counted(empty, 'row')} of the hub with an empty text left out")
