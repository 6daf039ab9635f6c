"""Rows in two places: each combination of places is counted and told, and what we split is never in both."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlease.config.data import DataSettings
from fedlease.data.dealing import federation, generator, hold_out, make_client
from fedlease.data.federation import ClientData, Row
from fedlease.data.overlaps import overlaps


def rows(*texts: str, label: int = 0) -> tuple[Row, ...]:
    return tuple(Row(text, None, label) for text in texts)


def member(name: str, train: str = "", valid: str = "", test: str = "") -> ClientData:
    """``member("a", train="x y")``: one row per word."""
    return ClientData(name, "t", (), *(rows(*words.split()) for words in (train, valid, test)))


@pytest.mark.parametrize(
    ("splits", "notes"),
    [
        ({"train": "x y", "valid": "z", "test": "w"}, []),
        ({"train": "x y", "test": "x y z"}, ["client 'a': 2 test rows are also train rows"]),
        ({"train": "x y", "valid": "x"}, ["client 'a': 1 validation row is also a train row"]),
        ({"valid": "x y", "test": "x y"}, ["client 'a': 2 test rows are also validation rows"]),
        (
            {"train": "x", "valid": "x", "test": "x x"},
            [
                "client 'a': 2 test rows are also train rows",
                "client 'a': 2 test rows are also validation rows",
                "client 'a': 1 validation row is also a train row",
            ],
        ),
        ({"train": "x x"}, []),
    ],
)
def test_places_of_one_client(splits: dict[str, Any], notes: list[str]) -> None:
    assert overlaps([member("a", **splits)]) == notes


@pytest.mark.parametrize(
    ("first", "second", "note"),
    [
        ("test", "train", "1 test row of a client is also a train row of another: 'a', 'b'"),
        ("test", "valid", "1 test row of a client is also a validation row of another: 'a', 'b'"),
        ("valid", "train", "1 validation row of a client is also a train row of another: 'a', 'b'"),
        ("train", "train", "1 train row with two clients or more: 'a', 'b'"),
        ("valid", "valid", "1 validation row with two clients or more: 'a', 'b'"),
        ("test", "test", "1 test row with two clients or more: 'a', 'b'"),
    ],
)
def test_places_of_two_clients(first: str, second: str, note: str) -> None:
    for pair in ((first, second), (second, first)):
        clients = [member(name, **{split: f"x own-{name}"}) for name, split in zip("ab", pair, strict=True)]
        assert overlaps([*clients, member("c", train="y", test="z")]) == [note]


def test_a_row_is_the_same_whatever_its_label_or_answer() -> None:
    one = ClientData("a", "t", (), (Row("x", None, 0, "yes"),), (), ())
    two = ClientData("b", "u", (), (), (), (Row("x", None, 1, "no"),))
    assert overlaps([one, two]) == ["1 test row of a client is also a train row of another: 'a', 'b'"]
    pair = ClientData("b", "u", (), (), (), (Row("x", "second", 1),))
    assert overlaps([one, pair]) == []


def test_a_federation_tells_its_overlaps() -> None:
    clients = [member("a", train="x y", test="y"), member("b", train="z", test="x")]
    assert federation(clients, ["other"]).warnings == (
        "client 'a': 1 test row is also a train row",
        "1 test row of a client is also a train row of another: 'a', 'b'",
        "other",
    )


def test_many_clients_with_one_row_are_no_long_work() -> None:
    clients = [member(f"c{number}", train="yes", test="yes") for number in range(3000)]
    assert overlaps(clients)[-1].startswith("1 test row with two clients or more: 'c0', 'c1', ")


TEXTS = st.lists(st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 2)), min_size=1, max_size=30)


@given(TEXTS, st.integers(1, 20), st.integers(0, 5))
def test_no_question_is_on_both_sides_of_a_split_and_every_label_stays(
    drawn: list[tuple[str, int]], count: int, seed: int
) -> None:
    every = [Row(text, None, label) for text, label in drawn]
    kept, held = hold_out(every, count, generator(seed, "x"))
    assert sorted(map(repr, (*kept, *held))) == sorted(map(repr, every))
    assert not {row.question for row in kept} & {row.question for row in held}
    assert {row.label for row in kept} == {row.label for row in every}
    sizes = [sum(row.question == other.question for other in every) for row in every]
    assert len(held) <= max(count, min(sizes))


def test_validation_rows_are_kept_apart_from_equal_train_rows() -> None:
    train = rows(*(f"t{number // 2}" for number in range(40)))
    found = make_client("a", "t", (), train, (), DataSettings(valid_fraction=0.25), 0)
    assert (len(found.valid), overlaps([found])) == (10, [])
