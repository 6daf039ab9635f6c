"""Reads the files of single clients: a folder of splits, or one or more files per client."""

from collections.abc import Sequence
from pathlib import Path

from fedlease.data.assemble import SPLITS, Splits
from fedlease.data.faults import Faults
from fedlease.data.reading.examples import Example
from fedlease.data.reading.rows import Table
from fedlease.data.sources.client_column import by_split
from fedlease.data.sources.layout import OTHERS, UNSPLIT, SplitFiles, entries_of, files_with_rows, split_files
from fedlease.data.sources.reader import Reader
from fedlease.data.usable import Unusable

__all__ = ["client_folders", "exists", "read_client", "read_files"]


def exists(path: Path) -> bool:
    """Whether a path exists; False for names that are impossible in a file system."""
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that contains NUL or is too long
        return False


def client_folders(path: Path, faults: Faults, notes: list[str]) -> Sequence[Path]:
    """The client folders in a folder; adds a note if there are files beside them."""
    entries = entries_of(path, faults)
    # hidden folders of tools (.git, .ipynb_checkpoints) are not clients unless they contain rows
    folders = [entry for entry in entries if entry.is_dir()]
    folders = [entry for entry in folders if not entry.name.startswith(".") or any(split_files(entry, Faults()))]
    files = [file.name for file in files_with_rows(entries)]
    if folders and files:
        notes.append(f"{path}: {', '.join(files)} beside the client folders are not read")
    return folders


def read_client(folder: Path, reader: Reader, faults: Faults) -> Splits:
    """Split -> examples of the files in a folder; a split without a file is absent.

    A folder without files named after splits may have one file, with rows of all splits.
    """
    before, files = faults.count, split_files(folder, faults)
    others = [] if UNSPLIT in files else files_with_rows(entries_of(folder, Faults()))
    named = {path for paths in files.values() for path in paths}
    unread = [file for file in others if file not in named and faults.count == before]
    if not files and len(unread) == 1:
        return read_files(folder.name, {UNSPLIT: unread}, reader, faults)
    if unread:
        names = ", ".join(file.name for file in unread)
        reader.notes.append(f"client {folder.name!r}: {names} are not read; files must be named train, valid or test")
    if not files.get("train") and UNSPLIT not in files and faults.count == before:
        rule = f"no train rows: {folder} has no train.jsonl (or {OTHERS})"
        faults.of_client(folder.name, rule, "no train rows")
    return read_files(folder.name, files, reader, faults)


def read_files(client: str, files: SplitFiles, reader: Reader, faults: Faults) -> Splits:
    """Reads the files of one client into split -> examples."""
    result: Splits = {}
    for split in (*SPLITS, UNSPLIT):
        if split not in files:
            continue
        before, examples = faults.seen, list[Example]()
        for path in files[split]:
            if (table := reader.table(path, faults)) is None:
                continue
            found = reader.examples(table, faults)
            if not found and faults.seen == before:
                needed = split in ("train", UNSPLIT)
                (faults.add if needed else reader.notes.append)(f"client {client!r}: {path} has no rows")
            if split == UNSPLIT:
                _note_client_column(client, table, reader)
                unusable = Unusable(faults, skip=False)
                for name, members in by_split({client: found}, [table], reader.settings, unusable)[client].items():
                    result.setdefault(name, []).extend(members)
            examples += found
        if split != UNSPLIT:
            result[split] = examples
    return result


def _note_client_column(client: str, table: Table, reader: Reader) -> None:
    column = reader.settings.columns.client
    if any(record.values.get(column) not in (None, "", client) for record in table.records):
        reader.notes.append(
            f"client {client!r}: column {column!r} of {table.path} is not read, since all its rows are this client's"
        )
