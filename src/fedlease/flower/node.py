"""A client on its own machine: checks a request, passes it to the client's worker, and stores private tensors."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError

from fedlease._version import __version__
from fedlease.client.cache import WorkCache
from fedlease.client.messages import FinalScores, Finish, Finished, Lacks, Refused, Reply, Request, Train, Trained
from fedlease.client.private_steps import PrivacyTerms
from fedlease.client.store import Private
from fedlease.client.sum_messages import SumAsk
from fedlease.client.training import Trainer
from fedlease.client.worker import Client, ClientWorker
from fedlease.config.faults import sentences
from fedlease.config.settings import Settings, read_values
from fedlease.core.codec import serialisable
from fedlease.data.federation import ClientData
from fedlease.errors import ConfigError, RulesError, RunFolderError
from fedlease.flower.bounds import TEXT
from fedlease.flower.identity import introduced
from fedlease.flower.messages import Envelope, Introduction
from fedlease.flower.model_validation import model_fault, task_fault
from fedlease.flower.node_store import Store
from fedlease.flower.node_sums import NodeSums
from fedlease.flower.own_model import write_own_model
from fedlease.flower.validation import models_of
from fedlease.models.fingerprints import fingerprint
from fedlease.privacy.differences import MOST_BYTES
from fedlease.privacy.memory import Memory
from fedlease.privacy.packing import LacksBaseError, PackingError
from fedlease.runs.open import Loaded, load_run, participation_of
from fedlease.runs.privacy import card_of, terms_of, trainer_of
from fedlease.runs.threads import resolved_threads
from fedlease.server.filters import as_received, as_sent, make_filters

__all__ = ["Node", "NodeRun"]

NOT_OWN = "found tensors of another run or client in its place, and continued from what the server sent"

log = logging.getLogger("flwr")


@dataclass
class NodeRun:
    """A run in one process of a node, shared by all its messages.

    Attributes:
        loaded: settings and base model.
        fingerprint: fingerprint of the base model and its tokenizer.
        clients: id -> tokenised rows.
        cache: scores of the untrained model.
    """

    loaded: Loaded
    fingerprint: str
    clients: dict[str, Client] = field(default_factory=dict)
    cache: WorkCache = field(default_factory=WorkCache)
    _trainers: dict[bool, tuple[PrivacyTerms | None, Trainer]] = field(default_factory=dict)

    def trainer(self, *, secret: bool) -> tuple[PrivacyTerms | None, Trainer]:
        """The privacy guarantee of its clients, or None, and a trainer that keeps it.

        Args:
            secret: see :attr:`Node.secret`.

        Raises:
            ConfigError: the settings ask for privacy that cannot be guaranteed.
        """
        if secret not in self._trainers:
            terms = terms_of(self.loaded.settings, secret=secret)
            self._trainers[secret] = terms, trainer_of(self.loaded, terms)
        return self._trainers[secret]

    @classmethod
    def of(cls, settings: Settings, overrides: Mapping[str, Any]) -> "NodeRun":
        """Loads the base model.

        Args:
            settings: settings of the run.
            overrides: ``model``, ``device`` and ``threads``, if the node's differ from the server's.

        Raises:
            InputError: an override is out of range, the model cannot be loaded, or this machine has no such device.
        """
        try:
            own = read_values({**settings.model_dump(), **overrides})
        except ValidationError as error:
            raise ConfigError([f"node-config: {fault}" for fault in sentences(error, Settings)]) from error
        own = own.model_copy(update={"threads": resolved_threads(own.threads)})
        torch.set_num_threads(own.num_threads)
        loaded = load_run(own)
        return cls(loaded, fingerprint(loaded.base, loaded.tokenizer))

    def client(self, data: ClientData) -> Client:
        """The client's rows, tokenised when they are new or have changed."""
        known = self.clients.get(data.id)
        if known is None or known.data != data:
            self.clients[data.id] = self.loaded.client(data)
        if known is not None and known.data != data:
            self.cache = WorkCache()
        return self.clients[data.id]


@serialisable
@dataclass(frozen=True)
class Stored:
    """The state that a node stores for its client under one method.

    Attributes:
        run: identity of the run.
        client: id of the client.
        private: the client's private tensors.
        tasks: number of tasks done for this run and method.
        memory: memory of the filters.
    """

    run: str
    client: str
    private: Private = field(default_factory=Private)
    tasks: int = 0
    memory: Memory = field(default_factory=Memory)


@dataclass
class Node:
    """One client during one message.

    Attributes:
        run: the run that the process has loaded.
        data: the client's rows.
        store: storage that outlives the message.
        models: folder to which the client's own models are written at the end; None writes none.
        send_samples: whether some test rows, with the model's answers, may leave in clear text.
        share_private: whether private tensors may leave, because server and client are on one machine.
        max_tasks: most tasks that the node does for one run and method; None sets no limit.
        number: Flower's id of the node.
        key: file with the node's private key, which signs its introduction; None signs nothing.
        max_bytes: most bytes of a model's tensors.
        secret: whether noise comes from the operating system, as it must if the server has another owner.
    """

    run: NodeRun
    data: ClientData
    store: Store
    models: Path | None = None
    send_samples: bool = False
    share_private: bool = False
    max_tasks: int | None = None
    number: int = 0
    key: Path | None = None
    max_bytes: int = MOST_BYTES
    secret: bool = True

    def reply(self, message: Envelope) -> Introduction | Reply:
        """Replies to a message whose form was checked and that the node's policy allows."""
        if message.version != __version__:
            return self._refused(f"this node has fedlease {__version__}, the server has {message.version}")
        if message.base != self.run.fingerprint:
            name, own = self.run.loaded.settings.model, self.run.fingerprint
            return self._refused(
                f"the base model {name!r} on this node ({own[:12]}), or its tokenizer, is not the server's "
                f"({message.base[:12]}): give both the same revision or files"
            )
        client = self.run.client(self.data)  # so that unusable rows are refused at the introduction
        assert not isinstance(message.request, SumAsk)  # handled without a Node
        if message.request is None:
            return introduced(card_of(self.data, self.run.loaded.settings), message.run, self.number, self.key)
        found, mine = self.store.get(message.request.method), (message.run, self.data.id)
        stored = found if isinstance(found, Stored) and (found.run, found.client) == mine else Stored(*mine)
        loaded = self.run.loaded
        filters = make_filters(loaded.settings.filters, loaded.adapter.tensors, self.max_bytes)
        sums = NodeSums(self.store, *mine) if loaded.settings.privacy.secure_sums else None
        if sums is None and isinstance(message.request, Train) and message.request.masking is not None:
            return self._refused("privacy.secure_sums is false in these settings, and masks were asked for")
        try:
            request, memory = as_received(message.request, filters, stored.memory)
        except LacksBaseError:
            return Lacks()
        except PackingError as error:
            return self._refused(f"its model cannot be read: {error}")
        if sums is not None and (refusal := sums.refusal(request)) is not None:
            return self._refused(refusal.reason)
        if sums is not None and request.method not in (loaded.settings.method, *loaded.settings.baselines):
            # Every method begins with an unmasked warm-up, so a server must not start further ones.
            return self._refused(f"{request.method} is no method of this run (privacy.secure_sums)")
        foreign = isinstance(found, Stored) and found is not stored
        reply, after = self._handle(client, request, stored, foreign=foreign)
        if sums is not None and isinstance(request, Train) and request.masking is not None:
            reply = sums.masked(request, reply)
        else:
            reply, memory = as_sent(request, reply, filters, memory)
        if after is not stored:
            self.store.put(request.method, replace(after, memory=memory))
        return reply

    def _handle(self, client: Client, request: Request, stored: Stored, *, foreign: bool) -> tuple[Reply, Stored]:
        """The reply and the new state; ``foreign`` says that the store had the state of another run or client."""
        settings = self.run.loaded.settings
        if fault := self._fault(request, client, stored):
            return self._refused(fault), stored
        notes: tuple[str, ...] = ()
        if foreign and request.keeps:
            # The client has lost nothing, so the worker must not report lost private tensors.
            request, notes = replace(request, keeps=False), (NOT_OWN,)
        scored, (terms, trainer) = participation_of(settings), self.run.trainer(secret=self.secret)
        worker = ClientWorker(client, trainer, scored.score_rounds, stored.private, self.run.cache, terms=terms)
        reply = worker.handle(request)
        if terms is not None and isinstance(reply, Trained):
            spent = self.data.id, reply.epsilon, terms.epsilon, request.method
            log.info("fedlease: %s has spent epsilon %.3f of %g with %s", *spent)
        tasks = stored.tasks + isinstance(reply, Trained)
        after = replace(stored, private=worker.private, tasks=tasks)
        if isinstance(reply, Trained):
            return replace(reply, notes=(*reply.notes, *notes)), after
        if isinstance(reply, Finished) and isinstance(request, Finish):
            notes = (*reply.scores.notes, *notes, *self._write_model(stored.run, request, worker, reply.scores))
            # Only this node's rules decide whether texts of rows and private tensors leave, never a message.
            short = (row for row in reply.scores.samples if all(len(text) <= TEXT for text in row.values()))
            samples = tuple(short) if self.send_samples else ()
            private = reply.private if self.share_private else None
            return Finished(replace(reply.scores, notes=notes, samples=samples), private), after
        return reply, after

    def _refused(self, why: str) -> Refused:
        return Refused(f"client {self.data.id!r}: {why}")

    def _fault(self, request: Request, client: Client, stored: Stored) -> str:
        """Why a request does not fit the node's base model, or the client's private tensors."""
        loaded = self.run.loaded
        heads = loaded.resident.head_modules(client.num_labels)
        for name, model in models_of(request).items():
            if fault := model_fault(model, loaded.settings.lora.of(self.data.id), loaded.shapes, heads):
                return f"{name}: {fault}"
        if not isinstance(request, Train):
            return ""
        if self.max_tasks is not None and stored.tasks >= self.max_tasks:
            rule = f"it has done {stored.tasks} tasks for this run and does no more (max-rounds)"
            raise RulesError([("max-rounds", rule)])
        return task_fault(request.task, stored.private.names, masked=request.masking is not None)

    def _write_model(self, run: str, finish: Finish, worker: ClientWorker, scores: FinalScores) -> tuple[str, ...]:
        """Writes the client's own model; a failure becomes a note, so that the scores are not lost."""
        if self.models is None:
            return ()
        out, model = self.models / finish.method, finish.model
        tensors = worker.private.overlay(model)
        if scores.choice is not None:
            tensors = {**tensors, **model.candidates[scores.choice]}
        own = replace(model, tensors=tensors, candidates=())
        try:
            write_own_model(out, self.run.loaded, self.data, finish.method, own, scores, run, worker.predictions)
        except (OSError, RunFolderError, SafetensorError) as error:
            log.error("fedlease: the model of %s could not be written to %s: %s", self.data.id, out, error)
            # The reason stays in the node's log, since it contains the node's folders.
            return ("could not write its own model on its machine; its log says why",)
        log.info("fedlease: the model of %s is in %s", self.data.id, out)
        return ()
