"""Own files: a folder per client, or one file with a client column.

    DIR/<client>/train.jsonl    and test.jsonl, optionally valid.jsonl; also .json, .csv, .parquet, .jsonl.gz,
                                .json.gz, .csv.gz
    FILE                        with a client column, and a split column or else a seeded split

A file without a client column is dealt to clients by ``data.partition``. Client rows are taken as they are:
``data.train_rows`` and ``data.test_rows`` are upper limits, above which a seeded sample is taken. For classification
rows have labels (:mod:`fedlease.data.reading.examples`), for generation responses
(:mod:`fedlease.data.reading.prompts`).
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from fedlease.config.data import DataSettings
from fedlease.config.tables import RowKind, task_facts
from fedlease.core.names import name_of
from fedlease.core.wording import counted
from fedlease.data.assemble import SPLITS, Splits, assemble, check_number_of_clients
from fedlease.data.dealing import Pool, drop_duplicates, federation
from fedlease.data.faults import Faults, quoted, shown
from fedlease.data.federation import ClientData, Federation, Row
from fedlease.data.labels import agreed, check_tasks, doubtful_labels, stated_labels
from fedlease.data.overlaps import overlaps
from fedlease.data.partition import deal
from fedlease.data.reading.examples import Example, check_pairs, client_id_fault, label_list, to_rows
from fedlease.data.reading.forms import Form, guess_notes
from fedlease.data.reading.prompts import written_prompts
from fedlease.data.reading.rows import Table
from fedlease.data.reading.tables import read_table
from fedlease.data.sources.client_folders import OTHERS, client_folders, examples_of, exists, read_client, split_files
from fedlease.data.usable import RowFaults, Unusable
from fedlease.errors import DataError
from fedlease.files import new_folder

__all__ = ["ALIASES", "by_split", "load", "load_client", "of_table", "write_folder"]

SHOWN = 5
"""Up to so many clients of a file are named in a fault."""

ALIASES = {"validation": "valid", "dev": "valid"}
"""Other names of splits."""


def load(settings: DataSettings, seed: int, kind: RowKind = "labels") -> Federation:
    """Reads the federation at ``settings.path``, whose partition is ``natural`` for generation.

    Raises:
        DataError: every fault of every file.
        MissingPackageError: the partition needs a package that is not installed.
    """
    path = settings.path
    if path is None:
        raise DataError("data.path: is required for data.source 'folder': the folder or file that holds your rows")
    if not exists(path):
        raise DataError(f"data.path: {str(path)!r} does not exist")
    if not path.is_dir():
        return _load_file(path, settings, seed, kind)
    if settings.partition != "natural":
        raise DataError(
            f"data.partition: {settings.partition!r} deals one file without a client column to clients, "
            f"but data.path {str(path)!r} is a folder that has its clients; use 'natural'"
        )
    faults, notes = Faults(), list[str]()
    unusable = Unusable(faults, skip=settings.clients == "skip")
    clients: dict[str, Splits] = {}
    folders = sorted(client_folders(path, faults, notes))
    check_number_of_clients(len(folders), settings)
    for folder in folders:
        with unusable.client(folder.name) as own:
            clients[folder.name] = read_client(folder, settings, own, notes, kind)
    return assemble(clients, settings, seed, unusable, notes, kind=kind)


def write_folder(federation: Iterable[ClientData], path: Path) -> Path:
    """Writes clients in the form that :func:`load` reads: ``path/<client>/{train,valid,test}.jsonl``.

    Raises:
        DataError: ``path`` exists.
    """
    if path.exists():
        raise DataError(f"path: {path} exists; choose another folder")
    with new_folder(path) as made:
        for client in federation:
            folder = made / client.id
            folder.mkdir()
            for split, rows in client.splits.items():
                written = _labelled(client, rows) if client.labels else written_prompts(rows)
                lines = [json.dumps({**row, "task": client.task}, ensure_ascii=False) + "\n" for row in written]
                if lines:
                    (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return path


def _labelled(client: ClientData, rows: Sequence[Row]) -> list[dict[str, str]]:
    found = [{"text": row.text, "text_pair": row.text_pair, "label": client.labels[row.label]} for row in rows]
    return [{key: value for key, value in row.items() if value is not None} for row in found]


def load_client(
    path: Path,
    client: str,
    settings: DataSettings,
    seed: int,
    task: str = "classification",
    on_note: Callable[[str], None] = lambda note: None,
) -> ClientData:
    """Reads one client from a folder with train and test files, or from one file that holds its rows.

    Args:
        path: ``PATH/train.*`` and ``test.*``; or a file with a split column, or else with rows that are split here. Of
            a file with a client column only the client's own rows are taken.
        client: its id, whatever the folder is called.
        settings: columns, limits and fractions; ``settings.path`` is not looked at.
        on_note: receives what is unusual in the rows, a sentence each.

    Raises:
        DataError: every fault of every file.
    """
    faults, notes, kind = Faults(), list[str](), task_facts(task).rows
    unusable = Unusable(faults, skip=False)
    if not exists(path):
        raise DataError(f"data: {str(path)!r} does not exist")
    if path.is_dir():
        if not split_files(path, faults):
            raise DataError(f"data: {path} holds no train.jsonl and test.jsonl (or {OTHERS})")
        clients = {client: read_client(path, settings, faults, notes, kind)}
        split_here = False
    else:
        table = _table_with_rows(path, settings, faults)
        own = RowFaults(unusable, dict.fromkeys((record.line for record in table.records), client))
        examples = examples_of(table, settings, own, kind)
        notes += guess_notes([table])
        column = settings.columns.client
        if column in table.columns and examples:
            # Rows of other clients in the file are theirs, not this one's.
            named = quoted(sorted({example.client for example in examples}), SHOWN)
            examples = [example for example in examples if example.client == client]
            if not examples:
                faults.add(f"client {client!r}: no row of {path} is its own; column {column!r} has {named}")
        clients = by_split({client: examples}, table, settings, unusable)
        split_here = settings.columns.split not in table.columns
    made = assemble(clients, settings, seed, unusable, notes, split_here=split_here, kind=kind, whole=False)
    rows = made.clients[client]
    for note in (*overlaps([rows]), *made.warnings):
        on_note(note)
    return rows


def _load_file(path: Path, settings: DataSettings, seed: int, kind: RowKind) -> Federation:
    return of_table(_table_with_rows(path, settings, Faults()), settings, seed, kind, name=str(path))


def of_table(table: Table, settings: DataSettings, seed: int, kind: RowKind, *, name: str) -> Federation:
    """The federation of one table with a client column, or whose rows ``data.partition`` deals.

    Args:
        name: of the table, for faults.

    Raises:
        DataError: every fault of every row.
        MissingPackageError: the partition needs a package that is not installed.
    """
    faults, notes = Faults(), list[str]()
    notes += guess_notes([table])
    columns = settings.columns
    has_split, dealt = columns.split in table.columns, settings.partition != "natural"
    if columns.client not in table.columns and not dealt:
        faults.add(
            f"{name}: no column {columns.client!r}; set data.columns.client to the column that names the client "
            f"(it has {', '.join(map(repr, table.columns))}), or data.partition=dirichlet to deal the rows to clients"
        )
    elif columns.client in table.columns and dealt:
        faults.add(
            f"data.partition: {settings.partition!r} deals rows to clients, but {name} has a client column "
            f"{columns.client!r}; use 'natural', or name another column in data.columns.client"
        )
    unusable = Unusable(faults, skip=settings.clients == "skip" and not dealt)
    named = {r.line: name_of(r.values.get(columns.client), table.typed) for r in table.records}
    owners = {} if dealt else {line: client for line, client in named.items() if client is not None}
    examples = examples_of(table, settings, RowFaults(unusable, owners), kind)
    if dealt or columns.client not in table.columns:
        faults.check()
        return _deal_file(examples, has_split, settings, seed, notes)
    by_client: dict[str, list[Example]] = {client: [] for client in unusable.skipped}
    for example in examples:
        if example.client:
            by_client.setdefault(example.client, []).append(example)
        else:
            faults.at(*example.place, columns.client, "a client must have a name, got an empty value")
    clients = by_split(by_client, table, settings, unusable)
    return assemble(clients, settings, seed, unusable, notes, split_here=not has_split, kind=kind)


def _table_with_rows(path: Path, settings: DataSettings, faults: Faults) -> Table:
    table = read_table(path, faults, settings.limits, Form.of(settings))
    if table is not None and not table.records and not faults.count:
        faults.add(f"data.path: {path} has no rows")
    if table is None or not table.records:
        faults.check()
        raise AssertionError("unreachable: a file without rows is a fault")
    return table


def by_split(
    by_client: dict[str, list[Example]], table: Table, settings: DataSettings, unusable: Unusable
) -> dict[str, Splits]:
    """Examples by client and split; without a split column all are among ``train``."""
    column = settings.columns.split
    if column not in table.columns:
        return {client: {"train": examples} for client, examples in by_client.items()}
    clients: dict[str, Splits] = {}
    for client, examples in by_client.items():
        splits = clients[client] = {split: [] for split in SPLITS}
        with unusable.client(client) as faults:
            before = faults.count
            for example in examples:
                split = ALIASES.get(example.split, example.split)
                if split in SPLITS:
                    splits[split].append(example)
                else:
                    rule = f"a split must be train, valid or test, got {shown(example.split)}"
                    faults.at(*example.place, column, rule)
            # Rows of a split may be there and be faulty, which is a fault already.
            if not splits["train"] and client not in unusable.named and faults.count == before:
                faults.of_client(client, f"no train rows in {table.path} (column {column!r})", "no train rows")
    return clients


def _deal_file(
    examples: list[Example], has_split: bool, settings: DataSettings, seed: int, notes: list[str]
) -> Federation:
    faults = Faults()
    if has_split:
        notes.append(f"column {settings.columns.split!r} is not used: rows are dealt to clients first and split then")
    by_task: dict[str, list[Example]] = {}
    for example in examples:
        by_task.setdefault(example.task, []).append(example)
    pools = []
    check_tasks(settings, by_task, faults)
    for task, members in sorted(by_task.items()):
        if rule := client_id_fault(task):
            faults.add(f"data.columns.task: task {task!r} {rule}, since its clients are named after it")
        check_pairs(members, f"task {task!r}", settings, faults)
        members = agreed({"all": members}, f"task {task!r}", settings.columns.label, faults, notes)["all"]
        notes += doubtful_labels(Counter(example.label for example in members), f"task {task!r}")
        stated = stated_labels(settings, task)
        labels = stated or label_list(example.label for example in members)
        read = to_rows(members, labels, task, settings.columns.label, faults, stated=bool(stated))
        rows, dropped = drop_duplicates(read)
        if dropped:
            notes.append(f"task {task!r}: {counted(dropped, 'duplicate row')} dropped")
        pools.append(Pool("client" if task == "default" else task, labels, rows))
    faults.check()
    clients, warned = deal(pools, settings, seed)
    return federation(clients, notes + warned)
