"""Checks messages between server and nodes as a whole, before any part of them is used.

Decoding checks types (:mod:`fedlease.core.codec`); this module checks the limits of values and whether they fit
together. A check returns the fault as a sentence, or an empty text. A node then applies its own policy (``policy.py``)
and compares tensors with its own base model (``model_validation.py``).
"""

import re
from collections.abc import Mapping
from typing import Any

from fedlease.client.messages import FinalScores, Finish, Request, Train, Trained
from fedlease.client.sum_messages import SumAsk
from fedlease.core.aggregate import MAX_VALUE, check_update
from fedlease.core.confusion import Cells
from fedlease.core.experts import FIXED
from fedlease.core.routing import num_slots
from fedlease.core.types import AdapterSpec, ClientModel, ClientTask
from fedlease.data.federation import ClientCard
from fedlease.data.reading.examples import client_id_fault
from fedlease.data.reading.targets import LARGEST
from fedlease.errors import UpdateRefusedError
from fedlease.flower import bounds
from fedlease.flower.bounds import (
    NOTHING,
    SHARE,
    WHOLE,
    Rule,
    broken,
    count,
    guarded,
    line,
    number,
)
from fedlease.flower.messages import Envelope
from fedlease.flower.sum_validation import MOST_MEMBERS, ask_fault, masking_fault
from fedlease.tasks.base import Task

__all__ = ["SAMPLE_KEYS", "card_fault", "form_fault", "models_of", "score_rule", "scores_fault", "update_fault"]

SAMPLE_KEYS = {"prompt", "reference", "base", "answer"}

MOST_MODULES = 10_000
"""Most modules that an adapter may adapt."""

MOST_NUMBERS = 10**6
"""Most numbers of a sketch per module."""

MOST_EPSILON = 1000.0
"""Largest epsilon that a client may report as spent."""

ROUNDING = 1e-5
"""Most by which rounding can make a share exceed 1."""

LINE = line()
SCALE = Rule(
    f"a mean and a deviation of at most {LARGEST:g}",
    lambda scale: number(-LARGEST, LARGEST).holds(scale[0]) and number(0, LARGEST).holds(scale[1]),
)
PHASE = Rule("at most 40 letters, digits and dashes", lambda phase: bool(re.fullmatch(r"[A-Za-z0-9-]{1,40}", phase)))
LOSS_ALONE = Rule(
    f"the loss alone, {bounds.LOSS.words}",
    lambda metrics: {*metrics} == {"loss"} and bounds.LOSS.holds(metrics["loss"]),
)
NO_METRICS = Rule("none", lambda found: not found)
"""Under differential privacy a loss does not leave, since it depends on train rows."""
OF_REQUESTS = {"method": LINE, "accepted": WHOLE | NOTHING, "best": WHOLE | NOTHING}
OF_STAGES = {
    "epochs": count(1),
    "experts": NOTHING | Rule("expert ids", lambda experts: all(map(WHOLE.holds, experts))),
}


def models_of(request: Request) -> dict[str, ClientModel]:
    """The models in a request, by the names of their fields."""
    return {"model": request.model} | ({"untrained": request.untrained} if isinstance(request, Finish) else {})


@guarded
def form_fault(message: Any) -> str:
    """Why a message is not one that a server sends."""
    if not isinstance(message, Envelope):
        return f"a node is not asked for a {type(message).__name__}"
    request = message.request
    fault = broken(message, {"run": LINE, "version": LINE, "base": LINE})
    if fault or request is None:
        return fault
    if isinstance(request, SumAsk):
        return ask_fault(request)
    fault = broken(request, OF_REQUESTS)
    if not fault and isinstance(request, Train):
        fault = broken(request, {"step": WHOLE}) or _task_form(request.task)
        if not fault and request.masking is not None:
            fault = masking_fault(request.masking)
    return fault or next((fault for model in models_of(request).values() if (fault := _spec_fault(model.spec))), "")


def _task_form(task: ClientTask) -> str:
    stages = Rule("at least one, unless a warm-up that was kept is asked for", lambda given: given or task.model.warmed)
    fault = broken(task, {"phase": PHASE, "round": WHOLE, "stages": stages})
    if not fault and task.halves and (task.model.spec.num_experts > 1 or task.model.candidates):
        fault = "halves are told apart in a single adapter"
    if not fault and task.sketch is not None:
        seed = Rule("a number below 2 ** 64", lambda value: 0 <= value < 2**64)
        fault = broken(task.sketch, {"numbers": count(1, MOST_NUMBERS), "seed": seed})
    if not fault and task.term is not None:
        size = number(0, MAX_VALUE)
        fault = broken(task.term, {"pull": size, "tail": size, "kept": WHOLE, "apart": size})
    return fault or next((fault for stage in task.stages if (fault := broken(stage, OF_STAGES))), "")


def _spec_fault(spec: AdapterSpec) -> str:
    experts = spec.num_experts
    needed = FIXED.get(spec.mixer, experts)
    rules = {
        "r": count(1),
        "alpha": number(0, MAX_VALUE) & Rule("more than 0", bool),
        "dropout": number(0, 1) & Rule("less than 1", lambda value: value < 1),
        "num_experts": count(1) & Rule(f"{needed} for {spec.mixer}", lambda value: value == needed),
        "own": count(0, experts - 1),
        "top_k": count(1, num_slots(experts)) | NOTHING,
        "blend": SHARE,
        "anchors": WHOLE,
        "density": SHARE & Rule("more than 0", bool),
        "places": WHOLE,
        "target_modules": Rule(f"1 to {MOST_MODULES} names", lambda names: 0 < len(names) <= MOST_MODULES),
    }
    fault = broken(spec, rules)
    return fault and f"its adapter cannot be: {fault}"


@guarded
def card_fault(card: ClientCard, max_labels: int, max_rows: int = bounds.MOST_ROWS) -> str:
    """Why the card of a client cannot be used.

    Args:
        card: the card as it was received.
        max_labels: most labels of a client.
        max_rows: most train rows that it may state, which are weights in means.
    """
    fault = client_id_fault(card.id) if card.id else "must not be empty"
    if fault or not LINE.holds(card.id):
        return f"client id {card.id!r} {fault or 'must not contain control characters'}"
    labels, rows = bounds.lines(max_labels, bounds.LABEL), count(1, max_rows)
    different = Rule("all different (flower.max_labels)", lambda value: len({*value}) == len(value))
    rules = {
        "task": line(bounds.NAME),
        "fingerprint": line(64),
        "train_rows": Rule(f"{rows.words} (bounds.rows)", rows.holds),
        "valid_rows": count(0, bounds.MOST_ROWS),
        "test_rows": count(0, bounds.MOST_TEST_ROWS),
        "labels": labels & different,
        "scale": NOTHING | SCALE,
    }
    fault = broken(card, rules)
    return fault and f"client {card.id!r}: {fault}"


@guarded
def update_fault(
    answer: Any, task: ClientTask, card: ClientCard, learnt: Task, *, private: bool, summed: bool = False
) -> str:
    """Why the reply to a task cannot be used.

    Args:
        answer: the client's reply.
        task: the task in the request.
        card: the client's card.
        learnt: what clients optimise.
        private: whether the client trains under differential privacy.
        summed: whether the update may be the mean of several, see :mod:`fedlease.server.secure_sums`.
    """
    if not isinstance(answer, Trained):
        return f"its reply is no update but a {type(answer).__name__}"
    update, most = answer.update, sum(stage.epochs for stage in task.stages) * card.train_rows
    rules = {
        "steps": count(0, most),
        "train_seconds": bounds.SECONDS,
        "evaluate_seconds": bounds.SECONDS,
        "score": score_rule(learnt) | NOTHING,
        "notes": bounds.NOTES,
        "epsilon": number(0, MOST_EPSILON) if private else NOTHING,
        "summed": count(0, MOST_MEMBERS if summed else 0),
        "metrics": NO_METRICS | _metrics(learnt, loss=False),
    }
    if fault := broken(answer, rules) or broken(
        update, {"metrics": LOSS_ALONE if task.stages and not private else NO_METRICS}
    ):
        return fault
    try:
        check_update(task, card.id, update, expected_examples=card.train_rows)
    except UpdateRefusedError as error:
        return error.reason
    return ""


@guarded
def scores_fault(scores: Any, task: Task, model: ClientModel, card: ClientCard, samples: int, *, private: bool) -> str:
    """Why final scores cannot be used.

    Args:
        scores: the client's scores.
        task: what clients optimise.
        model: the model that was scored.
        card: the client's card.
        samples: most test rows that may be sent in clear text.
        private: whether results of single rows must stay with the client.
    """
    if not isinstance(scores, FinalScores):
        return f"its reply holds no scores but a {type(scores).__name__}"
    candidates, routed, test_rows = len(model.candidates), model.spec.routed, card.test_rows
    choice = count(0, candidates - 1) if candidates else NOTHING
    if fault := broken(scores, {"choice": choice, "notes": bounds.NOTES}):
        return fault
    if test_rows == 0:
        empty = FinalScores({}, 0, choice=scores.choice, notes=scores.notes)
        return "" if scores == empty else "it has no test rows, and sent scores of some"
    sample = f"{', '.join(sorted(SAMPLE_KEYS))}, texts of at most {bounds.TEXT} characters"
    score = score_rule(task)
    # a bound on the contribution of one row to a metric that is no mean over rows
    each = SHARE if task.headlines[task.metric].of_rows else number(-2 * test_rows, 2 * test_rows)
    rules = {
        "metrics": _metrics(task),
        "majority": score | NOTHING,
        "bare_base": score,
        "own_expert": score if routed else NOTHING,
        "num_test": Rule(f"{test_rows}, as its card says", lambda value: value == test_rows),
        "row_scores": Rule(
            "none" if private else f"{test_rows} times {each.words}",
            lambda rows: len(rows) == (0 if private else test_rows) and _are(each, rows),
        ),
        "samples": Rule(
            f"at most {samples} (generation.samples) of {sample}",
            lambda rows: len(rows) <= samples and all(map(_is_sample, rows)),
        ),
        "usage": _usage(model.spec) if routed else NOTHING,
        "confusion": _confusion(task, scores.metrics, len(card.labels), test_rows),
    }
    return broken(scores, rules)


def score_rule(task: Task) -> Rule:
    """The rule for a headline score."""
    return number(task.metrics[task.metric].lowest, 1)


def _metrics(task: Task, *, loss: bool = True) -> Rule:
    names = [name for name in task.metrics if loss or name != "loss"]
    score = score_rule(task)
    rules = {key: number(m.lowest, m.highest) for key, m in {**task.metrics, **task.extra_metrics}.items()}
    rules |= {"loss": bounds.LOSS}

    def holds(metrics: Mapping[str, float]) -> bool:
        known = {*names} <= {*metrics} <= {*names, *task.extra_metrics}
        return known and all(rules[name].holds(value) for name, value in metrics.items())

    return Rule(f"{', '.join(names)}, numbers within their bounds, {task.metric} {score.words}", holds)


def _confusion(task: Task, metrics: Mapping[str, float], labels: int, test_rows: int) -> Rule:
    def holds(cells: Cells) -> bool:
        if not cells:
            return True
        true, guessed, rows = zip(*cells, strict=True)
        known = min(*true, *guessed) >= 0 and max(*true, *guessed) <= labels and min(rows) > 0
        if not known or len({*zip(true, guessed, strict=True)}) < len(cells):
            return False
        found = task.tallied(cells, labels, test_rows)
        return found is not None and all(
            abs(value - metrics.get(name, value)) < ROUNDING for name, value in found.items()
        )

    return Rule(f"{test_rows} rows by true and predicted of {labels} labels, as the metrics say", holds)


def _usage(spec: AdapterSpec) -> Rule:
    most = spec.num_experts
    weight, experts = number(0, 1 + ROUNDING), number(0, most)

    def holds(usage: Any) -> bool:
        return usage.keys() == {*spec.target_modules} and all(
            row.keys() == {"weights", "experts_per_token"}
            and experts.holds(row["experts_per_token"])
            and isinstance(row["weights"], list | tuple)
            and len(row["weights"]) == most
            and all(map(weight.holds, row["weights"]))
            for row in usage.values()
        )

    return Rule(f"the use of {most} experts in every adapted module", holds)


def _are(rule: Rule, rows: Any) -> bool:
    return set(rows) <= {"0", "1"} if isinstance(rows, str) else all(map(rule.holds, rows))


def _is_sample(row: Any) -> bool:
    return row.keys() == SAMPLE_KEYS and all(bounds.is_text(text, bounds.TEXT) for text in row.values())
