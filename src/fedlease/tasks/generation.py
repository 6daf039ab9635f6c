"""Generation: a prompt and its answer; the loss is on the answer's tokens, the score ROUGE-1 of what is written."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fedlease.data.federation import Row
from fedlease.tasks.base import Encoded, Inputs, Measured, Model, OnRows, padded
from fedlease.tasks.batches import evaluation_batches
from fedlease.tasks.prompts import Prompts, Template
from fedlease.tasks.text_scores import answers_given, exact_matches, require_rouge, rouge

__all__ = ["IGNORED", "EncodedPrompts", "Generation", "answer_loss", "collate", "write"]

IGNORED = -100
"""Label of a token that the loss leaves out: padding, and every token of the prompt."""

EVALUATION_BATCH = 16


@dataclass(frozen=True)
class EncodedPrompts(Encoded):
    """Prompts with their answers at the end; ``labels`` is the number of answer tokens of each, end token included.

    Attributes:
        references: the answers as texts.
        tokenizer: that made them, which reads what is written.
        shortened: answers that were cut, among them those without an end token.
    """

    references: tuple[str, ...] = ()
    tokenizer: Any = None
    shortened: int = 0

    def first(self, count: int) -> "EncodedPrompts":
        """The first rows."""
        return EncodedPrompts(
            {name: column[:count] for name, column in self.columns.items()},
            self.labels[:count],
            self.padding,
            self.left,
            0,
            self.references[:count],
            self.tokenizer,
        )

    def prompt_lengths(self) -> list[int]:
        """Tokens per prompt."""
        return [length - answer for length, answer in zip(self.lengths, self.labels, strict=True)]

    def questions(self, indices: Sequence[int], device: torch.device) -> Inputs:
        """Prompts alone, padded on the left."""
        keep = self.prompt_lengths()
        columns = {name: [column[i][: keep[i]] for i in indices] for name, column in self.columns.items()}
        return padded(columns, self.padding, True, device)


@dataclass(frozen=True)
class Generation:
    """Next-token loss on answers, scored by ROUGE-1.

    Attributes:
        max_tokens: of prompt and answer together. A prompt that is too long loses its oldest turns, then the end of its
            text; an answer is only cut when it takes more than half, and both are counted.
        max_new_tokens: longest answer that is written.
        stop: texts that end an answer.
        template: see :class:`~fedlease.tasks.prompts.Prompts`.
        batch_size: answers written together.
        num_samples: rows whose answers are kept for reading.
    """

    max_tokens: int = 512
    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()
    template: Template = "auto"
    batch_size: int = 16
    num_samples: int = 3
    name: ClassVar[str] = "generation"
    metric: ClassVar[str] = "rouge1"
    metrics: ClassVar[tuple[str, ...]] = ("rouge1", "rougeL", "exact_match", "loss")
    extra_metrics: ClassVar[tuple[str, ...]] = ("answer_accuracy",)
    peft_type: ClassVar[str] = "CAUSAL_LM"

    def encode(self, rows: Sequence[Row], tokenizer: Any) -> EncodedPrompts:
        """Tokenises prompts and answers.

        Raises:
            ConfigError: the template leaves no room for a prompt, or is asked for and missing.
            DataError: the template refuses rows.
            MissingPackageError: the library that scores answers is not installed.
        """
        require_rouge()
        prompts = Prompts(tokenizer, self.template)
        answers = [row.response or "" for row in rows]
        # A fast tokeniser takes all rows at once; a prompt alone has no answer, and no end token either.
        ends = tokenizer(answers, add_special_tokens=False)["input_ids"] if rows else []
        ids, counts, cut, shortened = [], [], 0, 0
        for row, prompt, end in zip(rows, prompts.ids(rows), ends, strict=True):
            end = [*end, tokenizer.eos_token_id] if row.response is not None else []
            room = max(self.max_tokens - len(end), self.max_tokens // 2)
            fitted = prompts.within(row, prompt, room)
            kept = end[: self.max_tokens - len(fitted)]
            cut += len(fitted) < len(prompt)
            shortened += len(kept) < len(end)
            ids.append([*fitted, *kept])
            counts.append(len(kept))
        return EncodedPrompts(
            {"input_ids": ids, "attention_mask": [[1] * len(line) for line in ids]},
            tuple(counts),
            {"input_ids": int(tokenizer.pad_token_id), "attention_mask": 0},
            True,
            cut,
            tuple(answers),
            tokenizer,
            shortened,
        )

    def warnings(self, encoded: Sequence[Encoded]) -> list[str]:
        """Sentences about prompts and answers that were cut."""
        rows = sum(map(len, encoded))
        found = []
        for count, what in (
            (sum(part.truncated for part in encoded), "prompts"),
            (sum(part.shortened for part in encoded if isinstance(part, EncodedPrompts)), "answers"),
        ):
            if count:
                found.append(f"{count} of {rows} {what} were cut to data.max_tokens = {self.max_tokens}")
        return found

    def batch_loss(self, model: Model, rows: Encoded, indices: Sequence[int]) -> Tensor:
        """Mean cross-entropy of the answer tokens of a batch."""
        inputs, labels = collate(rows, indices, model.device)
        return answer_loss(model.logits(inputs, last=labels.shape[1] + 1), labels)

    @torch.inference_mode()
    def mean_loss(self, model: Model, rows: Encoded, threads: int) -> float:
        """Mean cross-entropy of all answer tokens of all rows."""
        torch.set_num_threads(threads)
        model.for_scoring()
        total = 0.0
        for batch in evaluation_batches(rows.lengths, EVALUATION_BATCH):
            inputs, labels = collate(rows, batch, model.device)
            with model.answering(rows.questions(batch, model.device)):
                loss = answer_loss(model.logits(inputs, last=labels.shape[1] + 1), labels)
            total += float(loss) * int((labels != IGNORED).sum())
        return total / max(sum(rows.labels), 1)

    def measure(self, model: Model, rows: Encoded, threads: int, on_rows: OnRows | None = None) -> Measured:
        """ROUGE-1 and ROUGE-L, exact match, accuracy of short answers where there are any, and loss per token."""
        assert isinstance(rows, EncodedPrompts)
        answers = write(model, rows, self, threads, on_rows)
        scores = rouge(answers, rows.references)
        given = [value for value in answers_given(answers, rows.references) if value is not None]
        metrics = {
            **{name: _mean(values) for name, values in scores.items()},
            "exact_match": _mean(exact_matches(answers, rows.references)),
            **({"answer_accuracy": _mean(given)} if given else {}),
            "loss": self.mean_loss(model, rows, threads),
        }
        return Measured(metrics, tuple(scores["rouge1"]), tuple(answers))

    def samples(self, rows: Sequence[Row], answers: Sequence[str], bare: Sequence[str]) -> list[dict[str, str]]:
        """The first rows: prompt, reference, and what the untrained and this model write."""
        return [
            {"prompt": row.text, "reference": row.response or "", "base": before, "answer": answer}
            for row, answer, before in list(zip(rows, answers, bare, strict=True))[: self.num_samples]
        ]

    def naive(self, train: Sequence[Row], test: Sequence[Row]) -> float:
        """ROUGE-1 of always giving the most frequent answer of ``train``; the first in the alphabet on a tie."""
        counts = Counter(row.response or "" for row in train)
        most = min(counts, key=lambda answer: (-counts[answer], answer))
        return _mean(rouge([most] * len(test), [row.response or "" for row in test])["rouge1"])


def collate(rows: Encoded, indices: Sequence[int], device: torch.device) -> tuple[Inputs, Tensor]:
    """One batch, padded on the left, so that all answers end together.

    Returns:
        Model inputs (b, longest), and the labels of the last tokens (b, longest answer): a token id, or
        :data:`IGNORED` where a shorter row has prompt or padding there.
    """
    inputs = rows.pad(indices, device)
    counts = [rows.labels[i] for i in indices]
    width = max(*counts, 1) if len(counts) > 1 else max(counts[0], 1)
    labels = inputs["input_ids"][:, -width:].clone()
    for line, count in enumerate(counts):
        labels[line, : width - count] = IGNORED
    return inputs, labels


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy, in float32, of (b, n + 1, vocabulary) logits at the last tokens against (b, n) labels.

    A token is predicted from the place before it.
    """
    flat = logits[:, :-1].flatten(0, 1).float()
    return F.cross_entropy(flat, labels.flatten(), ignore_index=IGNORED)


@torch.inference_mode()
def write(
    model: Model,
    rows: EncodedPrompts,
    task: Generation,
    threads: int,
    on_rows: OnRows | None = None,
    on_text: Callable[[str], None] | None = None,
) -> list[str]:
    """Answers to prompts, in row order: greedy, in batches of like length, ended by the end token or a stop text.

    Args:
        model: with a client's adapter loaded.
        rows: prompts; their answers are not looked at.
        task: how long answers may be, and what ends them.
        threads: CPU threads.
        on_rows: called after every batch.
        on_text: of a single prompt: told the answer piece by piece, before a stop text is cut off.
    """
    torch.set_num_threads(threads)
    model.for_scoring()
    tokenizer = rows.tokenizer
    answers = [""] * len(rows)
    done = 0
    options: dict[str, Any] = {"stop_strings": list(task.stop), "tokenizer": tokenizer} if task.stop else {}
    if on_text is not None:
        options["streamer"] = _streamer(tokenizer, on_text)
    for batch in evaluation_batches(rows.prompt_lengths(), task.batch_size):
        inputs = rows.questions(batch, model.device)
        with model.answering(inputs):
            tokens = model.generate(
                inputs,
                max_new_tokens=task.max_new_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
                **options,
            )
        texts = tokenizer.batch_decode(tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(batch, texts, strict=True):
            answers[i] = _until(text, task.stop).strip()
        done += len(batch)
        if on_rows is not None:
            on_rows(done, len(rows))
    return answers


def _streamer(tokenizer: Any, on_text: Callable[[str], None]) -> Any:
    from transformers import TextStreamer

    class Teller(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            on_text(text)

    return Teller(tokenizer, skip_prompt=True, skip_special_tokens=True)


def _until(text: str, stop: Sequence[str]) -> str:
    for ending in stop:
        text = text.split(ending, 1)[0]
    return text


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
