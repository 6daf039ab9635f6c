"""Reads files of your own: a folder per client, a file per client, or rows of all clients with a client column.

    DIR/<client>/train.jsonl    and test.jsonl, optionally valid.jsonl, in any file type
    DIR/<client>.csv            or a pattern such as DIR/*.csv: one file per client
    FILE                        with a client column; without a split column, rows are split at random (seeded)

The files of a data set of the hub (:mod:`fedlease.data.sources.layout`) are read like one file. Rows without a client
column are dealt to clients by ``data.partition``. ``data.train_rows`` and ``data.test_rows`` are upper limits: of more
rows, a seeded sample is taken. Rows have labels, lists of labels or numbers (:mod:`fedlease.data.reading.examples`),
and for generation responses (:mod:`fedlease.data.reading.prompts`).
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedlease.config.data import DataSettings
from fedlease.config.tables import RowKind, task_facts
from fedlease.data.assemble import Splits, assemble, check_number_of_clients
from fedlease.data.faults import Faults, quoted
from fedlease.data.federation import ClientData, Federation, Row
from fedlease.data.overlaps import overlaps
from fedlease.data.reading.examples import Example
from fedlease.data.reading.prompts import written_prompts
from fedlease.data.reading.rows import Table
from fedlease.data.sources.client_column import by_split, of_tables
from fedlease.data.sources.client_folders import client_folders, exists, read_client, read_files
from fedlease.data.sources.layout import (
    OTHERS,
    UNSPLIT,
    SplitFiles,
    entries_of,
    files_with_rows,
    is_pieces,
    site_files,
    split_files,
)
from fedlease.data.sources.reader import Reader
from fedlease.data.usable import RowFaults, Unusable
from fedlease.errors import DataError
from fedlease.files import new_folder

__all__ = ["load", "load_client", "write_folder"]

SHOWN = 5
"""Largest number of clients of a file that a fault names."""

PATTERN = "*?["
"""Characters of a pattern of file names."""


def load(settings: DataSettings, seed: int, kind: RowKind = "labels") -> Federation:
    """Reads the federation at ``settings.path``.

    Raises:
        DataError: files are faulty; the error has every fault.
        MissingPackageError: the partition needs a package that is not installed.
    """
    path = settings.path
    if path is None:
        raise DataError("data.path: it is required for data.source 'folder': the folder or file with your rows")
    reader = Reader(settings, kind)
    faults = Faults(reader.dropped)
    whole, folders, files = _layout(path, faults, reader.notes)
    faults.check()
    if whole:
        return of_tables(_tables(path, whole, reader), settings, seed, kind, name=str(path), dropped=reader.dropped)
    if settings.partition != "natural":
        raise DataError(
            f"data.partition: {settings.partition!r} deals one file without a client column to clients, "
            f"but data.path {str(path)!r} has its clients; use 'natural'"
        )
    unusable = Unusable(faults, skip=settings.clients == "skip")
    clients: dict[str, Splits] = {}
    sites = site_files(files, faults)
    check_number_of_clients(len(folders) + len(sites), settings)
    for folder in folders:
        with unusable.client(folder.name) as own:
            clients[folder.name] = read_client(folder, reader, own)
    for client, found in sites.items():
        with unusable.client(client) as own:
            clients[client] = read_files(client, found, reader, own)
    return assemble(clients, settings, seed, unusable, reader.every_note(), kind=kind)


def _layout(path: Path, faults: Faults, notes: list[str]) -> tuple[SplitFiles, Sequence[Path], Sequence[Path]]:
    """Finds (files of all clients together, folders of clients, files of one client each); only one has entries."""
    if not exists(path):
        return {}, [], _matching(path)
    if not path.is_dir():
        return {UNSPLIT: [path]}, [], []
    splits = split_files(path, Faults())
    around = {file.parent for files in splits.values() for file in files}
    folders = [] if UNSPLIT in splits else client_folders(path, faults, notes)
    inner = [folder for folder in folders if folder in around]
    if splits and len(inner) == len(folders) and (inner != [path / "data"] or is_pieces(splits)):
        return split_files(path, faults), [], []
    files = [] if folders else files_with_rows(entries_of(path, faults))
    if not folders and not files and not faults.count:
        faults.add(
            f"data.path: {str(path)!r} has no rows; expected {path}/<client>/train.jsonl and test.jsonl (or "
            f"{OTHERS}), one file per client as {path}/<client>.csv, or one file with a client column"
        )
    return ({UNSPLIT: files}, [], []) if len(files) == 1 else ({}, folders, files)


def _matching(path: Path) -> Sequence[Path]:
    """The files that a pattern such as ``sites/*.csv`` matches.

    Raises:
        DataError: there are none, or the path is not a pattern of file names in one folder.
    """
    if not any(mark in path.name for mark in PATTERN) or not exists(path.parent):
        raise DataError(f"data.path: {str(path)!r} does not exist")
    try:
        files = files_with_rows(sorted(path.parent.glob(path.name)))
    except ValueError as error:
        raise DataError(f"data.path: {str(path)!r} is no pattern of file names: {error}") from error
    if not files:
        raise DataError(f"data.path: no file of rows matches {str(path)!r}")
    return files


def _tables(path: Path, files: SplitFiles, reader: Reader) -> list[Table]:
    """Reads files into tables; rows of a file of one split get its name in the split column.

    Raises:
        DataError: a file cannot be read, or there are no rows.
    """
    faults, tables, column = Faults(reader.dropped), list[Table](), reader.settings.columns.split
    for split, paths in files.items():
        for file in paths:
            if (table := reader.table(file, faults)) is None:
                continue
            if split != UNSPLIT:
                for record in table.records:
                    record.values[column] = split
                table = replace(table, columns=tuple(dict.fromkeys((*table.columns, column))))
            tables.append(table)
    if not any(table.records for table in tables) and not faults.count:
        rule = f": {reader.dropped.note('', 0)}" if reader.dropped and reader.dropped.rows else ""
        faults.add(f"data.path: {path} has no rows{rule}")
    faults.check()
    return tables


def write_folder(federation: Iterable[ClientData], path: Path) -> Path:
    """Writes clients as ``path/<client>/{train,valid,test}.jsonl``, which :func:`load` reads.

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
                written = _answered(client, rows) if client.labels else written_prompts(rows)
                lines = [json.dumps({**row, "task": client.task}, ensure_ascii=False) + "\n" for row in written]
                if lines:
                    (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return path


def _answered(client: ClientData, rows: Sequence[Row]) -> list[dict[str, Any]]:
    found = [{"text": row.text, "text_pair": row.text_pair, "label": client.truth(row)} for row in rows]
    return [{key: value for key, value in row.items() if value is not None} for row in found]


def load_client(
    path: Path,
    client: str,
    settings: DataSettings,
    seed: int,
    task: str = "classification",
    on_note: Callable[[str], None] = lambda note: None,
) -> ClientData:
    """Reads one client from a folder with train and test files, or from one file.

    Args:
        path: a folder with ``train.*`` and ``test.*``, a file, or rows that ``datasets`` saved. Rows of a file without
            a split column are split here. If there is a client column, only the client's own rows are taken.
        client: its id, whatever the name of the folder.
        settings: columns, limits and fractions; ``settings.path`` is not read.
        on_note: receives notes of what is unusual in the rows, one sentence each.

    Raises:
        DataError: files are faulty; the error has every fault.
    """
    reader = Reader(settings, task_facts(task).rows)
    faults = Faults(reader.dropped)
    unusable = Unusable(faults, skip=False)
    if not exists(path):
        raise DataError(f"data: {str(path)!r} does not exist")
    files = split_files(path, Faults()) if path.is_dir() else {UNSPLIT: [path]}
    if UNSPLIT in files:
        tables = _tables(path, files, reader)
        clients = by_split({client: _own_rows(client, path, tables, reader, unusable)}, tables, settings, unusable)
        split_here = settings.columns.split not in tables[0].columns
    else:
        if not files and len(files_with_rows(entries_of(path, Faults()))) != 1:
            raise DataError(f"data: {path} has no train.jsonl and test.jsonl (or {OTHERS})")
        with unusable.client(client) as own:
            clients, split_here = {client: read_client(path, reader, own)}, False
    made = assemble(
        clients,
        settings,
        seed,
        unusable,
        reader.every_note(),
        split_here=split_here,
        kind=reader.kind,
        whole=False,
    )
    rows = made.clients[client]
    for note in (*overlaps([rows]), *made.warnings):
        on_note(note)
    return rows


def _own_rows(client: str, path: Path, tables: Sequence[Table], reader: Reader, unusable: Unusable) -> list[Example]:
    """The examples of one client in tables that may also have rows of others."""
    column, examples = reader.settings.columns.client, list[Example]()
    for table in tables:
        own = RowFaults(unusable, dict.fromkeys((record.line for record in table.records), client))
        examples += reader.examples(table, own)
    if not examples or not any(column in table.columns for table in tables):
        return examples
    found = [example for example in examples if example.client == client]
    if not found:
        named = quoted(sorted({example.client for example in examples}), SHOWN)
        unusable.faults.add(f"client {client!r}: {path} has no row of this client; column {column!r} has {named}")
    return found
