"""Clients on other machines as the round loop sees them."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch

from fedlease.core.types import ClientId, ClientModel, ClientTask, Tensors, head_names
from fedlease.engines.client_store import BOOK_SLOT
from fedlease.engines.client_work import FinalScores
from fedlease.engines.events import Listener
from fedlease.engines.fleet import Outcome
from fedlease.engines.flower.checks import answer_fault, is_share, scores_fault
from fedlease.engines.flower.link import Link
from fedlease.engines.flower.node import HandedOver
from fedlease.engines.flower.records import Finish, Score, Work, fingerprint_of
from fedlease.errors import RunFailedError, UpdateRefusedError

__all__ = ["FlowerFleet"]


class FlowerFleet:
    """Gives tasks to nodes and takes their answers; what clients keep stays with them.

    Args:
        link: to the nodes.
        method: name; nodes keep private tensors per method.
        metric: the headline, in 0 .. 1.
        known: clients of the run when it is gone on with, whether they are connected or not; None takes those that are.
        hand_over: whether clients give their private tensors to the server at the end: only on one machine, where a
            run folder is to hold what it holds without Flower.
    """

    def __init__(
        self,
        link: Link,
        method: str,
        metric: str,
        known: Collection[ClientId] | None = None,
        *,
        hand_over: bool = False,
    ) -> None:
        self.link = link
        self.method = method
        self.metric = metric
        self.hand_over = hand_over
        self._accepted: dict[ClientId, int] = {}
        self._keeps: set[ClientId] = set()
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
            client: Work(self.link.settings, self.link.model, method, step, task, *self._standing(client))
            for client, task in tasks.items()
        }
        expected = {client: _bytes(task.model.tensors[name] for name in task.upload) for client, task in tasks.items()}
        for phase in sorted({task.phase for task in tasks.values()}):
            own = {client: question for client, question in questions.items() if tasks[client].phase == phase}
            for client, answer, packed in self.link.ask(f"train.{phase}", own, expected, str(step)):
                self._sent[client] = packed.sent
                yield client, _checked_answer(client, answer, len(tasks[client].model.candidates))

    def accept(self, step: int, tasks: Mapping[ClientId, ClientTask], models: Mapping[ClientId, ClientModel]) -> None:
        """Clients learn of it with the next message."""
        for client, task in tasks.items():
            self._accepted[client] = step
            if task.private:
                self._keeps.add(client)

    def score(self, models: Mapping[ClientId, ClientModel]) -> Mapping[ClientId, float]:
        """Scores of those that answer."""
        questions = {
            client: Score(self.link.settings, self.link.model, self.method, model, *self._standing(client))
            for client, model in models.items()
            if self.link.cards[client].test_rows
        }
        found = self.link.ask("evaluate.score", questions, dict.fromkeys(questions, 0), "score")
        return {client: float(answer) for client, answer, _ in found if is_share(answer)}

    def finish(
        self, models: Mapping[ClientId, ClientModel], untrained: Mapping[ClientId, ClientModel]
    ) -> Mapping[ClientId, FinalScores]:
        """Final scores of those that answer.

        Raises:
            RunFailedError: nobody does.
        """
        questions = {
            client: Finish(
                self.link.settings,
                self.link.model,
                self.method,
                model,
                untrained[client],
                *self._standing(client),
                self.hand_over,
            )
            for client, model in models.items()
        }
        expected = {client: _bytes(model.tensors.values()) for client, model in models.items()}
        scores: dict[ClientId, FinalScores] = {}
        reasons, handed = [], dict[ClientId, Mapping[str, Tensors]]()
        for client, answer, _ in self.link.ask("evaluate.finish", questions, expected, "finish"):
            if isinstance(answer, HandedOver) and self.hand_over:
                handed[client] = answer.private
                answer = answer.scores
            try:
                rows, candidates = self.link.cards[client].test_rows, len(models[client].candidates)
                scores[client] = _checked_scores(client, answer, self.metric, rows, candidates)
            except UpdateRefusedError as error:
                reasons.append(f"{client}: {error.reason}")
        if not scores:
            raise RunFailedError(f"{self.method}: no client could be scored at the end. {'; '.join(reasons)}")
        if self.hand_over:
            self._handed = dict(sorted(handed.items()))
        return scores

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
            client: {BOOK_SLOT: {"accepted": torch.tensor(step), "keeps": torch.tensor(int(client in self._keeps))}}
            for client, step in sorted(self._accepted.items())
        }

    def restore(self, private: Mapping[ClientId, Mapping[str, Any]]) -> None:
        """Goes on from what :meth:`private` gave."""
        books = {client: slots[BOOK_SLOT] for client, slots in private.items() if BOOK_SLOT in slots}
        self._accepted = {client: int(book["accepted"]) for client, book in books.items()}
        self._keeps = {client for client, book in books.items() if int(book["keeps"])}

    def _standing(self, client: ClientId) -> tuple[int | None, bool]:
        return self._accepted.get(client), client in self._keeps


def _checked_answer(client: ClientId, answer: Any, candidates: int) -> Outcome:
    """An answer of the right form; values of the update are checked by the round loop."""
    if isinstance(answer, UpdateRefusedError):
        return answer
    fault = answer_fault(answer, candidates)
    return UpdateRefusedError(client, fault) if fault else answer


def _checked_scores(client: ClientId, scores: Any, metric: str, test_rows: int, candidates: int) -> FinalScores:
    if isinstance(scores, UpdateRefusedError):
        raise scores
    fault = scores_fault(scores, metric, test_rows, candidates)
    if fault:
        raise UpdateRefusedError(client, fault)
    return scores  # type: ignore[no-any-return]


def _bytes(tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors)
