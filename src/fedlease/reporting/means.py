"""Over how many of how many clients the means of a ``summary.json`` are, who is missing and why."""

from collections.abc import Mapping
from typing import Any

from fedlease.core.wording import counted, listed

__all__ = [
    "averaged",
    "common_words",
    "left_out",
    "left_out_lines",
    "named",
    "over",
    "own_over",
    "task_means",
    "task_over",
    "with_count",
]

Summary = Mapping[str, Any]

SHOWN = 12
"""Up to so many clients are named with their reasons."""


def left_out(summary: Summary) -> dict[str, str]:
    """Client -> why it is in no mean."""
    return dict(summary.get("left_out") or {})


def averaged(summary: Summary) -> dict[str, float]:
    """Client -> final score, of those that the headline mean is over."""
    missing = left_out(summary)
    return {c: row[summary["metric"]] for c, row in summary["per_client"].items() if c not in missing}


def task_means(summary: Summary, key: str | None = None) -> dict[str, float]:
    """Task -> plain mean over those clients of the final scores, or of another entry of their rows that all have."""
    found: dict[str, list[float]] = {}
    for client, final in averaged(summary).items():
        row = summary["per_client"][client]
        value = final if key is None else row.get(key)
        if value is not None:
            found.setdefault(row["task"], []).append(value)
    return {task: sum(values) / len(values) for task, values in sorted(found.items())}


def over(summary: Summary) -> str:
    """``3 of 4``: how many of the run's clients the headline mean is over."""
    count = len(averaged(summary))
    return f"{count} of {summary.get('num_clients', count)}"


def own_over(summary: Summary, key: str) -> int | None:
    """Clients that another mean is over where these are fewer than those of the headline."""
    count: int | None = (summary.get("means_over") or {}).get(key)
    return None if count is None or count == len(averaged(summary)) else count


def task_over(summary: Summary, task: str) -> tuple[int, int] | None:
    """Clients that a task's mean is over, and all that have the task, where these are more."""
    counts = (summary.get("task_clients") or {}).get(task)
    if counts is None or counts["averaged"] == counts["clients"]:
        return None
    return counts["averaged"], counts["clients"]


def with_count(text: str, counts: tuple[int, int] | int | None) -> str:
    """A mean with what it is over, where that is not what the headline is over."""
    if counts is None:
        return text
    return f"{text} ({counts})" if isinstance(counts, int) else f"{text} ({counts[0]} of {counts[1]})"


def left_out_lines(summaries: Mapping[str, Summary]) -> list[str]:
    """Who is missing in the means of each method and why; methods that miss the same for the same reasons together."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for method, summary in summaries.items():
        groups.setdefault(tuple(sorted(left_out(summary).items())), []).append(method)
    lines = []
    for missing, methods in groups.items():
        if missing:
            whose = "" if len(groups) == 1 else f" of {', '.join(methods)}"
            lines.append(f"Left out of the means{whose}: {named(dict(missing))}.")
    skipped: dict[str, str] = next((s["skipped"] for s in summaries.values() if s.get("skipped")), {})
    if skipped:
        lines.append(f"Skipped, since their rows cannot be used: {named(skipped)}.")
    return lines


def common_words(summaries: Mapping[str, Summary]) -> str:
    """The means of several methods over the clients that all of them scored, where they are over others; or nothing."""
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
    total = max(int(summary.get("num_clients", 0)) for summary in summaries.values())
    return (
        f"The means above are over different clients. Over the {len(common)} of {counted(total, 'client')} that every "
        f"method scored: {means}."
    )


def named(missing: Mapping[str, str]) -> str:
    """``b (no answer); c (no rows)``: clients with their reasons, in order; the rest is counted."""
    shown = [f"{client} ({reason})" for client, reason in sorted(missing.items())]
    return listed(shown, SHOWN, separator="; ")
