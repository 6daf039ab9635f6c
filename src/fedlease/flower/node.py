"""A client on its own machine: takes a message's value and gives the reply's, and keeps what is private."""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

from safetensors import SafetensorError

from fedlease._version import __version__
from fedlease.client.messages import FinalScores, Finished, Reply, Request, Train, Trained
from fedlease.client.store import Private
from fedlease.client.training import Trainer
from fedlease.client.worker import LOST, ClientWorker
from fedlease.core.codec import serialisable
from fedlease.core.wording import counted
from fedlease.data.federation import ClientData
from fedlease.errors import DataError, InputError, RunFolderError
from fedlease.flower.bounds import TEXT
from fedlease.flower.messages import Envelope, Hello, Introduction, Refusal
from fedlease.flower.model_validation import model_fault, task_fault
from fedlease.flower.node_store import Keep
from fedlease.flower.own_model import write_own_model
from fedlease.flower.site import Site
from fedlease.flower.validation import models_of
from fedlease.runs.open import optimiser_of, participation_of

__all__ = ["Consent", "Node", "refusal_of"]

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
class Kept:
    """What a node keeps for its client under one method.

    Attributes:
        run: identity of the run that it belongs to.
        client: whose it is.
        private: the client's private tensors.
        tasks: done for this run and method so far.
    """

    run: str
    client: str
    private: Private = field(default_factory=Private)
    tasks: int = 0


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

    def reply(self, value: object) -> object:
        """What to answer to a message whose form is right and that the node's policy lets pass."""
        if isinstance(value, Hello):
            return self._hello(value)
        if not isinstance(value, Envelope):
            return Refusal(f"a node is not asked for a {type(value).__name__}")
        if value.base != self.site.fingerprint:
            return self._other_base(value.base)
        request, own = value.request, self.client.data.id
        found = self.keep.get(request.method)
        mine = isinstance(found, Kept) and (found.run, found.client) == (value.run, own)
        kept = found if mine else Kept(value.run, own)
        if fault := self._fault(request, kept):
            return Refusal(f"client {own!r}: {fault}")
        settings = self.site.loaded.settings
        trainer = Trainer(self.site.loaded.resident, optimiser_of(settings))
        score_rounds = participation_of(settings).score_rounds
        worker = ClientWorker(self.client, trainer, score_rounds, kept.private, self.site.cache)
        reply = worker.handle(request)
        done = int(isinstance(reply, Trained))
        self.keep.put(request.method, replace(kept, private=worker.private, tasks=kept.tasks + done))
        if isinstance(reply, Finished):
            notes = self._write_model(value.run, request, worker, reply.scores)
            reply = self._allowed(reply, notes)
        if not mine and isinstance(found, Kept):
            reply = _with_notes(reply, ANOTHERS)
        return reply

    def _fault(self, request: Request, kept: Kept) -> str:
        """Why a request does not fit the node's base model, or what the client keeps."""
        site = self.site
        heads = site.loaded.resident.head_modules(self.client.num_labels)
        for name, model in models_of(request).items():
            if fault := model_fault(model, site.loaded.settings.lora.r, site.loaded.shapes, heads):
                return f"{name}: {fault}"
        if not isinstance(request, Train):
            return ""
        if self.max_tasks is not None and kept.tasks >= self.max_tasks:
            return f"it has done {kept.tasks} tasks for this run and does no more (max-rounds)"
        return task_fault(request.task, kept.private.names)

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

    def _allowed(self, reply: Finished, notes: tuple[str, ...]) -> Finished:
        """What of a reply may leave: texts of rows and private tensors do because this machine says so, never because
        a message asks."""
        short = (row for row in reply.scores.samples if all(len(text) <= TEXT for text in row.values()))
        samples = tuple(short) if self.consent.samples else ()
        scores = replace(reply.scores, notes=reply.scores.notes + notes, samples=samples)
        return Finished(scores, reply.private if self.consent.private else None)

    def _write_model(self, run: str, finish: Request, worker: ClientWorker, scores: FinalScores) -> tuple[str, ...]:
        """Writes the client's model where it is to be; what goes wrong is a note: scores must not be lost by it."""
        if self.models is None:
            return ()
        data, out, model = self.client.data, self.models / finish.method, finish.model
        tensors = worker.private.overlay(model.spec, model.tensors)
        if scores.choice is not None:
            tensors = {**tensors, **model.candidates[scores.choice]}
        own = replace(model, tensors=tensors, candidates=())
        try:
            write_own_model(out, self.site.loaded, data, finish.method, own, scores, run)
        except (OSError, RunFolderError, SafetensorError) as error:
            log.error("fedlease: the model of %s could not be written to %s: %s", data.id, out, error)
            # Why stays in the node's log: the server need not know its folders.
            return ("could not write its own model on its machine; its log says why",)
        log.info("fedlease: the model of %s is in %s", data.id, out)
        return ()


def _with_notes(reply: Reply, instead: str) -> Reply:
    """The reply of a client whose tensors here belong to another run: it has lost none, they are not its own."""
    if isinstance(reply, Trained):
        return replace(reply, notes=tuple(instead if note == LOST else note for note in reply.notes))
    if isinstance(reply, Finished):
        notes = tuple(instead if note == LOST else note for note in reply.scores.notes)
        return replace(reply, scores=replace(reply.scores, notes=notes))
    return reply


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
