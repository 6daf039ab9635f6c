"""Clients on other machines as the round loop sees them."""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch

from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate, Tensors, head_names
from fedlease.engines.client_store import BOOK_SLOT
from fedlease.engines.client_work import Answer, FinalScores
from fedlease.engines.events import Listener
from fedlease.engines.fleet import Outcome
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
        """Client -> train rows, as its node said at the start."""
        return {client: self.link.cards[client].train_rows for client in sorted(self._known)}

    def newcomers(self) -> Mapping[ClientId, int]:
        """Clients whose nodes have come since."""
        self.link.discover()
        new = sorted(set(self.link.cards) - self._known)
        self._known |= set(new)
        return {client: self.link.cards[client].train_rows for client in new}

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
                yield client, _checked_answer(client, answer)

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
        }
        found = self.link.ask("evaluate.score", questions, dict.fromkeys(questions, 0), "score")
        return {client: float(answer) for client, answer, _ in found if _is_share(answer)}

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
                scores[client] = _checked_scores(client, answer, self.metric, self.link.cards[client].test_rows)
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


def _checked_answer(client: ClientId, answer: Any) -> Outcome:
    """An answer of the right form; values of the update are checked by the round loop."""
    if isinstance(answer, UpdateRefusedError):
        return answer
    if not isinstance(answer, Answer) or not isinstance(answer.update, ClientUpdate):
        return UpdateRefusedError(client, f"its answer is no update but a {type(answer).__name__}")
    update = answer.update
    numbers = (answer.steps, answer.train_seconds, answer.evaluate_seconds)
    if not all(_is_number(number) and number >= 0 for number in numbers):
        return UpdateRefusedError(client, f"steps and seconds must be numbers, 0 or more, received {numbers}")
    if answer.score is not None and not _is_share(answer.score):
        return UpdateRefusedError(client, f"its score must be a number in 0 .. 1, received {answer.score!r}")
    loss = update.metrics.get("loss") if isinstance(update.metrics, Mapping) else None
    if not _is_number(loss):
        return UpdateRefusedError(client, f"its loss must be a finite number, received {loss!r}")
    if not isinstance(update.tensors, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in update.tensors.items()
    ):
        return UpdateRefusedError(client, "its update holds other things than named tensors")
    if not _are_texts(answer.notes):
        return UpdateRefusedError(client, "its notes are no texts")
    return answer


def _checked_scores(client: ClientId, scores: Any, metric: str, test_rows: int) -> FinalScores:
    if isinstance(scores, UpdateRefusedError):
        raise scores
    if not isinstance(scores, FinalScores):
        raise UpdateRefusedError(client, f"its answer holds no scores but a {type(scores).__name__}")
    fault = _scores_fault(scores, metric, test_rows)
    if fault:
        raise UpdateRefusedError(client, fault)
    return scores


def _scores_fault(scores: FinalScores, metric: str, test_rows: int) -> str:
    """Why scores cannot be used; they come from another machine."""
    metrics, rows = scores.metrics, scores.row_scores
    if not isinstance(metrics, Mapping) or not all(isinstance(name, str) for name in metrics) or metric not in metrics:
        return f"its scores hold no {metric}"
    if not all(_is_number(v) and (name == "loss" or -1 <= v <= 1) for name, v in metrics.items()):
        return f"its scores must be numbers in -1 .. 1, received {dict(metrics)}"
    shares = [metrics[metric], scores.majority, scores.bare_base]
    if not all(map(_is_share, shares if scores.own_expert is None else [*shares, scores.own_expert])):
        return f"its scores must be numbers in 0 .. 1, received {shares} and {scores.own_expert!r}"
    if not isinstance(rows, str | list | tuple) or scores.num_test != test_rows or len(rows) != test_rows:
        return f"it must score {test_rows} rows, it scored {scores.num_test!r}"
    if not (set(rows) <= {"0", "1"} if isinstance(rows, str) else all(map(_is_share, rows))):
        return "its scores of single rows must be numbers in 0 .. 1"
    choice = scores.choice
    if choice is not None and (isinstance(choice, bool) or not isinstance(choice, int) or choice < 0):
        return f"its choice must be a whole number, received {choice!r}"
    if not _are_texts(scores.notes):
        return "its notes are no texts"
    if not all(
        isinstance(row, Mapping) and all(isinstance(text, str) for text in (*row, *row.values()))
        for row in scores.samples
    ):
        return "its samples are no texts"
    return "" if scores.usage is None or _is_usage(scores.usage) else "its usage of experts is malformed"


def _is_usage(usage: Any) -> bool:
    return isinstance(usage, Mapping) and all(
        isinstance(module, str)
        and isinstance(row, Mapping)
        and row.keys() == {"weights", "experts_per_token"}
        and _is_number(row["experts_per_token"])
        and isinstance(row["weights"], list | tuple)
        and all(map(_is_number, row["weights"]))
        for module, row in usage.items()
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(text, str) for text in value)


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _bytes(tensors: Any) -> int:
    return sum(tensor.nbytes for tensor in tensors)
