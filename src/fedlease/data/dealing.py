"""Deals a pool of rows to clients, then splits each client's share into train, validation and test rows.

Splitting comes second so that a client's train and test rows have the same distribution.
"""

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedlease.config.data import DataSettings
from fedlease.config.tables import RowKind
from fedlease.core.seeds import derive
from fedlease.core.wording import counted
from fedlease.data.federation import ClientData, Federation, Row
from fedlease.data.labels import label_notes, labels_over_clients, nothing_to_learn
from fedlease.data.overlaps import overlaps
from fedlease.errors import DataError

__all__ = [
    "Pool",
    "clients_of",
    "deal_evenly",
    "drop_duplicates",
    "federation",
    "generator",
    "hold_out",
    "make_client",
    "ran_out",
    "split_sizes",
    "window",
    "with_known_labels",
]


@dataclass(frozen=True)
class Pool:
    """Rows of one task that belong to no client yet.

    Attributes:
        labels: label names; ``Row.label`` indexes them. Every client of the task gets this list.
        rows: without duplicates, in source order.
    """

    task: str
    labels: tuple[str, ...]
    rows: tuple[Row, ...]


def generator(seed: int, *purpose: str | int) -> random.Random:
    """A random generator that serves one purpose only, for example ``generator(0, "valid", client)``."""
    return random.Random(derive(seed, "data", *purpose))


def drop_duplicates(rows: Iterable[Row]) -> tuple[tuple[Row, ...], int]:
    """Keeps the first row of each content, so that no text is dealt to both train and test; returns the number dropped.

    Label and place do not count: two rows of one text with different labels are duplicates. Two responses to one
    prompt are not.
    """
    kept: dict[tuple[object, ...], Row] = {}
    total = 0
    for row in rows:
        total += 1
        kept.setdefault(row.content, row)
    return tuple(kept.values()), total - len(kept)


def hold_out(
    rows: Sequence[Row], count: int, random_: random.Random, *, stratified: bool = False
) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
    """Splits rows at random into (kept, held out), both in their given order.

    Rows of one question stay together, so that no question is on both sides. The last row of a label is never held out,
    so that every label held out is also among the kept rows. These rules may leave fewer than ``count`` rows to hold
    out; more are held out only if every question has more than ``count`` rows. Rows with responses or numbers count as
    rows of one label.

    Args:
        stratified: whether labels have the same shares among the rows held out as among all, as far as the rules allow.
    """
    left = Counter(kind for row in rows for kind in row.kinds)
    same: dict[tuple[object, ...], list[int]] = {}
    for index, row in enumerate(rows):
        same.setdefault(row.question, []).append(index)
    apart: set[int] = set()
    drawn = [(index, same[rows[index].question]) for index in random_.sample(range(len(rows)), len(rows))]
    groups = [group for index, group in drawn if index == group[0]]
    fitting = [group for group in groups if len(group) <= count] or sorted(groups, key=len)[:1]
    # A row of several labels counts for each of them.
    quota = _quota(left, count * left.total() // max(len(rows), 1))
    # the second pass ignores the quotas, to fill places that they left open
    for free in (False, True) if stratified else (True,):
        for group in fitting if count > 0 else ():
            labels = Counter(kind for index in group for kind in rows[index].kinds)
            if apart.issuperset(group) or (apart and len(apart) + len(group) > count):
                continue
            due = free or all(quota[label] >= number for label, number in labels.items())
            if due and all(left[label] > number for label, number in labels.items()):
                left -= labels
                quota.subtract(labels)
                apart.update(group)
    kept = tuple(row for index, row in enumerate(rows) if index not in apart)
    return kept, tuple(row for index, row in enumerate(rows) if index in apart)


def _quota(labels: Counter[int], count: int) -> Counter[int]:
    """Divides ``count`` in proportion to the labels' frequencies, in whole numbers that add up (largest remainders)."""
    total = labels.total()
    quota = Counter({label: count * number // total for label, number in labels.items()})
    by_remainder = sorted(labels, key=lambda label: (-(count * labels[label] % total), label))
    quota.update(by_remainder[: count - quota.total()])
    return quota


def with_known_labels(train: Sequence[Row], test: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Moves rows of one share between train and test until every test label is also a train label.

    A test row whose label no train row has is exchanged for the last train row whose label has another train row. If
    there is none, it becomes a train row.
    """
    train, apart = list(train), list[Row]()
    left = Counter(row.label for row in train)
    for row in test:
        if not left[row.label]:
            spare = next((i for i in reversed(range(len(train))) if left[train[i].label] > 1), None)
            left[row.label] += 1
            if spare is None:
                train.append(row)
                continue
            left[train[spare].label] -= 1
            train[spare], row = row, train[spare]
        apart.append(row)
    return train, apart


def make_client(
    client: str,
    task: str,
    labels: tuple[str, ...],
    train: Sequence[Row],
    test: Sequence[Row],
    settings: DataSettings,
    seed: int,
    valid: Sequence[Row] = (),
    kind: RowKind = "labels",
) -> ClientData:
    """Builds a client, and takes its validation rows out of its train rows unless ``valid`` rows are given.

    These are ``valid_fraction`` of the train rows, rounded, and at least one row if the fraction is above 0 and the
    rules of :func:`hold_out` allow it.
    """
    kept, apart, fraction = tuple(train), tuple(valid), settings.valid_fraction
    if fraction > 0 and not apart:
        kept, apart = hold_out(train, max(1, round(fraction * len(train))), generator(seed, "valid", client))
    return ClientData(client, task, labels, kept, apart, tuple(test), kind)


def clients_of(
    task: str,
    labels: tuple[str, ...],
    parts: Iterable[Sequence[Sequence[Row]]],
    settings: DataSettings,
    seed: int,
    kind: RowKind = "labels",
) -> list[ClientData]:
    """Builds clients called ``<task>-0``, ``<task>-1``, ..., one from each (train, test) part."""
    return [
        make_client(f"{task}-{index}", task, labels, train, test, settings, seed, kind=kind)
        for index, (train, test) in enumerate(parts)
    ]


def split_sizes(share: int, settings: DataSettings) -> tuple[int, int]:
    """How many of ``share`` rows of one client are (train, test) rows.

    ``train_rows`` and ``test_rows`` are taken as they are, even if the share has fewer rows. If one of them is not set,
    it is the rest of the share; if neither is, ``test_fraction`` of the share are test rows.
    """
    train, test = settings.train_rows, settings.test_rows
    if train is None and test is None:
        test = min(max(1, round(share * settings.test_fraction)), max(share - 1, 0))
    if test is None:
        test = share - (train or 0)
    if train is None:
        train = share - test
    return train, test


def deal_evenly(pool: Pool, settings: DataSettings, seed: int) -> tuple[list[ClientData], list[str]]:
    """Deals a shuffled pool to ``clients_per_task`` clients called ``<task>-0``, ``<task>-1``, ...

    Clients have disjoint rows. If the pool is too small and ``share_rows`` is set, it is first split into a train and a
    test pool and clients may overlap within each, so that no test row is a train row of any client.

    Raises:
        DataError: the pool has too few rows.
    """
    count = settings.clients_per_task
    rows = list(pool.rows)
    generator(seed, "deal", pool.task).shuffle(rows)
    share = len(rows) // count
    train, test = split_sizes(share, settings)
    if train >= 1 and test >= 1 and train + test <= share:
        shares = [rows[index * share : (index + 1) * share] for index in range(count)]
        parts = [with_known_labels(part[:train], part[train : train + test]) for part in shares]
        warnings: list[str] = []
    elif settings.share_rows:
        parts, warnings = _overlapping(pool.task, rows, settings)
    else:
        raise _short(pool.task, len(rows), settings)
    return clients_of(pool.task, pool.labels, parts, settings, seed), warnings


def _overlapping(
    task: str, rows: list[Row], settings: DataSettings
) -> tuple[list[tuple[list[Row], list[Row]]], list[str]]:
    count = settings.clients_per_task
    train, test = settings.train_rows, settings.test_rows
    if test is None:
        test = max(1, round((len(rows) // count) * settings.test_fraction))
    if train is None:
        train = max(1, len(rows) // count - test)
    if train + test > len(rows):
        raise _short(task, len(rows), settings)
    wanted = round(len(rows) * test / (train + test))
    in_test = min(max(wanted, test), count * test, len(rows) - train)
    test_pool, train_pool = rows[:in_test], rows[in_test:]
    # consecutive windows of a ring: a client never gets a row twice, and clients overlap as little as possible
    parts = [
        (window(train_pool, index * train, train), window(test_pool, index * test, test)) for index in range(count)
    ]
    shared = sum(max(0, count * size - len(ring)) for size, ring in ((train, train_pool), (test, test_pool)))
    return parts, [
        f"task {task!r}: {counted(len(rows), 'row')} for {counted(count, 'client')}, so shared rows fill "
        f"{counted(shared, 'place')}"
    ]


def _short(task: str, available: int, settings: DataSettings) -> DataError:
    train, test = (size or "at least 1" for size in (settings.train_rows, settings.test_rows))
    need = f"{train} train and {test} test rows (data.train_rows, data.test_rows)"
    return DataError(ran_out(f"task {task!r}", "rows", need, available, settings))


def window(ring: Sequence[Row], start: int, size: int) -> list[Row]:
    """``size`` rows of a ring from ``start`` on."""
    return [ring[(start + offset) % len(ring)] for offset in range(size)]


def ran_out(whose: str, rows: str, need: str, available: int, settings: DataSettings) -> str:
    """A message that there are too few rows, with a remedy."""
    remedy = "ask for fewer rows or clients, or set data.share_rows=true"
    if settings.share_rows:
        remedy = "a client cannot have a row twice: ask for fewer rows"
    return (
        f"{whose}: {rows} run out: {counted(settings.clients_per_task, 'client')} (data.clients_per_task) x {need}, "
        f"but there are {counted(available, 'distinct row')}; {remedy}"
    )


def federation(
    clients: Sequence[ClientData], warnings: Iterable[str], skipped: Mapping[str, str] | None = None
) -> Federation:
    """Builds a federation from clients, and checks that there is something to learn and to score.

    Adds warnings about rows in two places, labels that clients write in different ways, and single-label clients.

    Raises:
        DataError: two clients have one id, no client can learn, or no client that can learn has test rows.
    """
    counts = Counter(client.id for client in clients)
    faults = [f"client {client!r}: the id occurs {count} times" for client, count in counts.items() if count > 1]
    faults += nothing_to_learn(clients)
    if not faults and not any(client.weight and client.test for client in clients):
        faults.append("no client that can learn has test rows, so nothing could be scored")
    if faults:
        raise DataError(faults)
    notes = [*overlaps(clients), *warnings, *labels_over_clients(clients)]
    notes += [note for client in clients for note in label_notes(client)]
    return Federation.of(clients, notes, skipped)
