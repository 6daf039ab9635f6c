"""The server's record of which updates were used, and of the private tensors that a checkpoint holds."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from fedlease.client.store import ELSEWHERE, Private
from fedlease.client.worker import ClientWorker
from fedlease.core.types import ClientId, ClientModel, ClientTask, Tensors
from fedlease.errors import RunFolderError
from fedlease.server.memories import Memories
from fedlease.storage.saved import Best, Saved

__all__ = ["Ledger", "Slots"]

Slots = Mapping[ClientId, Mapping[str, Tensors]]
"""Client -> slot -> tensors, see :class:`~fedlease.client.store.Private`."""


class Ledger:
    """A record, per client, of the last step whose update was used, and of whether the client keeps private tensors.

    A client learns from its next request that its update was used; clients in this process learn it at once, so that a
    checkpoint has all private tensors.

    Args:
        workers: clients in this process; None if clients are elsewhere.
        memories: memories of the filters.
    """

    def __init__(
        self, workers: Mapping[ClientId, ClientWorker] | None = None, memories: Memories | None = None
    ) -> None:
        self._workers = workers
        self._memories = memories or Memories()
        self._accepted: dict[ClientId, int] = {}
        self._keeps: set[ClientId] = set()
        self._best: dict[ClientId, int] = {}
        # The same object as long as its values are the same, so that checkpoints write it once.
        self._records: dict[ClientId, Tensors] = {}

    def standing(self, client: ClientId) -> dict[str, Any]:
        """The fields ``accepted``, ``keeps`` and ``best`` of a request to a client."""
        return {
            "accepted": self._accepted.get(client), "keeps": client in self._keeps, "best": self._best.get(client)
        }  # fmt: skip

    def remember(self, best: Best | None) -> None:
        """Makes clients elsewhere keep their private tensors of the best round."""
        slots = {} if best is None else best.private
        there = {client: own[ELSEWHERE] for client, own in slots.items() if ELSEWHERE in own}
        self._best = {client: int(record["accepted"]) for client, record in there.items()}

    def accept(
        self, step: int, tasks: Mapping[ClientId, ClientTask], model_of: Callable[[ClientId], ClientModel]
    ) -> None:
        """Records the clients whose update was used in a step.

        Args:
            step: number of the step.
            tasks: client -> the task whose update was used.
            model_of: returns the model that a client has from now on; private tensors of other adapters are dropped.
        """
        self._accepted |= dict.fromkeys(tasks, step)
        # A sketched warm-up is not private in this sense: it is requested later.
        self._keeps |= {client for client, task in tasks.items() if task.withheld}
        for client, worker in (self._workers or {}).items():
            if client in self._accepted:
                worker.private = worker.private.accepted(self._accepted[client], model_of(client))

    def slots(self) -> Slots:
        """Private tensors for the checkpoint; of clients elsewhere, only this record."""
        if self._workers is not None:
            return {client: self._workers[client].private.slots for client in sorted(self._accepted)}
        return {client: {ELSEWHERE: self._record(client)} for client in sorted(self._accepted)}

    def _record(self, client: ClientId) -> Tensors:
        now = self._accepted[client], int(client in self._keeps)
        known = self._records.get(client)
        if known is None or (int(known["accepted"]), int(known["keeps"])) != now:
            self._records[client] = {"accepted": torch.tensor(now[0]), "keeps": torch.tensor(now[1])}
        return self._records[client]

    def saved(self) -> dict[str, Any]:
        """The fields ``private``, ``received`` and ``residuals`` of a checkpoint."""
        memories = self._memories
        left = memories.residuals(self._accepted)
        return {"private": self.slots(), "received": dict(memories.received), "residuals": left}

    def resume(self, saved: Saved) -> None:
        """Restores everything from a checkpoint, see :meth:`restore`."""
        self._memories.restore(saved.received, saved.residuals)
        self.restore(saved.private, saved.step, finished=saved.finished, best=saved.best)

    def restore(self, slots: Slots, step: int, *, finished: bool, best: Best | None = None) -> None:
        """Restores the record from a checkpoint.

        Args:
            slots: as returned by :meth:`slots`, or tensors that clients elsewhere have handed over.
            step: last step of the checkpoint.
            finished: whether it is the last step of the method.
            best: the round that early stopping has kept.

        Raises:
            RunFolderError: clients keep their tensors on other machines but this run is in one process, or vice versa.
        """
        records = {client: own[ELSEWHERE] for client, own in slots.items() if ELSEWHERE in own}
        if self._workers is None:
            here = {client for client, own in slots.items() if own and client not in records}
            if here and not finished:
                raise RunFolderError(
                    f"the private tensors of client {min(here)!r} are in the run folder, so the run cannot go on over "
                    "Flower: resume it with --engine in-process"
                )
            # Clients that have handed their tensors over still have them, and nothing is pending.
            self._accepted = dict.fromkeys(here, step)
            self._accepted |= {client: int(record["accepted"]) for client, record in records.items()}
            self._keeps = here | {client for client, record in records.items() if int(record["keeps"])}
            self.remember(best)
            self._accepted |= self._best if finished else {}
            return
        if records:
            raise RunFolderError(
                f"client {min(records)!r} keeps a part of its model on its own machine, so the run cannot go on here: "
                "start the Flower server with the same out again, or give --engine flower"
            )
        self._accepted = dict.fromkeys(slots, step)
        self._keeps = {client for client, own in slots.items() if own}
        for client, worker in self._workers.items():
            worker.private = Private({slot: worker.keep(own) for slot, own in slots.get(client, {}).items()})
