"""Guesses the roles of columns: texts, labels, prompts, responses, clients and splits."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fedlease.config.tables import RowKind, tasks_reading
from fedlease.data.faults import quoted
from fedlease.data.reading.column import Column
from fedlease.data.reading.rows import Table
from fedlease.errors import DataError

__all__ = ["Guess", "guess_columns", "tokens_words"]

LOOKED_AT = 20_000
"""Number of rows on which a guess is based, taken evenly from all."""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CLIENTS = _words(
    "client hospital clinic site centre center institution bank branch department ward party silo organisation "
    "organization org company tenant node store school region country customer user author "
    "klinik krankenhaus standort filiale abteilung praxis hôpital clinique établissement agence clínica sucursal centro"
)
LABELS = _words(
    "label class category target sentiment topic intent urgency priority severity diagnosis outcome type status "
    "tag grade rating score code "
    "kategorie klasse dringlichkeit priorität diagnose catégorie classe urgence priorité diagnostic categoría clase "
    "prioridad urgencia diagnóstico"
)
TEXTS = _words(
    "text sentence note report message body content description comment document review abstract transcript "
    "ticket utterance question title"
)
PROMPTS = _words("prompt question instruction query input source request problem")
RESPONSES = _words("response answer completion output reply target summary solution")
SPLITS = _words("split fold subset set")
SPLIT_VALUES = frozenset({"train", "test", "valid", "validation", "dev"})
"""Words in names of columns, most indicative first, and the values of a split column."""

PAIRS = (
    ("sentence1", "sentence2"),
    ("sentence_a", "sentence_b"),
    ("text_a", "text_b"),
    ("text1", "text2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("query", "passage"),
    ("query", "document"),
)
"""Names of columns that are the two texts of a pair; ``text_pair`` is a default and needs no guess."""

CHATS = ({"messages"}, {"conversations"}, {"prompt", "response"}, {"prompt", "completion"}, {"instruction", "output"})
"""Columns of rows for generation that need no guess."""


@dataclass(frozen=True)
class Guess:
    """Roles of the columns of files.

    Attributes:
        kind: what the targets of the rows are.
        columns: key of ``data.columns`` -> column, without columns that have the default name.
        flags: columns of 0 and 1, one per label; empty if labels are in one column.
        separator: separator between several labels in one text; empty if labels are not such texts.
        why: key of ``data.columns``, or ``task`` for the kind -> the reason for the guess.
    """

    kind: RowKind
    columns: Mapping[str, str] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    separator: str = ""
    why: Mapping[str, str] = field(default_factory=dict)


def tokens_words(lists: Sequence[str]) -> str:
    """A message that the columns ``lists`` look like token classification, with a remedy."""
    return (
        f"The rows look like lists of tokens with a tag each, as for named entities (columns {quoted(lists)}). "
        "There is no task for tokens; join the tokens into a text and label it with the kinds of entities that it has "
        f"(task={' or '.join(tasks_reading('label sets'))})."
    )


_Take = Callable[[str, Column | None, str], None]
"""Receives a key of ``data.columns``, the column guessed for it, and the reason."""


def guess_columns(
    tables: Sequence[Table], *, clients: bool, stated: Mapping[str, str], kind: RowKind | None = None
) -> Guess:
    """Guesses the roles of the columns of tables that have the same columns.

    Args:
        tables: some of the files.
        clients: whether a column must name the clients.
        stated: key of ``data.columns`` -> column, of the roles that are known; the result does not repeat them.
        kind: what the targets of the rows are, if that is known.

    Raises:
        DataError: a column that is needed cannot be guessed; the message says how to state it.
    """
    columns = _columns(tables)
    why: dict[str, str] = {}
    found: dict[str, str] = {}
    free = [column for column in columns if column.name not in stated.values()]

    def take(key: str, column: Column | None, reason: str) -> None:
        if column is not None and key not in stated:
            free.remove(column)
            found[key], why[key] = column.name, reason

    if clients:
        take("client", _named(free, CLIENTS), "by its name")
    take("split", _split(free), "by its values")
    kind, flags, separator = kind or _kind(columns, free, stated, why), tuple[str, ...](), ""
    if kind == "responses":
        _take_prompts(columns, free, stated, take)
    else:
        _take_text(columns, free, stated, take)
        if flags := _flags(free, stated, kind):
            kind, why["task"] = "label sets", f"texts with columns of 0 and 1: {quoted(flags, 5)}"
            free[:] = [column for column in free if column.name not in flags]
        else:
            _take_label(columns, free, stated, kind, take)
            label = stated.get("label") or found["label"]
            column = next((column for column in columns if column.name == label), None)
            kind, separator = _kind_of_labels(column, kind, why)
    if clients and "client" not in {*found, *stated}:
        left = [column for column in free if column.repeats and not column.free]
        if len(left) != 1:
            raise DataError(
                f"data.columns.client: no column seems to name the clients; {_has(columns)}: add --set "
                "data.columns.client=COLUMN, or --set data.partition=dirichlet to deal the rows to clients"
            )
        take("client", left[0], f"{left[0].distinct} values, the only other column with few values")
    return Guess(kind, {key: name for key, name in found.items() if name != key}, flags, separator, why)


def _columns(tables: Sequence[Table]) -> list[Column]:
    names = dict.fromkeys(name for table in tables for name in table.columns)
    records = [record for table in tables for record in table.records]
    records = records[:: max(1, len(records) // LOOKED_AT)]
    values = {name: [record.values.get(name) for record in records] for name in names}
    return [Column(name, [v for v in own if v is not None and v != ""]) for name, own in values.items()]


def _named(columns: Iterable[Column], words: Sequence[str]) -> Column | None:
    """The column whose name contains the earliest of ``words``, or None."""
    best = min(columns, key=lambda column: column.rank(words), default=None)
    return best if best is not None and best.rank(words) < len(words) else None


def _split(columns: Sequence[Column]) -> Column | None:
    split = _named(columns, SPLITS)
    return split if split is not None and split.values and {*map(str, split.values)} <= SPLIT_VALUES else None


def _kind(columns: Sequence[Column], free: Sequence[Column], stated: Mapping[str, str], why: dict[str, str]) -> RowKind:
    """Guesses whether the targets are responses or labels, from the names and values of the columns."""
    names = {column.name for column in columns}
    form = next((form for form in CHATS if form <= names), None)
    if {"prompt", "response"} & {*stated} or (form and "label" not in {*names, *stated}):
        why["task"] = f"by the {'column' if form and len(form) == 1 else 'columns'} {quoted(sorted(form or stated))}"
        return "responses"
    texts = [column for column in free if column.free]
    answers = [c for c in texts if c.rank(RESPONSES) < len(RESPONSES)]
    asked = [c for c in texts if c.rank(PROMPTS) < len(PROMPTS) and c not in answers]
    named = [c for c in free if c.rank(LABELS) < len(LABELS) and c not in answers]
    if answers and asked and not named and "label" not in stated:
        why["task"] = f"texts to answer in {asked[0].name!r}, answers in {answers[0].name!r}"
        return "responses"
    why["task"] = "texts with labels"
    return "labels"


def _take_prompts(columns: Sequence[Column], free: Sequence[Column], stated: Mapping[str, str], take: _Take) -> None:
    """Guesses the columns of prompts and responses, unless their names need no guess."""
    names = {column.name for column in columns}
    if any(form <= names for form in CHATS) or {"prompt", "response"} <= {*stated}:
        return
    texts = [column for column in free if column.texts]
    answer = _named([c for c in texts if c.rank(PROMPTS) == len(PROMPTS)], RESPONSES) or _named(texts, RESPONSES)
    asked = _named([c for c in texts if c is not answer], PROMPTS)
    for key, column in (("prompt", asked), ("response", answer)):
        if key in stated:
            continue
        if column is None:
            raise DataError(
                f"data.columns.{key}: no column seems to have the {key}s; {_has(columns)}: add --set "
                f"data.columns.{key}=COLUMN"
            )
        take(key, column, f"by its name, texts of {column.length:.0f} characters")


def _flags(free: Sequence[Column], stated: Mapping[str, str], kind: RowKind) -> tuple[str, ...]:
    """Columns of 0 and 1, one per label; empty if there is a column of labels, or fewer than two such columns."""
    if "label" in stated or kind not in ("labels", "label sets") or _named(free, LABELS) is not None:
        return ()
    names = tuple(column.name for column in free if column.flags)
    return names if len(names) > 1 else ()


def _kind_of_labels(column: Column | None, kind: RowKind, why: dict[str, str]) -> tuple[RowKind, str]:
    """Guesses the kind of targets from the label column, and the separator of several labels in one text."""
    if column is None or kind not in ("labels", "label sets"):
        return kind, ""
    if column.listed:
        why["task"] = f"lists in {column.name!r}"
        return "label sets", ""
    if column.joined:
        why["task"] = f"several labels in {column.name!r}, with {column.joined!r} between them"
        return "label sets", column.joined
    if kind == "labels" and column.measured:
        why["task"] = f"measurements in {column.name!r}"
        return "values", ""
    return kind, ""


def _take_text(columns: Sequence[Column], free: Sequence[Column], stated: Mapping[str, str], take: _Take) -> None:
    """Guesses the column of texts, or the two columns of text pairs."""
    names = {column.name: column for column in free}
    pair = next((pair for pair in PAIRS if {*pair} <= {*names} and not {"text", "text_pair"} & {*stated}), None)
    if pair is not None:
        for key, name in zip(("text", "text_pair"), pair, strict=True):
            take(key, names[name], "a pair of texts by their names")
    elif "text" not in stated:
        texts = [c for c in free if c.free] or [c for c in free if c.texts and not c.repeats]
        best = names.get("text") or max(texts, key=lambda c: (not c.repeats, c.length), default=None)
        close = [c for c in texts if best is not None and 2 * c.length >= best.length and not c.repeats]
        text = best if best is not None and best.name == "text" else _named(close, TEXTS) or best
        if text is None and len(lists := [column.name for column in columns if column.listed]) > 1:
            raise DataError(tokens_words(lists))
        if text is None:
            raise DataError(
                f"data.columns.text: no column seems to have texts; {_has(columns)}: add --set data.columns.text=COLUMN"
            )
        take("text", text, f"texts of {text.length:.0f} characters")


def _take_label(
    columns: Sequence[Column], free: Sequence[Column], stated: Mapping[str, str], kind: RowKind, take: _Take
) -> None:
    """Guesses the column of targets: labels, lists of labels, or numbers."""
    if "label" in stated:
        return
    few = [column for column in free if column.repeats]
    label = next((column for column in free if column.name == "label"), None)
    label = label or _named([c for c in free if c.repeats or c.listed or c.measured or c.rank(LABELS) < 5], LABELS)
    label = label or next((column for column in reversed([c for c in free if c.measured]) if kind == "values"), None)
    label = label or (few[-1] if few else next((c for c in reversed(free) if c.listed or c.measured), None))
    if label is None:
        raise DataError(
            f"data.columns.label: no column seems to have labels, which repeat; {_has(columns)}: add --set "
            "data.columns.label=COLUMN"
        )
    values = list(dict.fromkeys(map(str, label.values)))
    others = [column.name for column in few if column is not label and not column.free]
    reason = f"lists, such as {values[0]}" if label.listed else f"{label.distinct} values, such as {quoted(values[:2])}"
    take("label", label, reason + (f"; others may be {quoted(others, 5)}" if others else ""))


def _has(columns: Sequence[Column]) -> str:
    return f"the columns are {quoted([column.name for column in columns])}"
