"""What nodes say, looked at whole before any of it is used: it must neither end the run nor spoil it.

Faults are sentences for the log and the report; an empty one means that there is none.
"""

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, ParamSpec

import torch

from fedlease.client.messages import FinalScores, Trained
from fedlease.core.aggregate import check_update
from fedlease.core.types import AdapterSpec, ClientId, ClientModel, ClientTask, ClientUpdate
from fedlease.data.federation import ClientCard
from fedlease.data.reading.examples import client_id_fault
from fedlease.errors import UpdateRefusedError
from fedlease.flower.bounds import (
    LONGEST_LABEL,
    LONGEST_NAME,
    LONGEST_TEXT,
    MOST_LOSS,
    MOST_NOTES,
    MOST_ROWS,
    MOST_SECONDS,
    MOST_TEST_ROWS,
    is_count,
    is_number,
    is_plain,
    is_share,
    is_text,
    is_texts,
    shown,
)
from fedlease.tasks.base import Task

__all__ = ["answer_fault", "card_fault", "scores_fault"]

SAMPLE_KEYS = {"prompt", "reference", "base", "answer"}

ROUNDING = 1e-5
"""By which shares that were rounded may be beyond 1."""

P = ParamSpec("P")


def _of(what: str) -> Callable[[Callable[P, str]], Callable[P, str]]:
    """A check of values whose very look may fail: that is a fault, too."""

    def guard(check: Callable[P, str]) -> Callable[P, str]:
        @wraps(check)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> str:
            try:
                return shown(check(*args, **kwargs))
            except Exception as error:
                return f"{what} malformed: {type(error).__name__}"

        return guarded

    return guard


@_of("its card is")
def card_fault(card: Any, max_labels: int) -> str:
    """Why the card of a client cannot be used.

    Args:
        card: as it came.
        max_labels: that a client may have.
    """
    if not isinstance(card, ClientCard) or not isinstance(card.id, str):
        return "its card is malformed"
    fault = client_id_fault(card.id) if card.id else "must not be empty"
    if fault or not is_plain(card.id):
        return f"client id {card.id!r} {fault or 'must not hold control characters'}"
    if not is_plain(card.task, LONGEST_NAME) or not is_text(card.fingerprint, 64) or not isinstance(card.pairs, bool):
        return f"the card of client {card.id!r} is malformed"
    rules = (("train", card.train_rows, 1, MOST_ROWS), ("validation", card.valid_rows, 0, MOST_ROWS))
    for name, count, low, high in (*rules, ("test", card.test_rows, 0, MOST_TEST_ROWS)):
        if not is_count(count, low, high):
            return f"client {card.id!r} says it has {shown(count)} {name} rows, which must be in {low} .. {high}"
    if not isinstance(card.labels, tuple) or len(card.labels) > max_labels:
        return (
            f"client {card.id!r} has {_length(card.labels)} labels, at most {max_labels} are taken (flower.max_labels)"
        )
    if not is_texts(card.labels, max_labels, LONGEST_LABEL) or len({*card.labels}) < len(card.labels):
        return (
            f"client {card.id!r} has labels that are no distinct texts of one line and at most {LONGEST_LABEL} "
            "characters"
        )
    return ""


@_of("its answer is")
def answer_fault(answer: Any, task: ClientTask, client: ClientId, rows: int) -> str:
    """Why an answer to a task cannot be used.

    Args:
        answer: of a client.
        task: what it was asked.
        client: who was asked.
        rows: train rows of the client, as it said at the start.
    """
    if not isinstance(answer, Trained) or not isinstance(answer.update, ClientUpdate):
        return f"its answer is no update but a {type(answer).__name__}"
    update, most = answer.update, sum(stage.epochs for stage in task.stages) * rows
    seconds = (answer.train_seconds, answer.evaluate_seconds)
    if not is_count(answer.steps, 0, most) or not all(is_number(value, 0, MOST_SECONDS) for value in seconds):
        return (
            f"steps and seconds must be numbers in 0 .. {most} and 0 .. {MOST_SECONDS}, "
            f"received {shown((answer.steps, *seconds))}"
        )
    if answer.score is not None and not is_share(answer.score):
        return f"its score must be a number in 0 .. 1, received {shown(answer.score)}"
    if not isinstance(answer.reused, bool):
        return f"reused must be true or false, received {shown(answer.reused)}"
    if not isinstance(update.metrics, Mapping) or update.metrics.keys() != {"loss"}:
        return f"its training figures must be the loss alone, received {shown(update.metrics)}"
    if not is_number(update.metrics["loss"], -MOST_LOSS, MOST_LOSS):
        return f"its loss must be a finite number, at most {MOST_LOSS:g}, received {shown(update.metrics['loss'])}"
    if not isinstance(update.tensors, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in update.tensors.items()
    ):
        return "its update holds other things than named tensors"
    candidates = len(task.model.candidates)
    if not _is_choice(update.choice, candidates):
        return f"its choice must be one of {candidates} candidates, received {shown(update.choice)}"
    if not is_texts(answer.notes, MOST_NOTES):
        return f"its notes are no texts of one line, at most {MOST_NOTES}"
    try:
        check_update(task, client, update, expected_examples=rows)
    except UpdateRefusedError as error:
        return error.reason
    return ""


@_of("its scores are")
def scores_fault(scores: Any, task: Task, model: ClientModel, test_rows: int, samples: int) -> str:
    """Why final scores cannot be used.

    Args:
        scores: of a client.
        task: of the run.
        model: that was scored.
        test_rows: of the client, as it said at the start.
        samples: rows that may come in clear text.
    """
    if not isinstance(scores, FinalScores):
        return f"its answer holds no scores but a {type(scores).__name__}"
    metrics, candidates, routed = scores.metrics, len(model.candidates), model.spec.num_experts > 1
    if not _is_choice(scores.choice, candidates) or (scores.choice is None) != (candidates == 0):
        return f"its choice must be one of {candidates} candidates, received {shown(scores.choice)}"
    if not is_texts(scores.notes, MOST_NOTES):
        return f"its notes are no texts of one line, at most {MOST_NOTES}"
    if test_rows == 0:
        empty = FinalScores({}, 0, choice=scores.choice, notes=scores.notes)
        return "" if scores == empty else "it has no test rows, and sent scores of some"
    if not isinstance(metrics, Mapping) or not {*task.metrics} <= {*metrics} <= {*task.metrics, *task.extra_metrics}:
        return f"its scores must be {', '.join(task.metrics)}, received {shown(metrics)}"
    if not all(is_number(v, *((-MOST_LOSS, MOST_LOSS) if name == "loss" else (-1, 1))) for name, v in metrics.items()):
        return f"its scores must be numbers in -1 .. 1, received {shown(dict(metrics))}"
    shares = [metrics[task.metric], scores.majority, scores.bare_base]
    if not all(map(is_share, shares)) or not (is_share(scores.own_expert) if routed else scores.own_expert is None):
        return f"its scores must be numbers in 0 .. 1, received {shown(shares)} and {shown(scores.own_expert)}"
    rows = scores.row_scores
    if not isinstance(rows, str | list | tuple) or scores.num_test != test_rows or len(rows) != test_rows:
        return f"it must score {test_rows} rows, it scored {shown(scores.num_test)}"
    if not (set(rows) <= {"0", "1"} if isinstance(rows, str) else all(map(is_share, rows))):
        return "its scores of single rows must be numbers in 0 .. 1"
    if not isinstance(scores.samples, list | tuple) or len(scores.samples) > samples:
        return f"it sent {_length(scores.samples)} samples, at most {samples} are taken (generation.samples)"
    if not all(map(_is_sample, scores.samples)):
        return f"its samples must hold {', '.join(sorted(SAMPLE_KEYS))}, texts of at most {LONGEST_TEXT} characters"
    if not (_is_usage(scores.usage, model.spec) if routed else scores.usage is None):
        return f"its usage of {model.spec.num_experts} experts is malformed"
    return ""


def _is_sample(row: Any) -> bool:
    return (
        isinstance(row, Mapping)
        and row.keys() == SAMPLE_KEYS
        and all(is_text(value, LONGEST_TEXT) for value in row.values())
    )


def _is_usage(usage: Any, spec: AdapterSpec) -> bool:
    most = spec.num_experts
    return (
        isinstance(usage, Mapping)
        and usage.keys() == {*spec.target_modules}
        and all(
            isinstance(row, Mapping)
            and row.keys() == {"weights", "experts_per_token"}
            and is_number(row["experts_per_token"], 0, most)
            and isinstance(row["weights"], list | tuple)
            and len(row["weights"]) == most
            and all(is_number(weight, 0, 1 + ROUNDING) for weight in row["weights"])
            for row in usage.values()
        )
    )


def _is_choice(value: Any, candidates: int) -> bool:
    return value is None or is_count(value, 0, candidates - 1)


def _length(value: Any) -> str:
    return str(len(value)) if isinstance(value, tuple | list) else shown(value)
