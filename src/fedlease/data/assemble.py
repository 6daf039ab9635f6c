"""Checked examples -> the clients of a federation: ids, one task, one label list, row limits."""

from collections import Counter
from collections.abc import Callable

from fedlease.config import DataSettings
from fedlease.config_data import TaskName
from fedlease.data.dealing import drop_duplicates, federation, generator, hold_out, make_client, note_leaks
from fedlease.data.examples import Example, check_pairs, client_id_fault, folded, label_list, to_rows
from fedlease.data.federation import ClientData, Federation, Row
from fedlease.data.label_lists import stated_labels, unknown_tasks
from fedlease.data.prompts import to_prompt_rows
from fedlease.data.tables import Faults
from fedlease.data.usable import Unusable, too_few_rows

__all__ = ["SPLITS", "Splits", "assemble"]

SPLITS = ("train", "valid", "test")
Splits = dict[str, list[Example]]

UNSCORED = "; it trains and is scored on none"
"""What is said behind the reason why a client has no test rows, which is a fault where nobody has any."""


def assemble(
    clients: dict[str, Splits],
    settings: DataSettings,
    seed: int,
    unusable: Unusable,
    notes: list[str],
    *,
    split_here: bool = False,
    task: TaskName = "classification",
    whole: bool = True,
) -> Federation:
    """Builds clients from the examples of their files.

    Args:
        clients: id -> split -> examples.
        settings: columns, limits and fractions.
        seed: root seed.
        unusable: what was found so far; more is added.
        notes: warnings so far; more are added.
        split_here: whether all rows are among ``train`` and test rows are to be held out of them.
        task: what clients optimise; clients for generation have no labels.
        whole: whether these are all clients there are; of one alone it is not asked whether it can learn.

    Raises:
        DataError: something is wrong with the whole, or with a client that is required.
    """
    faults = unusable.faults
    for client in clients:
        rule = client_id_fault(client)
        if rule:
            faults.add(f"client {client!r}: an id {rule}")
    for form, count in Counter(map(folded, clients)).items():
        if count > 1:
            same = ", ".join(repr(client) for client in sorted(clients) if folded(client) == form)
            faults.add(f"clients {same}: ids must differ by more than case")
    built = []
    for client, splits in sorted(clients.items()):
        told = list[str]()
        with unusable.client(client) as own:
            before = len(own.found)
            made = _build(client, splits, settings, seed, own, told, split_here=split_here, task=task)
            unread = client in unusable.named or len(own.found) > before or not (whole or own.found == [])
            if not unread and (short := too_few_rows(made, settings)):
                own.add(short)
        if client not in unusable.skipped:
            built.append(made)
            notes += told
    skipped = unusable.skipped
    if whole and isinstance(settings.labels, dict) and not faults.found:
        for fault in unknown_tasks(settings, (made.task for made in built)):
            faults.add(fault)
    if not built and not faults.found:
        for reason in skipped.values():
            faults.add(reason)
    if whole and built and not any(made.test for made in built):
        for note in notes:
            if note.endswith(UNSCORED):
                faults.add(note.removesuffix(UNSCORED))
    unusable.check()
    return federation(built, notes, skipped) if whole else Federation.of(built, notes, skipped)


def _build(
    client: str,
    splits: Splits,
    settings: DataSettings,
    seed: int,
    faults: Faults,
    notes: list[str],
    *,
    split_here: bool,
    task: TaskName,
) -> ClientData:
    every = [example for split in SPLITS for example in splits.get(split, [])]
    tasks = sorted({example.task for example in every})
    if len(tasks) > 1:
        where = next(example for example in every if example.task != every[0].task)
        rule = f"client {client!r} must have one task, got {', '.join(map(repr, tasks))}"
        faults.at(where.path, where.line, settings.columns.task, rule)
    check_pairs(every, f"client {client!r}", settings, faults)
    stated = stated_labels(settings, tasks[0] if tasks else "default")
    labels = () if task == "generation" else stated or label_list(example.label for example in splits.get("train", []))
    rows: dict[str, tuple[Row, ...]] = {}
    for split in SPLITS:
        examples = splits.get(split, [])
        if task == "generation":
            rows[split] = to_prompt_rows(examples)
        else:
            # without readable train rows there is no label list to hold the others against; that fault is reported
            used, column = examples if labels else [], settings.columns.label
            rows[split] = to_rows(used, labels, client, column, faults, stated=bool(stated))
    if split_here and not faults.found:
        rows["train"], dropped = drop_duplicates(rows["train"])
        if dropped:
            notes.append(f"client {client!r}: {dropped} duplicate rows dropped before the split into train and test")
        count = max(1, round(len(rows["train"]) * settings.test_fraction))
        rows["train"], rows["test"] = hold_out(rows["train"], count, generator(seed, "test", client))
        if not rows["test"]:
            notes.append(f"client {client!r}: no test rows: {_none_to_spare(rows['train'], labels)}{UNSCORED}")
    elif not rows["test"] and not faults.found:
        notes.append(f"client {client!r}: no test rows in its files{UNSCORED}")
    return _capped(client, tasks[0] if tasks else "default", labels, rows, settings, seed, notes.append)


def _none_to_spare(rows: tuple[Row, ...], labels: tuple[str, ...]) -> str:
    if not labels:
        return "it has one row, and that is needed for training"
    held = len({row.label for row in rows})
    return f"its {len(rows)} rows have {held} labels, and each label needs a train row before one can be held out"


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
    note_leaks(client, rows["train"], rows["test"], note)
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
