"""The summary of a method from its final scores, each of a client's personalised model on its own test rows."""

from collections.abc import Mapping
from typing import Any

from fedlease.client.messages import FinalScores
from fedlease.core.types import ClientId
from fedlease.data.federation import NO_TEST_ROWS, why_nothing
from fedlease.errors import RunFailedError
from fedlease.methods.base import State, rounds_for_warmup
from fedlease.methods.head import WithHead
from fedlease.server.loop import RoundLoop
from fedlease.server.transport import COUNTED
from fedlease.storage.class_scores import ClassScores, never_predicted_note
from fedlease.storage.saved import Best
from fedlease.storage.summary import ClientScores, Stopped, Summary, TaskClients, WorstClient
from fedlease.tasks.base import Task

__all__ = ["summarise"]


def summarise(
    loop: RoundLoop,
    method: WithHead,
    state: State,
    learnt: str,
    task: Task,
    found: Mapping[ClientId, FinalScores],
    skipped: Mapping[ClientId, str],
) -> Summary:
    """Summarises the result of a method.

    Args:
        loop: of the method, at its end.
        method: with its head policy.
        state: the last state.
        learnt: name of the task in the settings.
        task: the task that clients learn.
        found: client -> final scores.
        skipped: client -> the reason why it takes no part in the run.

    Raises:
        RunFailedError: no client has scores that can be averaged.
    """
    name, totals, metric = loop.name, loop.totals, task.metric
    known = {**task.metrics, **task.extra_metrics}
    tasks = {client: card.task for client, card in loop.cards.items()}
    clients = sorted({*found, *loop.unscored})
    left_out = {client: reason for client in clients if (reason := _left_out(client, loop, found))}
    per_client = {client: row.row(tasks[client]) for client, row in sorted(found.items()) if row.num_test}
    averaged = {client: row for client, row in per_client.items() if client not in left_out}
    everyone = per_client.keys() | left_out.keys()
    if not averaged:
        reasons = "; ".join(f"{client}: {reason}" for client, reason in sorted(left_out.items()))
        raise RunFailedError(f"{name}: no client could be scored at the end. {reasons}")
    others = {name for measured in found.values() for name in measured.metrics if known[name].averaged} - {metric}
    classes = {
        client: ClassScores.of(row.confusion, loop.cards[client].labels)
        for client, row in sorted(found.items())
        if row.confusion
    }
    allocation = state.allocation
    scores = {client: row[metric] for client, row in averaged.items()}
    names = sorted({row["task"] for row in averaged.values()})
    rows = sum(row["num_test"] for row in averaged.values())
    worst = min(sorted(scores), key=lambda client: scores[client])
    # A client is left out of the mean of a metric that does not apply to it.
    values = {
        "mean": list(scores.values()),
        **{f"mean_{m}": [row[m] for row in averaged.values() if m in row] for m in sorted(others)},
        **{
            f"{key}_mean": [row[key] for row in averaged.values() if key in row]
            for key in ("own_expert", "majority", "bare_base")
        },
    }
    warnings = [
        *filter(None, [never_predicted_note(classes)]),
        *(allocation.warnings if allocation else ()),
        *state.notes,
        *(f"client {client!r}: {note}" for client, row in sorted(found.items()) for note in row.notes),
        *(
            f"client {client!r} is not scored at the end: {reason}"
            for client, reason in sorted(left_out.items())
            if client not in found
        ),
    ]
    means: dict[str, Any] = {key: _mean(listed) if listed else None for key, listed in values.items()}
    means |= {key: int(totals.get(key, 0)) for key in COUNTED}
    if loop.best is not None:
        means["early_stopping"] = _stopped(method, loop.best, loop.stopping.metric)
    return Summary(
        method=name,
        seed=loop.seed,
        head=method.policy,
        num_clients=len(everyone),
        averaged=len(averaged),
        left_out=left_out,
        skipped=dict(sorted(skipped.items())),
        num_experts=allocation.num_experts if allocation else None,
        # Unlike the allocation, the state's assignment has late clients.
        assignment=dict(state.assignment),
        silhouettes={str(k): s for k, s in allocation.silhouettes.items()} if allocation else {},
        warnings=warnings,
        metric=metric,
        learnt=learnt,
        per_client={client: ClientScores(**row) for client, row in per_client.items()},
        classes=classes,
        per_task={task: _mean([scores[c] for c in scores if averaged[c]["task"] == task]) for task in names},
        task_clients={
            task: TaskClients(
                averaged=sum(row["task"] == task for row in averaged.values()),
                clients=sum(tasks[client] == task for client in everyone),
            )
            for task in sorted({tasks[client] for client in everyone})
        },
        weighted_mean=sum(scores[c] * averaged[c]["num_test"] for c in scores) / rows,
        worst_client=WorstClient(client=worst, **{metric: scores[worst]}),
        **means,
        means_over={"weighted_mean": len(averaged), **{key: len(listed) for key, listed in values.items()}},
        expert_usage={client: dict(row.usage) for client, row in sorted(found.items()) if row.usage is not None},
        passes=_passes(method, state, loop.best),
        trainable_parameters=int(totals.get("trainable", 0)),
        seconds={
            key.removeprefix("seconds_"): round(value, 2) for key, value in totals.items() if key.startswith("seconds_")
        },
    )


def _passes(method: WithHead, state: State, best: Best | None) -> int:
    """Number of passes over a client's rows by which the final models were trained."""
    budget = method.budget
    if best is None:
        return budget.passes
    if rounds_for_warmup(method):
        return budget.passes_before(state.round)
    return budget.warmup_epochs + (state.round - 1) * budget.local_epochs


def _stopped(method: WithHead, best: Best, metric: str) -> Stopped:
    made = best.round + best.waited
    return Stopped(metric=metric, value=best.value, best_round=best.round, rounds=made, planned=method.last_round)


def _left_out(client: ClientId, loop: RoundLoop, found: Mapping[ClientId, FinalScores]) -> str:
    """The reason why a client is left out of all means of final scores; empty if it is not."""
    if why := why_nothing(loop.cards[client]):
        return why
    if client not in found:
        return f"it did not answer at the end: {loop.unscored[client]}"
    return "" if found[client].num_test else NO_TEST_ROWS


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
