"""Builds federations from tables that have a client column or whose rows are dealt to clients."""

from collections import Counter
from collections.abc import Sequence

from fedlease.config.data import DataSettings
from fedlease.config.tables import RowKind
from fedlease.core.names import name_of
from fedlease.core.wording import counted
from fedlease.data.assemble import SPLITS, Splits, assemble
from fedlease.data.dealing import Pool, drop_duplicates, federation
from fedlease.data.dropped import Dropped
from fedlease.data.faults import Faults, quoted, shown
from fedlease.data.federation import Federation
from fedlease.data.labels import agreed, check_tasks, doubtful_labels, stated_labels
from fedlease.data.partition import deal
from fedlease.data.reading.examples import Example, client_id_fault, label_list, paired, to_rows
from fedlease.data.reading.forms import guess_notes
from fedlease.data.reading.rows import Table
from fedlease.data.sources.layout import ALIASES
from fedlease.data.sources.reader import examples_of
from fedlease.data.usable import RowFaults, Unusable

__all__ = ["by_split", "of_tables"]


def of_tables(
    tables: Sequence[Table],
    settings: DataSettings,
    seed: int,
    kind: RowKind,
    *,
    name: str,
    dropped: Dropped | None = None,
) -> Federation:
    """Builds a federation from tables with a client column, or from rows that ``data.partition`` deals to clients.

    Args:
        tables: at least one; either all have a split column or none has.
        name: name of all tables together, for faults.
        dropped: counts rows that cannot be used; None if these are faults.

    Raises:
        DataError: rows are faulty; the error has every fault.
        MissingPackageError: the partition needs a package that is not installed.
    """
    faults, notes = Faults(dropped), guess_notes(tables)
    columns, dealt = settings.columns, settings.partition != "natural"
    has_split = columns.split in tables[0].columns
    without = [table for table in tables if columns.client not in table.columns]
    if without and not dealt:
        faults.add(
            f"{name}: no column {columns.client!r}; set data.columns.client to the column that names the client "
            f"(it has {quoted(without[0].columns)}), or data.partition=dirichlet to deal the rows to clients"
        )
    elif dealt and len(without) < len(tables):
        faults.add(
            f"data.partition: {settings.partition!r} deals rows to clients, but {name} has a client column "
            f"{columns.client!r}; use 'natural', or name another column in data.columns.client"
        )
    unusable = Unusable(faults, skip=settings.clients == "skip" and not dealt)
    examples = list[Example]()
    for table in tables:
        named = {r.line: name_of(r.values.get(columns.client), table.typed) for r in table.records}
        owners = {} if dealt else {line: client for line, client in named.items() if client is not None}
        examples += examples_of(table, settings, RowFaults(unusable, owners), kind)
    if dealt or without:
        faults.check()
        return _deal(examples, has_split, settings, seed, notes, Faults(dropped))
    # Clients whose rows are all unusable must not be forgotten.
    by_client: dict[str, list[Example]] = {
        client: [] for client in (*unusable.skipped, *(dropped.clients if dropped else ()))
    }
    for example in examples:
        if example.client:
            by_client.setdefault(example.client, []).append(example)
        else:
            faults.row(*example.place)(columns.client, "a client must have a name, got an empty value")
    clients = by_split(by_client, tables, settings, unusable)
    return assemble(clients, settings, seed, unusable, notes, split_here=not has_split, kind=kind)


def by_split(
    by_client: dict[str, list[Example]], tables: Sequence[Table], settings: DataSettings, unusable: Unusable
) -> dict[str, Splits]:
    """Groups examples by client and split; without a split column all are ``train``."""
    column = settings.columns.split
    if column not in tables[0].columns:
        return {client: {"train": examples} for client, examples in by_client.items()}
    clients: dict[str, Splits] = {}
    for client, examples in by_client.items():
        splits = clients[client] = {split: [] for split in SPLITS}
        with unusable.client(client) as faults:
            before = faults.seen
            for example in examples:
                split = ALIASES.get(example.split, example.split)
                if split in SPLITS:
                    splits[split].append(example)
                else:
                    rule = f"a split must be train, valid or test, got {shown(example.split)}"
                    faults.row(*example.place)(column, rule)
            # There may be train rows that are faulty, which was reported.
            reported = client in unusable.named or faults.seen > before or faults.dropped_of(client)
            if not splits["train"] and not reported:
                where = tables[0].path if len(tables) == 1 else tables[0].path.parent
                faults.of_client(client, f"no train rows in {where} (column {column!r})", "no train rows")
    return clients


def _deal(
    examples: list[Example], has_split: bool, settings: DataSettings, seed: int, notes: list[str], faults: Faults
) -> Federation:
    before, count = faults.seen, len(examples)
    if has_split:
        notes.append(f"column {settings.columns.split!r} is not used: rows are dealt to clients, and then split")
    by_task: dict[str, list[Example]] = {}
    for example in examples:
        by_task.setdefault(example.task, []).append(example)
    pools = []
    check_tasks(settings, by_task, faults)
    for task, members in sorted(by_task.items()):
        if rule := client_id_fault(task):
            faults.add(f"data.columns.task: task {task!r} {rule}, since its clients are named after it")
        whole = agreed({"all": members}, f"task {task!r}", settings.columns.label, faults, notes)
        members = paired(whole, f"task {task!r}", settings, faults)["all"]
        notes += doubtful_labels(Counter(label for example in members for label in example.labels), f"task {task!r}")
        stated = stated_labels(settings, task)
        labels = stated or label_list(label for example in members for label in example.labels)
        read = to_rows(members, labels, task, settings.columns.label, faults, stated=bool(stated))
        rows, dropped = drop_duplicates(read)
        if dropped:
            notes.append(f"task {task!r}: {counted(dropped, 'duplicate row')} dropped")
        pools.append(Pool("client" if task == "default" else task, labels, rows))
    if faults.dropped and (note := faults.dropped.note("", count + before)):
        if not any(pool.rows for pool in pools):
            faults.add(f"data.path: no rows are left: {note}")
        notes.append(note)
    faults.check()
    clients, warned = deal(pools, settings, seed)
    return federation(clients, notes + warned)
