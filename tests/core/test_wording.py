"""Counts agree with their nouns, and no text of unknown origin steers a terminal."""

import pytest

from fedlease.core.wording import JOINERS, counted, enumerated, listed, printable

MARK = "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    ("number", "noun", "plural", "expected"),
    [
        (0, "expert", None, "0 experts"),
        (1, "expert", None, "1 expert"),
        (2, "expert", None, "2 experts"),
        (1, "pass", "passes", "1 pass"),
        (3, "pass", "passes", "3 passes"),
        (1_000, "row", None, "1,000 rows"),
        (1_000_000, "byte", None, "1,000,000 bytes"),
    ],
)
def test_a_count_agrees_with_its_noun(number: int, noun: str, plural: str | None, expected: str) -> None:
    assert counted(number, noun, plural) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain text, naïve, 日本", "plain text, naïve, 日本"),
        ("a\x1b[2Jb", f"a{MARK}[2Jb"),  # clears a screen
        ("a\x9b31mb", f"a{MARK}31mb"),  # the same introducer in one character
        ("a\r\nb\tc\x00", f"a{MARK}{MARK}b{MARK}c{MARK}"),
        ("a\u202eb\u2066c", f"a{MARK}b{MARK}c"),  # turn the reading direction
        ("a\u200bb\ufeffc", f"a{MARK}b{MARK}c"),  # invisible
        ("a\ud800b", f"a{MARK}b"),
        ("a\u2028b\u00a0c", f"a{MARK}b\u00a0c"),  # a line separator; a space that does not break stays
        ("می\u200cروم", f"می{MARK}روم"),
    ],
)
def test_what_steers_a_terminal_or_cannot_be_seen_is_marked(text: str, expected: str) -> None:
    assert printable(text) == expected


def test_what_a_caller_keeps_stays_and_length_is_bounded() -> None:
    assert printable("می\u200cروم\nx", keep=JOINERS + "\n") == "می\u200cروم\nx"
    assert printable("\x1b" * 10**6, longest=3) == MARK * 3 + " ..."
    assert printable("abc", longest=3) == "abc"


def test_of_many_names_the_first_are_listed_and_the_rest_counted() -> None:
    names = [f"c{n}" for n in range(1, 1501)]
    assert (listed(names[:2]), listed(names, 2)) == ("c1, c2", "c1, c2 and 1,498 more")
    assert listed(["a (x)", "b (y)"], 1, separator="; ") == "a (x); and 1 more"
    assert (enumerated(["a"]), enumerated(["a", "b", "c"]), enumerated(names, 1)) == (
        "a",
        "a, b and c",
        "c1 and 1,499 more",
    )
