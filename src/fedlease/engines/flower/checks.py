"""What other machines say, looked at before it is used: it must neither end the run nor spoil it, whatever it is.

Faults are sentences for the log and the report; an empty one means that there is none.
"""

import math
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec

import torch

from fedlease.core.types import ClientUpdate
from fedlease.data.examples import client_id_fault
from fedlease.data.federation import ClientCard
from fedlease.data.values import encodable
from fedlease.engines.client_work import Answer, FinalScores

__all__ = ["answer_fault", "card_fault", "is_share", "scores_fault", "shown"]

MOST_ROWS = 2**40
"""Rows that a client can say it has."""

LONG = 1000
"""Characters of what a node says that are shown."""

P = ParamSpec("P")


def _of(what: str) -> Callable[[Callable[P, str]], Callable[P, str]]:
    """A check of values whose very look may fail: that is a fault, too."""

    def guard(check: Callable[P, str]) -> Callable[P, str]:
        @wraps(check)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> str:
            try:
                return check(*args, **kwargs)
            except Exception as error:
                return f"{what} malformed: {type(error).__name__}"

        return guarded

    return guard


@_of("its card is")
def card_fault(card: Any) -> str:
    """Why the card of a client cannot be used."""
    if not isinstance(card, ClientCard) or not isinstance(card.id, str):
        return "its card is malformed"
    fault = client_id_fault(card.id) if card.id else "must not be empty"
    if fault:
        return f"client id {card.id!r} {fault}"
    if not all(map(_is_text, (card.task, card.fingerprint))) or not isinstance(card.pairs, bool):
        return f"the card of client {card.id!r} is malformed"
    counts = (card.train_rows, card.valid_rows, card.test_rows)
    if any(isinstance(n, bool) or not isinstance(n, int) or not 0 <= n <= MOST_ROWS for n in counts) or not counts[0]:
        return f"client {card.id!r} says it has {counts[0]} train and {counts[2]} test rows; it needs train rows"
    if not isinstance(card.labels, tuple) or not all(map(_is_text, card.labels)):
        return f"client {card.id!r} has labels that are no texts"
    return ""


@_of("its answer is")
def answer_fault(answer: Any, candidates: int) -> str:
    """Why an answer to a task cannot be used, by its form; the round loop checks the values of its update.

    Args:
        answer: of a client.
        candidates: models that the client was given to choose from.
    """
    if not isinstance(answer, Answer) or not isinstance(answer.update, ClientUpdate):
        return f"its answer is no update but a {type(answer).__name__}"
    update = answer.update
    numbers = (answer.steps, answer.train_seconds, answer.evaluate_seconds)
    if not all(_is_number(number) and number >= 0 for number in numbers):
        return f"steps and seconds must be numbers, 0 or more, received {shown(numbers)}"
    if answer.score is not None and not is_share(answer.score):
        return f"its score must be a number in 0 .. 1, received {shown(answer.score)}"
    loss = update.metrics.get("loss") if isinstance(update.metrics, Mapping) else None
    if not _is_number(loss):
        return f"its loss must be a finite number, received {shown(loss)}"
    if not isinstance(update.tensors, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in update.tensors.items()
    ):
        return "its update holds other things than named tensors"
    if not _is_choice(update.choice, candidates):
        return f"its choice must be one of {candidates} candidates, received {shown(update.choice)}"
    return "" if _are_texts(answer.notes) else "its notes are no texts"


@_of("its scores are")
def scores_fault(scores: Any, metric: str, test_rows: int, candidates: int) -> str:
    """Why final scores cannot be used.

    Args:
        scores: of a client.
        metric: the headline, in 0 .. 1.
        test_rows: of the client, as it said at the start.
        candidates: models that the client was given to choose from.
    """
    if not isinstance(scores, FinalScores):
        return f"its answer holds no scores but a {type(scores).__name__}"
    metrics, rows = scores.metrics, scores.row_scores
    if test_rows == 0:
        # Nothing to score: what it says of rows that it has not is not looked into.
        empty = FinalScores({}, 0, choice=scores.choice, notes=scores.notes)
        if scores != empty or not _is_choice(scores.choice, candidates) or not _are_texts(scores.notes):
            return "it has no test rows, and sent scores of some"
        return ""
    if not isinstance(metrics, Mapping) or not all(map(_is_text, metrics)) or metric not in metrics:
        return f"its scores hold no {metric}"
    if not all(_is_number(v) and (name == "loss" or -1 <= v <= 1) for name, v in metrics.items()):
        return f"its scores must be numbers in -1 .. 1, received {shown(dict(metrics))}"
    shares = [metrics[metric], scores.majority, scores.bare_base]
    if not all(map(is_share, shares if scores.own_expert is None else [*shares, scores.own_expert])):
        return f"its scores must be numbers in 0 .. 1, received {shown(shares)} and {shown(scores.own_expert)}"
    if not isinstance(rows, str | list | tuple) or scores.num_test != test_rows or len(rows) != test_rows:
        return f"it must score {test_rows} rows, it scored {shown(scores.num_test)}"
    if not (set(rows) <= {"0", "1"} if isinstance(rows, str) else all(map(is_share, rows))):
        return "its scores of single rows must be numbers in 0 .. 1"
    if not _is_choice(scores.choice, candidates):
        return f"its choice must be one of {candidates} candidates, received {shown(scores.choice)}"
    if not _are_texts(scores.notes):
        return "its notes are no texts"
    if not isinstance(scores.samples, list | tuple) or not all(
        isinstance(row, Mapping) and all(map(_is_text, (*row, *row.values()))) for row in scores.samples
    ):
        return "its samples are no texts"
    return "" if scores.usage is None or _is_usage(scores.usage) else "its usage of experts is malformed"


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and encodable(value)


def shown(value: Any) -> str:
    """A value of another machine as it can be printed and written: no halves of characters, not without end."""
    text = value if isinstance(value, str) else repr(value)
    text = text.encode(errors="replace").decode()
    return text if len(text) <= LONG else f"{text[:LONG]}..."


def _is_usage(usage: Any) -> bool:
    return isinstance(usage, Mapping) and all(
        _is_text(module)
        and isinstance(row, Mapping)
        and row.keys() == {"weights", "experts_per_token"}
        and _is_number(row["experts_per_token"])
        and isinstance(row["weights"], list | tuple)
        and all(map(_is_number, row["weights"]))
        for module, row in usage.items()
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, tuple) and all(map(_is_text, value))


def is_share(value: Any) -> bool:
    """Whether it is a number in 0 .. 1."""
    return _is_number(value) and 0 <= value <= 1


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    # Beyond that no float holds it.
    return math.isfinite(value) if isinstance(value, float) else abs(value) < 2**63


def _is_choice(value: Any, candidates: int) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and 0 <= value < candidates)
