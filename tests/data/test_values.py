"""Single values: what is a text, what is a name, and why not."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlease.config.data import ColumnSettings
from fedlease.core.names import name_of
from fedlease.data.reading.rows import Record, Table
from fedlease.data.reading.values import place_of, text_fault, text_of


@pytest.mark.parametrize(
    ("value", "what", "rule"),
    [
        ("x", "text", None),
        (" x\n", "text", None),
        (None, "text", "a text must not be empty, got None"),
        (" \n", "prompt", "a prompt must not be empty, got ' \\n'"),
        (5, "response", "a response must be a string, got 5"),
        ("a\ud800", "input", "an input must be valid Unicode, got a lone surrogate at position 1"),
    ],
)
def test_a_text_is_a_string_that_says_something(value: object, what: str, rule: str | None) -> None:
    assert text_fault(value, what) == rule


@pytest.mark.parametrize("value", [None, "", "  "])
def test_what_is_not_required_may_be_empty_or_absent(value: Any) -> None:
    told: list[tuple[str, str]] = []
    for record in (Record(1, {"x": value}), Record(1, {})):
        assert text_of(record, "x", lambda *fault: told.append(fault), required=False) is None
    assert told == []
    assert text_of(Record(1, {}), "x", lambda *fault: told.append(fault)) is None
    assert text_of(Record(1, {"x": 5}), "x", lambda *fault: told.append(fault), what="input", required=False) is None
    assert told == [("x", "is missing"), ("x", "an input must be a string, got 5")]


@given(st.text(min_size=1).filter(lambda text: text.strip() != ""))
def test_a_usable_text_is_kept_as_it_is(text: str) -> None:
    told: list[tuple[str, str]] = []
    assert text_of(Record(1, {"x": text}), "x", lambda *fault: told.append(fault)) == text
    assert told == []


@given(st.integers())
def test_a_whole_number_has_one_name_however_it_is_written(number: int) -> None:
    assert name_of(number, True) == name_of(str(number), True) == name_of(f"{number}.0", False) == str(number)
    assert name_of(f"{number}.0", True) == f"{number}.0"  # text is text where the file tells them apart


@pytest.mark.parametrize("value", [None, "", " ", float("nan"), float("inf"), [1], "\ud800"])
def test_what_is_no_name(value: object) -> None:
    assert name_of(value, True) is None


def test_client_split_and_task_come_from_their_columns() -> None:
    values: dict[str, object] = {"client": 7, "split": "test", "about": "qa"}
    table = Table(Path("rows.jsonl"), tuple(values), (Record(1, values),), True)
    columns = ColumnSettings(task="about")
    assert place_of(table.records[0], table, columns) == ("7", "test", "qa")
    assert place_of(Record(1, {"about": ""}), table, columns) == ("", "", "default")
