"""Builds the clients of a federation from examples: checks ids, tasks, label lists and row limits."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from fedlease.config.data import DataSettings
from fedlease.config.tables import LABELLED, RowKind
from fedlease.core.wording import counted
from fedlease.data.dealing import drop_duplicates, federation, generator, hold_out, make_client
from fedlease.data.faults import Faults, quoted
from fedlease.data.federation import VALUE, ClientData, Federation, Row
from fedlease.data.labels import agreed, canonical, check_tasks, doubtful_labels, stated_labels
from fedlease.data.reading.examples import Example, client_id_fault, folded, label_list, paired, to_rows
from fedlease.data.reading.looks import hint_at_measurements
from fedlease.data.reading.targets import are_measurements, joined_by
from fedlease.data.usable import Unusable, too_few_rows
from fedlease.errors import DataError

__all__ = ["SPLITS", "Splits", "assemble", "capped", "check_number_of_clients"]

APART = 3
"""With at most this many clients, each gets its own note; more share one."""

SPLITS = ("train", "valid", "test")
Splits = dict[str, list[Example]]


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
    """Builds clients from the examples of their files, and adds to the faults and notes collected so far.

    Args:
        split_here: whether ``train`` has all rows, from which duplicates are dropped and test rows held out. Test rows
            are also held out of the train rows of any client without a split ``test``.
        whole: whether these are all clients; otherwise whether they can learn is not checked.

    Raises:
        DataError: the federation is faulty, or a client that must take part.
    """
    check_number_of_clients(len(clients), settings)
    faults = unusable.faults
    for client in clients:
        if rule := client_id_fault(client):
            faults.of_client(client, f"an id {rule}", f"id {rule}")
    for form, count in Counter(map(folded, clients)).items():
        if count > 1:
            same = ", ".join(repr(client) for client in sorted(clients) if folded(client) == form)
            faults.add(f"clients {same}: ids must differ by more than case and Unicode form")
    built, unscored, held = [], dict[str, str](), dict[str, str]()
    for client, splits in sorted(clients.items()):
        with unusable.client(client) as own:
            before = own.count if whole else 0
            builder = _Builder(client, settings, seed, own, split_here, kind)
            made = builder.build(splits)
            unread = client in unusable.named or own.count > before
            if not unread and not client_id_fault(client) and (short := too_few_rows(made, settings)):
                why = unusable.dropped_words(client, builder.read)
                own.of_client(client, f"{short}{why}", "too few rows")
        if client not in unusable.skipped:
            built.append(made)
            notes += [] if unread else [*unusable.dropped_notes(client, builder.read), *builder.notes]
            unscored |= {client: builder.unscored} if builder.unscored else {}
            held |= {client: builder.held} if builder.held and not unread else {}
    notes += [*_held_notes(held, settings), *unusable.dropped_notes("", 0)]
    skipped = unusable.skipped
    if whole and not faults.count:
        check_tasks(settings, (made.task for made in built), faults)
    if not built and not faults.count:
        for reason in skipped.values():
            faults.add(reason)
    if whole and built and not faults.count and not any(made.test for made in built):
        for client, reason in unscored.items():
            faults.of_client(client, reason, "no test rows")
    unusable.check(whole=whole)
    return federation(built, notes, skipped) if whole else Federation.of(built, notes, skipped)


def check_number_of_clients(count: int, settings: DataSettings) -> None:
    """Refuses more clients than the limit.

    Raises:
        DataError: there are more.
    """
    if count > settings.limits.clients:
        most = f"at most {settings.limits.clients:,} clients are read"
        raise DataError(f"data.limits.clients: {most}, and there are {count:,}")


@dataclass
class _Builder:
    """Builds one client from its examples; parameters are those of :func:`assemble`.

    Attributes:
        notes: what is unusual in its rows.
        unscored: why it has no test rows, which is a fault if no client has any; empty if it has some.
        read: number of its rows, including dropped ones.
        held: how many train rows were held out because the client brings no test rows; empty if none were.
    """

    client: str
    settings: DataSettings
    seed: int
    faults: Faults
    split_here: bool
    kind: RowKind
    notes: list[str] = field(default_factory=list)
    unscored: str = ""
    read: int = 0
    held: str = ""

    def build(self, splits: Splits) -> ClientData:
        """Builds the client; a client with faults gets no rows."""
        before, columns, whose = self.faults.count, self.settings.columns, f"client {self.client!r}"
        self.read = self.faults.dropped_of(self.client) + sum(map(len, splits.values()))
        if self.kind in LABELLED:
            splits = agreed(splits, whose, columns.label, self.faults, self.notes)
        splits = paired(splits, whose, self.settings, self.faults)
        every = [example for split in SPLITS for example in splits.get(split, [])]
        tasks = sorted({example.task for example in every})
        if len(tasks) > 1:
            where = next(example for example in every if example.task != every[0].task)
            rule = f"{whose} must have one task, got {', '.join(map(repr, tasks))}"
            self.faults.at(*where.place, columns.task, rule)
        task = tasks[0] if tasks else "default"
        rows: dict[str, tuple[Row, ...]] = {}
        labels: tuple[str, ...] = VALUE if self.kind == "values" else ()
        if self.kind in LABELLED:
            stated = stated_labels(self.settings, task) or self._columns()
            labels = stated or label_list(label for example in splits.get("train", []) for label in example.labels)
            self._check_labels(labels, every)
        for split in SPLITS:
            examples = splits.get(split, [])
            if self.kind not in LABELLED:
                rows[split] = tuple(example.row for example in examples)
            else:
                # If no train row could be read, which is reported, there are no labels to check other rows against.
                used = examples if labels else []
                rows[split] = to_rows(used, labels, self.client, columns.label, self.faults, stated=bool(stated))
        if self.faults.count > before or client_id_fault(self.client):
            # Random draws for a client encode its id, which fails for some faulty ids.
            return ClientData(self.client, "", (), (), (), ())
        drawn = rows["train"] and (self.split_here or "test" not in splits)
        if drawn:
            rows["train"], rows["test"] = self._held_out(rows["train"])
        if not rows["test"]:
            why = f": {_none_to_spare(rows['train'])}" if drawn else " in its files"
            self.unscored = f"no test rows{why}"
            self.notes.append(f"{whose}: {self.unscored}; it trains but is not scored")
        for split, limit in (("train", self.settings.train_rows), ("test", self.settings.test_rows)):
            rows[split], short = capped(self.client, split, rows[split], limit, self.seed)
            self.notes += [short] if short else []
        return make_client(
            self.client, task, labels, rows["train"], rows["test"], self.settings, self.seed, rows["valid"], self.kind
        )

    def _columns(self) -> tuple[str, ...]:
        """The labels named by ``data.columns.labels``, whose columns contain 0 and 1."""
        return tuple(map(canonical, self.settings.columns.labels or ())) if self.kind == "label sets" else ()

    def _check_labels(self, labels: tuple[str, ...], examples: list[Example]) -> None:
        if not labels:
            return
        counts = Counter(label for example in examples for label in example.labels)
        if self.kind == "labels":
            if are_measurements(counts) and len(labels) < len(counts):
                hint_at_measurements(self.faults)
            self.notes += doubtful_labels(counts, f"client {self.client!r}")
        elif mark := joined_by(counts):
            self.notes.append(
                f"client {self.client!r}: its labels look like several in one text, with {mark!r} between them; to "
                f"split them set data.label_separator, which is {self.settings.label_separator!r}"
            )
        most = self.settings.limits.labels
        if len(labels) > most:
            rule = (
                f"{len(labels):,} labels, and at most {most:,} are read (data.limits.labels); "
                f"is data.columns.label {self.settings.columns.label!r} the column of the labels?"
            )
            self.faults.of_client(self.client, rule, "labels")

    def _held_out(self, rows: tuple[Row, ...]) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
        if self.split_here:
            rows, dropped = drop_duplicates(rows)
            if dropped:
                were = counted(dropped, "duplicate row")
                self.notes.append(f"client {self.client!r}: {were} dropped before the split into train and test")
        count = max(1, round(len(rows) * self.settings.test_fraction))
        train, test = hold_out(rows, count, generator(self.seed, "test", self.client), stratified=True)
        if not self.split_here and test:
            self.held = f"{len(test):,} of its {len(rows):,} train rows are"
        return train, test


def _held_notes(held: Mapping[str, str], settings: DataSettings) -> list[str]:
    """Notes that test rows are held out: one per client, or a single one for more than :data:`APART` clients."""
    where = "held out for test (data.test_fraction)"
    if len(held) <= APART:
        return [f"client {client!r}: brings no test rows, so {rows} {where}" for client, rows in held.items()]
    share = f"{100 * settings.test_fraction:g} % of the train rows of each are"
    return [f"{len(held):,} clients bring no test rows, so {share} {where}: {quoted([*held])}"]


def capped(client: str, split: str, rows: tuple[Row, ...], limit: int | None, seed: int) -> tuple[tuple[Row, ...], str]:
    """Samples ``limit`` rows if there are more, and returns a note, otherwise empty, if there are fewer."""
    size = len(rows)
    if limit is not None and size > limit:
        picked = generator(seed, "limit", split, client).sample(range(size), limit)
        return tuple(rows[index] for index in sorted(picked)), ""
    if limit is not None and 0 < size < limit:
        return rows, f"client {client!r} is short: it has {size} of {limit} {split} rows (data.{split}_rows)"
    return rows, ""


def _none_to_spare(rows: tuple[Row, ...]) -> str:
    if len({row.question for row in rows}) == 1:
        return "it has one distinct row, and that is needed for training"
    kinds = {kind for row in rows for kind in row.kinds}
    there = f"{counted(len(rows), 'row')} of {counted(len(kinds), 'label')}"
    return f"it has {there}, and each label needs a train row before one can be held out"
