"""Finds the files of each split in a folder, by their names.

train.*, test.*                     and validation rows as valid.*, validation.*, val.* or dev.*
train-00000-of-00002.parquet        pieces, as on the hub, here or in a folder named data
dataset_dict.json, train/, test/    what datasets.DatasetDict.save_to_disk writes; or only one of these folders
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from fedlease.data.assemble import SPLITS
from fedlease.data.faults import Faults, shown
from fedlease.data.reading.tables import SUFFIXES, split_name

__all__ = [
    "ALIASES",
    "OTHERS",
    "UNSPLIT",
    "SplitFiles",
    "entries_of",
    "files_with_rows",
    "is_pieces",
    "site_files",
    "split_files",
]

ALIASES = {"validation": "valid", "val": "valid", "dev": "valid"}
"""Other names of splits -> our name."""

UNSPLIT = ""
"""The split of files that have rows of all splits."""

OTHERS = ", ".join(SUFFIXES[1:])
"""File types other than the first, for messages."""

STATE = "state.json"
STATE_BYTES = 10_000_000
NO_ROWS = ("dataset_dict.json", "dataset_info.json", "dataset_infos.json", STATE)
"""Files that ``datasets`` writes beside rows."""

SplitFiles = dict[str, list[Path]]

_NAMES = "|".join((*SPLITS, *ALIASES))
_SPLIT = re.compile(rf"({_NAMES})(?:-(\d{{5}})-of-(\d{{5}}))?", re.IGNORECASE)
_OF_CLIENT = re.compile(rf"(.+)[-_.]({_NAMES})", re.IGNORECASE)


def entries_of(folder: Path, faults: Faults) -> list[Path]:
    """The sorted entries of a folder; none, with a fault, if it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        faults.of_file(folder, f"cannot be read: {error.strerror}", "cannot be read")
        return []


def files_with_rows(entries: Sequence[Path]) -> list[Path]:
    """The files that may have rows: of known types, not hidden, and not metadata of ``datasets``."""
    return [
        entry
        for entry in entries
        if split_name(entry)[1] in SUFFIXES
        and not entry.name.startswith((".", "~$"))
        and entry.name not in NO_ROWS
        and entry.is_file()
    ]


def split_files(folder: Path, faults: Faults) -> SplitFiles:
    """Split -> its files, in order; rows that ``datasets`` saved without splits are all under :data:`UNSPLIT`.

    Files named after a split are included whatever their type, so that reading them reports a wrong type.
    """
    if (folder / STATE).is_file():
        return {UNSPLIT: _saved(folder, faults)}
    entries = entries_of(folder, faults)
    found = _named(entries, faults)
    inner = folder / "data"
    return found if found or inner not in entries or not inner.is_dir() else _named(entries_of(inner, faults), faults)


def is_pieces(files: SplitFiles) -> bool:
    """Whether all files have names of pieces, as on the hub."""
    return all("-of-" in file.name for paths in files.values() for file in paths)


def _named(entries: Sequence[Path], faults: Faults) -> SplitFiles:
    found: dict[str, dict[Path, tuple[int, int] | None]] = {}
    for entry in entries:
        stem, suffix = split_name(entry)
        saved = (entry / STATE).is_file()
        match = _SPLIT.fullmatch(entry.name if saved else stem)
        if match and (saved or suffix in SUFFIXES or entry.is_file()):
            name = match[1].lower()
            piece = (int(match[2]), int(match[3])) if match[2] else None
            found.setdefault(ALIASES.get(name, name), {})[entry] = piece
    result: SplitFiles = {}
    for split in SPLITS:
        pieces = found.get(split)
        if pieces is None:
            continue
        if rule := _pieces_fault(split, pieces):
            faults.add(rule)
        result[split] = []
        for entry in () if rule else pieces:
            result[split] += _saved(entry, faults) if (entry / STATE).is_file() else [entry]
    return result


def _pieces_fault(split: str, files: dict[Path, tuple[int, int] | None]) -> str:
    """The rule that the files of a split break unless they are one file or all pieces of one; otherwise empty."""
    pieces = [piece for piece in files.values() if piece is not None]
    if not pieces and len(files) == 1:
        return ""
    totals = {total for _, total in pieces}
    names = ", ".join(map(str, files))
    if len(pieces) < len(files) or len(totals) > 1 or len(set(pieces)) < len(pieces):
        return f"{split} rows are in several files: {names}"
    (total,) = totals
    missing = sorted(set(range(min(total, len(files) + 1))) - {number for number, _ in pieces})
    if missing:
        return f"{split} rows are in {total} files, and number {missing[0]} is missing: there are {names}"
    return "" if len(files) == total else f"{split} rows are in {total} files, and there are {names}"


def _saved(folder: Path, faults: Faults) -> list[Path]:
    """The Arrow files that a folder's ``state.json`` names; names that are paths are refused."""
    state = folder / STATE
    try:
        with state.open("rb") as file:
            content = json.loads(file.read(STATE_BYTES))
        names = [entry["filename"] for entry in content["_data_files"]]
        if content.get("_indices_data_files"):
            raise ValueError("its rows are chosen by indices; save it with a newer version of datasets")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        reason = "it names no data files" if isinstance(error, TypeError | KeyError | AttributeError) else error
        faults.of_file(state, f"cannot be read: {reason}", "cannot be read")
        return []
    unsafe = [name for name in names if not isinstance(name, str) or Path(name).name != name or not name]
    for name in unsafe[:1]:
        faults.of_file(state, f"a data file must be a name in this folder, got {shown(name)}", "name")
    return [] if unsafe else [folder / name for name in names]


def site_files(files: Sequence[Path], faults: Faults) -> dict[str, SplitFiles]:
    """Client -> its files: one file, or one per split, named such as ``a_train.csv`` and ``a_test.csv``."""
    stems = {split_name(file)[0] for file in files}
    trained = {match[1] for stem in stems if (match := _OF_CLIENT.fullmatch(stem)) and match[2].lower() == "train"}
    clients: dict[str, SplitFiles] = {}
    for file in files:
        stem = split_name(file)[0]
        match = _OF_CLIENT.fullmatch(stem)
        client, split = (match[1], match[2].lower()) if match and match[1] in trained else (stem, UNSPLIT)
        clients.setdefault(client, {}).setdefault(ALIASES.get(split, split), []).append(file)
    for client, splits in clients.items():
        twice = next((found for found in splits.values() if len(found) > 1), None)
        if twice or (UNSPLIT in splits and len(splits) > 1):
            named = twice or [file for found in splits.values() for file in found]
            faults.add(f"client {client!r}: rows are in several files: {', '.join(map(str, named))}")
            clients[client] = {split: found[:1] for split, found in splits.items()}
    return clients
