"""Checked examples -> the clients of a federation: ids, one task, one label list, row limits."""

from collections import Counter
from collections.abc import Callable

from fedlease.config import DataSettings
from fedlease.config_data import TaskName
from fedlease.data.dealing import drop_duplicates, federation, generator, hold_out, make_client, note_leaks
from fedlease.data.examples import Example, check_pairs, client_id_fault, folded, label_list, to_rows
from fedlease.data.federation import ClientData, Federation, Row
from fedlease.data.prompts import to_prompt_rows
from fedlease.data.tables import Faults

__all__ = ["SPLITS", "Splits", "assemble"]

SPLITS = ("train", "valid", "test")
Splits = dict[str, list[Example]]


def assemble(
    clients: dict[str, Splits],
    settings: DataSettings,
    seed: int,
    faults: Faults,
    notes: list[str],
    *,
    split_here: bool = False,
    task: TaskName = "classification",
) -> Federation:
    """Builds clients from the examples of their files.

    Args:
        clients: id -> split -> examples.
        settings: columns, limits and fractions.
        seed: root seed.
        faults: what was found so far; more is added.
        notes: warnings so far; more are added.
        split_here: whether all rows are among ``train`` and test rows are to be held out of them.
        task: what clients optimise; clients for generation have no labels.

    Raises:
        DataError: ``faults`` is not empty.
    """
    for client in clients:
        rule = client_id_fault(client)
        if rule:
            faults.add(f"client {client!r}: an id {rule}")
    for form, count in Counter(map(folded, clients)).items():
        if count > 1:
            same = ", ".join(repr(client) for client in sorted(clients) if folded(client) == form)
            faults.add(f"clients {same}: ids must differ by more than case")
    built = [
        _build(client, splits, settings, seed, faults, notes, split_here=split_here, task=task)
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
    task: TaskName,
) -> ClientData:
    every = [example for split in SPLITS for example in splits.get(split, [])]
    tasks = sorted({example.task for example in every})
    if len(tasks) > 1:
        where = next(example for example in every if example.task != every[0].task)
        rule = f"client {client!r} must have one task, got {', '.join(map(repr, tasks))}"
        faults.at(where.path, where.line, settings.columns.task, rule)
    check_pairs(every, f"client {client!r}", settings, faults)
    labels = () if task == "generation" else label_list(example.label for example in splits.get("train", []))
    rows: dict[str, tuple[Row, ...]] = {}
    for split in SPLITS:
        examples = splits.get(split, [])
        if task == "generation":
            rows[split] = to_prompt_rows(examples)
        else:
            # without readable train rows there is no label list to hold the others against; that fault is reported
            rows[split] = to_rows(examples if labels else [], labels, client, settings.columns.label, faults)
    if split_here and not faults.found:
        rows["train"], dropped = drop_duplicates(rows["train"])
        if dropped:
            notes.append(f"client {client!r}: {dropped} duplicate rows dropped before the split into train and test")
        count = max(1, round(len(rows["train"]) * settings.test_fraction))
        rows["train"], rows["test"] = hold_out(rows["train"], count, generator(seed, "test", client))
        if not rows["test"]:
            faults.add(f"client {client!r}: no test rows: {_none_to_spare(rows['train'], labels)}")
    return _capped(client, tasks[0] if tasks else "default", labels, rows, settings, seed, notes.append)


def _none_to_spare(rows: tuple[Row, ...], labels: tuple[str, ...]) -> str:
    if not labels:
        return "it has one row, and that is needed for training"
    return (
        f"its {len(rows)} rows have {len(labels)} labels, and each label needs a train row before one can be held out"
    )


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
