"""Reads rows in memory, in any of these forms:

    {client: ROWS}                    ROWS: a list of dicts, a pandas or polars DataFrame, a datasets.Dataset, a
                                      pyarrow.Table
    {client: (train, test)}           or {client: {"train": ROWS, "valid": ROWS, "test": ROWS}}
    ROWS                              with a client column
    {"train": ROWS, "test": ROWS}     with a client column, for example a datasets.DatasetDict
    Federation                        clients that were built in Python

Columns are those of files (:mod:`fedlease.data.sources.folder`). None, NaN, NaT and NA are missing values, and numbers
of a ``ClassLabel`` become its names.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fedlease.config.data import DataSettings
from fedlease.config.tables import LABELLED, RowKind
from fedlease.core.names import name_of
from fedlease.core.wording import listed
from fedlease.data.assemble import SPLITS, Splits, assemble, capped, check_number_of_clients
from fedlease.data.dealing import federation, make_client
from fedlease.data.dropped import Dropped
from fedlease.data.faults import IN_MEMORY, Faults, quoted, shown
from fedlease.data.federation import VALUE, ClientData, Federation, Row
from fedlease.data.reading.examples import client_id_fault
from fedlease.data.reading.rows import Gathered, Record, StoppedError, Table
from fedlease.data.reading.targets import LARGEST, number_of
from fedlease.data.reading.values import text_fault
from fedlease.data.sources.client_column import by_split, of_tables
from fedlease.data.sources.layout import ALIASES
from fedlease.data.sources.reader import examples_of
from fedlease.data.usable import Unusable
from fedlease.errors import DataError

__all__ = ["load", "table_of"]

FORMS = "a list of dicts, a DataFrame or a Dataset"
TABLES = (("pandas", "DataFrame"), ("polars", "DataFrame"), ("pyarrow", "Table"), ("datasets", "Dataset"))
"""Package and class of tables; the packages need not be installed."""
MISSING = ("NAType", "NaTType")
"""pandas classes of missing values."""


def load(settings: DataSettings, seed: int, kind: RowKind = "labels", data: object = None) -> Federation:
    """Reads rows in memory; the module's docstring lists their forms.

    Raises:
        DataError: there are no rows, they have none of the forms, or rows are faulty; the error has every fault.
        MissingPackageError: the partition needs a package that is not installed.
    """
    if data is None:
        raise DataError(
            "data.source: 'memory' reads rows that are passed in Python, as in fedlease.run(data=ROWS); for files set "
            "data.path"
        )
    if isinstance(data, Federation):
        return _as_built(data, settings, seed, kind)
    if isinstance(data, Mapping) and not _by_name_of_split(data):
        return _of_clients(data, settings, seed, kind)
    faults = Faults(Dropped.of(settings))
    table = _whole(data, settings, faults)
    faults.check()
    if table is None or not table.records:
        raise DataError("data: it has no rows")
    return of_tables([table], settings, seed, kind, name="data", dropped=faults.dropped)


def _by_name_of_split(data: Mapping[Any, Any]) -> bool:
    return bool(data) and all(isinstance(key, str) and ALIASES.get(key, key) in SPLITS for key in data)


def _whole(data: object, settings: DataSettings, faults: Faults) -> Table | None:
    """One table of all clients; a mapping of splits gets a split column."""
    if not isinstance(data, Mapping):
        return table_of(data, "data", settings, faults)
    records = list[Record]()
    columns = dict[str, None]()
    for split, rows in data.items():
        table = table_of(rows, f"data[{split!r}]", settings, faults)
        for record in table.records if table is not None else ():
            records.append(Record(len(records) + 1, {**record.values, settings.columns.split: split}))
        columns |= dict.fromkeys(table.columns if table is not None else ())
    if columns and settings.columns.client not in columns:
        faults.add(
            f"data: {listed([repr(split) for split in data])} are splits, whose rows need a column "
            f"{settings.columns.client!r} that names the client (data.columns.client); or pass {{client: rows}}"
        )
    return Table(Path(IN_MEMORY), tuple(columns | {settings.columns.split: None}), tuple(records), typed=True)


def _of_clients(data: Mapping[Any, Any], settings: DataSettings, seed: int, kind: RowKind) -> Federation:
    if settings.partition != "natural":
        raise DataError(
            f"data.partition: {settings.partition!r} deals rows without a client column to clients, but data has its "
            "clients; use 'natural'"
        )
    check_number_of_clients(len(data), settings)
    faults, notes, clients = Faults(Dropped.of(settings)), list[str](), dict[str, Splits]()
    unusable = Unusable(faults, skip=settings.clients == "skip")
    for key, given in data.items():
        client = name_of(key, typed=True)
        if client is None or client in clients:
            rule = "is named twice" if client in clients else "is no name"
            faults.add(f"data: client {shown(key)} {rule}; clients are the keys of data")
            continue
        with unusable.client(client) as own:
            clients[client] = _splits(client, given, settings, own, kind)
    if not data:
        faults.add("data: it has no clients")
    split_here = all([*splits] == ["train"] for splits in clients.values())
    return assemble(clients, settings, seed, unusable, notes, split_here=split_here, kind=kind)


def _splits(client: str, given: object, settings: DataSettings, faults: Faults, kind: RowKind) -> Splits:
    """Split -> examples of one client; without ``test``, test rows are later held out of ``train``."""
    place, before = f"data[{client!r}]", faults.seen
    parts: Mapping[Any, Any] | None = given if isinstance(given, Mapping) else None
    if isinstance(given, tuple) and len(given) == 2 and not all(isinstance(part, Mapping) for part in given):
        parts = dict(zip(("train", "test"), given, strict=True))
    if parts is not None:
        if not _by_name_of_split(parts):
            keys = listed([shown(key) for key in parts]) or "nothing"
            faults.add(f"{place}: must be rows, (train, test), or a mapping of 'train', 'valid' and 'test', got {keys}")
            return {}
        splits: Splits = {}
        for name, rows in parts.items():
            split = ALIASES.get(name, name)
            table = table_of(rows, f"{place}[{name!r}]", settings, faults)
            splits.setdefault(split, [])
            splits[split] += examples_of(table, settings, faults, kind) if table is not None else []
        if not splits.get("train") and faults.seen == before:
            faults.of_client(client, "no train rows in data", "no train rows")
        return splits
    table = table_of(given, place, settings, faults)
    if table is None:
        return {}
    examples = examples_of(table, settings, faults, kind)
    if not examples and faults.seen == before:
        faults.of_client(client, "no train rows in data", "no train rows")
    unusable = Unusable(faults, skip=False)
    return by_split({client: examples}, [table], settings, unusable)[client]


def table_of(given: object, place: str, settings: DataSettings, faults: Faults) -> Table | None:
    """The rows of a list of dicts, a DataFrame or a Dataset; None, with a fault, if it is none of these or too large.

    ``place`` names the object in faults.
    """
    # Places must begin with IN_MEMORY, so that faults count rows and not lines.
    rows = Gathered(Path(place), settings.limits, faults)
    try:
        found = _records(given)
    except ValueError as error:
        faults.add(f"{place}: {error}")
        return None
    if found is None:
        path = "; pass the path of files as data='my-federation'" if isinstance(given, str | Path) else ""
        faults.add(f"{place}: rows must be {FORMS}, got {_kind(given)}{path}")
        return None
    try:
        for number, row in enumerate(found, start=1):
            if isinstance(row, Mapping):
                rows.take(number, {str(column): _plain(value) for column, value in row.items()})
            else:
                rows.refuse(number, f"a row must be a dict of column and value, got {_kind(row)}", "no dict")
    except StoppedError:
        return None
    return rows.table(typed=True)


def _records(given: Any) -> Iterable[object] | None:
    """The rows of a table or a list; None for anything else, including streams, which can be read only once.

    Raises:
        ValueError: two columns have one name.
    """
    ancestors = {(parent.__module__.partition(".")[0], parent.__name__) for parent in type(given).__mro__}
    form = next((form for form in TABLES if form in ancestors), None)
    match form:
        case ("pandas", _):
            names = [str(name) for name in given.columns]
            if twice := sorted({name for name in names if names.count(name) > 1}):
                raise ValueError(f"columns named twice: {quoted(twice)}")
            return (dict(zip(names, row, strict=True)) for row in given.itertuples(index=False, name=None))
        case ("polars", _):
            return list(given.to_dicts())
        case ("pyarrow", _):
            return list(given.to_pylist())
        case ("datasets", _):
            return _of_dataset(given)
        case _:
            return given if isinstance(given, Sequence) and not isinstance(given, str | bytes) else None


def _of_dataset(dataset: Any) -> Iterator[dict[str, Any]]:
    kinds = {column: type(feature).__name__ for column, feature in dataset.features.items()}
    names = {column: dataset.features[column].names for column, kind in kinds.items() if kind == "ClassLabel"}
    inner: dict[str, Any] = {column: getattr(feature, "feature", None) for column, feature in dataset.features.items()}
    lists = {column: feature.names for column, feature in inner.items() if type(feature).__name__ == "ClassLabel"}
    for row in dataset.with_format(None):
        for column, known in names.items():
            # -1 stands for an unknown label.
            row[column] = known[row[column]] if row[column] is not None and row[column] >= 0 else None
        for column, known in lists.items():
            row[column] = row[column] and [known[label] for label in row[column]]
        yield row


def _plain(value: Any) -> Any:
    """A value in the types of JSON; missing values become None."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    missing = type(value).__name__ in MISSING or (isinstance(value, float) and value != value)
    return None if missing else value


def _kind(value: object) -> str:
    """The type of an object with its article, for faults."""
    name = type(value).__name__
    return f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"


def _as_built(given: Federation, settings: DataSettings, seed: int, kind: RowKind) -> Federation:
    """Checks a federation built in Python, and applies ``data.train_rows``, ``test_rows`` and ``valid_fraction``."""
    unread = [
        key
        for key in ("columns", "labels", "partition", "bad_rows")
        if getattr(settings, key) != getattr(DEFAULTS, key)
    ]
    faults = Faults()
    for key in unread:
        faults.add(f"data.{key}: it is not read, since the clients of a Federation have rows and labels; leave it out")
    check_number_of_clients(len(given), settings)
    for client in given:
        _check_built(client, kind, faults)
    faults.check()
    if not len(given):
        raise DataError("data: it has no clients")
    clients, notes = list[ClientData](), list[str]()
    for client in given:
        train, short = capped(client.id, "train", client.train, settings.train_rows, seed)
        test, few = capped(client.id, "test", client.test, settings.test_rows, seed)
        notes += [note for note in (short, few) if note]
        labels = VALUE if kind == "values" else client.labels
        clients.append(make_client(client.id, client.task, labels, train, test, settings, seed, client.valid, kind))
    return federation(clients, [*given.warnings, *notes], given.skipped)


DEFAULTS = DataSettings()


def _check_built(client: ClientData, kind: RowKind, faults: Faults) -> None:
    if rule := client_id_fault(client.id):
        faults.of_client(client.id, f"an id {rule}", f"id {rule}")
    if not client.train:
        faults.of_client(client.id, "no train rows in data", "no train rows")
    if kind in LABELLED and len(set(client.labels)) != max(1, len(client.labels)):
        faults.of_client(client.id, f"its labels must be distinct names, got {shown(client.labels)}", "label list")
    for split, rows in client.splits.items():
        for number, row in enumerate(rows, start=1):
            if rule := _row_fault(row, client, kind):
                faults.at(Path(f"data[{client.id!r}][{split!r}]"), number, None, rule)


def _row_fault(row: Row, client: ClientData, kind: RowKind) -> str | None:
    if kind == "responses":
        return text_fault(row.text, "text") or text_fault(row.response, "response")
    most = len(client.labels)
    if kind == "values" and number_of(row.value) is None:
        return f"a value must be a finite number of at most {LARGEST:g}, got {row.value!r}"
    if kind == "labels" and not 0 <= row.label < most:
        return f"a label must be below the number of the client's labels, {most}, got {row.label}"
    if kind == "label sets" and (row.marks is None or [*row.marks] != sorted({*row.marks} & {*range(most)})):
        return f"marks must be ascending indices below the number of the client's labels, {most}, got {row.marks}"
    return text_fault(row.text, "text")
