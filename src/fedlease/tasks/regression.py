"""Regression: a text or a pair of texts, one number."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fedlease.config.data import DataSettings
from fedlease.config.settings import Settings
from fedlease.core.confusion import Cells
from fedlease.core.correlation import pearson, pearson_without, spearman, spearman_without
from fedlease.core.label_sets import centred_shares
from fedlease.data.federation import Row
from fedlease.data.reading.rows import Table
from fedlease.data.reading.targets import number_of
from fedlease.tasks.base import UNSCALED, GivesLogits, Measured, Model, OnRows, Scale
from fedlease.tasks.encoded import Encoded, on_device
from fedlease.tasks.metrics import LOSS, MOST, Graded, Metric, MetricWords
from fedlease.tasks.texts import OutputTask, Texts, evaluate

__all__ = ["EncodedNumbers", "Regression"]

Values = NDArray[np.float64]

WITHOUT = {"spearman": spearman_without, "pearson": pearson_without}


def _words(name: str) -> MetricWords:
    means = {
        "mean_spearman": "mean Spearman correlation, x 100",
        "mean_pearson": "mean Pearson correlation, x 100",
        "mean_r2": "mean R², x 100",
    }
    return MetricWords(
        name,
        "always the mean",
        "giving the mean of the train rows",
        look="compare its RMSE with that of always giving the mean",
        further={key: text for key, text in means.items() if name not in text},
        own_units={"rmse": "RMSE", "rmse_of_mean": "RMSE of the mean"},
        of_rows=False,
    )


@dataclass(frozen=True, eq=False)
class EncodedNumbers(Encoded):
    """Tokenised rows with a number each; ``labels`` ranks them.

    Attributes:
        values: the numbers in the files, (rows,).
        scale: mean and standard deviation of the client's train rows; a model outputs (number - mean) / deviation.
    """

    values: Values
    scale: Scale

    @property
    def scaled(self) -> Values:
        """The outputs that a model should give, (rows,)."""
        mean, deviation = self.scale
        return (self.values - mean) / (deviation or 1.0)

    def take(self, rows: Sequence[int]) -> Self:
        """Some rows, in the given order."""
        return replace(super().take(rows), values=self.values[list(rows)])

    def followed_by(self, others: Sequence[Encoded]) -> Self:
        """The rows of several clients, one client after another, each with its client's scale."""
        parts: list[EncodedNumbers] = [self, *(part for part in others if isinstance(part, EncodedNumbers))]
        scaled = np.concatenate([part.scaled for part in parts])
        return replace(super().followed_by(others), values=scaled, scale=UNSCALED)


@dataclass(frozen=True)
class Regression(OutputTask):
    """Squared error, in units of the standard deviation of the client's train rows.

    Attributes:
        max_tokens: longer rows are cut on the right, of a pair the longer text first.
        metric: the headline.
    """

    max_tokens: int = 128
    metric: str = "spearman"
    metrics: ClassVar[Mapping[str, Metric]] = {
        "spearman": Metric(lowest=-1.0),
        "pearson": Metric(lowest=-1.0),
        "r2": Metric(lowest=-MOST),
        "rmse": Metric(highest=MOST, averaged=False),
        "rmse_of_mean": Metric(highest=MOST, averaged=False),
        "loss": LOSS,
    }
    extra_metrics: ClassVar[Mapping[str, Metric]] = {}

    prediction_columns: ClassVar[tuple[str, ...]] = ("prediction",)
    answer: ClassVar[str] = "value"
    headlines: ClassVar[Mapping[str, MetricWords]] = {
        "spearman": _words("Spearman correlation"),
        "pearson": _words("Pearson correlation"),
    }

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """The task with the parameters of a run."""
        return cls(settings.data.max_tokens, settings.metric or "spearman")

    def describe(self) -> str:
        """Name of the task, in words for reports."""
        return "regression"

    def encode(self, rows: Sequence[Row], tokenizer: Any, scale: Scale = UNSCALED) -> EncodedNumbers:
        """Tokenises texts or pairs of texts, each row as if it were alone.

        Raises:
            DataError: the tokenizer makes no token of a row; the message names file and line.
        """
        values = np.array([row.value or 0.0 for row in rows], np.float64)
        ranks = np.unique(values, return_inverse=True)[1]
        plain = Texts(self.max_tokens).encode(rows, (ranks + 1).tolist(), tokenizer)
        return EncodedNumbers(**vars(plain), values=values, scale=scale)

    def batch_loss(self, model: Model, rows: Encoded, indices: Sequence[int]) -> Tensor:
        """Mean squared error of a batch, scaled."""
        return _loss(model.logits(rows.pad(indices, model.device)), rows, indices)

    def row_losses(self, model: GivesLogits, rows: Encoded, indices: Sequence[int]) -> Tensor:
        """Squared error of every row, scaled, (b,)."""
        return _loss(model.logits(rows.pad(indices, model.device)), rows, indices, "none")

    def label_weights(self, rows: Encoded) -> None:
        """All rows weigh the same."""

    def bias(self, rows: Encoded, outputs: int) -> None:
        """Nothing, since scaled numbers have the mean 0."""

    def mean_loss(self, model: Model, rows: Encoded, threads: int) -> float:
        """Mean squared error of all rows, scaled: about 1 for always giving the mean of the train rows."""
        return float(_loss(evaluate(model, rows, threads), rows, range(len(rows))))

    def measured(self, outputs: Tensor, rows: Encoded) -> Measured:
        """The metrics; ``per_row`` holds the contributions of rows to the correlation."""
        assert isinstance(rows, EncodedNumbers)
        mean, deviation = rows.scale
        guesses = mean + deviation * outputs[:, 0].double().numpy()
        metrics = _scores(rows.values, guesses, mean)
        left = WITHOUT[self.metric](rows.values, guesses) if len(rows) > 1 else np.zeros(1)
        return Measured(
            {**metrics, "loss": float(_loss(outputs, rows, range(len(rows))))},
            tuple(centred_shares(metrics[self.metric], left)),
            predictions={"prediction": [float(f"{value:.6g}") for value in guesses.tolist()]},
        )

    def majority_score(self, train: Sequence[Row], test: Sequence[Row]) -> float:
        """0, the correlation of always giving the mean."""
        return 0.0

    def predict(
        self, model: Model, rows: Encoded, labels: Sequence[str], threads: int, on_rows: OnRows | None = None
    ) -> list[dict[str, Any]]:
        """The number of each row, in the unit of the client's train rows."""
        assert isinstance(rows, EncodedNumbers)
        return self.read_outputs(evaluate(model, rows, threads, on_rows), labels, rows.scale)

    def read_outputs(self, outputs: Tensor, labels: Sequence[str], scale: Scale = UNSCALED) -> list[dict[str, Any]]:
        """Predictions from outputs (n, 1), in the unit of the client's train rows."""
        mean, deviation = scale
        return [{"prediction": mean + deviation * value} for value in outputs[:, 0].double().tolist()]

    def tallied(self, cells: Cells, labels: int, rows: int) -> dict[str, float] | None:
        """Nothing, as there are no labels; None if there are cells."""
        return None if cells else {}

    def grade(
        self, table: Table, settings: DataSettings, labels: Sequence[str], predictions: Sequence[Mapping[str, Any]]
    ) -> Graded | None:
        """Scores predicted numbers; R² compares with always giving the mean of the file's rows."""
        truths = [number_of(record.values.get(settings.columns.label)) for record in table.records]
        pairs = [(t, row["prediction"]) for t, row in zip(truths, predictions, strict=True) if t is not None]
        if not pairs:
            return None
        truth, guesses = np.array(pairs, np.float64).T
        return Graded(_scores(truth, guesses, float(truth.mean())), len(pairs))


def _loss(outputs: Tensor, rows: Encoded, indices: Sequence[int], reduction: str = "mean") -> Tensor:
    """Squared error of (b, 1) outputs, in float32, reduced as ``mse_loss`` does it."""
    assert isinstance(rows, EncodedNumbers)
    wanted = on_device(rows.scaled[list(indices)].astype(np.float32), outputs.device)
    return F.mse_loss(outputs[:, 0].float(), wanted, reduction=reduction)


def _scores(truth: Values, guesses: Values, mean: float) -> dict[str, float]:
    """All metrics except the loss; RMSE, also of always giving ``mean``, is in the unit of the numbers.

    R² is 1 - (RMSE / RMSE of the mean)², or 0 if the RMSE of the mean is 0.
    """
    error, plain = (math.sqrt(float(((truth - other) ** 2).mean())) for other in (guesses, mean))
    return {
        "spearman": spearman(truth, guesses),
        "pearson": pearson(truth, guesses),
        "r2": 1 - (error / plain) ** 2 if plain else 0.0,
        "rmse": error,
        "rmse_of_mean": plain,
    }
