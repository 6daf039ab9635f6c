"""Batches of rows from concurrent requests, for any clients."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

import torch

from fedlease.core.types import ClientId
from fedlease.data.federation import Row
from fedlease.tasks.base import HeadTask
from fedlease.use.open_run import OpenRun
from fedlease.use.serving.mixed import MixedModel

__all__ = ["Batcher", "Predictor", "QueueFullError"]

T = TypeVar("T")
R = TypeVar("R")


class Predictor:
    """Predicts rows with their clients' models; computes two rows when it is created, as a test.

    Raises:
        ModelError: rows cannot be computed together in this architecture.
    """

    def __init__(self, run: OpenRun) -> None:
        self.run, self.mixed = run, MixedModel.of_run(run)
        first = next(iter(run.clients.values()))
        # Two rows, since one would not reveal a module whose first dimension is not that of rows.
        texts = ("a text", "and a longer one beside it")
        self([(first.id, Row(text, text if first.pairs else None, 0)) for text in texts])

    def __call__(self, rows: Sequence[tuple[ClientId, Row]]) -> list[dict[str, Any]]:
        """The columns of the task's predictions for each row."""
        task = self.run.task
        assert isinstance(task, HeadTask)
        torch.set_num_threads(self.run.threads)  # a setting of the thread that computes
        encoded = self.run.encode([row for _, row in rows])
        clients = [self.run.clients[client] for client, _ in rows]
        found = self.mixed.logits(encoded.pad(range(len(rows)), self.run.device), [client.id for client in clients])
        read = (task.read_outputs(o[None], c.labels, c.scale) for o, c in zip(found, clients, strict=True))
        return [prediction for (prediction,) in read]


class QueueFullError(Exception):
    """The queue is full for now."""


class _Request(Generic[T, R]):
    """Rows that one caller submitted together, which may be computed in several batches."""

    def __init__(self, rows: Sequence[T]) -> None:
        self.rows = list(rows)
        self.answers: dict[int, R] = {}
        self.since = time.monotonic()
        self.future: Future[list[R]] = Future()

    def answer(self, index: int, answer: R) -> None:
        self.answers[index] = answer
        if len(self.answers) == len(self.rows) and self.future.set_running_or_notify_cancel():
            self.future.set_result([self.answers[i] for i in range(len(self.rows))])

    def fail(self, error: Exception) -> None:
        # The first failing batch with rows of this request ends it.
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Batcher(Generic[T, R]):
    """Collects rows in batches, first come, first served; a batch starts when it is full or ``wait_ms`` have passed.

    Rows that arrive while a batch is computed form the next one, so that under load batches are full and start at once.

    Args:
        compute: function from 1 to ``max_batch`` rows to one answer per row; only one thread calls it.
        max_batch: most rows of a batch.
        wait_ms: most milliseconds that the first row of a batch waits for others.
        max_waiting: most rows that may wait; an empty queue accepts a request of any size.

    Attributes:
        batches: number of calls of ``compute`` so far.
    """

    def __init__(
        self, compute: Callable[[Sequence[T]], Sequence[R]], *, max_batch: int, wait_ms: float, max_waiting: int
    ) -> None:
        self.batches = 0
        self._compute = compute
        self._max_batch = max_batch
        self._wait = wait_ms / 1000
        self._max_waiting = max_waiting
        self._waiting: deque[tuple[_Request[T, R], int]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="fedlease-batcher", daemon=True)
        self._thread.start()

    def submit(self, rows: Sequence[T]) -> Future[list[R]]:
        """Queues rows, at least one; the result has one answer per row, in their order.

        Raises:
            QueueFullError: too many rows wait.
            RuntimeError: the batcher is closed.
        """
        request: _Request[T, R] = _Request(rows)
        with self._changed:
            if self._closed:
                raise RuntimeError("the batcher is closed")
            if self._waiting and len(self._waiting) + len(rows) > self._max_waiting:
                raise QueueFullError(f"{len(self._waiting)} rows wait already")
            self._waiting.extend((request, index) for index in range(len(rows)))
            self._changed.notify()
        return request.future

    @property
    def waiting(self) -> int:
        """Number of rows that wait."""
        return len(self._waiting)

    def close(self) -> None:
        """Computes the rows that still wait, then ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            self._run(batch)

    def _next(self) -> list[tuple[_Request[T, R], int]]:
        """The next batch; empty when closed and nothing waits."""
        with self._changed:
            while True:
                # Rows of failed or cancelled requests are skipped.
                while self._waiting and self._waiting[0][0].future.done():
                    self._waiting.popleft()
                if self._waiting:
                    left = self._waiting[0][0].since + self._wait - time.monotonic()
                    if self._closed or left <= 0 or len(self._waiting) >= self._max_batch:
                        break
                    self._changed.wait(left)
                elif self._closed:
                    return []
                else:
                    self._changed.wait()
            return [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]

    def _run(self, batch: list[tuple[_Request[T, R], int]]) -> None:
        self.batches += 1
        try:
            answers = self._compute([request.rows[index] for request, index in batch])
        except Exception as error:
            requests = list(dict.fromkeys(request for request, _ in batch))
            if len(requests) == 1:
                requests[0].fail(error)
                return
            # Each request is computed alone, so that only the faulty one fails.
            for request in requests:
                self._run([(other, index) for other, index in batch if other is request])
            return
        for (request, index), answer in zip(batch, answers, strict=True):
            request.answer(index, answer)
