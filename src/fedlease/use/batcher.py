"""From the bytes of requests to batches: what a request may hold, and how rows of several are computed together."""

import json
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Annotated, Any, Generic, NoReturn, TypeVar

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from fedlease.core.types import ClientId
from fedlease.data.federation import Row
from fedlease.tasks.classification import collate
from fedlease.use.mixed import MixedModel
from fedlease.use.open_run import OpenRun

__all__ = [
    "MAX_CHARACTERS",
    "Batcher",
    "ClientPredictions",
    "ClientRows",
    "Failure",
    "Predictor",
    "QueueFullError",
    "Refusal",
    "SeveralClients",
    "SeveralPredictions",
    "read_requests",
    "rows_of",
]

T = TypeVar("T")
R = TypeVar("R")

MAX_CHARACTERS = 50_000
"""Of one text; what exceeds the run's ``data.max_tokens`` is cut off as in training."""
FAULTS_TOLD = 10


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("a text must not be empty")
    text.encode()  # a lone surrogate, which JSON can hold and no tokeniser takes, is a ValueError
    return text


Text = Annotated[str, Field(max_length=MAX_CHARACTERS), AfterValidator(_not_blank)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class _InputRow(_Strict):
    text: Text
    text_pair: Text | None = None


class ClientRows(_Strict):
    """Rows for one client."""

    client: str
    rows: Annotated[list[_InputRow], Field(min_length=1)]


class SeveralClients(_Strict):
    """Rows for several clients in one request."""

    requests: Annotated[list[ClientRows], Field(min_length=1)]


class _Prediction(BaseModel):
    label: str
    probability: float
    probabilities: dict[str, float]


class ClientPredictions(BaseModel):
    """One client's answers, in the order of its rows."""

    client: str
    predictions: list[_Prediction]


class SeveralPredictions(BaseModel):
    """The answers to :class:`SeveralClients`, in its order."""

    results: list[ClientPredictions]


class Failure(BaseModel):
    """What every error holds."""

    error: str


class Refusal(Exception):
    """A request that is not answered with predictions: HTTP status, sentence, headers, and what else to tell."""

    def __init__(self, status: int, error: str, headers: Mapping[str, str] | None = None, **more: Any) -> None:
        self.status, self.content, self.headers = status, {"error": error, **more}, headers


def read_requests(body: bytes) -> tuple[list[ClientRows], bool]:
    """What a body asks for, and whether it does so in the form for several clients.

    Raises:
        Refusal: 400 for what is no JSON, 422 for JSON of another form.
    """
    data = _parsed(body)
    several = isinstance(data, dict) and "requests" in data
    try:
        return (SeveralClients.model_validate(data).requests if several else [ClientRows.model_validate(data)]), several
    except ValidationError as error:
        faults = []
        for fault in error.errors(include_url=False, include_input=False, include_context=False):
            # A key that is no field is the sender's own: it may be long, and no Unicode.
            where = ascii(".".join(map(str, fault["loc"])))[1:-1][:200]
            faults.append(f"{where}: {fault['msg']}" if where else fault["msg"])
        raise Refusal(422, faults[0], faults=faults[:FAULTS_TOLD], num_faults=len(faults)) from None


def rows_of(run: OpenRun, asked: ClientRows, where: str) -> list[tuple[ClientId, Row]]:
    """Rows as a model takes them.

    Args:
        run: opened run folder.
        asked: for one client.
        where: its place in the request, for messages.

    Raises:
        Refusal: 404 for an unknown client, 422 where a second text is missing or not wanted.
    """
    known = run.clients.get(asked.client)
    if known is None:
        some = list(run.clients)[:5]
        raise Refusal(404, f"no such client: {asked.client!r:.120}; the run has {len(run.clients)}", clients=some)
    pairs = known.pairs
    for i, row in enumerate(asked.rows):
        if pairs is not None and (row.text_pair is not None) != pairs:
            rule = "is missing: the client's rows are pairs" if pairs else "must be absent: its rows are no pairs"
            raise Refusal(422, f"{where}rows.{i}.text_pair: {rule}")
    if pairs is None:
        # As where rows are read from a file: one pair makes all of the client's rows pairs.
        pairs = any(row.text_pair is not None for row in asked.rows)
    return [(known.id, Row(row.text, (row.text_pair or "") if pairs else None, 0)) for row in asked.rows]


def _parsed(body: bytes) -> Any:
    def refuse(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON number")

    try:
        return json.loads(body.decode("utf-8"), parse_constant=refuse)
    except UnicodeDecodeError as error:
        raise Refusal(400, f"the body is not UTF-8: byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"the body is not usable JSON: {error}") from None


class Predictor:
    """Rows of any clients -> the probabilities of each row's client's labels."""

    def __init__(self, run: OpenRun) -> None:
        self.run, self.mixed = run, MixedModel.of_run(run)

    def __call__(self, rows: Sequence[tuple[ClientId, Row]]) -> list[list[float]]:
        """One list per row, as long as the label list of its client."""
        torch.set_num_threads(self.run.threads)  # a setting of the thread that computes
        # A tokeniser takes either single texts or pairs.
        order = sorted(range(len(rows)), key=lambda i: rows[i][1].pair is not None)
        kinds = [[row for _, row in rows if (row.pair is not None) == pair] for pair in (False, True)]
        first, *others = [self.run.encode(kind) for kind in kinds if kind]
        for other in others:
            columns = {name: [*values, *other.columns[name]] for name, values in first.columns.items()}
            first = replace(first, columns=columns, labels=first.labels + other.labels)
        inputs, _ = collate(first, range(len(rows)), self.run.device)
        found = dict(zip(order, self.mixed.logits(inputs, [rows[i][0] for i in order]), strict=True))
        return [found[i].double().softmax(-1).tolist() for i in range(len(rows))]


class QueueFullError(Exception):
    """More rows wait than may wait; later there may be room."""


class _Request(Generic[T, R]):
    """Rows that are answered together, over one batch or several."""

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
        # Several batches may hold rows of this request; the first that fails answers it.
        if not self.future.done() and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class Batcher(Generic[T, R]):
    """First come, first served; a batch starts when it is full or its oldest row has waited long enough.

    While a batch is computed, rows gather for the next one, so that under load batches are full and nothing waits on
    the clock.

    Args:
        compute: rows, at least one and at most ``max_batch`` -> one answer per row; called by one thread only.
        max_batch: rows.
        wait_ms: how long the first row of a batch waits for company, in milliseconds.
        max_waiting: rows that may wait; a request is always taken when none waits.

    Attributes:
        batches: calls of ``compute`` so far.
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
        """Queues rows, at least one; the answers come in their order.

        Raises:
            QueueFullError: too many rows wait.
            RuntimeError: closed.
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

    def close(self) -> None:
        """Computes what still waits, then ends the thread."""
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
                # Requests that have failed or whose client gave up are not computed any further.
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
            # One request must not spoil the others: each by itself.
            for request in requests:
                self._run([(other, index) for other, index in batch if other is request])
            return
        for (request, index), answer in zip(batch, answers, strict=True):
            request.answer(index, answer)
