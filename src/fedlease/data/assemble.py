"""Checked examples -> the clients of a federation: ids, one task, one label list, row limits."""

from collections import Counter
from collections.abc import Callable

from fedlease.config.settings import DataSettings
from fedlease.config.tables import RowKind
from fedlease.core.wording import counted
from fedlease.data.dealing import drop_duplicates, federation, generator, hold_out, make_client
from fedlease.data.faults import Faults
from fedlease.data.federation import ClientData, Federation, Row
from fedlease.data.label_lists import stated_labels, unknown_tasks
from fedlease.data.reading.examples import Example, check_pairs, client_id_fault, folded, label_list, to_rows
from fedlease.data.reading.labels import agreed, doubtful_labels, regression
from fedlease.data.reading.looks import tell_measurements
from fedlease.data.reading.prompts import to_prompt_rows
from fedlease.data.usable import Unusable, too_few_rows
from fedlease.errors import DataError

__all__ = ["EACH", "SPLITS", "Splits", "assemble", "check_number_of_clients"]

SPLITS = ("train", "valid", "test")
Splits = dict[str, list[Example]]

UNSCORED = "; it trains and is scored on none"
"""What is said behind the reason why a client has no test rows, which is a fault where nobody has any."""
EACH = 10
"""Up to so many clients with one and the same fault are told apart."""


def assemble(
    clients: dict[str, Splits],
    settings: DataSettings,
    seed: int,
    unusable: Unusable,
    notes: list[str],
    *,
    split_here: bool = False,
    kind: RowKind = "labels",
    whole: bool = True,
) -> Federation:
    """Builds clients from the examples of their files.

    Args:
        clients: id -> split -> examples.
        settings: columns, limits and fractions.
        seed: root seed.
        unusable: what was found so far; more is added.
        notes: warnings so far; more are added.
        split_here: whether all rows are among ``train`` and test rows are to be held out of them, without the
            duplicates. They are held out of any client without a split ``test``, too.
        kind: what rows need; clients whose rows have responses have no labels.
        whole: whether these are all clients there are; of one alone it is not asked whether it can learn.

    Raises:
        DataError: something is wrong with the whole, or with a client that is required.
    """
    check_number_of_clients(len(clients), settings)
    faults = unusable.faults
    for client in clients:
        rule = client_id_fault(client)
        if rule:
            faults.add(f"client {client!r}: an id {rule}", kind=f"id {rule}", place=repr(client), apart=EACH)
    for form, count in Counter(map(folded, clients)).items():
        if count > 1:
            same = ", ".join(repr(client) for client in sorted(clients) if folded(client) == form)
            faults.add(f"clients {same}: ids must differ by more than case and Unicode form")
    built = []
    for client, splits in sorted(clients.items()):
        told = list[str]()
        with unusable.client(client) as own:
            before = own.count
            made = _build(client, splits, settings, seed, own, told, split_here=split_here, kind=kind)
            unread = client in unusable.named or own.count > before or not (whole or own.count == 0)
            short = "" if unread or client_id_fault(client) else too_few_rows(made, settings)
            if short:
                own.add(short, kind="too few rows", place=repr(client), apart=EACH)
        if client not in unusable.skipped:
            built.append(made)
            notes += [] if unread else told
    skipped = unusable.skipped
    if whole and isinstance(settings.labels, dict) and not faults.count:
        for fault in unknown_tasks(settings, (made.task for made in built)):
            faults.add(fault)
    if not built and not faults.count:
        for reason in skipped.values():
            faults.add(reason)
    if whole and built and not faults.count and not any(made.test for made in built):
        for note in notes:
            if note.endswith(UNSCORED):
                faults.add(note.removesuffix(UNSCORED), kind="no test rows", place=note.split(":")[0], apart=EACH)
    unusable.check()
    return federation(built, notes, skipped) if whole else Federation.of(built, notes, skipped)


def check_number_of_clients(count: int, settings: DataSettings) -> None:
    """Refuses more clients than the limit.

    Raises:
        DataError: there are more.
    """
    if count > settings.limits.clients:
        raise DataError(
            f"data.limits.clients: at most {settings.limits.clients:,} clients are read, and there are {count:,}"
        )


def _build(
    client: str,
    splits: Splits,
    settings: DataSettings,
    seed: int,
    faults: Faults,
    notes: list[str],
    *,
    split_here: bool,
    kind: RowKind,
) -> ClientData:
    before = faults.count
    if kind == "labels":
        splits = agreed(splits, f"client {client!r}", settings.columns.label, faults, notes)
    every = [example for split in SPLITS for example in splits.get(split, [])]
    tasks = sorted({example.task for example in every})
    if len(tasks) > 1:
        where = next(example for example in every if example.task != every[0].task)
        rule = f"client {client!r} must have one task, got {', '.join(map(repr, tasks))}"
        faults.at(where.path, where.line, settings.columns.task, rule)
    check_pairs(every, f"client {client!r}", settings, faults)
    stated = stated_labels(settings, tasks[0] if tasks else "default")
    labels = () if kind == "responses" else stated or label_list(example.label for example in splits.get("train", []))
    _check_labels(client, labels, every, settings, faults, notes)
    rows: dict[str, tuple[Row, ...]] = {}
    for split in SPLITS:
        examples = splits.get(split, [])
        if kind == "responses":
            rows[split] = to_prompt_rows(examples)
        else:
            # without readable train rows there is no label list to hold the others against; that fault is reported
            used, column = examples if labels else [], settings.columns.label
            rows[split] = to_rows(used, labels, client, column, faults, stated=bool(stated))
    if faults.count > before or client_id_fault(client):
        # told below; what is drawn for a client comes from its id, which may have no bytes
        return ClientData(client, "", (), (), (), ())
    if rows["train"] and (split_here or "test" not in splits):
        rows["train"], rows["test"] = _held_out(client, rows["train"], settings, seed, notes, distinct=split_here)
        if not rows["test"]:
            notes.append(f"client {client!r}: no test rows: {_none_to_spare(rows['train'], labels)}{UNSCORED}")
    elif not rows["test"]:
        notes.append(f"client {client!r}: no test rows in its files{UNSCORED}")
    return _capped(client, tasks[0] if tasks else "default", labels, rows, settings, seed, notes.append)


def _check_labels(
    client: str,
    labels: tuple[str, ...],
    examples: list[Example],
    settings: DataSettings,
    faults: Faults,
    notes: list[str],
) -> None:
    if not labels:
        return
    counts = Counter(example.label for example in examples)
    if regression(counts) and len(labels) < len(counts):
        tell_measurements(faults)
    notes += doubtful_labels(counts, f"client {client!r}")
    most = settings.limits.labels
    if len(labels) > most:
        faults.add(
            f"client {client!r}: {len(labels):,} labels, and at most {most:,} are read (data.limits.labels); is "
            f"data.columns.label {settings.columns.label!r} the column of the labels?",
            kind="labels",
            place=repr(client),
        )


def _held_out(
    client: str, rows: tuple[Row, ...], settings: DataSettings, seed: int, notes: list[str], *, distinct: bool
) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    if distinct:
        rows, dropped = drop_duplicates(rows)
        if dropped:
            were = counted(dropped, "duplicate row")
            notes.append(f"client {client!r}: {were} dropped before the split into train and test")
    count = max(1, round(len(rows) * settings.test_fraction))
    train, test = hold_out(rows, count, generator(seed, "test", client))
    if not distinct and test:
        notes.append(
            f"client {client!r}: brings no test rows, so {len(test):,} of its {len(rows):,} train rows are held out "
            "for test (data.test_fraction)"
        )
    return train, test


def _none_to_spare(rows: tuple[Row, ...], labels: tuple[str, ...]) -> str:
    if len({row.question for row in rows}) == 1:
        return "it has one distinct row, and that is needed for training"
    held = len({row.label for row in rows})
    there = f"{counted(len(rows), 'row')} of {counted(held, 'label')}"
    return f"it has {there}, and each label needs a train row before one can be held out"


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
        elif limit is not None and 0 < size < limit:
            note(f"client {client!r} is short: it has {size} of {limit} {split} rows (data.{split}_rows)")
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
