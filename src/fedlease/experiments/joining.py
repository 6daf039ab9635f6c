"""Gains of every client from joining: a comparison's first variant over training alone, for all seeds."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from fedlease.core.intervals import paired_gain
from fedlease.core.wording import counted, listed
from fedlease.experiments.statistics import RowKeys, RowScores, paired_difference
from fedlease.reporting.means import averaged, finals
from fedlease.reporting.run.verdict import ROW_METRIC, SAME
from fedlease.reporting.verdict import NAMED, by_task, joining_words, mean_gain_words
from fedlease.storage.class_scores import never_predicted
from fedlease.storage.summary import Summary
from fedlease.storage.verdict import ClientVerdict, Gain, NextStep, Verdict

__all__ = ["joining", "row_metric"]


def joining(
    name: str,
    first: tuple[Sequence[Summary], Sequence[RowScores]],
    alone: tuple[Sequence[Summary], Sequence[RowScores]] | None,
    rows: Sequence[RowKeys],
    metric: str,
) -> Verdict:
    """The verdict on a comparison.

    A client's gain is over the seeds in which both variants scored it. For one seed it is that of a run
    (:func:`fedlease.core.intervals.paired_gain`). For several seeds, its interval includes that over its rows and that
    of :func:`~.statistics.paired_difference`, which also treats seeds as random.

    Args:
        name: name of the first variant.
        first: its summaries and row scores, one per seed.
        alone: summaries and row scores of ``local`` on the same seeds; None if it is not compared.
        rows: per seed and client, keys that identify rows.
        metric: the metric of row scores.
    """
    own = [averaged(summary) for summary in first[0]]
    others = [averaged(summary) for summary in alone[0]] if alone is not None else [{} for _ in own]
    shared = [found.keys() & other.keys() for found, other in zip(own, others, strict=True)]

    def gain(clients: Sequence[str]) -> Gain:
        assert alone is not None
        seeds = [seed for seed, both in enumerate(shared) if both.issuperset(clients)]
        ours, theirs = ([{c: found[seed][c] for c in clients} for seed in seeds] for found in (first[1], alone[1]))
        keys = [{client: rows[seed][client] for client in clients} for seed in seeds]
        of_rows = paired_gain(*_over_seeds(clients, ours, theirs, keys))
        if len(seeds) == 1:
            return Gain(difference=of_rows.difference, low=of_rows.low, high=of_rows.high, paired=True)
        spread = paired_difference(ours, theirs, keys)
        low, high = min(of_rows.low, spread.low), max(of_rows.high, spread.high)
        return Gain(difference=spread.mean, low=low, high=high, paired=True)

    gains = {client: gain([client]) for client in sorted(set().union(*shared))}
    everywhere = sorted(set.intersection(*map(set, shared)))
    tasks = {client: row.task for summary in first[0] for client, row in summary.per_client.items()}
    missed = _never_predicted(first[0])
    verdict = Verdict(
        alarms=_alarms(missed, len(own)),
        sentences=[],
        against="local" if gains else None,
        metric=metric,
        gain=gain(everywhere) if everywhere else None,
        clients={
            client: ClientVerdict(
                task=task,
                score=_mean([finals(s)[client] for s in first[0] if client in finals(s)]),
                never_predicted=sorted(label for missing, label in missed if missing == client),
                local=_mean([o[client] for o in others if client in o]) if client in gains else None,
                gain=gains.get(client),
                effect=gains[client].effect if client in gains else None,
            )
            for client, task in sorted(tasks.items())
        },
        tasks=by_task({client: tasks[client] for client in gains if client in everywhere}, gains, gain),
        groups=None,
        next_step=_next(len(own), bool(gains)),
        warnings=[],
    )
    return verdict.model_copy(update={"sentences": _sentences(name, verdict, len(own))})


def _over_seeds(
    clients: Sequence[str], ours: Sequence[RowScores], theirs: Sequence[RowScores], rows: Sequence[RowKeys]
) -> tuple[list[list[float]], list[list[float]]]:
    """Per client, the scores of its rows under both variants; a row that occurs in several seeds has its mean."""

    def means(found: Sequence[RowScores], client: str) -> list[float]:
        by_row: dict[Hashable, list[float]] = {}
        for scores, keys in zip(found, rows, strict=True):
            for value, key in zip(scores[client].tolist(), keys[client], strict=True):
                by_row.setdefault(key, []).append(value)
        return [_mean(values) for values in by_row.values()]

    return [means(ours, client) for client in clients], [means(theirs, client) for client in clients]


def row_metric(summaries: Sequence[Summary], rows: Sequence[RowScores]) -> str:
    """The metric of row scores: the headline metric, or accuracy if that is no mean over rows."""
    apart = any(
        abs(float(found[client].mean()) - score) > SAME
        for summary, found in zip(summaries, rows, strict=True)
        for client, score in averaged(summary).items()
    )
    return ROW_METRIC if apart else summaries[0].metric


def _sentences(name: str, verdict: Verdict, seeds: int) -> list[str]:
    if name == "local" or verdict.against is None:
        return []
    of = f" These are means over {counted(seeds, 'seed')}." if seeds > 1 else ""
    return [joining_words(verdict, name), f"{mean_gain_words(verdict)}{of}".strip()]


def _next(seeds: int, known: bool) -> NextStep:
    if not known:
        text = "See who gains by joining: run the same with local among --methods; what is there is not run again."
    elif seeds < 3:
        text = "Add seeds, three at least, before relying on the differences; what is there is not run again."
    else:
        text = "Run the method that you choose with fedlease run, and read the report of that run."
    return NextStep(text=text, command="")


def _never_predicted(summaries: Sequence[Summary]) -> Mapping[tuple[str, str], int]:
    """(client, label) -> number of seeds in which the label is never predicted."""
    return Counter((e.client, e.label) for summary in summaries for e in never_predicted(summary.classes))


def _alarms(missed: Mapping[tuple[str, str], int], seeds: int) -> list[str]:
    found = [
        f"{label!r} of {client}" + (f" (in {count} of {seeds} seeds)" if seeds > 1 else "")
        for (client, label), count in sorted(missed.items())
    ]
    return [f"Never predicted: {listed(found, NAMED)}."] if found else []


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
