"""Screening of updates at the server: each by itself when it arrives, and all updates of a step together."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

from fedlease.core.aggregate import check_update
from fedlease.core.screening import Bounds, Change, apart, beyond_the_step, change_of, copied, start_of
from fedlease.core.suspects import Seen, compare, replayed, sample
from fedlease.core.types import ClientId, ClientUpdate
from fedlease.errors import UpdateRefusedError
from fedlease.methods.warmup import WARMUP
from fedlease.server.step import Step

__all__ = ["Screen"]

REMEMBERED = 32
"""Number of last steps whose updates are recognised if they are sent again; warm-ups are remembered longer."""

Refuse = Callable[[Step, ClientId, str], None]


@dataclass
class Screen:
    """Applies :mod:`fedlease.core.screening` and :mod:`fedlease.core.suspects` to the steps of one method.

    Attributes:
        bounds: the rules.
        seen: client -> step -> record of an update that was used, or refused for its direction.
        warmups_alone: whether the server sees single updates only in the warm-up, as with
            :mod:`fedlease.server.secure_sums`.
    """

    bounds: Bounds = field(default_factory=Bounds)
    seen: Mapping[ClientId, Mapping[int, Seen]] = field(default_factory=dict)
    warmups_alone: bool = False
    _turned: dict[ClientId, Change] = field(init=False, default_factory=dict, repr=False)

    def check(self, step: Step, client: ClientId, update: ClientUpdate, rows: int) -> None:
        """Checks an update by itself.

        Raises:
            UpdateRefusedError: it does not answer the task, or breaks a rule, in which case the client becomes a
                suspect.
        """
        task = step.tasks[client]
        check_update(task, client, update, expected_examples=rows)
        if self.warmups_alone and not _is_warmup(step, client):
            return
        why = self._turned_before(step, client) or beyond_the_step(task, update, rows, self.bounds)
        if not why and self.bounds.copies:
            start = start_of(task, update.choice)
            now = sample({name: update.tensors[name] for name in start})
            why = copied(task, update) or replayed(client, now, sample(start), self.seen)
        if why:
            step.suspects[client] = [f"refused: {why}"]
            raise UpdateRefusedError(client, why)

    def compare(self, step: Step, group: Callable[[ClientId], int], refuse: Refuse) -> None:
        """Compares the updates of a step, refuses those that break a rule, and names suspicious ones.

        Args:
            step: with all replies.
            group: returns the cluster of a client.
            refuse: called for every update that must not be used.
        """
        if self.bounds == Bounds():
            return
        changes = self._changes(step)
        for warmup in (True, False):
            own = {client: change for client, change in changes.items() if _is_warmup(step, client) == warmup}
            before = self._last(warmup, without=own)
            # Before the allocation there are no clusters, so all warm-ups are compared with each other.
            clusters: dict[int, list[ClientId]] = {}
            for client in sorted({*own, *before} & step.state.clients.keys()):
                clusters.setdefault(0 if warmup else group(client), []).append(client)
            beside = self._warmups(step, own) if warmup else None
            watched = [client for client in own if self._turned_in(client, warmup=False) is not None]
            found = compare(own, [*clusters.values()], self.bounds, before=before, warmups=beside, watched=watched)
            self._turned |= {client: own[client] for client in found.turned}
            for client, why in found.refused.items():
                step.suspects.setdefault(client, []).append(f"refused: {why}")
                refuse(step, client, why)
            for client, odd in found.named.items():
                step.suspects.setdefault(client, []).extend(odd)

    def remember(self, step: Step) -> "Screen":
        """The screen for the next step, which remembers the updates of this one."""
        if self.bounds == Bounds():
            return self
        seen = {client: dict(steps) for client, steps in self.seen.items()}
        for client, change in {**self._changes(step), **self._turned}.items():
            seen.setdefault(client, {})[step.number] = Seen(
                _is_warmup(step, client), change.length, change.steps, sample(change.tensors), client in self._turned
            )
        last = step.number - REMEMBERED
        kept = {
            c: {n: one for n, one in steps.items() if n > last or one.warmup or one.turned} for c, steps in seen.items()
        }
        return replace(self, seen=kept)

    def _turned_before(self, step: Step, client: ClientId) -> str:
        """The reason for refusing a warm-up if an earlier one was refused for its direction; empty if none was.

        In a later step there may be no other warm-ups with which its direction could be compared.
        """
        number = self._turned_in(client, warmup=True)
        if number is None or not _is_warmup(step, client):
            return ""
        return f"its warm-up of step {number} pointed against others, so it takes no further part (bounds.against)"

    def _turned_in(self, client: ClientId, warmup: bool) -> int | None:
        """The first step in which the client's warm-up, or its update of a round, was refused for its direction."""
        steps = self.seen.get(client, {})
        return min((n for n, one in steps.items() if one.turned and one.warmup == warmup), default=None)

    def _changes(self, step: Step) -> dict[ClientId, Change]:
        """Client -> change by its update, for the used updates of a step."""
        updates = {client: reply.update for client, reply in sorted(step.used.items()) if reply.update.tensors}
        if self.warmups_alone:
            updates = {client: update for client, update in updates.items() if _is_warmup(step, client)}
        return {
            client: change_of(step.tasks[client], u, self.bounds.steps(step.tasks[client], u.num_examples))
            for client, u in updates.items()
        }

    def _warmups(self, step: Step, own: Mapping[ClientId, Change]) -> dict[ClientId, Change]:
        """Client -> change by its warm-up in an earlier step, while the allocation is still to come."""
        found = {}
        for client, tensors in step.state.warmup.results.items() if own else ():
            start = next(iter(own.values())).start
            if client not in own and tensors.keys() == start.keys():
                then = self.seen.get(client, {})
                steps = max((one.steps for one in then.values() if one.warmup and not one.turned), default=1)
                found[client] = Change(start, tensors, steps, apart(tensors, start))
        return found

    def _last(self, warmup: bool, without: Collection[ClientId]) -> dict[ClientId, Seen]:
        """Client -> record of its last warm-up or last other update, for clients that are not in ``without``."""
        found = {}
        for client, steps in self.seen.items():
            kind = [number for number, one in steps.items() if one.warmup == warmup and not one.turned]
            if kind and client not in without:
                found[client] = steps[max(kind)]
        return found


def _is_warmup(step: Step, client: ClientId) -> bool:
    return step.tasks[client].phase == WARMUP
