"""Compares over common clients: means over clients that all methods scored, gaps over clients that both scored."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from fedlease.errors import RunFolderError
from fedlease.experiments.statistics import RowKeys, RowScores, paired_difference
from fedlease.reporting.means import averaged, finals
from fedlease.storage.summary import Summary

__all__ = ["common", "coverage", "gap", "over_clients"]


def common(summaries: Mapping[str, Sequence[Summary]], seeds: Sequence[int]) -> list[list[str]]:
    """Per seed, the clients that are in the mean of every variant, sorted.

    Raises:
        RunFolderError: a seed has no such client.
    """
    found = []
    for seed, of_seed in zip(seeds, zip(*summaries.values(), strict=True), strict=True):
        clients = sorted(set.intersection(*(set(averaged(summary)) for summary in of_seed)))
        if not clients:
            raise RunFolderError(
                f"seed {seed}: no client was scored by all of {', '.join(summaries)}, so that they cannot be compared"
            )
        found.append(clients)
    return found


def over_clients(summary: Summary, clients: Sequence[str]) -> dict[str, Any]:
    """The means of a summary, by its keys, over some of its clients only.

    Raises:
        RunFolderError: one of them has no majority baseline.
    """
    scores, rows = finals(summary), {client: summary.per_client[client] for client in clients}
    majority = [row.majority for row in rows.values() if row.majority is not None]
    if len(majority) < len(rows):
        lacking = ", ".join(client for client, row in sorted(rows.items()) if row.majority is None)
        raise RunFolderError(
            f"summary.json of {summary.method} is damaged: it has a score and no majority of {lacking}"
        )
    tasks = sorted({row.task for row in rows.values()})
    own = [row.own_expert for row in rows.values() if row.own_expert is not None]
    tested = sum(row.num_test for row in rows.values())
    return {
        "mean": _mean([scores[client] for client in clients]),
        "weighted_mean": sum(scores[client] * row.num_test for client, row in rows.items()) / tested,
        "worst_client": min(scores[client] for client in clients),
        "per_task": {task: _mean([scores[c] for c, row in rows.items() if row.task == task]) for task in tasks},
        "own_expert_mean": _mean(own) if own else None,
        "majority_mean": _mean(majority),
    }


def coverage(
    summaries: Mapping[str, Sequence[Summary]], seeds: Sequence[int], clients: Sequence[Sequence[str]]
) -> list[dict[str, Any]]:
    """Per seed, the number of clients in the means, the number of all clients, and why others are left out."""
    found = []
    for number, (seed, shared) in enumerate(zip(seeds, clients, strict=True)):
        of_seed = {name: own[number] for name, own in summaries.items()}
        reasons: dict[str, dict[str, str]] = {}
        for name, summary in of_seed.items():
            for client, reason in summary.left_out.items():
                reasons.setdefault(client, {})[name] = reason
        found.append(
            {
                "seed": seed,
                "averaged": len(shared),
                "clients": max(summary.num_clients or len(summary.per_client) for summary in of_seed.values()),
                "left_out": {client: _shared_reason(why, len(of_seed)) for client, why in sorted(reasons.items())},
            }
        )
    return found


def gap(
    first: tuple[Sequence[Summary], Sequence[RowScores]],
    other: tuple[Sequence[Summary], Sequence[RowScores]],
    rows: Sequence[RowKeys],
) -> dict[str, Any]:
    """How much one variant is above another over the clients that both scored, with an interval.

    Args:
        first: its summaries and row scores, one per seed.
        other: summaries and row scores of the other variant, on the same seeds.
        rows: per seed and client, keys that identify rows.

    Returns:
        The fields of :class:`~fedlease.experiments.statistics.Difference`, and ``clients``, their number per seed.
    """
    both = [sorted(averaged(one).keys() & averaged(two).keys()) for one, two in zip(first[0], other[0], strict=True)]

    def of_both(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [{c: scores[c] for c in clients} for scores, clients in zip(found, both, strict=True)]

    difference = paired_difference(of_both(first[1]), of_both(other[1]), of_both(rows))
    return {**asdict(difference), "clients": [len(clients) for clients in both]}


def _shared_reason(reasons: Mapping[str, str], variants: int) -> str:
    """The reason, if all variants have the same, otherwise the reason of each variant."""
    if len(reasons) == variants and len({*reasons.values()}) == 1:
        return next(iter(reasons.values()))
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def _mean(values: Sequence[float]) -> float:
    # The same order and arithmetic as in a run's own means, so that means over the same clients are equal.
    return sum(values) / len(values)
