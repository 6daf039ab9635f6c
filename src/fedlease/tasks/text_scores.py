"""How near an answer is to its reference: ROUGE by torchmetrics, exact match, and whether a short answer is given."""

import importlib.util
import re
import string
from collections.abc import Sequence

from fedlease.errors import MissingPackageError

__all__ = ["SHORT_ANSWER", "answers_given", "exact_matches", "normalised", "require_rouge", "rouge"]

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
    """1 where an answer begins with its reference, word for word and normalised; None for long references.

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
