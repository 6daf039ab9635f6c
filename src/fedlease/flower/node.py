"""A client on its own machine: takes a message's value and gives the reply's, and keeps what is private."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fedlease._version import __version__
from fedlease.client.store import HEAD_SLOT, ClientStore
from fedlease.client.worker import Answer, ClientWork, FinalScores
from fedlease.core.codec import serialisable
from fedlease.core.types import AdapterSpec, ClientModel, Tensors
from fedlease.core.wording import counted
from fedlease.data.federation import ClientData
from fedlease.errors import DataError, InputError, RunFolderError, UpdateRefusedError
from fedlease.flower.bounds import LONGEST_TEXT
from fedlease.flower.messages import Finish, Hello, Introduction, Refusal, Score, Work
from fedlease.flower.node_store import Keep
from fedlease.flower.own_model import write_own_model
from fedlease.flower.request_validation import model_fault, task_fault
from fedlease.flower.site import Site
from fedlease.runs.open import optimiser_of, participation_of

__all__ = ["Consent", "HandedOver", "Node", "refusal_of"]

LOST = "has lost what it kept to itself, and went on from what the server sent"
ANOTHERS = "keeps what belongs to another run or client, and went on from what the server sent"

log = logging.getLogger("flwr")


@dataclass(frozen=True)
class Consent:
    """What a node lets its server have beyond updates and scores. A server may ask; only the node's machine allows.

    Attributes:
        samples: some test rows in clear text, with the models' answers to them.
        private: what the client keeps to itself; only where server and client are one machine.
    """

    samples: bool = False
    private: bool = False


@serialisable
@dataclass(frozen=True)
class HandedOver:
    """Final scores with what the client kept; only where server and client are one machine."""

    scores: FinalScores
    private: Mapping[str, Tensors]


@serialisable
@dataclass(frozen=True)
class Kept:
    """What a client keeps for one method.

    Attributes:
        run: identity of the run that it belongs to.
        client: whose it is.
        slots: accepted, as in a :class:`~fedlease.client.store.ClientStore`.
        step: of the run in which ``pending`` was trained.
        spec: that ``pending`` belongs to.
        pending: trained last; holds once the server says that the step's update was used.
        tasks: done for this run and method so far.
    """

    run: str
    client: str
    slots: Mapping[str, Tensors] = field(default_factory=dict)
    step: int | None = None
    spec: AdapterSpec | None = None
    pending: Tensors = field(default_factory=dict)
    tasks: int = 0

    def after(self, work: Work, private: Tensors) -> "Kept":
        """With what one more task trained."""
        spec = work.task.model.spec
        return replace(self, step=work.step, spec=spec, pending=dict(private), tasks=self.tasks + 1)


class Node:
    """One client between two messages.

    Args:
        site: what the process has.
        data: the client's rows.
        keep: what outlives the message.
        models: where the client's own model of every method is written at the end; None writes none.
        consent: what may leave the node beyond updates and scores.
        max_tasks: tasks that it does for one run and method; None does all.
    """

    def __init__(
        self,
        site: Site,
        data: ClientData,
        keep: Keep,
        models: Path | None = None,
        consent: Consent | None = None,
        max_tasks: int | None = None,
    ) -> None:
        self.site = site
        self.client = site.client(data)
        self.keep = keep
        self.models = models
        self.consent = consent or Consent()
        self.max_tasks = max_tasks
        self.private: set[str] = set()
        settings = site.loaded.settings
        self.work = ClientWork(site.loaded.resident, optimiser_of(settings), participation_of(settings).score_rounds)
        self.work.cache.bare = site.bare

    def reply(self, value: object) -> object:
        """What to answer to a message whose form is right and that the node's policy lets pass."""
        handlers: list[tuple[type, Callable[[Any], object]]] = [
            (Hello, self._hello),
            (Work, self._work),
            (Score, self._score),
            (Finish, self._finish),
        ]
        if isinstance(value, Work | Score | Finish) and value.base != self.site.fingerprint:
            return self._other_base(value.base)
        if fault := self._fault(value):
            return Refusal(f"client {self.client.data.id!r}: {fault}")
        for kind, handle in handlers:
            if isinstance(value, kind):
                return handle(value)
        return Refusal(f"a node is not asked for a {type(value).__name__}")

    def _fault(self, value: object) -> str:
        """Why the tensors of a message do not fit."""
        found: list[tuple[str, ClientModel]] = []
        if isinstance(value, Work):
            found = [("model", value.task.model)]
        elif isinstance(value, Score | Finish):
            found = [("model", value.model), *([("untrained", value.untrained)] if isinstance(value, Finish) else [])]
        rank, heads = self.site.loaded.settings.lora.r, {}
        if found:
            heads = self.site.loaded.resident.head_modules(self.client.num_labels)
        faults = ((name, model_fault(model, rank, self.site.loaded.shapes, heads)) for name, model in found)
        return next((f"{name}: {fault}" for name, fault in faults if fault), "")

    def _hello(self, hello: Hello) -> object:
        card = self.client.data.card()
        if hello.version != __version__:
            return Refusal(f"{card.id}: this node has fedlease {__version__}, the server has {hello.version}")
        if hello.model != self.site.fingerprint:
            return self._other_base(hello.model)
        return Introduction(card)

    def _other_base(self, wanted: str) -> Refusal:
        name, mine = self.site.loaded.settings.model, self.site.fingerprint
        return Refusal(
            f"{self.client.data.id}: the base model {name!r} on this node ({mine[:12]}), or its tokenizer, is not "
            f"the server's ({wanted[:12]}): give both the same revision or files"
        )

    def _work(self, work: Work) -> object:
        kept, notes = self._take_up(work, work.task.model.spec)
        fault = task_fault(work.task, self.private)
        if self.max_tasks is not None and kept.tasks >= self.max_tasks:
            fault = f"it has done {kept.tasks} tasks for this run and does no more (max-rounds)"
        if fault:
            return Refusal(f"client {self.client.data.id!r}: {fault}")
        try:
            answer, private = self.work.train(self.client, work.task)
        except UpdateRefusedError as error:
            self.keep.put(work.method, kept)
            return Refusal(error.reason)
        self.keep.put(
            work.method,
            kept.after(work, private),
        )
        return Answer(**{**vars(answer), "notes": notes})

    def _score(self, score: Score) -> object:
        self._take_up(score, score.model.spec)
        return self.work.score(self.client, score.model)

    def _finish(self, finish: Finish) -> object:
        kept, notes = self._take_up(finish, finish.model.spec)
        self.keep.put(finish.method, kept)
        found = self.work.finish(self.client, finish.model, finish.untrained)
        notes += self._write_model(finish, found)
        # Texts of rows and private tensors leave because this machine says so, never because a message asks.
        few = (row for row in found.samples if all(len(text) <= LONGEST_TEXT for text in row.values()))
        samples = tuple(few) if self.consent.samples else ()
        scores = FinalScores(**{**vars(found), "notes": notes, "samples": samples})
        return HandedOver(scores, kept.slots) if finish.hand_over and self.consent.private else scores

    def _write_model(self, finish: Finish, scores: FinalScores) -> tuple[str, ...]:
        """Writes the client's model where it is to be; what goes wrong is a note: scores must not be lost by it."""
        if self.models is None:
            return ()
        data, out, model = self.client.data, self.models / finish.method, finish.model
        tensors = self.work.store.overlay(data.id, model.spec, model.tensors)
        if scores.choice is not None:
            tensors = {**tensors, **model.candidates[scores.choice]}
        own = replace(model, tensors=tensors, candidates=())
        try:
            write_own_model(out, self.site.loaded, data, finish.method, own, scores, finish.run)
        except (OSError, RunFolderError, SafetensorError) as error:
            log.error("fedlease: the model of %s could not be written to %s: %s", data.id, out, error)
            # Why stays in the node's log: the server need not know its folders.
            return ("could not write its own model on its machine; its log says why",)
        log.info("fedlease: the model of %s is in %s", data.id, out)
        return ()

    def _take_up(self, message: Work | Score | Finish, spec: AdapterSpec) -> tuple[Kept, tuple[str, ...]]:
        """What the client keeps now: what it trained last too, if the server used that step's update."""
        own = self.client.data.id
        found = self.keep.get(message.method)
        mine = isinstance(found, Kept) and (found.run, found.client) == (message.run, own)
        self.private = {n for part in (*found.slots.values(), found.pending) for n in part} if mine else set()
        # Nothing of this client has been used yet: what lies here is left over from a server that was stopped.
        kept = found if mine and message.accepted is not None else Kept(message.run, own)
        store = ClientStore({own: dict(kept.slots)})
        if kept.step is not None and kept.step == message.accepted and kept.spec is not None:
            store.put(own, kept.spec, kept.pending)
        slots = {
            slot: tensors
            for slot, tensors in store.slots.get(own, {}).items()
            if slot in (HEAD_SLOT, spec.fingerprint())
        }
        self.work.store = ClientStore({own: slots})
        notes: tuple[str, ...] = ()
        if message.keeps and not slots:
            notes = (ANOTHERS if isinstance(found, Kept) and not mine else LOST,)
        return Kept(message.run, own, slots, tasks=found.tasks if mine else 0), notes


def refusal_of(error: InputError, node: str, *, client: str = "", in_full: bool = False) -> Refusal:
    """Wrong input on a node, as one sentence for the server.

    Faults of rows show values of rows and places of files: the server hears how many there are, the node's log has
    them.

    Args:
        error: what is wrong.
        node: what the server knows the node by.
        client: its id, where the node's configuration has one.
        in_full: faults of rows go along too; only where server and client are one machine.
    """
    if isinstance(error, DataError) and not in_full:
        many = counted(len(error.faults), "fault")
        return Refusal(f"{node}: its rows cannot be used; {many}, in the log of its node", client or node)
    return Refusal("; ".join(error.faults), (client or node) if isinstance(error, DataError) else "")
