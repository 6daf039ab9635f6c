"""Sentences of a comparison: which method is best, what the intervals show, and where the first method is worse."""

from fedlease.core.wording import counted, enumerated, listed
from fedlease.reporting.comparison.data import FEWEST_SEEDS, Comparison, Coverage
from fedlease.reporting.formats import percent, points
from fedlease.reporting.means import named
from fedlease.reporting.run.words import HEADS, TIE, span
from fedlease.reporting.verdict import task_lines

__all__ = ["clients_over", "difference_words", "facts", "reading", "title"]

LISTED = 6
"""Most names in one sentence; more are only counted."""
FEW_SEEDS = 5


def title(c: Comparison) -> str:
    """Describes the subject of a comparison."""
    if not c.others:
        return f"{c.first.name} alone"
    if len(c.others) > 3:
        return f"{c.first.name} against {len(c.others)} others"
    return f"{c.first.name} against {enumerated([m.name for m in c.others])}"


def facts(c: Comparison) -> list[tuple[str, str]]:
    """Lists the terms of a comparison: names and values."""
    chosen = "chosen for each on validation rows of the first seed" if c.learning_rates else ""
    found = [
        ("Compared", _compared(c)),
        ("Differences", f"from {c.first.name}" if c.others else ""),
        ("Metric", f"{c.words.name} in %, plain mean over clients on their own test rows"),
        ("Budget", f"{counted(c.passes, 'pass', 'passes')} over each client's train rows, the same for all"),
        ("Heads", HEADS.get(c.head, c.head) if c.words.heads else ""),
        ("Seeds", f"{len(c.seeds)}: {', '.join(map(str, c.seeds))}"),
        ("Clients", f"means over {clients_over(c.coverage)}"),
        ("Tasks", ", ".join(c.tasks)),
        (c.words.majority.capitalize(), f"{percent(c.majority_mean)} %"),
        ("Learning rate", chosen),
    ]
    return [(name, value) for name, value in found if value]


def _compared(c: Comparison) -> str:
    if not c.many:
        return ", ".join(m.name for m in c.variants)
    return "; ".join(
        f"{kind or 'other'}: {', '.join(m.name for m in c.variants if m.kind == kind)}" for kind in c.kinds
    )


def reading(c: Comparison) -> list[str]:
    """The result in plain words, whichever method is best."""
    if not c.others:
        text = [f"{c.first.name} reaches a mean {c.words.name} of {c.first.mean} %. Nothing else was run."]
    else:
        text = [*_best(c), *_joined(c), *_distinguished(c), _behind(c)]
    return [*text, _majority(c), _seeds(c), *_missing(c), *_failed(c)]


def _failed(c: Comparison) -> list[str]:
    """Names the variants that are not compared."""
    if not c.failed:
        return []
    verb = "fails and is" if len(c.failed) == 1 else "fail and are"
    return [f"{enumerated([*c.failed])} {verb} not compared; the reasons stand by the scores."]


def _joined(c: Comparison) -> list[str]:
    """Says for how many clients the first method is better than training alone, and for whom it is worse."""
    return [*c.verdict.sentences, *task_lines(c.verdict)] if c.verdict else []


def clients_over(coverage: tuple[Coverage, ...]) -> str:
    """The number of clients in the means, such as ``3 to 4 of 4 clients``."""
    counts, totals = [entry.averaged for entry in coverage], [entry.clients for entry in coverage]
    clients = f"{span(totals)} client{'' if max(totals) == 1 else 's'}"
    if counts == totals:
        return "the one client" if max(totals) == 1 else f"all {clients}"
    return f"{span(counts)} of {clients}"


def difference_words(c: Comparison) -> str:
    """Explains how the intervals are computed and what they do not show."""
    over = "over test rows alone"
    if len(c.seeds) > 1:
        over = f"Student's over the {len(c.seeds)} seeds, and counts what seeds share by having the same test rows"
    of_zero = " Where it holds zero the two cannot be told apart. Of many intervals some leave out zero by chance."
    return (
        f"The difference is paired: {c.first.name} less the other, on the same seeds, clients and test rows. Its 95 % "
        f"interval is {over}.{of_zero if c.enough_seeds else ''}{_pairs(c)}"
    )


def _pairs(c: Comparison) -> str:
    """The number of clients in each difference, if it is not that of the means."""
    averaged = tuple(entry.averaged for entry in c.coverage)
    others = {name: gap.clients for name, gap in c.differences.items() if gap.clients != averaged}
    if not others:
        return ""
    counts = "; ".join(f"{name} {', '.join(map(str, clients))}" for name, clients in others.items())
    return f" It is over the clients that both scored, in each seed: {counts}."


def _missing(c: Comparison) -> list[str]:
    """Names the clients that are left out of means with the reasons, in one sentence per seed."""
    return [
        f"In seed {entry.seed} the means are over {entry.averaged} of {counted(entry.clients, 'client')}, without "
        f"{named(entry.left_out)}."
        for entry in c.coverage
        if entry.left_out
    ]


def _best(c: Comparison) -> list[str]:
    """Names the highest mean, and compares the first method with the best of the others."""
    top = max(m.mean.mean for m in c.variants)
    best = [m for m in c.variants if m.mean.mean >= top - TIE]
    other = max(c.others, key=lambda m: m.mean.mean)
    gap = c.differences[other.name]
    if len(best) > 1:
        text = [f"{enumerated([m.name for m in best])} share the highest mean {c.words.name}, {percent(top)} %."]
    else:
        text = [f"{best[0].name} has the highest mean {c.words.name}: {best[0].mean} %."]
    apart = f"{points(gap.mean)} points (95 % interval {points(gap.low)} to {points(gap.high)})"
    if c.first not in best:
        stands = f"{c.first.name} gets {c.first.mean} %, {apart} against {other.name}."
    elif len(best) == 1:
        stands = f"{other.name} follows with {other.mean} %; against it {c.first.name} is at {apart}."
    else:
        stands = f"Against {other.name}, {c.first.name} is at {apart}."
    if not c.enough_seeds:
        verdict = f"{FEWEST_SEEDS} seeds at least are needed to say whether that is more than chance."
    elif gap.holds_zero:
        verdict = "The interval holds zero: the two cannot be told apart."
    else:
        verdict = f"The interval does not hold zero: {c.first.name if gap.low > 0 else other.name} is better here."
    return [*text, f"{stands} {verdict}"]


def _distinguished(c: Comparison) -> list[str]:
    """Says which of several others the first is above, below, or cannot be told apart from."""
    if len(c.others) < 2 or not c.enough_seeds:
        return []
    above = [m.name for m in c.others if c.differences[m.name].low > 0]
    below = [m.name for m in c.others if c.differences[m.name].high < 0]
    unclear = [m.name for m in c.others if c.differences[m.name].holds_zero]
    found = {"is above": above, "is below": below, "cannot be told from": unclear}
    text = "; ".join(f"{verb} {_few(c, names)}" for verb, names in found.items() if names)
    return [f"By the intervals {c.first.name} {text}."]


def _few(c: Comparison, names: list[str]) -> str:
    """The names, or their number if there are more than :data:`LISTED`."""
    return enumerated(names) if len(names) <= LISTED else f"{len(names)} of the {len(c.others)} others"


def _behind(c: Comparison) -> str:
    """Names the tasks on which another method has a higher mean than the first, and compares worst clients."""
    lost = []
    for task, own in c.first.per_task.items():
        other = max(c.others, key=lambda m: m.per_task[task].mean)
        if other.per_task[task].mean > own.mean + TIE:
            lost.append(f"{task} ({other.name} {percent(other.per_task[task].mean)}, against {percent(own.mean)} %)")
    worst = max(c.others, key=lambda m: m.worst_client.mean)
    text = f"No other is above {c.first.name} on any task."
    if lost:
        text = (
            f"{c.first.name} is behind on {len(lost)} of {counted(len(c.tasks), 'task')}: {listed(lost, LISTED)}"
            ". These are plain means, without intervals."
        )
    if worst.worst_client.mean > c.first.worst_client.mean + TIE:
        text += f" Its worst client gets {percent(c.first.worst_client.mean)} %, that of {worst.name} "
        text += f"{percent(worst.worst_client.mean)} %."
    return text


def _majority(c: Comparison) -> str:
    low = [m.name for m in c.variants if m.mean.mean <= c.majority_mean + TIE]
    text = f"Always {c.words.majority_rule} would get {percent(c.majority_mean)} %"
    return f"{text}; {enumerated(low)} {'is' if len(low) == 1 else 'are'} no better than that." if low else f"{text}."


def _seeds(c: Comparison) -> str:
    if len(c.seeds) == 1:
        text = f"There is one seed, {c.seeds[0]}, so that no spread over seeds is known"
        return f"{text}, and intervals speak of this seed's test rows alone." if c.others else f"{text}."
    rough = ": few, so that spread and intervals are rough" if len(c.seeds) < FEW_SEEDS else ""
    return f"± is the standard deviation over {len(c.seeds)} seeds{rough}."
