"""Properties of one column, from which its meaning is guessed."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from fedlease.core.names import name_of
from fedlease.data.reading.targets import are_measurements, joined_by

__all__ = ["Column"]

FLAGS = {"0", "1", "true", "false"}
LONG_LABEL = 60
"""Mean number of characters above which a value is a text and not labels with a separator."""

DATE = re.compile(r"\d{1,4}([-./])\d{1,2}\1\d{1,4}([T ]\d{1,2}:\d{2}.*)?")
"""``2026-11-27``, ``27.11.2026`` or ``11/27/26``, with a time or without."""
FEW = 100
"""Most distinct values of a column of labels, or of a column of clients whose name does not say so."""


@dataclass(frozen=True)
class Column:
    """A column's name and its values, without missing ones."""

    name: str
    values: Sequence[object]

    @cached_property
    def words(self) -> frozenset[str]:
        """The words of its name: ``hospitalId`` and ``hospital_id`` have the word ``hospital``."""
        apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", self.name)
        return frozenset(re.findall(r"[^\W\d_]+", apart.lower()))

    def rank(self, words: Sequence[str]) -> int:
        """The index of the first of ``words`` that is in the column's name; ``len(words)`` if none is."""
        singular = self.words | {word.removesuffix("s") for word in self.words}
        return next((place for place, word in enumerate(words) if word in singular), len(words))

    @cached_property
    def texts(self) -> list[str]:
        """The values that are texts."""
        return [value for value in self.values if isinstance(value, str)]

    @cached_property
    def length(self) -> float:
        """Mean number of characters of the texts."""
        return sum(map(len, self.texts)) / max(len(self.texts), 1)

    @cached_property
    def free(self) -> bool:
        """Whether most values are texts of several words, or long texts in scripts without spaces."""
        if 2 * len(self.texts) <= len(self.values) or not self.texts:
            return False
        spaced = sum(text.count(" ") for text in self.texts) / len(self.texts)
        return spaced >= 1 or (self.length >= 6 and not "".join(self.texts[:50]).isascii())

    @cached_property
    def distinct(self) -> int:
        """Number of distinct values; 0 if a value is a list or an object."""
        if any(isinstance(value, list | dict) for value in self.values):
            return 0
        return len(set(map(str, self.values)))

    @cached_property
    def listed(self) -> bool:
        """Whether most values are lists."""
        return 2 * sum(isinstance(value, list) for value in self.values) > len(self.values)

    @cached_property
    def flags(self) -> bool:
        """Whether all values are 0, 1, true or false."""
        return bool(self.values) and {name_of(value, typed=False) for value in self.values} <= FLAGS

    @cached_property
    def measured(self) -> bool:
        """Whether its values look like measurements."""
        return not self.listed and are_measurements(Counter(map(str, self.values)))

    @cached_property
    def joined(self) -> str:
        """The separator of several labels in its texts; empty if there is none."""
        return (
            "" if self.listed or (self.free and self.length > LONG_LABEL) else joined_by(Counter(map(str, self.values)))
        )

    @cached_property
    def dated(self) -> bool:
        """Whether its values are dates, which are no labels although they repeat."""
        return bool(self.values) and all(DATE.fullmatch(str(value).strip()) for value in self.values)

    @property
    def repeats(self) -> bool:
        """Whether it has few distinct values for its number of rows."""
        return not self.dated and 2 <= self.distinct <= min(FEW, max(2, len(self.values) // 2))
