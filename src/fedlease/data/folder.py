"""Own files: a folder per client, or one file with a client column.

    DIR/<client>/train.jsonl    and test.jsonl, optionally valid.jsonl; also .csv, .parquet, .jsonl.gz, .csv.gz
    FILE                        with a client column, and a split column or else a seeded split

A file without a client column is dealt to clients by ``data.partition``. Client rows are taken as they are:
``data.train_rows`` and ``data.test_rows`` are upper limits, above which a seeded sample is taken.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from fedlease.config import DataSettings
from fedlease.data.dealing import Pool, drop_duplicates, federation, generator, hold_out, make_client
from fedlease.data.examples import Example, client_id_fault, folded, label_list, read_examples, to_rows
from fedlease.data.federation import ClientData, Federation, Row
from fedlease.data.partition import deal
from fedlease.data.tables import SUFFIXES, Faults, read_table, split_name
from fedlease.errors import DataError

__all__ = ["load"]

SPLITS = ("train", "valid", "test")
_ALIASES = {"validation": "valid", "dev": "valid"}

Splits = dict[str, list[Example]]


def load(settings: DataSettings, seed: int) -> Federation:
    """Reads the federation at ``settings.path``.

    Raises:
        DataError: every fault of every file.
        MissingPackageError: the partition needs a package that is not installed.
    """
    path = settings.path
    if path is None:
        raise DataError("data.path: is required for data.source 'folder': the folder or file that holds your rows")
    if not path.exists():
        raise DataError(f"data.path: {str(path)!r} does not exist")
    if not path.is_dir():
        return _load_file(path, settings, seed)
    if settings.partition != "natural":
        raise DataError(
            f"data.partition: {settings.partition!r} deals one file without a client column to clients, "
            f"but data.path {str(path)!r} is a folder that has its clients; use 'natural'"
        )
    faults, notes = Faults(), list[str]()
    clients: dict[str, Splits] = {}
    for folder in sorted(_client_folders(path, faults, notes)):
        clients[folder.name] = _read_client(folder, settings, faults, notes)
    return _assemble(clients, settings, seed, faults, notes)


def _client_folders(path: Path, faults: Faults, notes: list[str]) -> Iterable[Path]:
    entries = sorted(path.iterdir())
    # hidden folders of tools (.git, .ipynb_checkpoints) are not clients unless they hold rows
    folders = [
        entry for entry in entries if entry.is_dir() and (not entry.name.startswith(".") or any(_split_files(entry)))
    ]
    files = [entry.name for entry in entries if entry.is_file() and split_name(entry)[1] in SUFFIXES]
    if not folders:
        rule = f"holds {', '.join(files)} and no client folders" if files else "is empty"
        faults.add(
            f"data.path: {str(path)!r} {rule}; expected {path}/<client>/train.jsonl and test.jsonl "
            f"(or {', '.join(SUFFIXES[1:])}), or one file with a client column"
        )
    elif files:
        notes.append(f"{path}: {', '.join(files)} beside the client folders are not read")
    return folders


def _split_files(folder: Path) -> list[Path]:
    return [entry for entry in sorted(folder.iterdir()) if entry.is_file() and split_name(entry)[0] in SPLITS]


def _read_client(folder: Path, settings: DataSettings, faults: Faults, notes: list[str]) -> Splits:
    by_split: dict[str, list[Path]] = {}
    for file in _split_files(folder):
        by_split.setdefault(split_name(file)[0], []).append(file)
    unread = [
        entry.name
        for entry in sorted(folder.iterdir())
        if split_name(entry)[1] in SUFFIXES and split_name(entry)[0] not in SPLITS
    ]
    if unread:
        notes.append(f"client {folder.name!r}: {', '.join(unread)} are not read; names are train, valid and test")
    result: Splits = {}
    for split in SPLITS:
        files = by_split.get(split, [])
        if len(files) > 1:
            faults.add(f"client {folder.name!r}: {split} rows are in several files: {', '.join(map(str, files))}")
        elif files:
            before = len(faults.found)
            table = read_table(files[0], faults)
            examples = read_examples(table, settings.columns, faults, in_one_file=False) if table else []
            if not examples and len(faults.found) == before:
                faults.add(f"client {folder.name!r}: {files[0]} has no rows")
            result[split] = examples
        elif split != "valid":
            faults.add(f"client {folder.name!r}: no {split} rows: {folder} has no {split}.jsonl (or {_others()})")
    return result


def _others() -> str:
    return ", ".join(SUFFIXES[1:])


def _load_file(path: Path, settings: DataSettings, seed: int) -> Federation:
    faults, notes = Faults(), list[str]()
    table = read_table(path, faults)
    if table is not None and not table.records and not faults.found:
        faults.add(f"data.path: {path} has no rows")
    if table is None or not table.records:
        faults.check()
        raise AssertionError("unreachable: a file without rows is a fault")
    columns = settings.columns
    dealt = settings.partition != "natural"
    if columns.client not in table.columns and not dealt:
        faults.add(
            f"{path}: no column {columns.client!r}; set data.columns.client to the column that names the client "
            f"(it has {', '.join(map(repr, table.columns))}), or data.partition=dirichlet to deal the rows to clients"
        )
    elif columns.client in table.columns and dealt:
        faults.add(
            f"data.partition: {settings.partition!r} deals rows to clients, but {path} has a client column "
            f"{columns.client!r}; use 'natural', or name another column in data.columns.client"
        )
    examples = read_examples(table, columns, faults, in_one_file=True)
    if dealt:
        faults.check()
        return _deal_file(examples, columns.split in table.columns, settings, seed, notes)
    clients: dict[str, Splits] = {}
    has_split = columns.split in table.columns
    for example in examples:
        if columns.client in table.columns and not example.client:
            faults.at(path, example.line, columns.client, "a client must have a name, got an empty value")
            continue
        split = _ALIASES.get(example.split, example.split) if has_split else "train"
        if split not in SPLITS:
            rule = f"a split must be train, valid or test, got {example.split!r}"
            faults.at(path, example.line, columns.split, rule)
            continue
        clients.setdefault(example.client, {"train": [], "test": []}).setdefault(split, []).append(example)
    for client, splits in clients.items() if has_split else ():
        for split in ("train", "test"):
            if not splits[split] and not faults.found:
                faults.add(f"client {client!r}: no {split} rows in {path} (column {columns.split!r})")
    return _assemble(clients, settings, seed, faults, notes, split_here=not has_split)


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
    for task, members in sorted(by_task.items()):
        rule = client_id_fault(task)
        if rule:
            faults.add(f"data.columns.task: task {task!r} {rule}, since its clients are named after it")
        labels = label_list(example.label for example in members)
        rows, dropped = drop_duplicates(to_rows(members, labels, task, settings.columns.label, faults))
        if dropped:
            notes.append(f"task {task!r}: {dropped} duplicate rows dropped")
        pools.append(Pool("client" if task == "default" else task, labels, rows))
    faults.check()
    clients, warned = deal(pools, settings, seed)
    return federation(clients, notes + warned)


def _assemble(
    clients: dict[str, Splits],
    settings: DataSettings,
    seed: int,
    faults: Faults,
    notes: list[str],
    *,
    split_here: bool = False,
) -> Federation:
    for client in clients:
        rule = client_id_fault(client)
        if rule:
            faults.add(f"client {client!r}: an id {rule}")
    for form, count in Counter(map(folded, clients)).items():
        if count > 1:
            same = ", ".join(repr(client) for client in sorted(clients) if folded(client) == form)
            faults.add(f"clients {same}: ids must differ by more than case")
    built = [
        _build(client, splits, settings, seed, faults, notes, split_here=split_here)
        for client, splits in sorted(clients.items())
    ]
    faults.check()
    return federation(built, notes)


def _build(
    client: str,
    splits: Splits,
    settings: DataSettings,
    seed: int,
    faults: Faults,
    notes: list[str],
    *,
    split_here: bool,
) -> ClientData:
    every = [example for split in SPLITS for example in splits.get(split, [])]
    tasks = sorted({example.task for example in every})
    if len(tasks) > 1:
        where = next(example for example in every if example.task != every[0].task)
        rule = f"client {client!r} must have one task, got {', '.join(map(repr, tasks))}"
        faults.at(where.path, where.line, settings.columns.task, rule)
    if len({example.pair is None for example in every}) > 1:
        where = next(example for example in every if example.pair is None)
        rule = f"client {client!r} has a second text in other rows, but it is empty here"
        faults.at(where.path, where.line, settings.columns.text_pair or "text_pair", rule)
    labels = label_list(example.label for example in splits.get("train", []))
    rows: dict[str, tuple[Row, ...]] = {}
    for split in SPLITS:
        # without readable train rows there is no label list to hold the others against, and that fault is reported
        known = splits.get(split, []) if labels else []
        rows[split] = to_rows(known, labels, client, settings.columns.label, faults)
    if split_here and not faults.found:
        rows["train"], dropped = drop_duplicates(rows["train"])
        if dropped:
            notes.append(f"client {client!r}: {dropped} duplicate rows dropped before the split into train and test")
        count = max(1, round(len(rows["train"]) * settings.test_fraction))
        rows["train"], rows["test"] = hold_out(rows["train"], count, generator(seed, "test", client))
        if not rows["test"]:
            faults.add(
                f"client {client!r}: no test rows: its {len(rows['train'])} rows have {len(labels)} labels, "
                f"and each label needs a train row before one can be held out"
            )
    return _capped(client, tasks[0] if tasks else "default", labels, rows, settings, seed, notes.append)


def _capped(
    client: str,
    task: str,
    labels: tuple[str, ...],
    rows: dict[str, tuple[Row, ...]],
    settings: DataSettings,
    seed: int,
    note: Callable[[str], None],
) -> ClientData:
    for split, limit in (("train", settings.train_rows), ("test", settings.test_rows)):
        size = len(rows[split])
        if limit is not None and size > limit:
            picked = generator(seed, "limit", split, client).sample(range(size), limit)
            rows[split] = tuple(rows[split][index] for index in sorted(picked))
        elif limit is not None and size < limit:
            note(f"client {client!r} is short: it has {size} of {limit} {split} rows (data.{split}_rows)")
    both = {(row.text, row.pair) for row in rows["train"]}
    leaked = sum((row.text, row.pair) in both for row in rows["test"])
    if leaked:
        note(f"client {client!r}: {leaked} test rows are also train rows")
    return make_client(
        client,
        labels,
        rows["train"],
        rows["test"],
        task=task,
        valid_fraction=settings.valid_fraction,
        seed=seed,
        valid=rows["valid"],
    )
