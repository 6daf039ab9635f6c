"""What an experiment found, as Markdown: our numbers, and the published ones beside them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fedlease.core.wording import counted
from fedlease.experiments import compare
from fedlease.reporting.means import coverage_over
from fedlease.reporting.tables import human_bytes, human_seconds, percent
from fedlease.tasks.metric_words import of_metric

__all__ = ["markdown"]

ONLY_SIGNS = (
    "The published figures are for RoBERTa-large, more clients and more rows: at this scale compare the order and the "
    "signs of differences, not levels."
)


def markdown(content: Mapping[str, Any]) -> str:
    """The page of an experiment.

    Args:
        content: of ``reproduce.json``.
    """
    lines = [f"# {content['experiment']}, {content['scale']} scale", "", content["asks"], "", content["how"], ""]
    if content["changes"]:
        given = ", ".join(f"`{key}={value}`" for key, value in sorted(content["changes"].items()))
        lines += [f"Set for all: {given}.", ""]
    parts = content["parts"]
    if len(parts) == 1:
        lines += [compare.markdown(parts[0]["comparison"]).rstrip("\n"), ""]
    else:
        lines += [*_combined(content), ""]
    if content["paper"]:
        lines += [*_beside_the_paper(content), ""]
    if content["paper_words"]:
        lines += [content["paper_words"], ""]
    if content["paper"] and content["scale"] != "paper":
        lines += [ONLY_SIGNS, ""]
    for part in parts:
        if "usage" in part:
            lines += [*_usage(part["usage"]), ""]
        if "overhead" in part:
            lines += [*_overhead(part["overhead"], part["comparison"]["variants"]), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _combined(content: Mapping[str, Any]) -> list[str]:
    """All parts in one table; tasks stand in each part's own."""
    parts = content["parts"]
    first = parts[0]["comparison"]
    words = of_metric(first["metric"])
    heads = f", heads {first['head']}" if words.heads else ""
    rows = [
        (
            part["part"],
            coverage_over(part["comparison"]["coverage"]).removeprefix("all ").removesuffix(" clients"),
            f"`{name}`",
            _spread(row["mean"]),
            _gap(part["comparison"]["differences"].get(name)),
            percent(row["worst_client"]["mean"]),
            percent(part["comparison"]["majority_mean"]),
            ", ".join("-" if m is None else str(m) for m in row["num_experts"]),
            human_seconds(float(np.mean(row["seconds"]))),
        )
        for part in parts
        for name, row in part["comparison"]["variants"].items()
    ]
    count = len(content["seeds"])
    seeds = f"{counted(count, 'seed')} ({', '.join(map(str, content['seeds']))})"
    passes = counted(first["passes"], "pass", "passes")
    header = ("part", "clients", "method", "mean", f"{first['first']} is above it by (95 % interval)", "worst client",
              words.naive, "experts", "time")  # fmt: skip
    return [
        f"{words.name} in %, mean over clients on their own test rows, standard deviation over {seeds}; "
        f"{passes}{heads}. Parts are on different rows: compare within them. Each has a folder of its "
        "own, with scores by task.",
        "",
        *_table(header, rows, left=("part", "method")),
    ]


def _beside_the_paper(content: Mapping[str, Any]) -> list[str]:
    """Ours and the published figures, of variants for which there are any."""
    published: Mapping[str, Any] = content["paper"]
    first = content["parts"][0]["comparison"]
    ours = {name: row["mean"]["mean"] for name, row in first["variants"].items()}
    ours = content["means_over_parts"] or ours
    top = first["first"]
    tasks = [] if content["means_over_parts"] else [task for task in _tasks(published) if task in _tasks_of(first)]
    rows = []
    for name in (name for name in ours if name in published):
        row = published[name]
        cells = [
            _two(percent(first["variants"][name]["per_task"][task]["mean"]), row["per_task"].get(task))
            for task in tasks
        ]
        gap = ""
        if name != top and top in published:
            gap = f"{100 * (ours[top] - ours[name]):+.1f} / {published[top]['mean'] - row['mean']:+.2f}"
        rows.append((f"`{name}`", *cells, _two(percent(ours[name]), row["mean"]), gap))
    if not rows:
        return []
    mean = f"mean over {counted(len(content['parts']), 'part')}" if content["means_over_parts"] else "mean"
    header = ("ours / published", *tasks, mean, f"{top} is above it by")
    return _table(header, rows, left=("ours / published",))


def _usage(usage: Mapping[str, Mapping[str, float]]) -> list[str]:
    if not usage:
        return ["Nothing was routed, so there is no expert usage."]
    tasks = [task for task in next(iter(usage.values())) if task != "all"]
    rows: list[Sequence[object]] = [
        (layer, *(f"{row[task]:.2f}" for task in (*tasks, "all"))) for layer, row in usage.items()
    ]
    over = ("mean of layers", *(f"{np.mean([row[t] for row in usage.values()]):.2f}" for t in (*tasks, "all")))
    return ["Experts per token:", "", *_table(("layer", *tasks, "all clients"), [*rows, over], left=("layer",))]


def _overhead(overhead: Mapping[str, Mapping[str, Any]], variants: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            f"`{name}`",
            "-" if row["allocation"] is None else f"{row['allocation']:.3f} s",
            f"{row['local_epoch']:.2f} s",
            human_bytes(float(np.mean(variants[name]["bytes_up"]))),
            human_bytes(float(np.mean(variants[name]["bytes_down"]))),
            f"{variants[name]['trainable_parameters']:,}",
        )
        for name, row in overhead.items()
    ]
    header = ("method", "allocation", "one client's pass", "up", "down", "trained parameters")
    return _table(header, rows, left=("method",))


def _table(header: Sequence[str], rows: Sequence[Sequence[object]], left: Sequence[str]) -> list[str]:
    rule = "| " + " | ".join("---" if name in left else "---:" for name in header) + " |"
    return [f"| {' | '.join(header)} |", rule, *(f"| {' | '.join(map(str, row))} |" for row in rows)]


def _tasks(published: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(task for row in published.values() for task in row["per_task"]))


def _tasks_of(comparison: Mapping[str, Any]) -> list[str]:
    return list(next(iter(comparison["variants"].values()))["per_task"])


def _two(ours: str, published: float | None) -> str:
    return f"{ours} / {'-' if published is None else f'{published:.2f}'}"


def _spread(value: Mapping[str, Any]) -> str:
    return percent(value["mean"]) + ("" if value["deviation"] is None else f" ± {100 * value['deviation']:.1f}")


def _gap(gap: Mapping[str, Any] | None) -> str:
    if gap is None:
        return ""
    mean, low, high = (f"{100 * gap[key]:+.1f}" for key in ("mean", "low", "high"))
    return f"{mean} ({low} to {high})"
