"""Checked examples -> the clients of a federation: ids, one task, one label list, row limits."""

from collections import Counter

from fedlease.config.data import DataSettings
from fedlease.config.tables import RowKind
from fedlease.core.wording import counted
from fedlease.data.dealing import drop_duplicates, federation, generator, hold_out, make_client
from fedlease.data.faults import Faults
from fedlease.data.federation import ClientData, Federation, Row
from fedlease.data.label_lists import stated_labels, unknown_tasks
from fedlease.data.reading.examples import Example, check_pairs, client_id_fault, folded, label_list, to_rows
from fedlease.data.reading.labels import agreed, doubtful_labels, regression
from fedlease.data.reading.looks import hint_at_measurements
from fedlease.data.usable import Unusable, too_few_rows
from fedlease.errors import DataError

__all__ = ["EACH", "SPLITS", "Splits", "assemble", "check_number_of_clients"]

SPLITS = ("train", "valid", "test")
Splits = dict[str, list[Example]]

UNSCORED = "; it trains and is scored on none"
"""Follows the reason why a client has no test rows, which is a fault where nobody has any."""
EACH = 10
"""Up to so many clients with the same fault have a line each."""


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
        with unusable.client(client) as own:
            before = own.count
            builder = _Builder(client, settings, seed, own, split_here=split_here, kind=kind)
            made = builder.build(splits)
            unread = client in unusable.named or own.count > before or not (whole or own.count == 0)
            short = "" if unread or client_id_fault(client) else too_few_rows(made, settings)
            if short:
                own.add(short, kind="too few rows", place=repr(client), apart=EACH)
        if client not in unusable.skipped:
            built.append(made)
            notes += [] if unread else builder.notes
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


class _Builder:
    """Makes one client of its examples.

    Args:
        client: its id.
        settings: columns, limits and fractions.
        seed: root seed.
        faults: collects what is wrong with its rows.
        split_here: see :func:`assemble`.
        kind: see :func:`assemble`.

    Attributes:
        notes: what is unusual in its rows.
    """

    def __init__(
        self, client: str, settings: DataSettings, seed: int, faults: Faults, *, split_here: bool, kind: RowKind
    ) -> None:
        self.client = client
        self.settings = settings
        self.seed = seed
        self.faults = faults
        self.split_here = split_here
        self.kind = kind
        self.notes: list[str] = []

    def build(self, splits: Splits) -> ClientData:
        """The client; one with faults has no rows."""
        before, columns, whose = self.faults.count, self.settings.columns, f"client {self.client!r}"
        if self.kind == "labels":
            splits = agreed(splits, whose, columns.label, self.faults, self.notes)
        every = [example for split in SPLITS for example in splits.get(split, [])]
        tasks = sorted({example.task for example in every})
        if len(tasks) > 1:
            where = next(example for example in every if example.task != every[0].task)
            rule = f"{whose} must have one task, got {', '.join(map(repr, tasks))}"
            self.faults.at(*where.place, columns.task, rule)
        task = tasks[0] if tasks else "default"
        check_pairs(every, whose, self.settings, self.faults)
        rows: dict[str, tuple[Row, ...]] = {}
        labels: tuple[str, ...] = ()
        if self.kind == "labels":
            stated = stated_labels(self.settings, task)
            labels = stated or label_list(example.label for example in splits.get("train", []))
            self._check_labels(labels, every)
        for split in SPLITS:
            examples = splits.get(split, [])
            if self.kind == "responses":
                rows[split] = tuple(example.row for example in examples)
            else:
                # Without readable train rows there are no labels to compare the others with; that fault is reported.
                used = examples if labels else []
                rows[split] = to_rows(used, labels, self.client, columns.label, self.faults, stated=bool(stated))
        if self.faults.count > before or client_id_fault(self.client):
            # What is drawn for a client comes from its id, which may have no bytes.
            return ClientData(self.client, "", (), (), (), ())
        if rows["train"] and (self.split_here or "test" not in splits):
            rows["train"], rows["test"] = self._held_out(rows["train"])
            if not rows["test"]:
                self.notes.append(f"{whose}: no test rows: {_none_to_spare(rows['train'])}{UNSCORED}")
        elif not rows["test"]:
            self.notes.append(f"{whose}: no test rows in its files{UNSCORED}")
        for split, limit in (("train", self.settings.train_rows), ("test", self.settings.test_rows)):
            rows[split] = self._capped(split, rows[split], limit)
        fraction, valid = self.settings.valid_fraction, rows["valid"]
        return make_client(
            self.client,
            labels,
            rows["train"],
            rows["test"],
            task=task,
            valid_fraction=fraction,
            seed=self.seed,
            valid=valid,
        )

    def _check_labels(self, labels: tuple[str, ...], examples: list[Example]) -> None:
        if not labels:
            return
        counts = Counter(example.label for example in examples)
        if regression(counts) and len(labels) < len(counts):
            hint_at_measurements(self.faults)
        self.notes += doubtful_labels(counts, f"client {self.client!r}")
        most = self.settings.limits.labels
        if len(labels) > most:
            self.faults.add(
                f"client {self.client!r}: {len(labels):,} labels, and at most {most:,} are read (data.limits.labels); "
                f"is data.columns.label {self.settings.columns.label!r} the column of the labels?",
                kind="labels",
                place=repr(self.client),
            )

    def _held_out(self, rows: tuple[Row, ...]) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
        if self.split_here:
            rows, dropped = drop_duplicates(rows)
            if dropped:
                were = counted(dropped, "duplicate row")
                self.notes.append(f"client {self.client!r}: {were} dropped before the split into train and test")
        count = max(1, round(len(rows) * self.settings.test_fraction))
        train, test = hold_out(rows, count, generator(self.seed, "test", self.client))
        if not self.split_here and test:
            self.notes.append(
                f"client {self.client!r}: brings no test rows, so {len(test):,} of its {len(rows):,} train rows are "
                "held out for test (data.test_fraction)"
            )
        return train, test

    def _capped(self, split: str, rows: tuple[Row, ...], limit: int | None) -> tuple[Row, ...]:
        size = len(rows)
        if limit is not None and size > limit:
            picked = generator(self.seed, "limit", split, self.client).sample(range(size), limit)
            return tuple(rows[index] for index in sorted(picked))
        if limit is not None and 0 < size < limit:
            short = f"it has {size} of {limit} {split} rows (data.{split}_rows)"
            self.notes.append(f"client {self.client!r} is short: {short}")
        return rows


def _none_to_spare(rows: tuple[Row, ...]) -> str:
    if len({row.question for row in rows}) == 1:
        return "it has one distinct row, and that is needed for training"
    labels = len({row.label for row in rows})
    there = f"{counted(len(rows), 'row')} of {counted(labels, 'label')}"
    return f"it has {there}, and each label needs a train row before one can be held out"
