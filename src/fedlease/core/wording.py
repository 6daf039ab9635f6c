"""Text for people: counts with their noun, lists of names, and text of unknown origin made safe to print."""

import unicodedata
from collections.abc import Sequence

__all__ = ["COUNTING", "JOINERS", "counted", "enumerated", "expert_name", "listed", "printable"]

JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
"""Invisible characters without which Persian, Hindi and joined emoji are misspelt."""

COUNTING = "Experts are counted from 1 here, and from 0 in files, commands and code."
"""Note for every place where people read numbers of experts."""


def expert_name(number: int) -> str:
    """The name of an expert for people, who count from 1: ``expert 1`` for expert 0 of files and code."""
    return f"expert {number + 1}"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: ``"1 expert"``, ``"2 experts"``, ``"1,000 rows"``.

    Args:
        number: of things.
        noun: its singular.
        plural: its plural, if that is not the singular with an s.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def listed(names: Sequence[str], most: int = 12, *, separator: str = ", ") -> str:
    """Names joined as ``"a, b, c"``; beyond ``most`` names, the others are counted: ``"a, b and 3 more"``."""
    text = separator.join(names[:most])
    joint = " " if separator == ", " else separator
    return text if len(names) <= most else f"{text}{joint}and {len(names) - most:,} more"


def enumerated(names: Sequence[str], most: int | None = None) -> str:
    """Names joined as ``a, b and c``; beyond ``most`` names, the others are counted."""
    if most is not None and len(names) > most:
        return listed(names, most)
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def printable(text: str, *, longest: int | None = None, keep: str = "") -> str:
    """Makes text of unknown origin safe to print on one line of a terminal or log.

    Each control character, line end, mark of the reading direction, invisible character and lone surrogate becomes
    U+FFFD.

    Args:
        text: from a node, a caller or a file.
        longest: most characters that are kept; `` ...`` replaces the rest.
        keep: unprintable characters that are kept, such as line ends.
    """
    if longest is not None and len(text) > longest:
        return printable(text[:longest], keep=keep) + " ..."
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep or unicodedata.category(c) == "Zs" else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )
