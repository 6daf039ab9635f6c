"""Scores of answers, by hand."""

import importlib.util

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedlease.errors import MissingPackageError
from fedlease.tasks.text_scores import answers_given, exact_matches, normalised, require_rouge, rouge


def test_rouge_by_hand() -> None:
    """the cat sat / a cat sat down: 2 words in common of 3 and 4, in the same order; then 3 of 3 with LCS 2."""
    found = rouge(["the cat sat", "sat the cat"], ["a cat sat down", "the cat sat"])
    assert found["rouge1"] == pytest.approx([4 / 7, 1.0])
    assert found["rougeL"] == pytest.approx([4 / 7, 2 / 3])


def test_rouge_counts_a_word_as_often_as_both_have_it() -> None:
    assert rouge(["no no no"], ["no"])["rouge1"] == pytest.approx([2 * (1 / 3) / (1 / 3 + 1)])


@pytest.mark.parametrize(("answer", "reference"), [("", "a"), ("...", "a"), ("a", "b")])
def test_nothing_in_common_is_zero(answer: str, reference: str) -> None:
    assert rouge([answer], [reference]) == {"rouge1": [0.0], "rougeL": [0.0]}


@given(st.text(max_size=30), st.text(min_size=1, max_size=30))
def test_scores_lie_between_0_and_1_and_the_same_text_matches(answer: str, reference: str) -> None:
    found = rouge([answer], [reference])
    assert all(0 <= values[0] <= 1 for values in found.values())
    assert exact_matches([reference], [reference]) == [1.0]


def test_exact_match_forgives_case_space_and_punctuation() -> None:
    answers = [" The Cat. ", "the  cat", "a cat", "?", "!"]
    assert exact_matches(answers, ["the cat", "The cat!", "the cat", "?", "?"]) == [1, 1, 0, 1, 0]
    assert normalised("?") == "?"


def test_a_short_answer_may_go_on_a_text_is_none() -> None:
    answers = ["Yes, it is.", "yesterday", "no", "", "one two three four five six"]
    references = ["yes", "yes", "yes", "yes", "one two three four five six"]
    assert answers_given(answers, references) == [1.0, 0.0, 0.0, 0.0, None]


def test_a_missing_library_is_named_before_any_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"task 'generation' needs the package torchmetrics.*generation"):
        require_rouge()
