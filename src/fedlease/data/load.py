"""Loads rows from the source that the settings name, and refuses settings that this source cannot serve."""

import importlib
from collections.abc import Sequence
from dataclasses import replace

from fedlease.config.data import DataSettings
from fedlease.config.faults import nearest
from fedlease.config.tables import (
    LABELLED,
    RowKind,
    SourceFacts,
    TaskFacts,
    known_sources,
    source_facts,
    sources_with,
    task_facts,
    tasks_reading,
)
from fedlease.core.wording import listed
from fedlease.data.federation import Federation
from fedlease.data.usable import without_unusable
from fedlease.errors import DataError

__all__ = ["load_federation"]

LEFT_OUT = "it was left out (data.without)"
FEW = 5
"""Number of clients that a message names; further ones are counted."""


def load_federation(settings: DataSettings, seed: int, task: str = "classification", data: object = None) -> Federation:
    """Reads or makes the rows of every client; the same settings, seed, task and data give the same federation.

    Args:
        settings: where rows come from and how they are dealt.
        seed: root seed.
        task: what clients optimise, which decides whether rows need labels or responses.
        data: rows in memory, for the source ``memory`` only, in a form that :mod:`fedlease.data.sources.memory` lists.

    Raises:
        DataError: rows cannot be used (the error has every fault found), or the source cannot serve the task or a
            setting.
        MissingPackageError: the source or partition needs a package that is not installed.
    """
    source, facts = source_facts(settings.source), task_facts(task)
    faults = [*_unserved(settings, source, task, facts), *_unread(settings, task, facts.rows)]
    if data is not None and settings.source != "memory":
        faults.append(f"data: rows in memory are not read when data.source is {settings.source!r}; leave one out")
    if faults:
        raise DataError(faults)
    given = {} if data is None else {"data": data}
    federation: Federation = importlib.import_module(source.module).load(settings, seed, facts.rows, **given)
    federation = without_unusable(_left_out(federation, settings.without), settings)
    if settings.score_rows == "test":
        return federation
    without = [client.id for client in federation if not client.valid]
    if without:
        raise DataError(
            f"data.score_rows: 'valid' needs validation rows, clients {without} have none; set data.valid_fraction"
        )
    scored = [replace(client, test=client.valid, valid=()) for client in federation]
    return Federation.of(scored, federation.warnings, federation.skipped)


def _left_out(federation: Federation, without: Sequence[str]) -> Federation:
    """The federation without the clients that take no part."""
    if not without:
        return federation
    known = {**federation.clients, **federation.skipped}
    if unknown := [client for client in without if client not in known]:
        raise DataError(f"data.without: there is no client {listed(unknown, FEW)}{nearest(unknown[0], known)}")
    if not (rest := [rows for rows in federation if rows.id not in without]):
        raise DataError("data.without: it names every client, and a run needs at least one")
    skipped = {**federation.skipped, **dict.fromkeys(without, LEFT_OUT)}
    return Federation.of(rest, federation.warnings, skipped)


def _unserved(settings: DataSettings, source: SourceFacts, task: str, facts: TaskFacts) -> list[str]:
    """Faults of settings that the source cannot serve: targets of rows that it lacks, and keys that it ignores."""
    name, labelled, skewed = f"data.source {settings.source!r}", facts.rows == "labels", settings.partition != "natural"
    has = f"{' and '.join(source.rows)} and no {facts.rows}"
    tasks = " or ".join(other for kind in source.rows for other in tasks_reading(kind))
    sources = " or ".join(map(repr, sources_with(facts.rows)))
    sharing = " and ".join(repr(other) for other, facts in known_sources().items() if facts.shares)
    rules = {
        f"data.source: {settings.source!r} has {has}, so task {task!r} cannot be trained on it; set task={tasks}, or "
        f"use {sources}": facts.rows not in source.rows,
        f"data.partition: {settings.partition!r} skews labels, and rows of task {task!r} have "
        f"{'several' if facts.rows in LABELLED else 'none'}; use 'natural'": skewed and not labelled,
        f"data.labels: rows of task {task!r} have no labels; leave it out": (
            settings.labels is not None and facts.rows not in LABELLED
        ),
        f"data.labels: source {settings.source!r} has label lists of its own; it is read for files of your own": (
            settings.labels is not None and not source.labels
        ),
        f"data.bad_rows: source {settings.source!r} has rows of its own; it is read for files of your own": (
            settings.bad_rows != "refuse" and not source.labels
        ),
        f"data.partition: {name} has 'natural' clients only, got {settings.partition!r}": (
            skewed and labelled and not source.partitions
        ),
        f"data.share_rows: {name} never shares rows between clients; leave it out (it is read for {sharing})": (
            settings.share_rows and not source.shares
        ),
        f"data.path: it is not read when data.source is {settings.source!r}; leave one of them out": (
            settings.path is not None and source.path == "not read"
        ),
    }
    return [rule for rule, broken in rules.items() if broken]


def _unread(settings: DataSettings, task: str, kind: RowKind) -> list[str]:
    """Faults of settings that are read only for rows with any number of labels."""
    if kind == "label sets":
        return []
    of = " or ".join(tasks_reading("label sets"))
    default = DataSettings()
    stated = {
        "columns.labels": settings.columns.labels is not None,
        "label_separator": settings.label_separator != default.label_separator,
    }
    return [
        f"data.{key}: it is read only if task is {of}, and task is {task!r}; leave it out"
        for key, given in stated.items()
        if given
    ]
