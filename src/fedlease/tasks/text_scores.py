"""Scores of answers against references: ROUGE by torchmetrics, exact match, and accuracy of short answers."""

import importlib.util
import re
import string
from collections.abc import Mapping, Sequence

from fedlease.errors import MissingPackageError

__all__ = [
    "SHORT_ANSWER",
    "answer_means",
    "answer_scores",
    "answers_given",
    "exact_matches",
    "normalised",
    "require_rouge",
    "rouge",
]

SHORT_ANSWER = 5
"""Most words of a short answer, which is right or wrong; longer references are texts."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """The text in lower case, without punctuation, with single spaces; a text of only punctuation keeps it."""
    plain = " ".join(text.lower().translate(_PUNCTUATION).split())
    return plain or re.sub(r"\s+", " ", text.strip())


def exact_matches(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """1 for every answer that equals its reference, both normalised, else 0."""
    return [float(normalised(a) == normalised(r)) for a, r in zip(answers, references, strict=True)]


def answers_given(answers: Sequence[str], references: Sequence[str]) -> list[float | None]:
    """1 for every answer that begins with its reference, both normalised, else 0; None for long references.

    Whole words are compared, and an answer may continue after the reference.
    """
    pairs = [(normalised(a).split(), normalised(r).split()) for a, r in zip(answers, references, strict=True)]
    return [float(given[: len(wanted)] == wanted) if len(wanted) <= SHORT_ANSWER else None for given, wanted in pairs]


def require_rouge() -> None:
    """Checks that torchmetrics is installed.

    Raises:
        MissingPackageError: it is not.
    """
    if importlib.util.find_spec("torchmetrics") is None:
        raise MissingPackageError("torchmetrics", "task 'generation'", "pip install 'fedlease[generation]'")


def rouge(answers: Sequence[str], references: Sequence[str]) -> dict[str, list[float]]:
    """F-measures ``rouge1`` and ``rougeL`` of every answer, in [0, 1], without stemming (Lin 2004).

    Raises:
        MissingPackageError: torchmetrics is not installed.
    """
    require_rouge()
    from torchmetrics.functional.text import rouge_score

    names = ("rouge1", "rougeL")
    scores = [rouge_score([a], [r], rouge_keys=names) for a, r in zip(answers, references, strict=True)]
    return {name: [float(score[f"{name}_fmeasure"]) for score in scores] for name in names}


def answer_scores(answers: Sequence[str], references: Sequence[str]) -> dict[str, list[float]]:
    """Metric -> value for every answer."""
    return {**rouge(answers, references), "exact_match": exact_matches(answers, references)}


def answer_means(
    answers: Sequence[str], references: Sequence[str], scores: Mapping[str, Sequence[float]] | None = None
) -> dict[str, float]:
    """Metric -> mean, with ``answer_accuracy`` if there are short references; ``scores`` of the answers save time."""
    values = scores or answer_scores(answers, references)
    given = [value for value in answers_given(answers, references) if value is not None]
    means = {name: sum(own) / len(own) for name, own in values.items()}
    return means | ({"answer_accuracy": sum(given) / len(given)} if given else {})
