"""Tables for people: the allocation, the results, what a run will cost."""

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Table

from fedlease.core.types import Allocation
from fedlease.core.wording import counted, printable
from fedlease.reporting.means import averaged, common_words, left_out_lines, over, own_over, task_over, with_count
from fedlease.tasks.metric_words import further_means, of_metric

__all__ = [
    "allocation_table",
    "escape",
    "human_bytes",
    "human_seconds",
    "percent",
    "render_onboarding",
    "render_results",
    "results_table",
]


def allocation_table(allocation: Allocation, tasks: Mapping[str, str]) -> Table:
    """Experts with their clients and tasks, and S(k) with the chosen M."""
    scores = ", ".join(
        f"[bold]{k}={s:.3f}[/]" if k == allocation.num_experts else f"{k}={s:.3f}"
        for k, s in allocation.silhouettes.items()
    )
    table = Table(
        title=f"{counted(allocation.num_experts, 'expert')} allocated", caption=f"silhouette by k: {scores or 'none'}"
    )
    table.add_column("expert", justify="right")
    table.add_column("clients")
    table.add_column("their tasks")
    for expert in range(allocation.num_experts):
        members = allocation.members(expert)
        named = [tasks.get(client, "default") for client in members]
        counts = ", ".join(f"{escape(task)} x {named.count(task)}" for task in sorted(set(named)))
        table.add_row(str(expert), escape(", ".join(members)), counts)
    return table


def results_table(summaries: Mapping[str, Mapping[str, Any]]) -> Table:
    """Tasks by methods, on the clients' own test rows."""
    first = next(iter(summaries.values()))
    words = of_metric(first["metric"])
    table = Table(title=f"{words.name} in % on each client's own test rows")
    table.add_column("")
    for method in summaries:
        table.add_column(method, justify="right")
    table.add_column(words.naive, justify="right")
    for task in first["per_task"]:
        rows = [first["per_client"][c]["majority"] for c in averaged(first) if first["per_client"][c]["task"] == task]
        cells = [with_count(percent(s["per_task"].get(task)), task_over(s, task)) for s in summaries.values()]
        table.add_row(escape(task), *cells, percent(sum(rows) / len(rows) if rows else None))
    table.add_section()
    table.add_row(
        "mean over clients",
        *(f"[bold]{percent(summary['mean'])}[/]" for summary in summaries.values()),
        percent(first["majority_mean"]),
    )
    table.add_row("clients in the means", *(over(summary) for summary in summaries.values()), over(first))
    table.add_row("mean by test rows", *(percent(s["weighted_mean"]) for s in summaries.values()), "")
    worst = [s["worst_client"] for s in summaries.values()]
    table.add_row("worst client", *(f"{percent(w[first['metric']])} {escape(w['client'])}" for w in worst), "")
    own = [s.get("own_expert_mean") for s in summaries.values()]
    if any(value is not None for value in own):
        table.add_row("own expert only", *_means(summaries, own, "own_expert_mean"), "")
    table.add_row("untrained", *(percent(s["bare_base_mean"]) for s in summaries.values()), "")
    table.add_section()
    for key, name, values in further_means(list(summaries.values())):
        table.add_row(name, *_means(summaries, values, key), "")
    table.add_section()
    table.add_row("adapters up", *(human_bytes(s["bytes_up"]) for s in summaries.values()), "")
    table.add_row("adapters down", *(human_bytes(s["bytes_down"]) for s in summaries.values()), "")
    for name, key in (("heads up", "head_bytes_up"), ("heads down", "head_bytes_down")):
        if any(summary.get(key) for summary in summaries.values()):
            table.add_row(name, *(human_bytes(summary.get(key) or 0) for summary in summaries.values()), "")
    table.add_row("training time", *(human_seconds(s["seconds"].get("train", 0)) for s in summaries.values()), "")
    return table


def _means(summaries: Mapping[str, Mapping[str, Any]], values: Sequence[float | None], key: str) -> Iterator[str]:
    """Means of one kind, each with what it is over where that is not what the headline is over."""
    for summary, value in zip(summaries.values(), values, strict=True):
        yield percent(value) if value is None else with_count(percent(value), own_over(summary, key))


def render_results(
    out: Path,
    summaries: Mapping[str, Mapping[str, Any]],
    console: Console,
    *,
    models_here: bool = True,
    told: Collection[str] = (),
) -> None:
    """The results, who is missing in them, what they were reached with, and what to type next.

    Args:
        out: run folder.
        summaries: method -> content of its ``summary.json``.
        console: where to.
        models_here: whether the run folder holds every client's model.
        told: warnings of the summaries that have been printed already.
    """
    console.print(results_table(summaries))
    for line in [*left_out_lines(summaries), common_words(summaries)]:
        if line:
            console.print(f"[yellow]note[/] {escape(line)}", soft_wrap=True)
    for method, summary in summaries.items():
        for warning in dict.fromkeys(summary.get("warnings", ())):
            if warning not in told:
                console.print(f"[yellow]note[/] {escape(method)}: {escape(warning)}", soft_wrap=True)
    for line in _footer(out, summaries, models_here):
        console.print(line, soft_wrap=True)


def render_onboarding(content: Mapping[str, Any], console: Console) -> None:
    """Where a newcomer was placed and what it gained.

    Args:
        content: of its ``onboarding.json``.
        console: where to.
    """
    where = Table(title="distance of its warm-up to those of each expert's clients")
    for expert in range(len(content["distances"])):
        where.add_column(f"expert {expert}", justify="right")
    where.add_row(*(f"{'[bold]' if e == content['expert'] else ''}{d:.3f}" for e, d in enumerate(content["distances"])))
    console.print(where)
    margin = "" if content["margin"] is None else f", nearer than the next by {content['margin']:.3f}"
    console.print(f"Client {escape(content['client'])} is placed with expert {content['expert']}{margin}.")
    scores = Table(title=f"{of_metric(content['metric']).name} in % on its {content['test_rows']} test rows")
    scores.add_column("")
    scores.add_column("", justify="right")
    for name, value in content["scores"].items():
        scores.add_row(escape(name), percent(value))
    console.print(scores)
    if content["unlike"]:
        console.print(
            "[yellow]note[/] it is unlike any expert: farther from the nearest than each of that expert's own clients "
            "is from the others. Its own warm-up, or a run with it, may serve it better.",
            soft_wrap=True,
        )


def escape(text: str) -> str:
    """Text of unknown origin, as it can be printed: neither markup nor control sequences take effect."""
    return escape_markup(printable(text))


def human_bytes(count: float) -> str:
    """1,234,567 -> ``1.2 MB``; decimal units."""
    for unit in ("B", "kB", "MB", "GB"):
        digits = 0 if unit == "B" else 1
        if round(abs(count), digits) < 1000:
            return f"{count:.{digits}f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def human_seconds(seconds: float) -> str:
    """75 -> ``1 min 15 s``."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def percent(value: float | None) -> str:
    """0.876 -> ``87.6``."""
    return "-" if value is None else f"{100 * value:.1f}"


def _footer(out: Path, summaries: Mapping[str, Mapping[str, Any]], models_here: bool) -> list[str]:
    first = next(iter(summaries.values()))
    client = next(iter(first["per_client"]))
    lines = []
    if first.get("assignment"):
        tasks = {name: row["task"] for name, row in first["per_client"].items()}
        if len(set(tasks.values())) > 1:
            from sklearn.metrics import adjusted_rand_score

            order = sorted(first["assignment"].keys() & tasks.keys())
            index = adjusted_rand_score([tasks[c] for c in order], [first["assignment"][c] for c in order])
            lines.append(
                f"{counted(first['num_experts'], 'expert')} for {counted(len(set(tasks.values())), 'task')}; "
                f"agreement of the groups with the tasks (adjusted Rand index): {index:.2f}"
            )
    heads = f"heads {first['head']}, " if of_metric(first["metric"]).heads else ""
    passes = counted(first["passes"], "pass", "passes")
    lines.append(f"All methods: {passes} over each client's rows, {heads}seed {first['seed']}.")
    lines.append(f"Run folder: {escape(str(out))}, explained in {escape(str(out / 'report.html'))}")
    if not models_here:
        lines.append("Every client's model is on its own machine, where its node has a state-dir or model-out.")
        return lines
    # Quoted first and escaped then: the other way round, the quoting doubles the escaping's backslashes.
    call = f"fedlease.load({str(out)!r}, {client!r})"
    again = f"fedlease run {shlex.quote(str(out / 'config.yaml'))} --set seed={first['seed'] + 1}"
    lines.append(f"The same on another seed: {escape(again)}")
    lines.append(f'Next: python -c "import fedlease; print({escape(call)})"')
    return lines
