"""Client folders: which entries are clients, which files are their splits, and what those hold."""

from collections.abc import Iterable
from pathlib import Path

from fedlease.config.data import DataSettings
from fedlease.config.tables import RowKind
from fedlease.data.assemble import SPLITS, Splits
from fedlease.data.faults import Faults
from fedlease.data.reading.examples import Example, read_examples
from fedlease.data.reading.forms import Form, guess_notes
from fedlease.data.reading.looks import add_hints
from fedlease.data.reading.prompts import read_prompt_examples
from fedlease.data.reading.rows import Table
from fedlease.data.reading.tables import SUFFIXES, read_table, split_name

__all__ = ["OTHERS", "client_folders", "examples_of", "exists", "read_client", "split_files"]

OTHERS = ", ".join(SUFFIXES[1:])
"""File types beside the first."""


def exists(path: Path) -> bool:
    """Whether there is such an entry; a name that no file system takes is none."""
    try:
        return path.exists()
    except (OSError, ValueError):  # a name with NUL, or longer than names may be
        return False


def client_folders(path: Path, faults: Faults, notes: list[str]) -> Iterable[Path]:
    """The folders that are clients; that there are none is a fault, and files beside them are noted."""
    entries = _entries(path, faults)
    # hidden folders of tools (.git, .ipynb_checkpoints) are not clients unless they hold rows
    folders = [entry for entry in entries if entry.is_dir()]
    folders = [entry for entry in folders if not entry.name.startswith(".") or any(split_files(entry, faults))]
    files = [entry.name for entry in entries if entry.is_file() and split_name(entry)[1] in SUFFIXES]
    if not folders and not faults.count:
        rule = f"holds {', '.join(files)} and no client folders" if files else "is empty"
        faults.add(
            f"data.path: {str(path)!r} {rule}; expected {path}/<client>/train.jsonl and test.jsonl (or {OTHERS}), or "
            "one file with a client column"
        )
    elif files:
        notes.append(f"{path}: {', '.join(files)} beside the client folders are not read")
    return folders


def split_files(folder: Path, faults: Faults) -> list[Path]:
    """Entries called like splits; those that are no files of rows are faults once they are read."""
    entries = [entry for entry in _entries(folder, faults) if split_name(entry)[0] in SPLITS]
    return [entry for entry in entries if entry.is_file() or split_name(entry)[1] in SUFFIXES]


def examples_of(table: Table, settings: DataSettings, faults: Faults, kind: RowKind) -> list[Example]:
    """The usable rows of a table; faults come with what the table looks like."""
    before = faults.count
    read = read_prompt_examples if kind == "responses" else read_examples
    examples = read(table, settings.columns, faults)
    if faults.count > before:
        add_hints(table, settings.columns, kind, faults)
    return examples


def read_client(folder: Path, settings: DataSettings, faults: Faults, notes: list[str], kind: RowKind) -> Splits:
    """Split -> examples of the files in a folder; a split without a file is absent."""
    before, every = faults.count, split_files(folder, faults)
    names = [(entry.name, *split_name(entry)) for entry in _entries(folder, Faults())]
    unread = [name for name, stem, suffix in names if suffix in SUFFIXES and stem not in SPLITS]
    if unread:
        notes.append(f"client {folder.name!r}: {', '.join(unread)} are not read; names are train, valid and test")
    result: Splits = {}
    for split in SPLITS:
        files = [file for file in every if split_name(file)[0] == split]
        if len(files) > 1:
            faults.add(f"client {folder.name!r}: {split} rows are in several files: {', '.join(map(str, files))}")
            result[split] = []
        elif files:
            before = faults.count
            table = read_table(files[0], faults, settings.limits, Form.of(settings))
            notes += guess_notes([table]) if table else []
            examples = examples_of(table, settings, faults, kind) if table else []
            if not examples and faults.count == before:
                (faults.add if split == "train" else notes.append)(f"client {folder.name!r}: {files[0]} has no rows")
            result[split] = examples
        elif split == "train" and faults.count == before:
            rule = f"no train rows: {folder} has no train.jsonl (or {OTHERS})"
            faults.of_client(folder.name, rule, "no train rows")
    return result


def _entries(folder: Path, faults: Faults) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        faults.of_file(folder, f"cannot be read: {error.strerror}", "cannot be read")
        return []
