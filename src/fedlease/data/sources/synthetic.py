"""Makes synthetic federations of tasks that are known to differ, without any external text.

Task k has its own vocabulary and its own rule, where r = k mod 4:

    labels       the class (low or high) of a signal word, which is anywhere (r = 0), first (1) or last (2); or its
                 class (low, middle or high) anywhere (3)
    responses    the signal word (0), the first word (1), the last word (2), or the class of the signal word (3)
    label sets   the classes of all signal words of the sentence
    values       the sum over these classes, low 1, middle 2 and high 3; ten times that if k is odd

Sentences have at most 24 characters and responses one word, so that a tiny byte-level model learns them in seconds.
"""

import random
import string
from dataclasses import replace

from fedlease.config.data import DataSettings
from fedlease.config.tables import RowKind
from fedlease.core.wording import counted
from fedlease.data.dealing import clients_of, federation, generator
from fedlease.data.federation import VALUE, ClientData, Federation, Row
from fedlease.errors import DataError

__all__ = ["NUM_TASKS", "load"]

NUM_TASKS = 4
TRAIN_ROWS = 32
TEST_ROWS = 16

_WORDS = 3
_FILLERS = 16
_SIGNALS = 3
_LIMIT = 4000
_RULES = ("anywhere", "first", "last", "anywhere")
_CLASSES = ("low", "middle", "high")


def load(settings: DataSettings, seed: int, kind: RowKind = "labels", num_tasks: int = NUM_TASKS) -> Federation:
    """Makes ``clients_per_task`` clients for each of ``num_tasks`` tasks called ``planted-0``, ``planted-1``, ...

    Labels (for generation: classes of signal words) are balanced, and all rows of a task are distinct. ``train_rows``
    defaults to 32 and ``test_rows`` to 16. Rows depend only on ``clients_per_task``, ``train_rows``, ``test_rows``,
    ``valid_fraction``, the seed and the arguments.

    Raises:
        DataError: more rows are requested than a task can be sure to have distinct sentences for.
    """
    train, test = settings.train_rows or TRAIN_ROWS, settings.test_rows or TEST_ROWS
    needed = settings.clients_per_task * (train + test)
    if needed > _LIMIT:
        raise DataError(
            f"data.source: 'synthetic' has at most {_LIMIT} rows per task, got "
            f"{counted(settings.clients_per_task, 'client')} (data.clients_per_task) x ({train} + {test}) rows "
            "(data.train_rows, data.test_rows)"
        )
    clients: list[ClientData] = []
    used: set[str] = set()
    for number in range(num_tasks):
        rule, taken = number % 4, set[str]()
        labels = {"responses": (), "values": VALUE, "label sets": _CLASSES}.get(
            kind, _CLASSES if rule == 3 else ("low", "high")
        )
        random_ = generator(seed, "planted", number)
        vocabulary = _vocabulary(number, used, random_)
        parts = [
            [[_row(vocabulary, place, number, kind, taken, random_) for place in range(size)] for size in (train, test)]
            for _ in range(settings.clients_per_task)
        ]
        clients += clients_of(f"planted-{number}", labels, parts, settings, seed, kind)
    return federation(clients, ())


def _row(vocabulary: list[str], place: int, number: int, kind: RowKind, taken: set[str], random_: random.Random) -> Row:
    rule = number % len(_RULES)
    if kind == "labels":
        return _sentence(vocabulary, place % (3 if rule == 3 else 2), _RULES[rule], taken, random_)
    if kind == "responses":
        return _answered(vocabulary, place, rule, taken, random_)
    marks = tuple(mark for mark in range(len(_CLASSES)) if place >> mark & 1)
    row = _marked(vocabulary, marks, taken, random_)
    if kind == "label sets":
        return row
    return replace(row, marks=None, value=float(sum(mark + 1 for mark in marks) * (10 if number % 2 else 1)))


def _marked(vocabulary: list[str], marks: tuple[int, ...], taken: set[str], random_: random.Random) -> Row:
    """A sentence with one signal word of each class in ``marks``."""
    fillers = vocabulary[3 * _SIGNALS :]
    while True:
        words = [vocabulary[mark * _SIGNALS + random_.randrange(_SIGNALS)] for mark in marks]
        words += random_.choices(fillers, k=_WORDS + 1 - len(marks))
        random_.shuffle(words)
        text = " ".join(words)
        if text not in taken:
            taken.add(text)
            return Row(text, None, 0, marks=marks)


def _vocabulary(number: int, used: set[str], random_: random.Random) -> list[str]:
    """The words of one task: :data:`_SIGNALS` signal words of each class, then fillers; tasks share no words."""
    letters = [string.ascii_lowercase[(number * 6 + offset) % 26] for offset in range(6)]
    words: list[str] = []
    while len(words) < 3 * _SIGNALS + _FILLERS:
        word = "".join(random_.choice(letters) for _ in range(4))
        if word not in used:
            used.add(word)
            words.append(word)
    return words


def _sentence(vocabulary: list[str], label: int, rule: str, taken: set[str], random_: random.Random) -> Row:
    signals, fillers = vocabulary[: 3 * _SIGNALS], vocabulary[3 * _SIGNALS :]
    while True:
        words = random_.choices(fillers, k=_WORDS)
        place = {"first": 0, "last": _WORDS}.get(rule, random_.randrange(_WORDS + 1))
        words.insert(place, signals[label * _SIGNALS + random_.randrange(_SIGNALS)])
        text = " ".join(words)
        if text not in taken:
            taken.add(text)
            return Row(text, None, label)


def _answered(vocabulary: list[str], place: int, rule: int, taken: set[str], random_: random.Random) -> Row:
    """A sentence with the response that the task's rule gives."""
    kind = place % len(_CLASSES)
    signals = vocabulary[: 3 * _SIGNALS]
    if rule in (1, 2):
        # all words are signal words, so that the response depends on the position and not on the word
        text = _sentence(signals * 2, kind, "anywhere", taken, random_).text
        return Row(text, None, 0, text.split()[0 if rule == 1 else -1])
    text = _sentence(vocabulary, kind, "anywhere", taken, random_).text
    signal = next(word for word in text.split() if word in signals)
    return Row(text, None, 0, signal if rule == 0 else _CLASSES[kind])
