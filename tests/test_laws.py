"""The helper of laws: one test, which names every case that breaks a law."""

import pytest
from laws import holds_for


def test_every_case_that_breaks_a_law_is_named() -> None:
    @holds_for([("a", 1), ("b", 2), ("c", 3)])
    def test_is_two(name: str, number: int) -> None:
        assert number == 2, name

    with pytest.raises(ExceptionGroup, match="test_is_two is broken by 2 of 3 cases") as caught:
        test_is_two()
    assert [error.__notes__ for error in caught.value.exceptions] == [["broken by ('a', 1)"], ["broken by ('c', 3)"]]


def test_a_law_of_no_case_is_refused_and_one_that_holds_passes() -> None:
    holds_for("ab")(lambda name: None)()
    with pytest.raises(AssertionError):
        holds_for([])
