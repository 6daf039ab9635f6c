"""Deals pools of rows to clients: evenly, or with label skew.

``natural`` deals each task evenly. ``task-and-label`` deals each task to its own clients with labels skewed over them.
``dirichlet`` pools all tasks, which must share one label list, and skews labels over all clients. The skew is the
Dirichlet partition of Yurochkin et al., "Bayesian Nonparametric Federated Learning of Neural Networks", ICML 2019,
https://arxiv.org/abs/1905.12022, by the package flwr-datasets: for each label, the shares of the clients are drawn
from Dirichlet(alpha).
"""

import warnings
from collections.abc import Sequence

from fedlease.config.data import DataSettings
from fedlease.core.seeds import derive
from fedlease.core.wording import counted
from fedlease.data.dealing import (
    Pool,
    clients_of,
    deal_evenly,
    drop_duplicates,
    generator,
    split_sizes,
    with_known_labels,
)
from fedlease.data.federation import ClientData, Row
from fedlease.errors import DataError, MissingPackageError

__all__ = ["MIN_ROWS", "deal", "dirichlet_shares"]

MIN_ROWS = 5
"""Least number of rows, train and test together, of a label-skewed client."""


def deal(pools: Sequence[Pool], settings: DataSettings, seed: int) -> tuple[list[ClientData], list[str]]:
    """Deals pools to clients by ``settings.partition``.

    Under label skew the sizes of clients vary. ``train_rows`` and ``test_rows`` are then upper limits: a client with
    fewer rows is split in their proportion, and a warning names it. Rows are never shared.

    Returns:
        The clients, and warnings.

    Raises:
        DataError: there are too few rows, label lists differ, only some tasks have a second text, or no draw gives
            every client enough rows.
        MissingPackageError: flwr-datasets is needed and not installed.
    """
    clients: list[ClientData] = []
    notes: list[str] = []
    count, natural = settings.clients_per_task, settings.partition == "natural"
    if settings.partition == "dirichlet":
        count *= len(pools)
        pools = [_merged(pools, notes)]
    for pool in pools:
        dealt, warned = deal_evenly(pool, settings, seed) if natural else _deal_skewed(pool, count, settings, seed)
        clients += dealt
        notes += warned
    return clients, notes


def _merged(pools: Sequence[Pool], notes: list[str]) -> Pool:
    if len({pool.labels for pool in pools}) > 1:
        lists = "; ".join(f"{pool.task}: {', '.join(pool.labels)}" for pool in pools)
        raise DataError(
            f"data.partition: 'dirichlet' pools all tasks, which then need one label list, and they have several "
            f"({lists}); configure tasks of one label list or use 'task-and-label'"
        )
    with_pairs = [any(row.text_pair is not None for row in pool.rows) for pool in pools]
    if len(set(with_pairs)) > 1:
        tasks = ", ".join(pool.task for pool, pairs in zip(pools, with_pairs, strict=True) if pairs)
        raise DataError(
            f"data.partition: 'dirichlet' pools all tasks, which then all need a second text or none, and only {tasks} "
            f"{'have' if sum(with_pairs) > 1 else 'has'} one; configure tasks of one form or use 'task-and-label'"
        )
    rows, dropped = drop_duplicates(row for pool in pools for row in pool.rows)
    if dropped:
        notes.append(f"{counted(dropped, 'row')} dropped, found in several tasks")
    return Pool(pools[0].task if len(pools) == 1 else "pooled", pools[0].labels, rows)


def _deal_skewed(pool: Pool, count: int, settings: DataSettings, seed: int) -> tuple[list[ClientData], list[str]]:
    parts, notes = [], []
    shares = dirichlet_shares(pool, count, settings.alpha, derive(seed, "data", "dirichlet", pool.task))
    for index, share in enumerate(shares):
        client, rows = f"{pool.task}-{index}", list(share)
        generator(seed, "deal", pool.task, client).shuffle(rows)
        train, test = _capped(len(rows), settings)
        short = [
            f"{got} of {wanted} {name} rows"
            for name, got, wanted in (("train", train, settings.train_rows), ("test", test, settings.test_rows))
            if wanted is not None and got < wanted
        ]
        if short:
            notes.append(f"client {client!r} is short: it has {' and '.join(short)}")
        parts.append(with_known_labels(rows[:train], rows[train : train + test]))
    return clients_of(pool.task, pool.labels, parts, settings, seed), notes


def _capped(size: int, settings: DataSettings) -> tuple[int, int]:
    train, test = split_sizes(size, settings)
    if train >= 1 and test >= 1 and train + test <= size:
        return train, test
    fraction = test / (train + test) if settings.train_rows and settings.test_rows else settings.test_fraction
    test = min(max(1, round(size * fraction)), size - 1)
    return size - test, test


def dirichlet_shares(pool: Pool, count: int, alpha: float, seed: int) -> list[tuple[Row, ...]]:
    """Splits a pool into ``count`` disjoint shares with Dirichlet(alpha) label skew.

    Every row is in one share and every share has at least :data:`MIN_ROWS` rows.

    Raises:
        DataError: there are too few rows, or no draw gave every share enough of them.
        MissingPackageError: flwr-datasets is not installed.
    """
    try:
        from flwr_datasets.partitioner import DirichletPartitioner
    except ImportError as error:
        what, command = "label skew (data.partition)", "pip install 'fedlease[partition]'"
        raise MissingPackageError("flwr-datasets", what, command) from error
    from datasets import Dataset

    if len(pool.rows) < count * MIN_ROWS:
        raise DataError(
            f"task {pool.task!r}: rows run out: {counted(count, 'client')} x at least {MIN_ROWS} rows, "
            f"but there are {counted(len(pool.rows), 'distinct row')}; ask for fewer clients (data.clients_per_task)"
        )
    partitioner = DirichletPartitioner(
        num_partitions=count,
        partition_by="label",
        alpha=float(alpha),
        min_partition_size=MIN_ROWS,
        shuffle=False,
        seed=seed % 2**32,
    )
    labels = [row.label for row in pool.rows]
    partitioner.dataset = Dataset.from_dict({"index": list(range(len(labels))), "label": labels})
    with warnings.catch_warnings():
        # the package repeats the draw until every share reaches the minimum, and warns each time
        warnings.simplefilter("ignore")
        try:
            parts = [partitioner.load_partition(index)["index"] for index in range(count)]
        except ValueError as error:
            raise DataError(
                f"data.alpha: no draw of Dirichlet({alpha}) gives each of {counted(count, 'client')} of task "
                f"{pool.task!r} at least {MIN_ROWS} of {len(pool.rows)} rows; use a larger data.alpha or fewer clients"
            ) from error
    return [tuple(pool.rows[index] for index in part) for part in parts]
