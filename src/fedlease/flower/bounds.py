"""Limits of what machines tell each other, and what every check asks of a single value."""

import math
import reprlib
from typing import Any

from fedlease.core.names import encodable
from fedlease.core.wording import JOINERS, printable

__all__ = [
    "LONGEST_LABEL",
    "LONGEST_NAME",
    "LONGEST_TEXT",
    "MOST_LOSS",
    "MOST_NOTES",
    "MOST_ROWS",
    "MOST_SECONDS",
    "MOST_TEST_ROWS",
    "is_count",
    "is_number",
    "is_plain",
    "is_share",
    "is_text",
    "is_texts",
    "shown",
]

MOST_ROWS = 10**9
"""Train rows that a client can say it has."""

MOST_TEST_ROWS = 500_000
"""Test rows of a client; every one has a number in the client's last answer."""

MOST_SECONDS = 10**7
"""Seconds that a client can say it worked on one message: 115 days."""

MOST_LOSS = 1e9
"""Largest loss, either way."""

MOST_NOTES = 16
"""Notes in one answer."""

LONGEST_NAME = 100
"""Characters of a name, such as that of a metric or a task."""

LONGEST_LABEL = 200
"""Characters of a label in a client's card."""

LONGEST_TEXT = 100_000
"""Characters of one text of a sample."""

LONG = 1000
"""Characters of a note, and of what another machine says that are shown."""

_short = reprlib.Repr()
_short.maxlevel, _short.maxstring, _short.maxother = 3, 200, 200
_short.maxlist = _short.maxtuple = _short.maxdict = 8


def shown(value: Any) -> str:
    """A value of another machine as it can be printed and logged: one line, no control characters, not without end."""
    try:
        text = value if isinstance(value, str) else _short.repr(value)
    except ValueError:
        text = "a number of thousands of digits"
    return printable(" ".join(text.split("\n")), longest=LONG)


def is_text(value: Any, longest: int = LONG) -> bool:
    """Whether it is a text that can be written, of at most so many characters."""
    return isinstance(value, str) and len(value) <= longest and encodable(value)


def is_plain(value: Any, longest: int = LONG) -> bool:
    """Whether it is such a text on one line, without characters that steer a terminal or turn text around."""
    return is_text(value, longest) and value == printable(value, keep=JOINERS)


def is_texts(value: Any, most: int, longest: int = LONG) -> bool:
    """Whether it is a tuple of at most so many texts on one line."""
    return isinstance(value, tuple) and len(value) <= most and all(is_plain(item, longest) for item in value)


def is_number(value: Any, low: float = -math.inf, high: float = math.inf) -> bool:
    """Whether it is a finite number, and no switch, in low .. high."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    # Beyond that no float holds it.
    finite = math.isfinite(value) if isinstance(value, float) else abs(value) < 2**63
    return finite and low <= value <= high


def is_share(value: Any) -> bool:
    """Whether it is a number in 0 .. 1."""
    return is_number(value, 0, 1)


def is_count(value: Any, low: int, high: int) -> bool:
    """Whether it is a whole number, and no switch, in low .. high."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
