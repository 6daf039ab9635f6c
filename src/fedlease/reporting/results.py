"""Prints results of a run and of an onboarding."""

import shlex
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from fedlease.core.wording import COUNTING, counted, expert_name
from fedlease.reporting.formats import escape, print_note, similarity_texts
from fedlease.reporting.means import common_words, left_out_lines, stopped_words
from fedlease.reporting.tables import Cell, Table, alone_words, cost_rows, results_table, score
from fedlease.reporting.verdict import gain_table, step_words, verdict_lines
from fedlease.storage.summary import Summary
from fedlease.tasks.metric_words import of_metric

__all__ = ["agreement", "render_onboarding", "render_results"]

NEVER = "never predicted"
"""Beginning of a summary's warning that the verdict repeats as its alarm."""
CLIENTS_SHOWN = 16
"""Most clients in the table on a terminal; the report has all."""


def render_results(
    out: Path,
    contents: Mapping[str, Mapping[str, Any]],
    console: Console,
    *,
    models_here: bool = True,
    printed: Collection[str] = (),
) -> None:
    """Prints the results, the clients that are left out, the budget, and what to type next.

    Args:
        out: run folder.
        contents: method -> content of its ``summary.json``.
        console: where results are printed.
        models_here: whether the run folder has every client's model.
        printed: warnings of the summaries that were printed before.
    """
    summaries = {method: Summary.model_validate(content) for method, content in contents.items()}
    first = next(iter(summaries.values()))
    _render_verdict(first, console)
    table = results_table(summaries)
    for piece in replace(table, foot=(*table.foot, *cost_rows(summaries))).within(console.width):
        console.print(piece.for_terminal(slim=True))
    for line in [*left_out_lines(summaries), common_words(summaries), *map(stopped_words, summaries.values())]:
        if line:
            print_note(console, line)
    for method, summary in summaries.items():
        for warning in dict.fromkeys(summary.warnings):
            if warning not in printed and not (summary.verdict and warning.startswith(NEVER)):
                print_note(console, f"{method}: {warning}")
    for line in _closing(out, list(summaries.values()), models_here):
        console.print(escape(line), soft_wrap=True)


def _render_verdict(summary: Summary, console: Console) -> None:
    """Prints the verdict on a run, if the summary has one."""
    if summary.verdict is None:
        return
    console.print()
    for line in summary.verdict.alarms:
        console.print(f"[bold white on red] {escape(line)} [/]")
    lead, *others = verdict_lines(summary.verdict)
    console.print(f"[bold]{escape(lead)}[/]")
    for line in others:
        console.print(escape(line))
    table = gain_table(summary.verdict, of_metric(summary.metric, summary.learnt), CLIENTS_SHOWN)
    if table is not None:
        console.print(table.for_terminal(slim=True))


def render_onboarding(content: Mapping[str, Any], console: Console) -> None:
    """Prints the placement and the scores of a newcomer, from the content of its ``onboarding.json``."""
    corrected, unlike = bool(content["similarities"]), content["unlike"]
    if content["expert"] is None:
        console.print(f"Client {escape(content['client'])} has joined as one that comes late, with a copy of its own.")
    else:
        distances, expert = content["distances"], content["expert"]
        texts = similarity_texts(content["similarities"], content["errors"])
        near = zip(texts or [f"{d:.3f}" for d in distances], distances, strict=True)
        cells = tuple(Cell(text, d, best=number == expert) for number, (text, d) in enumerate(near))
        experts = tuple(map(expert_name, range(len(distances))))
        title = "corrected similarity" if corrected else "distance of its warm-up to those of each expert's clients"
        console.print(Table(title, experts, (cells,)).for_terminal())
        why = "" if content["margin"] is None else f", nearer than the next by {content['margin']:.3f}"
        if corrected:
            why = "" if unlike else f", {escape(content['likeness'])}"
        console.print(f"Client {escape(content['client'])} is placed with {expert_name(expert)}{why}.")
        console.print(COUNTING)
    rows = tuple((Cell(alone_words(name)), score(value)) for name, value in content["scores"].items())
    title = f"{of_metric(content['metric']).name} in % on its {content['test_rows']} test rows"
    console.print(Table(title, ("", ""), rows).for_terminal())
    instead = "Its own warm-up, or a run with it, may serve it better."
    if not content["learnt"]:
        reliability = f"reliability {content['reliability']:.2f}"
        print_note(console, f"it has not learnt enough to tell who has its task ({reliability}). {instead}")
    elif unlike:
        far = "farther from the nearest than each of that expert's own clients is from the others"
        print_note(console, f"it is unlike any expert: {'its task is none of theirs' if corrected else far}. {instead}")


def agreement(tasks: Mapping[str, str], assignment: Mapping[str, int]) -> float | None:
    """Adjusted Rand index of groups and tasks over the clients that have both; None if there is one task."""
    if len(set(tasks.values())) < 2:
        return None
    from sklearn.metrics import adjusted_rand_score

    order = sorted(assignment.keys() & tasks.keys())
    return float(adjusted_rand_score([tasks[c] for c in order], [assignment[c] for c in order]))


def _closing(out: Path, every: list[Summary], models_here: bool) -> Iterator[str]:
    first = every[0]
    tasks = {client: row.task for client, row in first.per_client.items()}
    if first.assignment and (index := agreement(tasks, first.assignment)) is not None:
        yield (
            f"{counted(first.num_experts or 1, 'expert')} for {counted(len(set(tasks.values())), 'task')}; "
            f"agreement of the groups with the tasks (adjusted Rand index): {index:.2f}"
        )
    heads = f"heads {first.head}, " if of_metric(first.metric).heads else ""
    least, most = min(s.passes for s in every), max(s.passes for s in every)
    made = counted(most, "pass", "passes") if least == most else f"{least} to {most} passes, by early stopping,"
    yield f"All methods: {made} over each client's rows, {heads}seed {first.seed}."
    yield f"Run folder: {out}, explained in {out / 'report.html'}"
    if not models_here:
        if first.verdict is not None:
            yield step_words(first.verdict.next_step, out)
        yield "Every client's model is on its own machine, where its node has a state-dir or model-out."
        return
    if first.verdict is None:
        again = f"fedlease run {shlex.quote(str(out / 'config.yaml'))} --set seed={first.seed + 1}"
        yield f"The same on another seed: {again}"
    yield f'One model: python -c "import fedlease; print(fedlease.load({str(out)!r}, {next(iter(tasks))!r}))"'
    if first.verdict is not None:
        yield step_words(first.verdict.next_step, out)
