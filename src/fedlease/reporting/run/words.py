"""Sentences of a report: the terms of the run, its result, and how to read its figures."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import PurePath

from fedlease.core.wording import counted
from fedlease.reporting.formats import human_seconds, percent
from fedlease.reporting.means import averaged, left_out_lines, stopped_words
from fedlease.reporting.results import agreement
from fedlease.reporting.run.data import ALONE, MethodRun, RunData, mean
from fedlease.storage.summary import Summary
from fedlease.tasks.metric_words import of_metric

__all__ = [
    "HEADS",
    "TIE",
    "allocation_words",
    "dip_words",
    "facts",
    "headline",
    "result_sentence",
    "score_words",
    "span",
    "time_words",
]

DIP = 0.02
"""Smallest fall of a mean score from one round to the next that is explained."""
TIE = 0.0005
"""Difference of scores below which they are equal when printed."""
HEADS = {
    "local": "local: trained and kept by each client",
    "shared": "shared: averaged within each group",
    "frozen": "frozen: left at their random start",
}
DECAY = {"constant": "", "linear": ", which falls to 0 within every local task"}


def headline(run: RunData) -> list[str]:
    """The result and how it compares with the baselines, also if a baseline is better."""
    main, summary = run.main, run.main.summary
    text = [result_sentence(run)]
    if summary is None:
        return text
    words = of_metric(summary.metric)
    text += left_out_lines({method.name: method.summary for method in run.methods if method.summary is not None})
    for other in run.methods[1:]:
        if other.mean is not None:
            text.append(_compared(main, other))
    majority, bare = summary.majority_mean, summary.bare_base_mean
    if majority is not None and bare is not None:
        text.append(
            f"Always {words.majority_rule} would get {percent(majority)} %, the untrained model {percent(bare)} %."
        )
    if worst := summary.worst_client:
        text.append(f"The lowest client is {worst.client}, with {percent(summary.worst_score)} %.")
    return text


def result_sentence(run: RunData) -> str:
    """The headline mean of the main method, or its state if it is not finished."""
    main, summary = run.main, run.main.summary
    if summary is None or main.mean is None:
        return _standing(run)
    return (
        f"{main.name} reaches a mean {of_metric(summary.metric).name} of {percent(main.mean)} % over {_over(summary)}."
    )


def facts(run: RunData) -> list[tuple[str, str]]:
    """Lists the terms of a run: names and values."""
    s, env = run.settings, run.environment
    rows = [client.train_rows for client in run.clients.values()]
    epochs = f"{counted(s.rounds, 'round')} of {counted(s.train.local_epochs, 'local epoch')}, "
    epochs += f"warm-up {counted(s.warmup.epochs, 'epoch')}"
    passes = next((m.summary.passes for m in run.methods if m.summary is not None), None)
    packages = [f"{n} {v}" for n in ("torch", "transformers", "peft") if (v := env.packages.get(n))]
    git = f"{env.git.commit[:12]}{'' if env.git.clean else ', with changes'}" if env.git else ""
    sampled = f"{s.clients_per_round} sampled each round" if s.clients_per_round else "all asked each round"
    found = [
        ("Method", run.settings.method),
        ("Baselines", ", ".join(s.baselines) or "none"),
        ("Task", f"{run.learnt.describe()}, scored by {run.words.name}"),
        ("Base model", _no_folder(s.model)),
        ("Model revision", env.model_revision or ""),
        ("Adapter", f"LoRA of rank {s.lora.words}, alpha {s.lora.alpha:g}"),
        ("Data", _data(run)),
        ("Clients", f"{len(run.clients)}, {sampled}"),
        ("Skipped", "; ".join(f"{client} ({why})" for client, why in env.skipped_clients.items())),
        ("Train rows", f"{sum(rows):,} in all, {span(rows)} per client"),
        ("Budget", epochs + (f"; {counted(passes, 'pass', 'passes')}" if passes else "")),
        ("Early stopping", "; ".join(filter(None, (stopped_words(m.summary) for m in run.methods if m.summary)))),
        ("Heads", HEADS[s.head] if run.words.heads else ""),
        (
            "Optimiser",
            f"AdamW, learning rate {s.train.lr:g}{DECAY[s.train.lr_schedule]}, batches of {s.train.batch_size}",
        ),
        ("Differential privacy", _privacy(run)),
        ("Seed", str(s.seed)),
        ("Goes on from", _before(run)),
        ("Started", env.started or ""),
        ("Device", f"{env.device or s.device}, {_known(env.threads, 'thread')}, {_known(env.cores, 'core')}"),
        ("Software", ", ".join([f"fedlease {env.fedlease}", f"Python {env.python}", *packages])),
        ("Platform", env.platform or ""),
        ("Data fingerprint", (env.data_fingerprint or "")[:16]),
        ("Git", git),
    ]
    return [(name, value) for name, value in found if value]


def _privacy(run: RunData) -> str:
    """Describes the guarantee for every train row, and the epsilon that clients have spent, by method."""
    given = run.settings.privacy
    if given.epsilon is None:
        return ""
    spent = [
        f"{m.name} {min(found):.2f}" + (f" to {max(found):.2f}" if round(max(found) - min(found), 2) else "")
        for m in run.methods
        if m.summary is not None and (found := [*m.summary.epsilon.values()])
    ]
    promised = f"epsilon {given.epsilon:g} at delta {given.delta:g}, gradients of rows clipped at {given.clip:g}"
    return promised + (f"; spent by clients: {', '.join(spent)}" if spent else "")


def allocation_words(run: RunData) -> list[str]:
    """States the number of experts, and how well the groups agree with the tasks (adjusted Rand index)."""
    grouping = run.grouping
    if grouping is None:
        return []
    text = [f"{counted(len(grouping.clients), 'client')} were given {counted(grouping.num_experts, 'expert')}."]
    tasks = {client: run.task(client) for client in grouping.clients if client in run.clients}
    if len(tasks) > 1 and (index := agreement(tasks, grouping.assignment)) is not None:
        text.append(
            f"There are {len(run.tasks)} tasks. The agreement of the groups with them, the adjusted Rand index, is "
            f"{index:.2f}: 1 is the same grouping, 0 what chance would give. The algorithm does not see the tasks."
        )
    return text


def time_words(run: RunData) -> str:
    """States the total time by method, and that it is no waiting time."""
    totals = {m.name: sum(m.spent(p) for p in ("train", "evaluate", "aggregate")) for m in run.methods if m.steps}
    text = "; ".join(f"{name} {human_seconds(value)}" for name, value in totals.items())
    reused = any(s.seconds.get("train", 0) > 1.5 * s.seconds.get("step", 0) + 1 for m in run.methods for s in m.steps)
    more = " Work that several methods begin with is done once and counted with each of them." if reused else ""
    return f"Clients are run one after another, so these are sums over clients, not waiting times: {text}.{more}"


def score_words(run: RunData) -> str:
    """Explains how to read the curves, and whether points lack clients."""
    if not run.learnt.score_rounds:
        return (
            "Rounds are not scored in this run (generation.score_rounds is false), so that there are no curves: a "
            "method's scores are those of its result, each client's model on its own test rows."
        )
    partial = any(len(point.scores) < len(run.clients) for method in run.methods for point in method.points)
    text = "A step scores the model that a client received, on its own test rows, before training goes on. "
    text += "Curves are drawn over the passes made until then, so that methods with and without warm-up line up."
    if before := run.environment.continued:
        last = before[-1]
        text += f" Up to round {last.rounds} they are those of {last.name}, which this run goes on from."
    if partial:
        text += " Some points hold only the clients that were asked in that step; the data beside them count these."
    return " ".join([text, *_dips(run)])


def _dips(run: RunData) -> list[str]:
    """Explains the deepest fall of the main method's mean score, if there is one."""
    if run.main.name == ALONE:  # nothing is averaged
        return []
    falls = []
    for before, after in pairwise(run.main.points):
        reason = dip_words(before.scores, after.scores, first=before.passes == 0 and run.main.steps[0].round == 0)
        if reason and before.mean is not None and after.mean is not None:
            falls.append((before.mean - after.mean, f"After {counted(after.passes, 'pass', 'passes')}: {reason}"))
    return [max(falls)[1]] if falls else []


def dip_words(before: Mapping[str, float], after: Mapping[str, float], *, first: bool) -> str:
    """Explains why a mean score fell from one round to the next; empty if it did not fall by :data:`DIP`.

    Args:
        before: client -> score of the model that it received.
        after: client -> score of the model of the next round; clients in both are compared.
        first: whether the model after is the first one after a warm-up.
    """
    both = sorted(before.keys() & after.keys())
    old, new = mean(before[c] for c in both), mean(after[c] for c in both)
    if old is None or new is None or old - new < DIP:
        return ""
    fell = f"the mean fell by {percent(old - new)} points, over {counted(len(both), 'client')}"
    if first:
        return (
            f"{fell}: after the warm-up every client receives the mean of its group, with routers that have learnt "
            "nothing yet. The rounds train both."
        )
    return (
        f"{fell}: what is scored is the mean that clients receive, before each trains on with its own rows. It falls "
        "where they pull in different directions, and where few test rows change sides by chance."
    )


def _over(summary: Summary) -> str:
    count = len(averaged(summary))
    total = summary.num_clients or count
    return counted(count, "client") if count == total else f"{count} of {counted(total, 'client')}"


def _standing(run: RunData) -> str:
    begun = f"{run.main.name} has no final scores yet"
    if not run.learnt.score_rounds:
        return f"{begun}, and rounds are not scored in this run. {counted(len(run.main.steps), 'step')} done."
    if not run.main.points:
        return f"{begun}, and nothing has been scored."
    point = run.main.points[-1]
    return (
        f"{begun}. After {counted(len(run.main.steps), 'step')} the model that {counted(len(point.scores), 'client')} "
        f"received scores {percent(point.mean)} % on average."
    )


def _compared(main: MethodRun, other: MethodRun) -> str:
    first, second = main.averaged, other.averaged
    both = sorted(first.keys() & second.keys())
    ours, theirs = mean(first[client] for client in both), mean(second[client] for client in both)
    if ours is None or theirs is None:
        return f"The baseline {other.name} scored no client that {main.name} scored, so that they cannot be compared."
    better = sum(first[c] > second[c] + TIE for c in both)
    worse = sum(first[c] < second[c] - TIE for c in both)
    clients = counted(len(both), "client")
    counts = f"{main.name} is better for {better} of {clients}, worse for {worse}, equal for the rest"
    if len(both) < max(len(first), len(second)):
        total = max(len(both), (main.summary and main.summary.num_clients) or 0)
        counts += (
            f"; this is over the {len(both)} of {counted(total, 'client')} that both scored, where {main.name} is at "
            f"{percent(ours)} %"
        )
    gap = ours - theirs
    if abs(gap) < TIE:
        return f"The baseline {other.name} scores the same, {percent(theirs)} %; {counts}."
    if gap > 0:
        return f"The baseline {other.name} is {percent(gap)} points lower, at {percent(theirs)} %; {counts}."
    return f"The baseline {other.name} is better by {percent(-gap)} points, at {percent(theirs)} %; {counts}."


def _before(run: RunData) -> str:
    """Names the runs that this run continues."""
    runs = run.environment.continued
    return "; ".join(f"{one.name} (run {one.run[:8]}), {counted(one.rounds, 'round')}" for one in runs)


def _known(number: int | None, noun: str) -> str:
    """``8 cores``, or ``? cores`` if the number is not known."""
    return f"? {noun}s" if number is None else counted(number, noun)


def _data(run: RunData) -> str:
    data = run.settings.data
    parts = [data.source, _no_folder(str(data.path)) if data.path else "", f"{counted(len(run.tasks), 'task')}"]
    return ", ".join([part for part in parts if part] + [f"cut at {counted(data.max_tokens, 'token')}"])


def _no_folder(name: str) -> str:
    """A name without the folders of this machine, since a report is passed on."""
    return PurePath(name).name if PurePath(name).is_absolute() else name


def span(counts: list[int]) -> str:
    """The range of numbers, such as ``3 to 4``, or the number if all are equal."""
    least, most = min(counts, default=0), max(counts, default=0)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
