"""Clients on other machines as the round loop sees them."""

import logging
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch

from fedlease.client.messages import FinalScores, Finish, Finished, Request, Score, Scored, Train
from fedlease.client.store import ELSEWHERE
from fedlease.core.types import ClientId, ClientModel, ClientTask, Tensors, head_names
from fedlease.errors import RunFailedError, UpdateRefusedError
from fedlease.flower.bounds import SHARE, TEXT, shown
from fedlease.flower.connection import Link
from fedlease.flower.messages import Envelope
from fedlease.flower.replies import ESCAPED, Size
from fedlease.flower.validation import SAMPLE_KEYS, scores_fault, update_fault
from fedlease.flower.wire import fingerprint_of
from fedlease.server.events import Listener
from fedlease.server.transport import Outcome
from fedlease.tasks.base import Task

__all__ = ["FlowerFleet"]

PER_NAME, PER_ROW, PER_EXPERT = 512, 16, 16
"""Characters of JSON in an answer for a tensor or module, a test row, and an expert in a module."""

log = logging.getLogger("flwr")


class FlowerFleet:
    """Gives tasks to nodes and takes their answers; what clients keep stays with them.

    Args:
        link: to the nodes.
        method: name; nodes keep private tensors per method.
        task: what clients optimise.
        known: clients of the run when it is gone on with, whether they are connected or not; None takes those that are.
        hand_over: whether clients give their private tensors to the server at the end: only on one machine, where a
            run folder is to hold what it holds without Flower.
        samples: test rows that a client may send in clear text.
    """

    def __init__(
        self,
        link: Link,
        method: str,
        task: Task,
        known: Collection[ClientId] | None = None,
        *,
        hand_over: bool = False,
        samples: int = 0,
    ) -> None:
        self.link = link
        self.method = method
        self.task = task
        self.samples = samples
        self.hand_over = hand_over
        self._accepted: dict[ClientId, int] = {}
        self._keeps: set[ClientId] = set()
        self._unscored: dict[ClientId, str] = {}
        self._sent: dict[ClientId, frozenset[str]] = {}
        self._handed: dict[ClientId, Mapping[str, Tensors]] | None = None
        self._known = set(link.cards if known is None else known)

    def rows(self) -> Mapping[ClientId, int]:
        """Client -> train rows that count, as its node said at the start."""
        return {client: self.link.cards[client].weight for client in sorted(self._known)}

    def newcomers(self) -> Mapping[ClientId, int]:
        """Clients whose nodes have come since."""
        self.link.discover()
        new = sorted(set(self.link.cards) - self._known)
        self._known |= set(new)
        return {client: self.link.cards[client].weight for client in new}

    def work(
        self, method: str, step: int, tasks: Mapping[ClientId, ClientTask], tell: Listener
    ) -> Iterator[tuple[ClientId, Outcome]]:
        """All at once; answers in the order of the tasks, when the last is there or the deadline is over."""
        questions = {
            client: self._enveloped(Train(method, step, task, *self._standing(client)))
            for client, task in tasks.items()
        }
        expected = {client: _size({n: task.model.tensors[n] for n in task.upload}) for client, task in tasks.items()}
        for client, answer, packed in self.link.ask("train.task", questions, expected, str(step)):
            self._sent[client] = packed.sent
            yield client, self._checked_answer(client, answer, tasks[client])

    def accept(self, step: int, tasks: Mapping[ClientId, ClientTask], models: Mapping[ClientId, ClientModel]) -> None:
        """Clients learn of it with the next message."""
        for client, task in tasks.items():
            self._accepted[client] = step
            if task.private:
                self._keeps.add(client)

    def score(self, models: Mapping[ClientId, ClientModel]) -> Mapping[ClientId, float]:
        """Scores of those that answer."""
        questions = {
            client: self._enveloped(Score(self.method, model, *self._standing(client)))
            for client, model in models.items()
            if self.link.cards[client].test_rows
        }
        self._unscored = {}
        scores = {}
        for client, answer, _ in self.link.ask("evaluate.score", questions, dict.fromkeys(questions, Size()), "score"):
            if isinstance(answer, Scored) and SHARE.holds(answer.score):
                scores[client] = float(answer.score)
            else:
                refused = isinstance(answer, UpdateRefusedError)
                why = answer.reason if refused else f"its score must be a number in 0 .. 1, received {shown(answer)}"
                self._unscored[client] = why
                log.error("fedlease: %r is not scored: %s", client, why)
        return scores

    def finish(
        self, models: Mapping[ClientId, ClientModel], untrained: Mapping[ClientId, ClientModel]
    ) -> Mapping[ClientId, FinalScores]:
        """Final scores of those that answer.

        Raises:
            RunFailedError: nobody does.
        """
        questions = {
            client: self._enveloped(
                Finish(self.method, model, untrained[client], *self._standing(client), self.hand_over)
            )
            for client, model in models.items()
        }
        expected = {client: self._size_of_scores(client, model) for client, model in models.items()}
        scores: dict[ClientId, FinalScores] = {}
        self._unscored, handed = {}, dict[ClientId, Mapping[str, Tensors]]()
        for client, answer, _ in self.link.ask("evaluate.finish", questions, expected, "finish"):
            try:
                scores[client] = self._checked_scores(client, answer, models[client])
                if self.hand_over and answer.private is not None:
                    handed[client] = answer.private
            except UpdateRefusedError as error:
                self._unscored[client] = error.reason
                log.error("fedlease: %r is not scored at the end: %s", client, error.reason)
        if not scores:
            reasons = "; ".join(f"{client}: {reason}" for client, reason in self._unscored.items())
            raise RunFailedError(f"{self.method}: no client could be scored at the end. {reasons}")
        if self.hand_over:
            self._handed = dict(sorted(handed.items()))
        return scores

    def unscored(self) -> Mapping[ClientId, str]:
        """Clients that did not answer when they were asked for scores last, or not with scores, and why."""
        return self._unscored

    def count(self, task: ClientTask, client: ClientId, totals: dict[str, float]) -> None:
        """What was really sent down, without what the node had already; up what is uploaded; heads apart. Nothing for a
        client that did not answer."""
        if client in self.link.silent:
            return
        sent, heads = set(self._sent.get(client, ())), head_names(task.model.tensors)
        for tensors in (task.model.tensors, *task.model.candidates):
            for name, tensor in tensors.items():
                mark = fingerprint_of(tensor)
                if mark in sent:
                    sent.discard(mark)
                    totals[f"{'head_' if name in heads else ''}bytes_down"] += _bytes([tensor])
        for name in task.upload:
            totals[f"{'head_' if name in heads else ''}bytes_up"] += _bytes([task.model.tensors[name]])

    def private(self) -> Mapping[ClientId, Mapping[str, Tensors]]:
        """What the server knows of each client; at the end, where clients hand it over, what they kept."""
        if self._handed is not None:
            return self._handed
        return {
            client: {ELSEWHERE: {"accepted": torch.tensor(step), "keeps": torch.tensor(int(client in self._keeps))}}
            for client, step in sorted(self._accepted.items())
        }

    def restore(self, private: Mapping[ClientId, Mapping[str, Any]]) -> None:
        """Goes on from what :meth:`private` gave."""
        books = {client: slots[ELSEWHERE] for client, slots in private.items() if ELSEWHERE in slots}
        self._accepted = {client: int(book["accepted"]) for client, book in books.items()}
        self._keeps = {client for client, book in books.items() if int(book["keeps"])}

    def _standing(self, client: ClientId) -> tuple[int | None, bool]:
        return self._accepted.get(client), client in self._keeps

    def _enveloped(self, request: Request) -> Envelope:
        return Envelope(self.link.run, self.link.settings, self.link.model, request)

    def _size_of_scores(self, client: ClientId, model: ClientModel) -> Size:
        """Of final scores: numbers per row, usage per module and expert, samples, and what is handed over."""
        spec, most = model.spec, _size(model.tensors) if self.hand_over else Size()
        usage = len(spec.target_modules) * (PER_NAME + PER_EXPERT * spec.num_experts)
        samples = self.samples * len(SAMPLE_KEYS) * ESCAPED * TEXT
        return Size(most.arrays, most.tree + self.link.cards[client].test_rows * PER_ROW + usage + samples)

    def _checked_answer(self, client: ClientId, answer: Any, task: ClientTask) -> Outcome:
        """An answer that is right as a whole, or why it is not used."""
        if isinstance(answer, UpdateRefusedError):
            return answer
        fault = update_fault(answer, task, client, self.link.cards[client].train_rows)
        return UpdateRefusedError(client, fault) if fault else answer

    def _checked_scores(self, client: ClientId, answer: Any, model: ClientModel) -> FinalScores:
        if isinstance(answer, UpdateRefusedError):
            raise answer
        scores = answer.scores if isinstance(answer, Finished) else answer
        fault = scores_fault(scores, self.task, model, self.link.cards[client].test_rows, self.samples)
        if fault:
            raise UpdateRefusedError(client, fault)
        return scores


def _bytes(tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _size(tensors: Tensors) -> Size:
    return Size(_bytes(tensors.values()), PER_NAME * len(tensors))
