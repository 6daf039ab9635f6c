"""Words for people: counts with their noun, and text of unknown origin that is safe to print."""

import unicodedata

__all__ = ["JOINERS", "counted", "printable"]

JOINERS = "\N{ZERO WIDTH NON-JOINER}\N{ZERO WIDTH JOINER}"
"""Persian, Hindi and joined emoji are misspelt without them."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """``"1 expert"``, ``"2 experts"``, ``"1,000 rows"``.

    Args:
        number: how many.
        noun: the name of one, whose plural ends in s.
        plural: of a noun whose plural does not.
    """
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def printable(text: str, *, longest: int | None = None, keep: str = "") -> str:
    """Text of unknown origin as one line of a terminal or log may show it.

    Control characters, line ends, marks that turn the reading direction, invisible characters and lone surrogates
    become U+FFFD, one for one.

    Args:
        text: of a node, a caller, a file.
        longest: characters that are shown; what is cut off is marked.
        keep: characters that stay although they are not printable, such as a line end.
    """
    if longest is not None and len(text) > longest:
        return printable(text[:longest], keep=keep) + " ..."
    return "".join(
        c if c.isprintable() or c in keep or unicodedata.category(c) == "Zs" else "\N{REPLACEMENT CHARACTER}"
        for c in text
    )
