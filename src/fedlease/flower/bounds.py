"""Limits on what another machine may send, as rules for single values; each rule can describe itself in words."""

import math
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec

from fedlease.core.names import encodable
from fedlease.core.wording import JOINERS, printable

__all__ = [
    "LABEL",
    "LONG",
    "LOSS",
    "MOST_ROWS",
    "MOST_TEST_ROWS",
    "NAME",
    "NOTES",
    "NOTHING",
    "SECONDS",
    "SHARE",
    "TEXT",
    "WHOLE",
    "Rule",
    "broken",
    "count",
    "guarded",
    "hexadecimal",
    "is_text",
    "line",
    "lines",
    "named",
    "number",
    "shown",
]

LONG, NAME, LABEL, TEXT = 1000, 100, 200, 100_000
"""Most characters of: a note and anything printed or logged, a name, a label, one text of a sample."""

_short = reprlib.Repr()
_short.maxlevel, _short.maxstring, _short.maxother = 3, 200, 200
_short.maxlist = _short.maxtuple = _short.maxdict = 8

P = ParamSpec("P")


def shown(value: Any) -> str:
    """A value from another machine as one bounded line without control characters, safe to print and log."""
    try:
        text = value if isinstance(value, str) else _short.repr(value)
    except ValueError:
        text = "a number of thousands of digits"
    return printable(" ".join(text.split("\n")), longest=LONG)


def is_text(value: Any, longest: int = LONG) -> bool:
    """Whether a value is valid Unicode text of at most ``longest`` characters."""
    return isinstance(value, str) and len(value) <= longest and encodable(value)


@dataclass(frozen=True)
class Rule:
    """A condition on one value.

    Attributes:
        words: what the value must be, as the end of a sentence.
        holds: function that says whether a value meets the condition.
    """

    words: str
    holds: Callable[[Any], bool]

    def __and__(self, other: "Rule") -> "Rule":
        return Rule(f"{self.words} and {other.words}", lambda value: self.holds(value) and other.holds(value))

    def __or__(self, other: "Rule") -> "Rule":
        return Rule(f"{self.words} or {other.words}", lambda value: self.holds(value) or other.holds(value))


def number(low: float = -math.inf, high: float = math.inf) -> Rule:
    """A rule: a finite number in ``low .. high``; bool is no number."""

    def holds(value: Any) -> bool:
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        # comparing larger integers with floats may overflow
        finite = math.isfinite(value) if isinstance(value, float) else abs(value) < 2**63
        return finite and low <= value <= high

    return Rule(f"a number in {low:g} .. {high:g}", holds)


def count(low: int = 0, high: int = 2**62) -> Rule:
    """A rule: a whole number in ``low .. high``; bool is no number."""
    return Rule(
        f"a whole number in {low} .. {high}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high,
    )


def line(longest: int = LONG) -> Rule:
    """A rule: text on one line, without characters that control a terminal or change the reading direction."""
    return Rule(
        f"one line of at most {longest} characters",
        lambda value: is_text(value, longest) and value == printable(value, keep=JOINERS),
    )


def lines(most: int, longest: int = LONG) -> Rule:
    """A rule: a tuple of at most ``most`` lines of at most ``longest`` characters each."""
    single = line(longest)
    return Rule(
        f"at most {most} lines of at most {longest} characters",
        lambda value: isinstance(value, tuple) and len(value) <= most and all(map(single.holds, value)),
    )


def hexadecimal(size: int) -> Rule:
    """A rule: ``size`` bytes as hexadecimal digits."""
    return Rule(
        f"{2 * size} hexadecimal digits",
        lambda value: isinstance(value, str) and len(value) == 2 * size and {*value} <= {*"0123456789abcdef"},
    )


def named(rule: Rule, most: int) -> Rule:
    """A rule: a mapping of at most ``most`` names, each to a value that meets ``rule``."""
    name = line()
    return Rule(
        f"at most {most} names, each with {rule.words}",
        lambda value: len(value) <= most and all(name.holds(key) and rule.holds(one) for key, one in value.items()),
    )


NOTHING = Rule("none", lambda value: value is None)
WHOLE, SHARE = count(), number(0, 1)
LOSS, NOTES = number(-1e9, 1e9), lines(16)
SECONDS = number(0, 1e7)
"""Time spent on one request: at most 115 days."""
MOST_ROWS, MOST_TEST_ROWS = 10**9, 500_000
"""Most rows of a client; there may be fewer test rows, since final scores have a number for each of them."""


def broken(value: Any, rules: Mapping[str, Rule]) -> str:
    """The first rule that an attribute of ``value`` breaks, as a sentence; empty if all are met."""
    for name, rule in rules.items():
        found = getattr(value, name)
        try:
            holds = rule.holds(found)
        except Exception:  # a value of another type than the rule expects
            holds = False
        if not holds:
            many = f"{len(found)} items: " if isinstance(found, tuple | list | Mapping) and len(found) > 8 else ""
            return f"{name} must be {rule.words}, received {many}{shown(found)}"
    return ""


def guarded(check: Callable[P, str]) -> Callable[P, str]:
    """Decorates a check that returns a sentence: it becomes one bounded line, and errors of the check become one."""

    @wraps(check)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> str:
        try:
            return shown(check(*args, **kwargs))
        except Exception as error:
            return f"it is malformed: {type(error).__name__}"

    return wrapped
