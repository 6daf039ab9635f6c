"""What columns of files hold, guessed from names and values."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fedlease.data.reading.columns import Guess, guess_columns
from fedlease.data.reading.rows import Record, Table
from fedlease.errors import DataError

NOTES = [f"the patient came with complaint number {n} today" for n in range(40)]
REPLIES = [f"please come back in {n} days" for n in range(40)]
SITES = ["north", "south"] * 20
CLASSES = ["urgent", "routine", "later", "never"] * 10


def table(**columns: Sequence[Any]) -> Table:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    records = tuple(Record(number, row) for number, row in enumerate(rows, start=2))
    return Table(Path("rows.csv"), tuple(columns), records, typed=False)


def guess(found: Table, *, clients: bool = False, kind: Any = None, **stated: str) -> Guess:
    return guess_columns([found], clients=clients, stated=stated, kind=kind)


@pytest.mark.parametrize(
    ("columns", "kind", "expected"),
    [
        ({"text": NOTES, "label": CLASSES}, "labels", {}),
        ({"Note": NOTES, "Urgency": CLASSES}, "labels", {"text": "Note", "label": "Urgency"}),
        # Neither name is known: the text is what has words, the label what repeats.
        ({"befund": NOTES, "klasse": CLASSES}, "labels", {"text": "befund", "label": "klasse"}),
        # A label is named before another column that repeats; without a known name the last one is it.
        ({"Diagnosis": CLASSES, "note": NOTES, "sex": SITES}, "labels", {"text": "note", "label": "Diagnosis"}),
        ({"sex": SITES, "note": NOTES, "kurz": CLASSES}, "labels", {"text": "note", "label": "kurz"}),
        # Dates repeat and are no labels, wherever they stand.
        (
            {"note": NOTES, "kurz": CLASSES, "Datum": [f"2026-11-0{1 + n % 9}" for n in range(40)]},
            "labels",
            {"text": "note", "label": "kurz"},
        ),
        ({"Dringlichkeit": CLASSES, "note": NOTES, "sex": SITES}, "labels", {"text": "note", "label": "Dringlichkeit"}),
        # Ids are one word each, however long.
        (
            {"uid": [f"{n:036d}-abc" for n in range(40)], "msg": NOTES, "y": ["0", "1"] * 20},
            "labels",
            {"text": "msg", "label": "y"},
        ),
        # Of two texts of like length that with a telling name, of unlike ones the longer.
        ({"remark": NOTES, "sentence": NOTES, "label": CLASSES}, "labels", {"text": "sentence"}),
        ({"title": ["a few words"] * 40, "body": NOTES, "label": CLASSES}, "labels", {"text": "body"}),
        (
            {"premise": NOTES, "hypothesis": REPLIES, "label": CLASSES},
            "labels",
            {"text": "premise", "text_pair": "hypothesis"},
        ),
        ({"text": [f"患者は頭痛を訴えた{n}" for n in range(40)], "label": CLASSES}, "labels", {}),
        ({"prompt": NOTES, "response": REPLIES}, "responses", {}),
        ({"instruction": NOTES, "output": REPLIES}, "responses", {}),
        ({"messages": [[{"role": "user", "content": note}] for note in NOTES]}, "responses", {}),
        ({"Question": NOTES, "Answer": REPLIES}, "responses", {"prompt": "Question", "response": "Answer"}),
        # With a label beside them, questions and answers are texts.
        ({"question": NOTES, "answer": REPLIES, "label": CLASSES}, "labels", {"text": "question"}),
    ],
)
def test_task_and_columns(columns: dict[str, Sequence[Any]], kind: str, expected: dict[str, str]) -> None:
    found = guess(table(**columns))
    assert (found.kind, found.columns) == (kind, expected)
    assert {*expected} <= {*found.why}


@pytest.mark.parametrize("name", ["site", "hospital_id", "ClinicName", "Sites", "bank branch"])
def test_clients_are_found_by_a_word_in_the_name(name: str) -> None:
    found = guess(table(**{name: SITES, "text": NOTES, "label": CLASSES}), clients=True)
    assert found.columns == {"client": name}


def test_clients_are_the_only_other_column_of_few_values_or_have_to_be_named() -> None:
    one = table(haus=SITES, text=NOTES, label=CLASSES)
    assert guess(one, clients=True).columns == {"client": "haus"}
    for found in (table(text=NOTES, label=CLASSES), table(haus=SITES, sex=SITES, text=NOTES, label=CLASSES)):
        with pytest.raises(
            DataError, match=r"^data\.columns\.client: no column seems to name the clients; the columns"
        ):
            guess(found, clients=True)


def test_a_split_column_holds_names_of_splits() -> None:
    split = ["train", "test"] * 20
    assert guess(table(fold=split, text=NOTES, label=CLASSES)).columns == {"split": "fold"}
    assert guess(table(fold=SITES, text=NOTES, label=CLASSES)).columns == {}


def test_what_is_stated_is_not_guessed() -> None:
    found = guess(table(note=NOTES, other=REPLIES, y=CLASSES), text="other")
    assert found.columns == {"label": "y"}
    assert guess(table(note=NOTES, reply=REPLIES), prompt="note").columns == {"response": "reply"}
    assert guess(table(note=NOTES, reply=REPLIES, source=NOTES), kind="responses").columns == {
        "prompt": "source",
        "response": "reply",
    }


@pytest.mark.parametrize(
    ("columns", "options", "fault"),
    [
        (
            {"n": ["1", "2"] * 20},
            {},
            "data.columns.text: no column seems to have texts; the columns are 'n': add --set data.columns.text=COLUMN",
        ),
        (
            {"note": NOTES},
            {},
            "data.columns.label: no column seems to have labels, which repeat; the columns are 'note': add --set "
            "data.columns.label=COLUMN",
        ),
        (
            {"note": NOTES},
            {"kind": "responses"},
            "data.columns.prompt: no column seems to have the prompts; the columns are 'note': add --set "
            "data.columns.prompt=COLUMN",
        ),
    ],
)
def test_a_column_that_cannot_be_told_is_asked_for(columns: Any, options: Any, fault: str) -> None:
    with pytest.raises(DataError) as error:
        guess(table(**columns), **options)
    assert str(error.value) == fault
