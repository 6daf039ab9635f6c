"""Generates answers of clients' language models, one after the other, piece by piece."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch

from fedlease.core.seeds import seed_torch
from fedlease.core.types import ClientId
from fedlease.data.federation import Row
from fedlease.tasks.base import WritingTask
from fedlease.tasks.encoded import EncodedPrompts
from fedlease.use.open_run import OpenRun
from fedlease.use.serving.batcher import Batcher

__all__ = ["Answer", "Begun", "Ended", "Event", "Failed", "Piece", "Writer"]


@dataclass(frozen=True)
class Begun:
    """The beginning of an answer: number of tokens of the prompt, and whether it was cut to ``data.max_tokens``."""

    prompt_tokens: int
    cut: bool


@dataclass(frozen=True)
class Piece:
    """A further piece of an answer."""

    text: str


@dataclass(frozen=True)
class Ended:
    """The end of an answer: the reason, ``stop`` or ``length``, and its number of tokens, including the end token."""

    reason: str
    tokens: int


@dataclass(frozen=True)
class Failed:
    """An error that ended an answer."""

    error: Exception


Event = Begun | Piece | Ended | Failed


@dataclass
class Answer:
    """An answer to be generated.

    Attributes:
        client: id of the client whose model answers.
        row: the conversation.
        on_event: receives Begun, Pieces and Ended, or Failed, in the writer's thread.
        max_new_tokens: most tokens of the answer.
        temperature: sampling temperature; 0 takes the most probable token, as in the run's scores.
        top_p: probability of the most probable tokens, taken together, from which is sampled.
        seed: seed of the sampling; None draws one.
        stop: texts that end the answer, in addition to those of the run.
        given_up: when set, ends the answer at the next token.
    """

    client: ClientId
    row: Row
    on_event: Callable[[Event], object]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    given_up: threading.Event = field(default_factory=threading.Event)


class Writer:
    """Generates answers in one thread, first come, first served, with one client's adapter in the base at a time.

    Args:
        run: opened run folder with ``task: generation``.
        max_waiting: most answers that may wait.
        max_new_tokens: most tokens of an answer that a request may ask for, if the model's length allows it.

    Attributes:
        answers: number of answers so far.
        most: most tokens of an answer that a request may ask for.
        usual: most tokens of an answer by the run's settings.

    Raises:
        ModelError: the base model cannot be loaded.
    """

    def __init__(self, run: OpenRun, *, max_waiting: int, max_new_tokens: int) -> None:
        self.run = run
        positions = getattr(run.base.model.config, "max_position_embeddings", None)
        room = positions - run.settings.data.max_tokens if isinstance(positions, int) else max_new_tokens
        self.usual = cast(WritingTask, run.task).max_new_tokens
        self.most = max(self.usual, min(max_new_tokens, room))
        self.answers = 0
        self._loaded: ClientId | None = None
        # Generates one token, so that a model that cannot generate fails now.
        self._write(Answer(next(iter(run.clients)), Row("a text", None, 0), lambda event: None, 1))
        self._queue: Batcher[Answer, None] = Batcher(self._answer, max_batch=1, wait_ms=0, max_waiting=max_waiting)

    @property
    def waiting(self) -> int:
        """Number of answers that wait."""
        return self._queue.waiting

    def submit(self, answer: Answer) -> None:
        """Queues an answer; for errors, see :meth:`Batcher.submit`."""
        self._queue.submit([answer])

    def close(self) -> None:
        """Generates the answers that still wait, then ends the thread."""
        self._queue.close()

    def _answer(self, answers: Sequence[Answer]) -> list[None]:
        (answer,) = answers
        if not answer.given_up.is_set():
            try:
                self._write(answer)
            except Exception as error:
                self._loaded = None
                answer.on_event(Failed(error))
        return [None]

    @torch.inference_mode()
    def _write(self, answer: Answer) -> None:
        run = self.run
        torch.set_num_threads(run.threads)  # a setting of the thread that computes
        rows = cast(EncodedPrompts, run.encode([answer.row]))
        if self._loaded != answer.client:
            self._loaded = None
            run.load(answer.client)
            self._loaded = answer.client
        run.resident.for_scoring()
        inputs = rows.questions([0], run.device)
        answer.on_event(Begun(inputs["input_ids"].shape[1], bool(rows.truncated)))
        pieces = _Pieces(rows.tokenizer, (*run.settings.generation.stop, *answer.stop), answer)
        options: dict[str, Any] = {"max_new_tokens": answer.max_new_tokens, "do_sample": answer.temperature > 0}
        if answer.temperature > 0:
            options |= {"temperature": answer.temperature, "top_p": answer.top_p, "top_k": 0}
        options |= {"pad_token_id": rows.tokenizer.pad_token_id, "streamer": pieces, "stopping_criteria": [pieces.ends]}
        with run.resident.weighing(inputs), torch.random.fork_rng(enabled=answer.temperature > 0):
            if answer.seed is not None:
                seed_torch(answer.seed, run.device)
            run.resident.generate(inputs, **options)
        ends = run.base.model.generation_config.eos_token_id  # type: ignore[union-attr]
        ended = pieces.stopped or (pieces.ids and pieces.ids[-1] in (ends if isinstance(ends, list) else [ends]))
        pieces.finish()
        self.answers += 1
        answer.on_event(Ended("stop" if ended else "length", len(pieces.ids)))


class _Pieces:
    """A transformers streamer that passes on text as soon as it can no longer change, up to a stop text."""

    def __init__(self, tokenizer: Any, stop: Sequence[str], answer: Answer) -> None:
        self.ids: list[int] = []
        self.stopped = False
        self._tokenizer, self._stop, self._answer = tokenizer, stop, answer
        self._hold = max((len(text) for text in stop), default=1) - 1
        self._given = ""
        self._prompt = True

    def put(self, value: torch.Tensor) -> None:
        """Receives the prompt, then every token; transformers calls this."""
        if self._prompt:
            self._prompt = False
            return
        self.ids.extend(value.flatten().tolist())
        text = self._text()
        # The end is held back: a character may need further tokens, and a stop text may have begun.
        self._give(text.rstrip("\ufffd")[: len(text) - self._hold] if not self.stopped else text)

    def end(self) -> None:
        """Does nothing; transformers calls this at the end."""

    def ends(self, ids: torch.Tensor, scores: object, **more: object) -> torch.Tensor:
        """Whether each row of ``ids``, (1, tokens), is complete."""
        return torch.full((len(ids),), self.stopped or self._answer.given_up.is_set(), device=ids.device)

    def finish(self) -> None:
        """Passes on the text that was held back."""
        self._give(self._text())

    def _text(self) -> str:
        text: str = self._tokenizer.decode(self.ids, skip_special_tokens=True)
        for ending in self._stop:
            before, found, _ = text.partition(ending)
            self.stopped = self.stopped or bool(found)
            text = before
        return text

    def _give(self, text: str) -> None:
        text = text.strip()
        if len(text) > len(self._given) and text.startswith(self._given):
            self._answer.on_event(Piece(text[len(self._given) :]))
            self._given = text
