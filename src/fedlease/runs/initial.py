"""Guesses of settings for files without any: reads the files and writes a YAML file (``fedlease init``)."""

import importlib.util
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlease.config.faults import setting_names
from fedlease.config.layers import merge, parse_overrides, unfold
from fedlease.config.settings import Settings, resolve
from fedlease.config.tables import EVERY_KIND, RowKind, task_facts, tasks_reading
from fedlease.core.wording import printable
from fedlease.data.dropped import Dropped
from fedlease.data.faults import Faults, quoted
from fedlease.data.federation import ClientData, Federation, Scale
from fedlease.data.labels import uneven
from fedlease.data.load import load_federation
from fedlease.data.reading.columns import Guess, guess_columns
from fedlease.data.reading.forms import Form
from fedlease.data.reading.tables import SUFFIXES, read_table, split_name
from fedlease.errors import ConfigError, DataError
from fedlease.files import write_atomically
from fedlease.models.sources import PACKAGES
from fedlease.runs.initial_text import settings_text

__all__ = ["Understood", "understand", "write_settings"]

FILES = 5
"""Number of files of a folder from which columns are guessed, spread evenly over all files."""

PATTERN = re.compile(r"[*?\[]")
"""Characters that make a file name a pattern."""
SPLIT = re.compile(r"(train|test|valid|validation|val|dev)(-\d+-of-\d+)?", re.IGNORECASE)

LENGTHS: Mapping[RowKind, tuple[int, ...]] = dict.fromkeys(EVERY_KIND, (64, 128, 256)) | {"responses": (256, 512, 1024)}
"""Kind of rows -> possible values of ``data.max_tokens``."""
CHARACTERS = 3
"""Characters per token, a low estimate."""
LONG = 0.95
"""Share of rows that must not be cut."""

METRIC = "macro_f1"
"""The headline metric for uneven labels."""


@dataclass(frozen=True)
class Understood:
    """The interpretation of files.

    Attributes:
        settings: resolved settings, with which the rows were read.
        text: content of the YAML file.
        columns: key of ``data.columns`` -> column, and the reason for the guess, or ``stated``.
        task_why: reason for the guessed task.
        metric_why: reason for the guessed metric; empty if it was not guessed.
        by_label: client -> label -> number of train and of test rows; empty for generation.
        scales: client -> mean and standard deviation of the numbers in its train rows; None without numbers.
        train_rows: client -> number of train rows.
        test_rows: client -> number of test rows.
        notes: about the data, one sentence each.
        skipped: client -> the reason why it takes no part.
        needed: command that installs the model's package; empty if it is installed.
    """

    settings: Settings
    text: str
    columns: Mapping[str, tuple[str, str]]
    task_why: str
    metric_why: str
    by_label: Mapping[str, Mapping[str, tuple[int, int]]]
    scales: Mapping[str, Scale | None]
    train_rows: Mapping[str, int]
    test_rows: Mapping[str, int]
    notes: Sequence[str]
    skipped: Mapping[str, str]
    needed: str


def understand(path: Path, changes: Sequence[str] = (), name: str = "federation.yaml") -> Understood:
    """Guesses the settings of files, and reads all of their rows with them.

    Args:
        path: a folder with a folder or a file per client, or one file with a client column.
        changes: ``key=value`` words, which override guesses.
        name: of the YAML file, for the commands in it.

    Raises:
        DataError: the files cannot be read, or a column cannot be guessed; the message has all faults.
        ConfigError: the changes are not valid settings.
    """
    said, faults = parse_overrides(changes, {*setting_names(Settings, text=True)})
    if faults:
        raise ConfigError(faults)
    if "data.path" in said:
        raise ConfigError("data.path: init already has a path as its argument; leave one of them out")
    stated = unfold(said)
    mine = stated.get("data", {}) if isinstance(stated.get("data", {}), Mapping) else {}
    # Stated settings are checked before anything is read.
    form = Form.of(resolve(base=Settings(), overrides=merge(said, {"data.path": str(path)})).data)
    guess = _guess(path, stated.get("task"), mine, form)
    task = stated.get("task") or next(iter(tasks_reading(guess.kind)))
    content: dict[str, Any] = {"task": task}
    if "preset" not in stated:
        content["model"] = task_facts(task).default_model or Settings().model
        content |= {} if stated.get("method") == "local" else {"baselines": ["local"]}
    named = {**guess.columns, **({"labels": list(guess.flags)} if guess.flags else {})}
    content["data"] = {"path": str(path), **({"columns": named} if named else {})}
    content["data"] |= {"label_separator": guess.separator} if guess.separator else {}
    content = merge(content, stated)
    settings = resolve(base=Settings(), overrides=content)
    federation = load_federation(settings.data, settings.seed, settings.task)
    skew = "" if settings.metric is not None else uneven(federation)
    if skew:
        content = {"task": task, "metric": METRIC, **content}
    content["data"] = {**content["data"], **_length(federation, mine, guess.kind)}
    settings = resolve(base=Settings(), overrides=content)
    columns = {key: (column, guess.why.get(key, "")) for key, column in guess.columns.items()}
    columns |= {"labels": (", ".join(guess.flags), "columns of 0 and 1")} if guess.flags else {}
    columns |= {key: (column, "stated") for key, column in _stated_columns(mine).items()}
    package = PACKAGES.get(settings.model)
    missing = package is not None and importlib.util.find_spec(package.module) is None
    return Understood(
        settings=settings,
        text=settings_text(content, settings, guess, federation, printable(shlex.quote(name)), skew),
        columns=columns,
        metric_why=skew,
        task_why="stated" if "task" in stated else guess.why.get("task", ""),
        by_label={client.id: client.by_label for client in federation},
        scales={client.id: client.scale for client in federation},
        train_rows={client.id: len(client.train) for client in federation},
        test_rows={client.id: len(client.test) for client in federation},
        notes=federation.warnings,
        skipped=federation.skipped,
        needed=package.command if package is not None and missing else "",
    )


def write_settings(understood: Understood, out: Path, *, force: bool) -> None:
    """Writes the YAML file.

    Raises:
        ConfigError: ``out`` exists and may not be replaced, or cannot be written.
    """
    check_out(out, force=force)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, understood.text.encode())
    except OSError as error:
        raise ConfigError(f"out: {out} cannot be written: {error.strerror}") from error


def check_out(out: Path, *, force: bool) -> None:
    """Refuses to replace a file, or to write to a folder.

    Raises:
        ConfigError: ``out`` is a folder, or exists without ``force``.
    """
    if out.is_dir():
        raise ConfigError(f"out: {out} is a folder; name a file such as {out / 'federation.yaml'}")
    if (out.exists() or out.is_symlink()) and not force:
        raise ConfigError(f"out: {out} exists; choose another --out, or replace it with --force")


def _guess(path: Path, task: Any, mine: Mapping[str, Any], form: Form) -> Guess:
    """Guesses the roles of the columns from some of the files."""
    faults = Faults(Dropped())  # unusable rows are reported, or dropped, later, when all rows are read
    try:
        every = _files(path)
    except (OSError, ValueError) as error:
        raise DataError(f"init: {str(path)!r} cannot be read: {getattr(error, 'strerror', error)}") from error
    train = [file for file in every if "train" in str(file.relative_to(path.parent)).lower()]
    chosen = train or every
    files = chosen[:: max(1, len(chosen) // FILES)][:FILES]
    tables = [table for file in files if (table := read_table(file, faults, form=form)) is not None and table.records]
    faults.check()
    kind: RowKind | None = "label sets" if mine.get("columns", {}).get("labels") else None
    kind = kind if task is None else task_facts(task).rows
    if not tables:
        if not files:
            raise DataError(
                f"init: {str(path)!r} has no files with rows ({', '.join(SUFFIXES)}), neither directly nor in its "
                "folders"
            )
        faults = Faults()
        for file in files:
            read_table(file, faults, form=form)
        faults.check()
        raise DataError(f"init: no rows in {quoted(list(map(str, files)), FILES)}")
    # Files without any column of the first one, such as a list of sites, are left out.
    alike = [table for table in tables if {*table.columns} & {*tables[0].columns}]
    clients = _together(path, every) and mine.get("partition", "natural") == "natural"
    return guess_columns(alike, clients=clients, stated=_stated_columns(mine), kind=kind)


def _stated_columns(mine: Mapping[str, Any]) -> dict[str, str]:
    columns = mine.get("columns", {}).items()
    return {key: str(column) for key, column in columns if column is not None and key != "labels"}


def _files(path: Path) -> list[Path]:
    """The file itself, the files of a folder and of its folders, or the files that match a pattern."""
    if not path.exists() and not (PATTERN.search(path.name) and path.parent.is_dir()):
        raise DataError(f"init: {str(path)!r} does not exist")
    if path.is_file():
        return [path]
    if path.is_dir():
        inner = [entry for entry in sorted(path.iterdir()) if entry.is_dir() and not entry.name.startswith(".")]
        found = [file for place in (path, *inner) for file in sorted(place.iterdir())]
    else:
        found = sorted(path.parent.glob(path.name))
    return [file for file in found if file.is_file() and split_name(file)[1] in SUFFIXES and file.name[0] != "."]


def _together(path: Path, files: Sequence[Path]) -> bool:
    """Whether files hold the rows of all clients: a single file, or splits and their shards as on the hub."""
    places = {file.parent for file in files}
    if len(files) == 1:
        return places <= {path, path.parent}
    named = all(SPLIT.fullmatch(split_name(file)[0]) for file in files) and places <= {path, path / "data"}
    return named or all(SPLIT.fullmatch(place.name) for place in places)


def _length(federation: Federation, mine: Mapping[str, Any], kind: RowKind) -> dict[str, int]:
    """``max_tokens`` guessed from the lengths of the texts; {} if it is stated."""
    if "max_tokens" in mine:
        return {}
    every = sorted(length for client in federation for length in _characters(client)) or [0]
    lengths = LENGTHS[kind]
    needed = every[min(int(LONG * len(every)), len(every) - 1)] / CHARACTERS
    return {"max_tokens": next((length for length in lengths if length >= needed), lengths[-1])}


def _characters(client: ClientData) -> list[int]:
    parts = ((row.text, row.text_pair, row.response, *(text for _, text in row.turns)) for row in client.train)
    return [sum(len(part) for part in row if part) for row in parts]
