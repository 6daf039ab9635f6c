"""Advice on what is unusual in a run, in plain words."""

from collections.abc import Iterator
from typing import Any

from fedlease.core.wording import counted, enumerated, listed
from fedlease.data.federation import NO_TEST_ROWS, NOTHING_TO_LEARN, ONE_VALUE
from fedlease.reporting.run.certainty import doubts
from fedlease.reporting.run.data import RunData, mean
from fedlease.storage.class_scores import never_predicted_note
from fedlease.storage.rounds import suspects_of
from fedlease.storage.verdict import Advice

__all__ = ["NEVER", "advise"]

TODO = {
    NOTHING_TO_LEARN: "Give it rows of other labels, or state the labels of its task in data.labels.",
    ONE_VALUE: "Give it rows of other values.",
    NO_TEST_ROWS: "Give it test rows, or a larger data.test_fraction.",
}
"""Reason why a client is in no mean -> remedy."""
NOT_LEARNT = "which had not learnt its task"
"""Part of the warning about a client that chose its expert by loss."""
DROPPED = "dropped (data.bad_rows)"
"""Part of the note about rows that cannot be used."""
NEVER = "A class is never predicted"
ADVISED_ELSEWHERE = ("never predicted",)
"""Beginnings of a summary's warnings that have an advice of their own."""
SHOWN = 6
"""Most names that are listed; more are counted."""


def advise(run: RunData) -> tuple[Advice, ...]:
    """Advice on a run, finished or not, most urgent first."""
    found = [
        *_progress(run),
        *_refusals(run),
        *_suspects(run),
        *_grouping(run),
        *_missing(run),
        *_scores(run),
        *_data(run),
    ]
    order = {"act": 0, "look": 1, "note": 2}
    return tuple(sorted(found, key=lambda advice: order[advice.level]))


def _advice(level: Any, title: str, text: str, todo: str) -> Advice:
    return Advice(level=level, title=title, text=text, todo=todo)


def _progress(run: RunData) -> Iterator[Advice]:
    unfinished = [method.name for method in run.methods if method.summary is None] + list(run.missing)
    failed = [method.name for method in run.methods if method.steps and method.steps[-1].failed]
    if failed:
        yield _advice(
            "act",
            "The run stopped",
            f"A step of {enumerated(failed)} had fewer usable updates than min_clients = {run.settings.min_clients}.",
            "Look at the refusals listed here, mend what caused them, then go on with: fedlease resume and the folder.",
        )
    if unfinished:
        yield _advice(
            "act",
            "Not finished",
            f"No final scores yet for {enumerated(unfinished, SHOWN)}. What is shown are the steps done so far.",
            "Wait for the run, or go on with: fedlease resume and the folder. Then write this report again.",
        )


def _refusals(run: RunData) -> Iterator[Advice]:
    for method in run.methods:
        reasons: dict[tuple[str, str], list[int]] = {}
        for step in method.steps:
            for client, reason in step.refused.items():
                if client in step.suspects:
                    continue  # has an advice of its own
                reasons.setdefault((client, reason), []).append(step.step)
        for (client, reason), steps in reasons.items():
            named = f"step {steps[0]}" if len(steps) == 1 else f"steps {', '.join(map(str, steps))}"
            yield _advice(
                "act",
                f"Update of {client} refused",
                f"{method.name}, {named}: {reason}. The update was left out of the mean; nothing else changed.",
                "Values that are not finite point to a learning rate too high for this client's rows: lower train.lr, "
                "or set train.clip_norm. Wrong names, shapes or rounds point to another version at that client.",
            )


def _suspects(run: RunData) -> Iterator[Advice]:
    """Advice on clients with suspect updates, one per method and client, since methods have different rounds."""
    for method in run.methods:
        for client, found in suspects_of(method.steps).items():
            refused = any("refused: " in finding for finding in found)
            yield _advice(
                "act" if refused else "look",
                f"{client} is a suspect",
                f"{method.name}, {listed(found, SHOWN, separator='; ')}. "
                + ("What was refused is in no mean." if refused else "Its updates were used."),
                "Ask the client. Its code may be at fault, or another version; train.lr may differ there. To have it "
                f"undone: fedlease resume, the folder, --to 0 --without {client}.",
            )


def _grouping(run: RunData) -> Iterator[Advice]:
    grouping = run.grouping
    if grouping is None:
        return
    chosen = grouping.num_experts
    covered = ("no grouping separates", "expert ", *(f"client {client!r} " for client in grouping.unsure))
    passed_on = [w for w in grouping.warnings if not w.startswith(covered)]
    for warning in passed_on:
        if warning.startswith("B is all zero"):
            yield _advice(
                "look",
                "Modules without direction",
                warning,
                "Such a module says nothing about how alike clients are. Warm up longer (warmup.epochs), raise "
                "train.lr, or leave out modules that do not learn (lora.target_modules).",
            )
        else:
            shown = "distances" if grouping.corrected is None else "similarities"
            yield _advice("note", "Allocation", warning, f"Read it beside the {shown} below.")
    if 0 < len(grouping.unsure) < len(grouping.clients):
        yield _not_learnt(run)
    if chosen == 1 and not grouping.unsure and grouping.corrected is None:
        yield _one_expert(run)
    else:
        yield from _weak_cut(run)
    members = [grouping.members(expert) for expert in range(chosen)]
    single = [clients[0] for clients in members if len(clients) == 1 and clients[0] not in grouping.unsure]
    alone = "trains alone: its expert" if len(single) == 1 else "train alone: their expert"
    if chosen > 1 and single:
        yield _advice(
            "look",
            "Experts with one client",
            f"{enumerated(single, SHOWN)} {alone} is not averaged with anyone's.",
            "Expected if these clients are truly different. "
            + (
                "Otherwise lower max_experts, or warm up longer so that the vectors of like clients come closer."
                if grouping.corrected is None
                else "The table of the allocation says how similar each is to its nearest group."
            ),
        )
    if run.late:
        placed = [warning for warning in run.main.warnings if "came late" in warning]
        yield _advice(
            "look",
            "Late clients",
            f"{enumerated(run.late, SHOWN)} had no warm-up when the others were allocated. " + ". ".join(placed),
            "A late client gets the nearest existing expert and can never open a new one. If one is farther than any "
            "member, run again with it there from the start.",
        )


def _not_learnt(run: RunData) -> Advice:
    assert run.grouping is not None
    unsure, became = run.grouping.unsure, [w for w in run.main.warnings if NOT_LEARNT in w]
    return _advice(
        "look",
        "Not learnt yet",
        f"{enumerated(unsure, SHOWN)} had learnt too little of their task to be compared with other clients. "
        + listed(became, 3, separator="; "),
        "Give them more rows or a longer warm-up (warmup.epochs), or try another train.lr.",
    )


def _one_expert(run: RunData) -> Advice:
    assert run.grouping is not None
    scores, least = run.grouping.silhouettes, run.settings.min_silhouette
    if scores:
        best = max(scores, key=lambda k: scores[k])
        return _advice(
            "look",
            "Nothing separates the clients",
            f"The best silhouette is {scores[best]:.3f}, of {best} groups; it had to be above min_silhouette = "
            f"{least:g}. "
            "One expert is trained by all, which is federated averaging.",
            "If the clients do differ, warm up longer (warmup.epochs). To split in any case, set min_silhouette=-1.",
        )
    why = (
        f"The federation has {counted(len(run.grouping.clients), 'client')}, and fewer than three cannot be grouped."
        if len(run.grouping.clients) < 3
        else "The clients' warm-up results are identical, so there is nothing to group by."
    )
    return _advice("look", "One expert", why, "Add clients, or compare with fedit and local as baselines.")


def _weak_cut(run: RunData) -> Iterator[Advice]:
    if found := doubts(run):
        half = run.settings.fedlease.signal == "B"
        compared = "; so may fedlease.signal=BA, which compares whole updates" if half else ""
        sentence = "; ".join(found)
        yield _advice(
            "look",
            "The number of experts was a close call",
            f"{sentence[0].upper()}{sentence[1:]}.",
            "Repeat with other seeds before reading much into it. A longer warm-up (warmup.epochs) makes the groups "
            f"clearer{compared}; max_experts bounds them.",
        )


def _scores(run: RunData) -> Iterator[Advice]:
    summary = run.main.summary
    if summary is None:
        return
    finals, rows = run.main.averaged, summary.per_client
    if note := never_predicted_note(summary.classes):
        yield _advice(
            "act",
            NEVER,
            f"{note[0].upper()}{note[1:]}. A high score may be that of always naming the other classes.",
            "Read macro F1 and the scores by class, and weigh rare classes up with train.class_weights=balanced."
            if run.settings.train.class_weights == "none"
            else "Read macro F1 and the scores by class. Give the class more rows, or the run more rounds.",
        )
    below = [c for c in sorted(finals) if (m := rows[c].majority) is not None and finals[c] <= m]
    if below:
        words = run.words
        yield _advice(
            "look",
            "No better than guessing",
            f"For {enumerated(below, SHOWN)} the model scores no higher than always {words.majority_rule}.",
            f"Give more rounds or rows, try another train.lr, and {words.look}.",
        )
    alone = {client: score for client in finals if (score := rows[client].own_expert) is not None}
    own, mixed = mean(alone.values()), mean(finals[client] for client in alone)
    if own is not None and mixed is not None and own > mixed:
        yield _advice(
            "look",
            "The mixture does not pay",
            f"The own expert alone scores {100 * own:.1f} %, the mixture of experts {100 * mixed:.1f} %.",
            "Routers need more rounds than experts do: raise rounds, or train.local_epochs.",
        )
    tested = mean(rows[client].num_test for client in finals)
    if tested is not None and tested < 100:
        worst = 50 / tested**0.5
        yield _advice(
            "note",
            "Few test rows",
            f"A client has {tested:.0f} test rows on average, so that the score of one client has a standard error of "
            f"up to {worst:.1f} points.",
            "Read means over clients, not single clients, or raise data.test_rows.",
        )
    if len(run.methods) > 1:
        yield _advice(
            "note",
            "One seed",
            "All numbers are of one run with one seed.",
            "Before concluding that one method is better, repeat with --set seed=1, 2, ... and compare the means.",
        )


def _missing(run: RunData) -> Iterator[Advice]:
    """Advice on clients that are left out of means, on skipped clients, and on other warnings of the summaries."""
    for method in run.methods:
        reasons: dict[str, list[str]] = {}
        for client, reason in method.left_out.items():
            reasons.setdefault(reason, []).append(client)
        total = (method.summary and method.summary.num_clients) or len(run.clients)
        for reason, clients in reasons.items():
            yield _advice(
                "look",
                "Left out of the means",
                f"{method.name}: {enumerated(clients, SHOWN)} of {counted(total, 'client')}: {reason}.",
                TODO.get(reason, "See that every client can answer, and repeat the run: means are over the others."),
            )
        left = {f"client {client!r} is not scored at the end: {why}" for client, why in method.left_out.items()}
        known = set(run.grouping.warnings) if run.grouping is not None else set[str]()
        for warning in method.warnings:
            if (
                warning not in left | known
                and not warning.startswith(ADVISED_ELSEWHERE)
                and ("came late" not in warning and NOT_LEARNT not in warning)
            ):
                yield _advice("look", "Warning of the run", f"{method.name}: {warning}", "Read scores with it in mind.")
    for client, reason in run.environment.skipped_clients.items():
        yield _advice(
            "look",
            f"Client {client} skipped",
            reason,
            "Mend its rows and run again, or leave it out; data.clients=require stops at such clients.",
        )


def _data(run: RunData) -> Iterator[Advice]:
    found = run.environment.data_warnings
    mute = [warning for warning in found if "learns nothing" in warning]
    for warning in mute:
        yield _advice("look", "Data", warning, TODO[NOTHING_TO_LEARN])
    dropped = [warning for warning in found if DROPPED in warning]
    if dropped:
        notes = listed(dropped, SHOWN, separator="; ")
        yield _advice("look", "Rows dropped", notes, "Mend them at their source, or see that the others stand for all.")
    # The rest is one advice, since each of many clients may have a warning.
    if others := [warning for warning in found if warning not in {*mute, *dropped}]:
        yield _advice(
            "note", "Data", listed(others, separator="; "), "Nothing, if this is what you expect of these rows."
        )
