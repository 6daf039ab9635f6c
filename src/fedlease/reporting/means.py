"""Means of a summary: their values, the clients that they include, and why others are left out."""

from collections.abc import Mapping

from fedlease.core.wording import counted, listed
from fedlease.storage.summary import Summary

__all__ = [
    "averaged",
    "common_words",
    "finals",
    "left_out_lines",
    "named",
    "over",
    "own_over",
    "stopped_words",
    "task_means",
    "task_over",
    "with_count",
]

SHOWN = 12
"""Most clients that are named with their reasons; more are counted."""


def finals(summary: Summary) -> dict[str, float]:
    """Client -> final score, of all clients that were scored."""
    found = {client: (row.model_extra or {}).get(summary.metric) for client, row in summary.per_client.items()}
    return {client: float(score) for client, score in found.items() if score is not None}


def averaged(summary: Summary) -> dict[str, float]:
    """Client -> final score, of the clients in the headline mean."""
    return {client: score for client, score in finals(summary).items() if client not in summary.left_out}


def task_means(summary: Summary, key: str | None = None) -> dict[str, float]:
    """Task -> plain mean over the clients in the headline mean, of final scores or of another ``key`` of their rows."""
    found: dict[str, list[float]] = {}
    for client, final in averaged(summary).items():
        row = summary.per_client[client]
        value = final if key is None else getattr(row, key)
        if value is not None:
            found.setdefault(row.task, []).append(value)
    return {task: sum(values) / len(values) for task, values in sorted(found.items())}


def over(summary: Summary) -> str:
    """The number of the run's clients in the headline mean, such as ``3 of 4``."""
    count = len(averaged(summary))
    return f"{count} of {count if summary.num_clients is None else summary.num_clients}"


def stopped_words(summary: Summary) -> str:
    """Names the round that early stopping chose; empty without early stopping."""
    found = summary.early_stopping
    if found is None:
        return ""
    value = f"{100 * found.value:.1f} %" if found.metric == "score" else f"{found.value:.3f}"
    kept = f"round {found.best_round}" if found.best_round else "the warm-up"
    made = (
        f"stopped after round {found.rounds} of {found.planned}" if found.rounds < found.planned else "made all rounds"
    )
    return f"{summary.method} {made} and kept {kept}, whose {found.metric} on validation rows is {value}"


def own_over(summary: Summary, key: str) -> int | None:
    """The number of clients in the mean ``key``; None if it is that of the headline mean."""
    count = summary.means_over.get(key)
    return None if count == len(averaged(summary)) else count


def task_over(summary: Summary, task: str) -> tuple[int, int] | None:
    """The numbers of clients in a task's mean and of all clients of the task; None if they are equal."""
    counts = summary.task_clients.get(task)
    return None if counts is None or counts.averaged == counts.clients else (counts.averaged, counts.clients)


def with_count(text: str, counts: tuple[int, int] | int | None) -> str:
    """The text of a mean, followed by its number of clients unless ``counts`` is None."""
    if counts is None:
        return text
    return f"{text} ({counts})" if isinstance(counts, int) else f"{text} ({counts[0]} of {counts[1]})"


def left_out_lines(summaries: Mapping[str, Summary]) -> list[str]:
    """Names the clients that are left out of each method's means with the reasons; methods may share a line."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for method, summary in summaries.items():
        groups.setdefault(tuple(sorted(summary.left_out.items())), []).append(method)
    lines = []
    for missing, methods in groups.items():
        if missing:
            whose = "" if len(groups) == 1 else f" of {', '.join(methods)}"
            lines.append(f"Left out of the means{whose}: {named(dict(missing))}.")
    skipped = next((s.skipped for s in summaries.values() if s.skipped), {})
    if skipped:
        lines.append(f"Skipped, since their rows cannot be used: {named(skipped)}.")
    return lines


def common_words(summaries: Mapping[str, Summary]) -> str:
    """A sentence with means over the clients that all methods scored; empty if the methods' own means are these."""
    scores = {method: averaged(summary) for method, summary in summaries.items()}
    common = set.intersection(*(set(found) for found in scores.values()))
    if all(found.keys() == common for found in scores.values()):
        return ""
    if not common:
        return "The means of the methods are over different clients, and no client is in all of them."
    means = ", ".join(
        f"{method} {100 * sum(found[client] for client in sorted(common)) / len(common):.1f}"
        for method, found in scores.items()
    )
    total = max(summary.num_clients or len(summary.per_client) for summary in summaries.values())
    return (
        f"The means above are over different clients. Over the {len(common)} of {counted(total, 'client')} that every "
        f"method scored: {means}."
    )


def named(missing: Mapping[str, str]) -> str:
    """Clients with their reasons, in order, such as ``b (no answer); c (no rows)``."""
    shown = [f"{client} ({reason})" for client, reason in sorted(missing.items())]
    return listed(shown, SHOWN, separator="; ")
