"""Faults: told apart while few, told once with their places when many, and never without bound."""

from pathlib import Path

import pytest

from fedlease.data.faults import KEPT, Faults, quoted, shown
from fedlease.errors import DataError

FILE, OTHER = Path("a/train.jsonl"), Path("b/train.parquet")


def told(faults: Faults) -> list[str]:
    with pytest.raises(DataError) as caught:
        faults.check()
    return list(caught.value.faults)


def test_nothing_found_raises_nothing() -> None:
    Faults().check()


def test_up_to_three_equal_faults_are_told_apart_in_the_order_found() -> None:
    faults = Faults()
    faults.at(FILE, 1, "text", "must not be empty, got ''")
    faults.at(FILE, 1, "label", "is missing")
    faults.at(FILE, 2, "text", "must not be empty, got ' '")
    faults.at(FILE, 3, "text", "must not be empty, got None")
    assert told(faults) == [
        "a/train.jsonl, line 1, column 'text': must not be empty, got ''",
        "a/train.jsonl, line 1, column 'label': is missing",
        "a/train.jsonl, line 2, column 'text': must not be empty, got ' '",
        "a/train.jsonl, line 3, column 'text': must not be empty, got None",
    ]


def test_more_equal_faults_are_one_line_with_the_first_places() -> None:
    faults = Faults()
    for line in range(1, 4):
        faults.at(FILE, line, "text", f"must be a string, got {line}")
    for line in range(1, 6):
        faults.at(OTHER, line, "text", f"must be a string, got {line}")
    assert told(faults) == [
        "a/train.jsonl, line 1, column 'text': must be a string, got 1; 7 more like it: line 2; line 3; "
        "b/train.parquet, row 1; row 2; row 3 ..."
    ]


def test_of_many_kinds_twenty_lines_are_told_and_the_rest_is_counted() -> None:
    faults = Faults()
    for number in range(23):
        faults.add(f"fault {number}")
    for line in range(1, 11):
        faults.at(FILE, line, "text", "is missing")
    faults.hint("looks", "The rows look odd.")
    faults.hint("looks", "The rows look even odder.")
    # 3 kinds of one fault and one of 10 are not told
    assert told(faults) == [*(f"fault {n}" for n in range(20)), "... and 13 more faults", "The rows look odd."]


def test_a_million_faults_take_no_memory() -> None:
    faults = Faults()
    for line in range(KEPT + 500):
        faults.at(FILE, line, "text", f"must be a string, got {line}")
    assert (faults.count, len(faults.found)) == (KEPT + 500, KEPT)
    assert f"; {KEPT + 499:,} more like it: " in told(faults)[0]


def test_values_are_shown_escaped_and_short() -> None:
    assert shown("a\x1b[2J\u202e") == r"'a\x1b[2J\u202e'"
    assert len(shown("x" * 10**6)) < 100
    assert len(shown({str(n): [n] * 100 for n in range(100)})) < 300
    deep: object = 0
    for _ in range(5000):
        deep = [deep]
    assert len(shown(deep)) < 100
    assert shown(10**5000) == "a int too long to show"
    assert quoted(["a", "b"]) == "'a', 'b'"
    assert quoted([str(n) for n in range(20)], 2) == "'0', '1' and 18 more"
