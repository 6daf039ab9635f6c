"""The sentences of a comparison: who is best, what the intervals allow to say, where the first method loses."""

from collections.abc import Sequence

from fedlease.core.wording import counted
from fedlease.reporting.comparison.data import FEWEST_SEEDS, Comparison, Score
from fedlease.reporting.means import coverage_lines, coverage_over
from fedlease.reporting.run.words import HEADS, TIE
from fedlease.reporting.tables import percent

__all__ = ["difference_words", "facts", "points", "reading", "spread", "title"]

LISTED = 6
"""More than these in one sentence are counted only."""
FEW_SEEDS = 5


def title(c: Comparison) -> str:
    """What is held against what."""
    if not c.others:
        return f"{c.first.name} alone"
    if len(c.others) > 3:
        return f"{c.first.name} against {len(c.others)} others"
    return f"{c.first.name} against {_listed([m.name for m in c.others])}"


def facts(c: Comparison) -> list[tuple[str, str]]:
    """What was compared on which terms: names and values."""
    chosen = "chosen for each on validation rows of the first seed" if c.rates else ""
    found = [
        ("Compared", ", ".join(m.name for m in c.methods)),
        ("Held against", c.first.name if c.others else ""),
        ("Metric", f"{c.words.name} in %, plain mean over clients on their own test rows"),
        ("Budget", f"{counted(c.passes, 'pass', 'passes')} over each client's train rows, the same for all"),
        ("Heads", HEADS.get(c.head, c.head) if c.words.heads else ""),
        ("Seeds", f"{len(c.seeds)}: {', '.join(map(str, c.seeds))}"),
        ("Clients", f"means over {coverage_over(c.coverage)}" if c.coverage else ""),
        ("Tasks", ", ".join(c.tasks)),
        (c.words.naive.capitalize(), f"{percent(c.majority)} %"),
        ("Learning rate", chosen),
    ]
    return [(name, value) for name, value in found if value]


def reading(c: Comparison) -> list[str]:
    """The result in plain words, also where it is not the first method's."""
    if not c.others:
        said = [f"{c.first.name} reaches a mean {c.words.name} of {spread(c.first.mean)} %. Nothing else was run."]
    else:
        said = [*_best(c), *_told_apart(c), _behind(c)]
    return [*said, _majority(c), _seeds(c), *coverage_lines(c.coverage)]


def difference_words(c: Comparison) -> str:
    """How the intervals come about and what they do not say."""
    over = "over test rows alone"
    if len(c.seeds) > 1:
        over = f"Student's over the {len(c.seeds)} seeds, and counts what seeds share by having the same test rows"
    of_zero = " Where it holds zero the two cannot be told apart. Of many intervals some leave out zero by chance."
    return (
        f"The difference is paired: {c.first.name} less the other, on the same seeds, clients and test rows. Its 95 % "
        f"interval is {over}.{of_zero if c.enough_seeds else ''}{_pairs(c)}"
    )


def _pairs(c: Comparison) -> str:
    """Over how many clients each difference is, where that is not what the means are over."""
    averaged = tuple(entry["averaged"] for entry in c.coverage)
    others = {name: gap.clients for name, gap in c.gaps.items() if gap.clients not in ((), averaged)}
    if not others:
        return ""
    counts = "; ".join(f"{name} {', '.join(map(str, clients))}" for name, clients in others.items())
    return f" It is over the clients that both scored, in each seed: {counts}."


def spread(score: Score) -> str:
    """Mean and standard deviation in %, the latter where there is one."""
    return percent(score.mean) + ("" if score.deviation is None else f" ± {100 * score.deviation:.1f}")


def points(value: float) -> str:
    """A difference in points, with its sign."""
    # Adding zero makes a plain zero of the negative one.
    return f"{round(100 * value, 1) + 0.0:+.1f}".replace("-", "\N{MINUS SIGN}")


def _best(c: Comparison) -> list[str]:
    """Who has the highest mean, and how the first method stands to the best of the others."""
    top = max(m.mean.mean for m in c.methods)
    best = [m for m in c.methods if m.mean.mean >= top - TIE]
    other = max(c.others, key=lambda m: m.mean.mean)
    gap = c.gaps[other.name]
    if len(best) > 1:
        said = [f"{_listed([m.name for m in best])} share the highest mean {c.words.name}, {percent(top)} %."]
    else:
        said = [f"{best[0].name} has the highest mean {c.words.name}: {spread(best[0].mean)} %."]
    apart = f"{points(gap.mean)} points (95 % interval {points(gap.low)} to {points(gap.high)})"
    if c.first not in best:
        stands = f"{c.first.name} gets {spread(c.first.mean)} %, {apart} against {other.name}."
    elif len(best) == 1:
        stands = f"{other.name} follows with {spread(other.mean)} %; against it {c.first.name} is at {apart}."
    else:
        stands = f"Against {other.name}, {c.first.name} is at {apart}."
    if not c.enough_seeds:
        return [*said, f"{stands} {FEWEST_SEEDS} seeds at least are needed to say whether that is more than chance."]
    if gap.holds_zero:
        return [*said, f"{stands} The interval holds zero: the two cannot be told apart."]
    better = c.first.name if gap.low > 0 else other.name
    return [*said, f"{stands} The interval does not hold zero: {better} is better here."]


def _told_apart(c: Comparison) -> list[str]:
    """Which of several others the first method is told from."""
    if len(c.others) < 2 or not c.enough_seeds:
        return []
    above = [m.name for m in c.others if c.gaps[m.name].low > 0]
    below = [m.name for m in c.others if c.gaps[m.name].high < 0]
    unclear = [m.name for m in c.others if c.gaps[m.name].holds_zero]
    parts = [("is above", above), ("is below", below), ("cannot be told from", unclear)]
    listed = "; ".join(f"{verb} {_listed(names)}" for verb, names in parts if names)
    return [f"By the intervals {c.first.name} {listed}."]


def _behind(c: Comparison) -> str:
    """Where another method is above the first: tasks and the worst client; without intervals, and it says so."""
    lost = []
    for task, own in c.first.tasks.items():
        other = max(c.others, key=lambda m: m.tasks[task].mean)
        if other.tasks[task].mean > own.mean + TIE:
            lost.append(f"{task} ({other.name} {percent(other.tasks[task].mean)}, against {percent(own.mean)} %)")
    worst = max(c.others, key=lambda m: m.worst.mean)
    said = f"No other is above {c.first.name} on any task."
    if lost:
        more = f" and {len(lost) - LISTED} more" if len(lost) > LISTED else ""
        said = (
            f"{c.first.name} is behind on {len(lost)} of {counted(len(c.tasks), 'task')}: {', '.join(lost[:LISTED])}"
            f"{more}. These are plain means, without intervals."
        )
    if worst.worst.mean > c.first.worst.mean + TIE:
        said += f" Its worst client gets {percent(c.first.worst.mean)} %, that of {worst.name} "
        said += f"{percent(worst.worst.mean)} %."
    return said


def _majority(c: Comparison) -> str:
    low = [m.name for m in c.methods if m.mean.mean <= c.majority + TIE]
    said = f"Always {c.words.naively} would get {percent(c.majority)} %"
    return f"{said}; {_listed(low)} {'is' if len(low) == 1 else 'are'} no better than that." if low else f"{said}."


def _seeds(c: Comparison) -> str:
    if len(c.seeds) == 1:
        said = f"There is one seed, {c.seeds[0]}, so that no spread over seeds is known"
        return f"{said}, and intervals speak of this seed's test rows alone." if c.others else f"{said}."
    rough = ": few, so that spread and intervals are rough" if len(c.seeds) < FEW_SEEDS else ""
    return f"± is the standard deviation over {len(c.seeds)} seeds{rough}."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
