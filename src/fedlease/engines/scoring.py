"""The final scores of a method, by the evaluation contract: every client, own test rows, personalised model."""

from collections.abc import Mapping, Sequence
from typing import Any

from fedlease.core.types import ClientId, ClientModel
from fedlease.engines.in_process import Engine, allocation_of, fields_of
from fedlease.methods.base import Method
from fedlease.peft_plugin.usage import record_usage
from fedlease.tasks.base import Measured

__all__ = ["summarise"]

NOT_AVERAGED = {"loss"}
"""Metrics that stay with the client: losses of unlike tasks have no common scale."""


def summarise(
    engine: Engine, name: str, method: Method, state: Any, initial: Mapping[ClientId, ClientModel]
) -> dict[str, Any]:
    """The content of ``summary.json``, less what only the run knows (head policy, seed).

    Args:
        engine: that ran the method.
        name: of the method.
        method: with its head policy.
        state: its last.
        initial: client -> untrained adapter and head, for the bare base's score.
    """
    # Before the loop: scoring the bare base between mixtures would rebuild the adapter for every client.
    bare = {client: _bare_base(engine, client, initial[client]) for client in sorted(engine.clients)}
    task, metric = engine.resident.task, engine.resident.task.metric
    per_client: dict[ClientId, dict[str, Any]] = {}
    own_only: dict[ClientId, float] = {}
    usage: dict[ClientId, Any] = {}
    row_scores: dict[ClientId, str | list[float]] = {}
    samples: dict[ClientId, list[dict[str, str]]] = {}
    others: set[str] = set()
    for client in sorted(engine.clients):
        data, test = engine.clients[client].data, engine.clients[client].test
        model = method.model(state, client)
        choice = engine.load(model, client)
        with record_usage(engine.resident.model) as used:
            measured = engine.measure(client)
        row_scores[client] = _compact(measured.per_row)
        if measured.answers:
            samples[client] = task.samples(data.test, measured.answers, bare[client].answers)
        others |= measured.metrics.keys() - {metric} - NOT_AVERAGED
        per_client[client] = {
            **measured.metrics,
            "num_test": len(test),
            "task": data.task,
            "majority": task.naive(data.train, data.test),
            "bare_base": bare[client].metrics[metric],
        }
        if choice is not None:
            per_client[client]["choice"] = choice
        if model.spec.num_experts > 1:
            usage[client] = used.summary()
            engine.resident.restrict((model.spec.own,))
            own_only[client] = engine.measure(client).metrics[metric]
            engine.resident.restrict(None)
            per_client[client]["own_expert"] = own_only[client]
    allocation = allocation_of(state)
    scores = {client: row[metric] for client, row in per_client.items()}
    tasks = sorted({row["task"] for row in per_client.values()})
    rows = sum(row["num_test"] for row in per_client.values())
    worst = min(sorted(scores), key=lambda client: scores[client])
    return {
        "method": name,
        "num_clients": len(per_client),
        "num_experts": allocation.num_experts if allocation else None,
        # The state's, not the allocation's: it knows clients that came late.
        "assignment": dict(fields_of(state).get("assignment", {})),
        "silhouettes": {str(k): s for k, s in allocation.silhouettes.items()} if allocation else {},
        "warnings": [*(allocation.warnings if allocation else ()), *fields_of(state).get("warnings", ())],
        "metric": metric,
        "per_client": per_client,
        "per_task": {task: _mean([scores[c] for c in scores if per_client[c]["task"] == task]) for task in tasks},
        "mean": _mean(list(scores.values())),
        "weighted_mean": sum(scores[c] * per_client[c]["num_test"] for c in scores) / rows,
        "worst_client": {"client": worst, metric: scores[worst]},
        # A client that a metric does not apply to is without it.
        **{f"mean_{m}": _mean([row[m] for row in per_client.values() if m in row]) for m in sorted(others)},
        "own_expert_mean": _mean(list(own_only.values())) if own_only else None,
        "majority_mean": _mean([row["majority"] for row in per_client.values()]),
        "bare_base_mean": _mean([row["bare_base"] for row in per_client.values()]),
        "expert_usage": usage,
        "row_scores": row_scores,
        "samples": samples,
        "passes": method.budget.passes,
        "trainable_parameters": int(engine.totals.get("trainable", 0)),
        **{k: int(engine.totals.get(k, 0)) for k in ("bytes_up", "bytes_down", "head_bytes_up", "head_bytes_down")},
        "seconds": {
            key.removeprefix("seconds_"): round(value, 2)
            for key, value in engine.totals.items()
            if key.startswith("seconds_")
        },
    }


def _compact(values: Sequence[float]) -> str | list[float]:
    """One character per row where every row is right or wrong, else numbers."""
    if all(value in (0.0, 1.0) for value in values):
        return "".join("01"[int(value)] for value in values)
    return [round(value, 6) for value in values]


def _bare_base(engine: Engine, client: ClientId, model: ClientModel) -> Measured:
    """The untrained model's scores; the same for every method of a run, so they are computed once."""
    if client not in engine.cache.bare:
        engine.resident.load(model, len(engine.clients[client].data.labels))
        engine.cache.bare[client] = engine.measure(client)
    return engine.cache.bare[client]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
