"""Words for people: counts with their noun, and text of unknown origin that is safe to print."""

import unicodedata
from collections.abc import Sequence

__all__ = ["COUNTING", "JOINERS", "counted", "enumerated", "expert_name", "listed", "printable"]

JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
"""Persian, Hindi and joined emoji are misspelt without them."""

COUNTING = "Experts are counted from 1 here, and from 0 in files, commands and code."
"""Stands wherever people read the numbers of experts."""


def expert_name(number: int) -> str:
    """``expert 1`` for expert 0 of files and code: people count from 1."""
    return f"expert {number + 1}"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """``"1 expert"``, ``"2 experts"``, ``"1,000 rows"``.

    Args:
        number: how many.
        noun: the name of one, whose plural ends in s.
        plural: the name of several, if it does not.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(names: Sequence[str], most: int = 12, *, separator: str = ", ") -> str:
    """``"a, b, c"``; of more than ``most``, the first ones and how many more: ``"a, b and 3 more"``."""
    text = separator.join(names[:most])
    joint = " " if separator == ", " else separator
    return text if len(names) <= most else f"{text}{joint}and {len(names) - most:,} more"


def enumerated(names: Sequence[str], most: int | None = None) -> str:
    """``a, b and c``; beyond ``most`` names the rest is counted."""
    if most is not None and len(names) > most:
        return listed(names, most)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def printable(text: str, *, longest: int | None = None, keep: str = "") -> str:
    """Text of unknown origin as one line of a terminal or log may show it.

    Control characters, line ends, marks that turn the reading direction, invisible characters and lone surrogates
    become U+FFFD, one for one.

    Args:
        text: from a node, a caller or a file.
        longest: characters that are shown; what is cut off is marked.
        keep: characters that stay although they are not printable, such as a line end.
    """
    if longest is not None and len(text) > longest:
        return printable(text[:longest], keep=keep) + " ..."
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep or unicodedata.category(c) == "Zs" else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )
