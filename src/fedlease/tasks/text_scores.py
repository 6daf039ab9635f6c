"""How near an answer is to its reference: ROUGE by torchmetrics, exact match, and whether a short answer is given."""

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
"""Words; a longer reference is a text, not an answer that is right or wrong."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Lower case, without punctuation, single spaces; a text of punctuation alone stays as it is."""
    plain = " ".join(text.lower().translate(_PUNCTUATION).split())
    return plain or re.sub(r"\s+", " ", text.strip())


def exact_matches(answers: Sequence[str], references: Sequence[str]) -> list[float]:
    """1 where answer and reference are the same, normalised."""
    return [float(normalised(a) == normalised(r)) for a, r in zip(answers, references, strict=True)]


def answers_given(answers: Sequence[str], references: Sequence[str]) -> list[float | None]:
    """1 for an answer that begins with its reference, word for word and normalised; None for long references.

    A model that answers rightly and then goes on has answered.
    """
    pairs = [(normalised(a).split(), normalised(r).split()) for a, r in zip(answers, references, strict=True)]
    return [float(given[: len(wanted)] == wanted) if len(wanted) <= SHORT_ANSWER else None for given, wanted in pairs]


def require_rouge() -> None:
    """Raises :class:`MissingPackageError` before any work where torchmetrics is not installed."""
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
    """Metric -> its value for every answer."""
    return {**rouge(answers, references), "exact_match": exact_matches(answers, references)}


def answer_means(
    answers: Sequence[str], references: Sequence[str], scores: Mapping[str, Sequence[float]] | None = None
) -> dict[str, float]:
    """Metric -> its mean, of short answers also ``answer_accuracy``; ``scores`` are those of the answers if known."""
    values = scores or answer_scores(answers, references)
    given = [value for value in answers_given(answers, references) if value is not None]
    means = {name: sum(own) / len(own) for name, own in values.items()}
    return means | ({"answer_accuracy": sum(given) / len(given)} if given else {})
