"""Computes the verdict on a run, which terminal, ``--json``, ``summary.json`` and report show."""

import shlex
from collections.abc import Collection

from fedlease.core.intervals import Interval, paired_gain, unpaired_gain
from fedlease.core.types import ClientId
from fedlease.core.wording import counted, enumerated, listed
from fedlease.reporting.run.advice import NEVER, advise
from fedlease.reporting.run.certainty import decisions, doubts
from fedlease.reporting.run.data import ALONE, MethodRun, RunData
from fedlease.reporting.run.words import result_sentence
from fedlease.reporting.verdict import NAMED, by_task, joining_words, mean_gain_words
from fedlease.storage.class_scores import Unpredicted, never_predicted
from fedlease.storage.summary import Summary
from fedlease.storage.verdict import Advice, ClientVerdict, Gain, Groups, NextStep, Verdict

__all__ = ["ROW_METRIC", "SAME", "conclude"]

SAME = 1e-6
"""Largest difference between a headline score and the mean of its row scores; macro F1, for example, differs more."""
MANY = 3
"""Fewest clients with the same missed label that share an entry of the alarm."""
ROW_METRIC = "accuracy"
"""The metric of a classifier's row scores if the headline metric is no mean over rows."""


def conclude(run: RunData) -> Verdict:
    """The verdict on a run, finished or not.

    Gains are those of the main method over ``local``. They are paired over each client's own test rows if the row
    scores of both methods are on file (:func:`fedlease.core.intervals.paired_gain`); otherwise they come from the two
    mean scores and the number of rows (:func:`~fedlease.core.intervals.unpaired_gain`).
    """
    advice = advise(run)
    groups = _groups(run)
    if run.main.summary is None:
        return Verdict(
            sentences=[result_sentence(run)], groups=groups, next_step=_first_step(advice), warnings=list(advice)
        )
    finals, alone = run.main.finals, run.alone
    both = sorted(run.main.averaged.keys() & alone.averaged.keys()) if alone is not None else []
    metric = _gain_metric(run, alone, both)
    gains = {client: _gain(run, [client], metric) for client in both}
    further = [*run.words.own_units, *(key.removeprefix("mean_") for key in run.words.further)]
    unpredicted: dict[ClientId, list[str]] = {}
    for found in never_predicted(run.main.summary.classes):
        unpredicted.setdefault(found.client, []).append(found.label)
    verdict = Verdict(
        alarms=_alarms(run.main.summary),
        sentences=[],
        against="local" if both else None,
        metric=metric,
        gain=_gain(run, both, metric) if both else None,
        clients={
            client: ClientVerdict(
                task=run.main.summary.per_client[client].task,
                score=score,
                metrics={key: value for key in further if (value := _entry(run.main.summary, client, key)) is not None},
                never_predicted=unpredicted.get(client, []),
                local=alone.finals.get(client) if alone is not None else None,
                gain=gains.get(client),
                effect=gains[client].effect if client in gains else None,
            )
            for client, score in sorted(finals.items())
        },
        tasks=by_task({client: run.task(client) for client in gains}, gains, lambda found: _gain(run, found, metric)),
        groups=groups,
        next_step=NextStep(text=""),
        warnings=list(advice),
    )
    return verdict.model_copy(update={"sentences": _sentences(run, verdict), "next_step": _next(run, verdict)})


def _gain_metric(run: RunData, alone: MethodRun | None, clients: Collection[str]) -> str:
    """The metric of gains: the headline metric, or :data:`ROW_METRIC` if that is no mean over rows."""
    of_all_rows = any(
        abs(sum(rows) / len(rows) - method.finals[client]) > SAME
        for method in (run.main, alone)
        if method is not None
        for client in clients
        if (rows := method.row_scores.get(client))
    )
    return ROW_METRIC if of_all_rows else run.metric


def _gain(run: RunData, clients: list[str], metric: str) -> Gain:
    assert run.alone is not None
    rows = [[method.row_scores.get(client, ()) for client in clients] for method in (run.main, run.alone)]
    if all(one and len(one) == len(two) for one, two in zip(*rows, strict=True)):
        return _typed(paired_gain(rows[0], rows[1]), paired=True)
    scores = [
        [(_score(method, client, metric), _tested(method, client)) for client in clients]
        for method in (run.main, run.alone)
    ]
    return _typed(unpaired_gain(scores[0], scores[1]), paired=False)


def _score(method: MethodRun, client: str, metric: str) -> float:
    assert method.summary is not None
    value = _entry(method.summary, client, metric)
    return min(1.0, max(0.0, method.finals[client] if value is None else value))


def _entry(summary: Summary, client: str, metric: str) -> float | None:
    return (summary.per_client[client].model_extra or {}).get(metric)


def _alarms(summary: Summary) -> list[str]:
    """Names the labels that are never predicted; scores may be high nevertheless."""
    of = dict[str, list[Unpredicted]]()
    for one in never_predicted(summary.classes):
        of.setdefault(one.label, []).append(one)
    found = []
    for label, missed in of.items():
        for some in [missed] if len(missed) >= MANY else [[one] for one in missed]:
            who = some[0].client if len(some) == 1 else counted(len(some), "client")
            rows = counted(sum(one.test_rows for one in some), "test row")
            found.append(f"{label!r} of {who} ({sum(one.support for one in some)} of {rows})")
    return [f"Never predicted: {listed(found, NAMED)}."] if found else []


def _tested(method: MethodRun, client: str) -> int:
    assert method.summary is not None
    return max(1, method.summary.per_client[client].num_test)


def _typed(found: Interval, *, paired: bool) -> Gain:
    return Gain(difference=found.difference, low=found.low, high=found.high, paired=paired)


def _sentences(run: RunData, verdict: Verdict) -> list[str]:
    result = result_sentence(run)
    if run.main.name == ALONE:
        return [result, "Every client trained alone: this is what other methods are compared with."]
    if verdict.gain is None:
        unknown = f"Whether joining pays is not known: the run has no baseline {ALONE} to compare with"
        return [result, f"{unknown}; --set baselines=[{ALONE}] gives it one."]
    return [joining_words(verdict), f"{result} {mean_gain_words(verdict)}"]


def _groups(run: RunData) -> Groups | None:
    grouping = run.grouping
    if grouping is None:
        return None
    assignment = run.experts()
    members = [sorted(c for c in assignment if assignment[c] == expert) for expert in range(grouping.num_experts)]
    found = decisions(run) if grouping.corrected is not None else {}
    close = sorted(client for client, kind in found.items() if kind == "close call")
    sure = len(found) - len(close) - len(grouping.unsure)
    total, doubted = counted(len(assignment), "client"), doubts(run)
    text = f"{total} in {counted(len(members), 'group')}, each with an expert of its own"
    if len(members) == 1:
        text = f"{total} in one group: {'nothing separates them clearly' if not found else 'all share one expert'}"
    if found:
        text += f"; sure for {sure} of {counted(len(found), 'client')}"
        text += f", a close call for {enumerated(close, NAMED)}" if close else ""
        text += f", not known yet for {enumerated(grouping.unsure, NAMED)}" if grouping.unsure else ""
    elif len(members) > 1 and grouping.silhouettes:
        text += "; how many groups was a close call" if doubted else "; the number of groups was a clear choice"
    return Groups(
        members=members,
        certainty="close" if close or grouping.unsure or doubted else "sure",
        close=close,
        not_learnt=sorted(grouping.unsure),
        text=f"{text}.",
    )


def _next(run: RunData, verdict: Verdict) -> NextStep:
    """The first that applies of: urgent advice, a missing baseline, a client that loses, other advice, another seed."""
    act, look = ([item for item in verdict.warnings if item.level == level] for level in ("act", "look"))
    config = "fedlease run DIR/config.yaml --set"
    if act:
        first = _first_step(act)
        if act[0].title == NEVER and run.settings.train.class_weights == "none":
            return first.model_copy(update={"command": f"{config} train.class_weights=balanced"})
        return first
    if verdict.gain is None and run.main.name != ALONE:
        baselines = ", ".join([*run.settings.baselines, *([] if ALONE in run.settings.baselines else [ALONE])])
        text = f"See who gains by joining: run the same with the baseline {ALONE}."
        return NextStep(text=text, command=f"{config} 'baselines=[{baselines}]'")
    if costs := verdict.having("costs"):
        text = f"{costs[0]} is better off alone on these rows: use its model of the method {ALONE}."
        return NextStep(
            text=text, command=f"fedlease predict DIR FILE --client {shlex.quote(costs[0])} --method {ALONE}"
        )
    if look:
        return _first_step(look)
    text = "Repeat it on another seed before relying on the differences."
    return NextStep(text=text, command=f"{config} seed={run.settings.seed + 1}")


def _first_step(advice: Collection[Advice]) -> NextStep:
    first = next(iter(advice), None)
    return NextStep(text=f"{first.title}: {first.todo}" if first else "Wait for the run to end.", command="")
