"""How a pool of rows becomes clients: dealt first, split into train, validation and test afterwards.

The order matters: a client's train and test rows come out of the same share, so they share its distribution.
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
    """A generator of its own for one purpose, for example ``generator(0, "valid", client)``."""
    return random.Random(derive(seed, "data", *purpose))


def drop_duplicates(rows: Iterable[Row]) -> tuple[tuple[Row, ...], int]:
    """Keeps the first row of each content and says how many were dropped.

    Without it a text could be dealt to train and to test. Label and place do not count: two rows of one text with
    different labels are one row. Two responses to one prompt are two rows.
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

    Rows of one question stay together, so that none is on both sides. The last row of a label is never held out, so
    that rows held out carry no label unknown to the kept ones. Fewer than ``count`` rows are held out when these rules,
    or the need of one row, leave no others; more only where every question has more rows. Rows with responses or
    numbers count as of one label.

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
    # Rows of several labels count for each of them.
    quota = _quota(left, count * left.total() // max(len(rows), 1))
    # what the quota of some label leaves open is filled with any
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
    """Shares of ``count`` as large as those of the labels, rounded so that they add up (largest remainders)."""
    total = labels.total()
    quota = Counter({label: count * number // total for label, number in labels.items()})
    by_remainder = sorted(labels, key=lambda label: (-(count * labels[label] % total), label))
    quota.update(by_remainder[: count - quota.total()])
    return quota


def with_known_labels(train: Sequence[Row], test: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Train and test rows of one share such that no test row has a label that no train row has, as :func:`hold_out`.

    A test row of such a label changes places with the last train row whose label has another; without any it goes to
    the train rows.
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
    """Builds a client and takes its validation rows out of its train rows.

    ``valid_fraction`` of the train rows, rounded, at least one when the fraction is above 0 and a row can be spared
    (each label keeps a train row). Given ``valid`` rows are used instead.
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
    """Clients called ``<task>-0``, ``<task>-1``, ..., one of each (train, test) part."""
    return [
        make_client(f"{task}-{index}", task, labels, train, test, settings, seed, kind=kind)
        for index, (train, test) in enumerate(parts)
    ]


def split_sizes(share: int, settings: DataSettings) -> tuple[int, int]:
    """How many of ``share`` rows of one client are (train, test) rows.

    A given ``train_rows`` or ``test_rows`` is taken as it is, even where the share does not hold it; what is not given
    is the rest of the share, and without either ``test_fraction`` of the share is test rows.
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

    Clients hold disjoint rows. Where the pool is too small, ``share_rows`` first sets a test pool apart from a train
    pool and then lets clients overlap within each, so that no test row is anyone's train row.

    Raises:
        DataError: rows run out.
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
    # consecutive windows of a ring: a client never holds a row twice, and overlaps are as few as they can be
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
    """``size`` rows of a ring from ``start`` on; consecutive windows overlap as little as they can."""
    return [ring[(start + offset) % len(ring)] for offset in range(size)]


def ran_out(whose: str, rows: str, need: str, available: int, settings: DataSettings) -> str:
    """Says that rows run out, and what helps."""
    remedy = "ask for fewer rows or clients, or set data.share_rows=true"
    if settings.share_rows:
        remedy = "a client cannot hold a row twice: ask for fewer rows"
    return (
        f"{whose}: {rows} run out: {counted(settings.clients_per_task, 'client')} (data.clients_per_task) x {need}, "
        f"but there are {counted(available, 'distinct row')}; {remedy}"
    )


def federation(
    clients: Sequence[ClientData], warnings: Iterable[str], skipped: Mapping[str, str] | None = None
) -> Federation:
    """Puts clients together, checks that there is something to learn and to score, and says whose rows are unusual.

    Adds warnings of rows in two places, of labels that clients write in different ways, and of single-label clients.

    Raises:
        DataError: two clients of one id, no client that can learn, or none of these with test rows.
    """
    counts = Counter(client.id for client in clients)
    faults = [f"client {client!r}: the id occurs {count} times" for client, count in counts.items() if count > 1]
    faults += nothing_to_learn(clients)
    if not faults and not any(client.weight and client.test for client in clients):
        faults.append("no client that can learn has test rows, so that nothing could be scored")
    if faults:
        raise DataError(faults)
    notes = [*overlaps(clients), *warnings, *labels_over_clients(clients)]
    notes += [note for client in clients for note in label_notes(client)]
    return Federation.of(clients, notes, skipped)
