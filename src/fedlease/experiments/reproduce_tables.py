"""Renders an experiment as Markdown, with reproduced figures beside published ones."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from fedlease.core.wording import counted
from fedlease.reporting.comparison.data import Comparison, read_comparison
from fedlease.reporting.comparison.page import markdown as comparison_markdown
from fedlease.reporting.comparison.tables import above, experts
from fedlease.reporting.comparison.words import clients_over
from fedlease.reporting.formats import human_bytes, human_seconds, percent, points
from fedlease.reporting.tables import Cell, Table, number, score

__all__ = ["markdown"]

ONLY_SIGNS = (
    "The published figures are for RoBERTa-large, more clients and more rows: at this scale compare the order and the "
    "signs of differences, not levels."
)


def markdown(content: Mapping[str, Any]) -> str:
    """Renders the page of an experiment from the content of ``reproduce.json``."""
    lines = [f"# {content['experiment']}, {content['scale']} scale", "", content["asks"], "", content["how"], ""]
    if content["changes"]:
        given = ", ".join(f"`{key}={value}`" for key, value in sorted(content["changes"].items()))
        lines += [f"Set for all: {given}.", ""]
    scenarios = {found["part"]: read_comparison(found["comparison"]) for found in content["parts"]}
    if len(scenarios) == 1:
        lines += [comparison_markdown(content["parts"][0]["comparison"])]
    else:
        lines += [*_combined(scenarios), ""]
    if content["paper"]:
        lines += [*_beside_the_paper(content, scenarios), ""]
    if content["paper_words"]:
        lines += [content["paper_words"], ""]
    if content["paper"] and content["scale"] != "paper":
        lines += [ONLY_SIGNS, ""]
    for found, comparison in zip(content["parts"], scenarios.values(), strict=True):
        if "usage" in found:
            lines += [*_usage(found["usage"]), ""]
        if "overhead" in found:
            lines += [*_overhead(found["overhead"], comparison), ""]
    return "\n".join(lines).rstrip("\n") + "\n"


def _combined(scenarios: Mapping[str, Comparison]) -> list[str]:
    """Tabulates all scenarios; scores by task are in the page of each."""
    first = next(iter(scenarios.values()))
    rows = tuple(
        (
            Cell(name),
            Cell(clients_over(c.coverage).removeprefix("all ").removesuffix(" clients")),
            Cell(v.name),
            Cell(str(v.mean), v.mean.mean),
            above(c, v.name),
            score(v.worst_client.mean),
            score(c.majority_mean),
            experts(v.num_experts),
            Cell(human_seconds(fmean(v.seconds)), fmean(v.seconds)),
        )
        for name, c in scenarios.items()
        for v in c.variants
    )
    header = ("scenario", "clients", "method", "mean", f"{first.first.name} is above it by (95 % interval)",
              "worst client", first.words.majority, "experts", "time")  # fmt: skip
    seeds = f"{counted(len(first.seeds), 'seed')} ({', '.join(map(str, first.seeds))})"
    heads = f", heads {first.head}" if first.words.heads else ""
    return [
        f"{first.words.name} in %, mean over clients on their own test rows, standard deviation over {seeds}; "
        f"{counted(first.passes, 'pass', 'passes')}{heads}. Scenarios are on different rows: compare within them. Each "
        "has a folder of its own, with scores by task.",
        "",
        *Table("", header, rows).markdown(),
    ]


def _beside_the_paper(content: Mapping[str, Any], scenarios: Mapping[str, Comparison]) -> list[str]:
    """Tabulates reproduced and published figures, for variants with published ones."""
    published: Mapping[str, Any] = content["paper"]
    first = next(iter(scenarios.values()))
    over_all: Mapping[str, float] = content["means_over_parts"]
    ours = over_all or {v.name: v.mean.mean for v in first.variants}
    known = dict.fromkeys(task for row in published.values() for task in row["per_task"])
    tasks = [] if over_all else [task for task in known if task in first.tasks]
    top = first.first.name
    rows = []
    for v in first.variants:
        if (row := published.get(v.name)) is None:
            continue
        cells = [_two(v.per_task[task].mean, row["per_task"].get(task)) for task in tasks]
        gap = Cell("")
        if v.name != top and top in published:
            gap = Cell(f"{points(ours[top] - ours[v.name])} / {published[top]['mean'] - row['mean']:+.2f}", 0)
        rows.append((Cell(v.name), *cells, _two(ours[v.name], row["mean"]), gap))
    mean = f"mean over {counted(len(scenarios), 'scenario')}" if over_all else "mean"
    header = ("ours / published", *tasks, mean, f"{top} is above it by")
    return Table("", header, tuple(rows)).markdown() if rows else []


def _usage(usage: Mapping[str, Mapping[str, float]]) -> list[str]:
    if not usage:
        return ["Nothing was routed, so there is no expert usage."]
    tasks = [*(task for task in next(iter(usage.values())) if task != "all"), "all"]
    means = {task: fmean(row[task] for row in usage.values()) for task in tasks}
    rows = [(Cell(name), *(Cell(f"{row[task]:.2f}", row[task]) for task in tasks))
            for name, row in {**usage, "mean of layers": means}.items()]  # fmt: skip
    return ["Experts per token:", "", *Table("", ("layer", *tasks[:-1], "all clients"), tuple(rows)).markdown()]


def _overhead(overhead: Mapping[str, Mapping[str, Any]], c: Comparison) -> list[str]:
    def cells(name: str, seconds: Mapping[str, Any]) -> Sequence[Cell]:
        (v,) = (variant for variant in c.variants if variant.name == name)
        took = seconds["allocation"]
        sizes = (Cell(human_bytes(fmean(values)), fmean(values)) for values in (v.bytes_up, v.bytes_down))
        own = Cell(f"{seconds['local_epoch']:.2f} s", 0)
        return Cell("-" if took is None else f"{took:.3f} s", took), own, *sizes, number(v.trainable_parameters)

    header = ("method", "allocation", "one client's pass", "up", "down", "trained parameters")
    rows = tuple((Cell(name), *cells(name, seconds)) for name, seconds in overhead.items())
    return Table("", header, rows).markdown()


def _two(ours: float, published: float | None) -> Cell:
    return Cell(f"{percent(ours)} / {'-' if published is None else f'{published:.2f}'}", ours)
