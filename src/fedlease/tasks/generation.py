"""Generation: the loss is on the tokens of a prompt's answer, the score compares the generated answer with it."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from fedlease.config.choices import Template
from fedlease.config.data import ColumnSettings, DataSettings
from fedlease.config.settings import Settings
from fedlease.core.confusion import Cells
from fedlease.core.wording import counted
from fedlease.data.faults import Faults
from fedlease.data.federation import Row
from fedlease.data.reading.prompts import read_answered, read_prompts
from fedlease.data.reading.rows import Table
from fedlease.tasks.base import BATCH, UNSCALED, GivesLogits, Measured, Model, OnRows, Scale, StackedClients
from fedlease.tasks.encoded import IGNORED, Encoded, EncodedPrompts, answer_loss, collate, evaluation_batches
from fedlease.tasks.metrics import LOSS, Graded, Metric, MetricWords
from fedlease.tasks.prompts import Prompts
from fedlease.tasks.stacking import mean_losses, of_rows
from fedlease.tasks.text_scores import answer_means, answer_scores, require_rouge
from fedlease.tasks.writing import write_batch

__all__ = ["Generation"]

EVALUATION_BATCH = 16


def _words(name: str) -> MetricWords:
    means = {
        "mean_rouge1": "mean ROUGE-1",
        "mean_rougeL": "mean ROUGE-L",
        "mean_exact_match": "mean exact match",
        "mean_answer_accuracy": "mean accuracy of short answers",
    }
    further = {key: text for key, text in means.items() if name not in text}
    return MetricWords(name, heads=False, look="read some of the answers", further=further)


@dataclass(frozen=True)
class Generation:
    """Next-token loss on answers, and scores of generated answers.

    Attributes:
        max_tokens: of prompt and answer together. A prompt that is too long loses its oldest turns, then the end of its
            text; an answer is only cut if it takes more than half.
        max_new_tokens: largest number of tokens of a generated answer.
        stop: texts that end an answer.
        template: see :class:`~fedlease.tasks.prompts.Prompts`.
        batch_size: number of answers that are generated together.
        score_rounds: whether every round is scored by generated answers, or only the result.
        num_samples: number of rows whose answers are kept for reading.
        metric: the headline.
    """

    max_tokens: int = 512
    max_new_tokens: int = 64
    stop: tuple[str, ...] = ()
    template: Template = "auto"
    batch_size: int = 16
    score_rounds: bool = True
    num_samples: int = 3
    metric: str = "rouge1"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "rouge1": Metric(),
        "rougeL": Metric(),
        "exact_match": Metric(),
        "loss": LOSS,
    }
    extra_metrics: ClassVar[Mapping[str, Metric]] = {"answer_accuracy": Metric()}
    prediction_columns: ClassVar[tuple[str, ...]] = ("prediction",)
    headlines: ClassVar[Mapping[str, MetricWords]] = {
        "rouge1": _words("ROUGE-1"),
        "rougeL": _words("ROUGE-L"),
        "exact_match": _words("exact match"),
    }

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The task with the parameters of a run."""
        given = settings.generation.model_dump()
        samples, metric = given.pop("samples"), settings.metric or "rouge1"
        return cls(settings.data.max_tokens, num_samples=samples, metric=metric, **given)

    def describe(self) -> str:
        """Name of the task, in words for reports."""
        return f"text generation, answers of at most {counted(self.max_new_tokens, 'token')}"

    def encode(self, rows: Sequence[Row], tokenizer: Any, scale: Scale = UNSCALED) -> EncodedPrompts:
        """Tokenises prompts and answers; there is nothing to scale.

        Raises:
            ConfigError: the template leaves no room for a prompt, or the tokenizer lacks the chat template asked for.
            DataError: the template refuses rows.
            MissingPackageError: the library that scores answers is not installed.
        """
        require_rouge()
        prompts = Prompts(tokenizer, self.template)
        answers = [row.response or "" for row in rows]
        # A fast tokenizer takes all rows at once. A prompt without an answer has no end token either.
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
        found = {"truncated": cut, "shortened": shortened, "references": tuple(answers), "tokenizer": tokenizer}
        return EncodedPrompts.of({"input_ids": ids}, counts, int(tokenizer.pad_token_id), left=True, **found)

    def warnings(self, encoded: Sequence[Encoded]) -> list[str]:
        """Sentences about prompts and answers that were cut."""
        prompts = sum(part.truncated for part in encoded)
        answers = sum(part.shortened for part in encoded if isinstance(part, EncodedPrompts))
        return [
            f"{count} of {sum(map(len, encoded))} {what} were cut to data.max_tokens = {self.max_tokens}"
            for count, what in ((prompts, "prompts"), (answers, "answers"))
            if count
        ]

    def batch_loss(self, model: Model, rows: Encoded, indices: Sequence[int]) -> Tensor:
        """Mean cross-entropy of the answer tokens of a batch."""
        inputs, labels = collate(rows, indices, model.device)
        return answer_loss(model.logits(inputs, last=labels.shape[1] + 1), labels)

    def row_losses(self, model: GivesLogits, rows: Encoded, indices: Sequence[int]) -> Tensor:
        """Cross-entropy of every row's answer tokens, summed, (b,)."""
        inputs, labels = collate(rows, indices, model.device)
        logits = model.logits(inputs, last=labels.shape[1] + 1)
        return answer_loss(logits, labels, "none").view(labels.shape).sum(1)

    def row_shares(self, rows: Encoded, indices: Sequence[int]) -> list[float]:
        """One divided by the answer tokens of the batch, for every row."""
        return [1 / max(sum(rows.labels[i] for i in indices), 1)] * len(indices)

    def label_weights(self, rows: Encoded) -> None:
        """All rows weigh the same."""

    def bias(self, rows: Encoded, outputs: int) -> None:
        """There is no head."""

    @torch.inference_mode()
    def mean_loss(self, model: Model, rows: Encoded, threads: int) -> float:
        """Mean cross-entropy of all answer tokens of all rows."""
        torch.set_num_threads(threads)
        model.for_scoring()
        total = 0.0
        for batch in evaluation_batches(rows.lengths, EVALUATION_BATCH):
            inputs, labels = collate(rows, batch, model.device)
            with model.weighing(rows.questions(batch, model.device)):
                loss = answer_loss(model.logits(inputs, last=labels.shape[1] + 1), labels)
            total += float(loss) * int((labels != IGNORED).sum())
        return total / max(sum(rows.labels), 1)

    def measure(self, model: Model, rows: Encoded, threads: int, on_rows: OnRows | None = None) -> Measured:
        """ROUGE-1, ROUGE-L, exact match, accuracy of short answers if there are any, and loss per token."""
        assert isinstance(rows, EncodedPrompts)
        answers = self.write(model, rows, threads, on_rows)
        return self._measured(rows, answers, self.mean_loss(model, rows, threads))

    def measure_stacked(self, model: StackedClients, clients: Sequence[Encoded], threads: int) -> list[Measured]:
        """The metrics of every client."""
        torch.set_num_threads(threads)

        def write(rows: Encoded, indices: Sequence[int]) -> list[str]:
            with model.weighing(rows.questions(indices, model.device)):
                return write_batch(model, self.max_new_tokens, self.stop, rows, indices)

        answers = of_rows(model, clients, self._prompt_batches, write)
        means = mean_losses(self, model, clients, threads=threads)
        return [self._measured(*one) for one in zip(clients, answers, means, strict=True)]

    def _measured(self, rows: Encoded, answers: Sequence[str], loss: float) -> Measured:
        assert isinstance(rows, EncodedPrompts)
        scores = answer_scores(answers, rows.references)
        metrics = {**answer_means(answers, rows.references, scores), "loss": loss}
        return Measured(metrics, tuple(scores[self.metric]), tuple(answers), predictions={"prediction": list(answers)})

    def samples(self, rows: Sequence[Row], answers: Sequence[str], bare: Sequence[str]) -> list[dict[str, str]]:
        """The first rows: prompt, reference, and the answers of the untrained model and of this one."""
        return [
            {"prompt": row.text, "reference": row.response or "", "base": before, "answer": answer}
            for row, answer, before in list(zip(rows, answers, bare, strict=True))[: self.num_samples]
        ]

    def majority_score(self, train: Sequence[Row], test: Sequence[Row]) -> float:
        """Headline of always giving the most frequent answer of ``train``, on a tie the alphabetically first."""
        counts = Counter(row.response or "" for row in train)
        most = min(counts, key=lambda answer: (-counts[answer], answer))
        return answer_means([most] * len(test), [row.response or "" for row in test])[self.metric]

    def read_inputs(self, table: Table, columns: ColumnSettings, faults: Faults, *, pairs: bool | None) -> list[Row]:
        """Prompts without responses."""
        return read_prompts(table, columns, faults)

    def predict(
        self, model: Model, rows: Encoded, labels: Sequence[str], threads: int, on_rows: OnRows | None = None
    ) -> list[dict[str, Any]]:
        """An answer to each prompt."""
        return [{"prediction": text} for text in self.write(model, rows, threads, on_rows)]

    def tallied(self, cells: Cells, labels: int, rows: int) -> dict[str, float] | None:
        """Nothing, as there are no labels; None if there are cells."""
        return None if cells else {}

    def grade(
        self, table: Table, settings: DataSettings, labels: Sequence[str], predictions: Sequence[Mapping[str, Any]]
    ) -> Graded | None:
        """Scores answers of the rows that have a response."""
        known = read_answered(table, settings.columns)
        pairs = [(row, found["prediction"]) for row, found in zip(known, predictions, strict=True) if row is not None]
        if not pairs:
            return None
        answered = tuple(row for row, _ in pairs)
        means = answer_means([answer for _, answer in pairs], [row.response or "" for row in answered])
        return Graded(means, len(pairs), answered=answered)

    def apart_and_together(self, model: Model, rows: Encoded) -> dict[str, tuple[Tensor, Tensor]]:
        """Logits of answers, followed by other tokens and in one batch, and of the first generated token."""

        def answered(indices: Sequence[int], *, other_end: bool = False) -> list[Tensor]:
            width = max(rows.labels[i] for i in indices)
            inputs = rows.pad(indices, model.device)
            if other_end:
                inputs["input_ids"][:, -1] = inputs["input_ids"][:, 0]
            with model.weighing(rows.questions(indices, model.device)):
                found = model.logits(inputs, last=width + 1)
            return [line[-rows.labels[i] - 1 :].float() for i, line in zip(indices, found, strict=True)]

        def begun(indices: Sequence[int]) -> Tensor:
            prompts = rows.questions(indices, model.device)
            options = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
            with model.weighing(prompts):
                found: Any = model.generate(prompts, **options)
            first: Tensor = found.logits[0].float()
            return first

        everyone, longest = range(len(rows)), [1]
        return {
            "tokens behind it, since it is not a causal language model": (
                answered(longest)[0][:-1],
                answered(longest, other_end=True)[0][:-1],
            ),
            BATCH: (torch.cat([answered([i])[0] for i in everyone]), torch.cat(answered(everyone))),
            "the prompts that are answered with it": (torch.cat([begun([i]) for i in everyone]), begun(everyone)),
        }

    @torch.inference_mode()
    def write(
        self,
        model: Model,
        rows: Encoded,
        threads: int,
        on_rows: OnRows | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> list[str]:
        """Generates answers to prompts greedily, in batches of similar length; an end token or a stop text ends one.

        Args:
            model: the model.
            rows: prompts; their own answers are ignored.
            threads: of the CPU.
            on_rows: called after every batch with the number of answers and of rows.
            on_text: receives the answer to a single prompt piece by piece, before a stop text is cut off.

        Returns:
            The answers in the order of rows.
        """
        assert isinstance(rows, EncodedPrompts)
        torch.set_num_threads(threads)
        model.for_scoring()
        answers: dict[int, str] = {}
        for batch in self._prompt_batches(rows):
            with model.weighing(rows.questions(batch, model.device)):
                texts = write_batch(model, self.max_new_tokens, self.stop, rows, batch, on_text)
            answers |= zip(batch, texts, strict=True)
            if on_rows is not None:
                on_rows(len(answers), len(rows))
        return [answers[i] for i in range(len(rows))]

    def _prompt_batches(self, rows: Encoded) -> list[list[int]]:
        assert isinstance(rows, EncodedPrompts)
        return evaluation_batches(rows.prompt_lengths(), self.batch_size)
