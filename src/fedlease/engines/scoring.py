"""The final scores of a method, by the evaluation contract: every client, own test rows, personalised model."""

from collections.abc import Mapping
from typing import Any

from fedlease.core.types import ClientId
from fedlease.engines.client_work import FinalScores
from fedlease.engines.rounds import allocation_of, fields_of
from fedlease.methods.base import Method

__all__ = ["summarise"]

NOT_AVERAGED = {"loss"}
"""Metrics that stay with the client: losses of unlike tasks have no common scale."""


def summarise(
    name: str,
    method: Method,
    state: Any,
    metric: str,
    tasks: Mapping[ClientId, str],
    found: Mapping[ClientId, FinalScores],
    totals: Mapping[str, float],
) -> dict[str, Any]:
    """The content of ``summary.json``, less what only the run knows (head policy, seed).

    Args:
        name: of the method.
        method: with its head policy.
        state: its last.
        metric: the headline.
        tasks: client -> what its rows are about.
        found: client -> final scores, of at least one.
        totals: bytes and seconds.
    """
    per_client = {client: measured.row(tasks[client]) for client, measured in sorted(found.items())}
    others = {name for measured in found.values() for name in measured.metrics} - {metric} - NOT_AVERAGED
    own_only = [row["own_expert"] for row in per_client.values() if "own_expert" in row]
    allocation = allocation_of(state)
    scores = {client: row[metric] for client, row in per_client.items()}
    names = sorted({row["task"] for row in per_client.values()})
    rows = sum(row["num_test"] for row in per_client.values())
    worst = min(sorted(scores), key=lambda client: scores[client])
    return {
        "method": name,
        "num_clients": len(per_client),
        "num_experts": allocation.num_experts if allocation else None,
        # The state's, not the allocation's: it knows clients that came late.
        "assignment": dict(fields_of(state).get("assignment", {})),
        "silhouettes": {str(k): s for k, s in allocation.silhouettes.items()} if allocation else {},
        "warnings": [
            *(allocation.warnings if allocation else ()),
            *fields_of(state).get("warnings", ()),
            *(f"client {client!r}: {note}" for client, row in sorted(found.items()) for note in row.notes),
        ],
        "metric": metric,
        "per_client": per_client,
        "per_task": {task: _mean([scores[c] for c in scores if per_client[c]["task"] == task]) for task in names},
        "mean": _mean(list(scores.values())),
        "weighted_mean": sum(scores[c] * per_client[c]["num_test"] for c in scores) / rows,
        "worst_client": {"client": worst, metric: scores[worst]},
        # A client that a metric does not apply to is without it.
        **{f"mean_{m}": _mean([row[m] for row in per_client.values() if m in row]) for m in sorted(others)},
        "own_expert_mean": _mean(own_only) if own_only else None,
        "majority_mean": _mean([row["majority"] for row in per_client.values()]),
        "bare_base_mean": _mean([row["bare_base"] for row in per_client.values()]),
        "expert_usage": {client: row.usage for client, row in sorted(found.items()) if row.usage is not None},
        "row_scores": {client: row.row_scores for client, row in sorted(found.items())},
        "samples": {client: list(row.samples) for client, row in sorted(found.items()) if row.samples},
        "passes": method.budget.passes,
        "trainable_parameters": int(totals.get("trainable", 0)),
        **{k: int(totals.get(k, 0)) for k in ("bytes_up", "bytes_down", "head_bytes_up", "head_bytes_down")},
        "seconds": {
            key.removeprefix("seconds_"): round(value, 2) for key, value in totals.items() if key.startswith("seconds_")
        },
    }


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
