"""Rows and clients: what counts as the same row, and what a fingerprint depends on."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlease.data.federation import ClientData, Federation, Row

TEXTS = st.text(min_size=1, max_size=4)
TURNS = st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), TEXTS), max_size=2).map(tuple)
ROWS = st.builds(Row, TEXTS, st.none(), st.just(0), TEXTS | st.none(), TURNS)


def labelled() -> Federation:
    train = (Row("x", None, 0), Row("y", "z", 1))
    return Federation.of(
        [
            ClientData("b", "t", ("no", "yes"), train, (Row("v", None, 1),), (Row("w", None, 0),)),
            ClientData("a", "default", ("1",), (Row("ü\n", None, 0),), (), ()),
        ]
    )


def answered(**changes: Any) -> Federation:
    row = dataclasses.replace(Row("x", None, 0, "yes", (("user", "hi"), ("assistant", "hello"))), **changes)
    return Federation.of([ClientData("a", "t", (), (row,), (), (row,))])


def test_rows_without_answers_keep_the_fingerprint_they_had_before_there_were_answers() -> None:
    # Recorded with fedlease at commit 16df3d2, whose rows were text, pair and label; run folders hold such prints.
    assert labelled().fingerprint() == "26e7c9787e7acc2d70a9897ff475226f94375ab6f6a6aff0885830a199370e1d"


@pytest.mark.parametrize(
    "changes",
    [
        {"response": "no"},
        {"response": None},
        {"turns": ()},
        {"turns": (("user", "hi"), ("assistant", "hell"))},
        {"turns": (("user", "hi"), ("user", "hello"))},
        {"text": "y"},
    ],
)
def test_every_part_of_an_answered_row_changes_the_fingerprint(changes: dict[str, Any]) -> None:
    assert answered(**changes).fingerprint() != answered().fingerprint() == answered().fingerprint()


@given(ROWS, ROWS)
def test_rows_of_different_content_have_different_fingerprints(one: Row, other: Row) -> None:
    prints = [Federation.of([ClientData("a", "t", (), (row,), (), ())]).fingerprint() for row in (one, other)]
    assert (prints[0] == prints[1]) == (one.content == other.content)


def test_the_question_is_what_a_model_is_shown_and_the_content_has_the_answer_too() -> None:
    row = Row("x", None, 0, "yes", (("user", "hi"),))
    assert row.question == dataclasses.replace(row, response="no").question
    assert row.content != dataclasses.replace(row, response="no").content
    assert row.question != dataclasses.replace(row, turns=()).question
    assert Row("x", None, 0).content == Row("x", None, 1).content != Row("x", "y", 0).content
