"""A number per text: scaled by the client's own train rows, metrics and predictions with values by hand."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import FinishedRuns, small_settings
from torch import Tensor

from fedlease.config.data import DataSettings
from fedlease.data.federation import Row
from fedlease.data.reading.rows import Record, Table
from fedlease.errors import ConfigError
from fedlease.tasks.encoded import Packed
from fedlease.tasks.regression import EncodedNumbers, Regression
from fedlease.use.open_run import OpenRun
from fedlease.use.predict import predict_file

VALUES = np.array([10.0, 14.0, 12.0, 16.0])
TOKENS = {"input_ids": Packed.of([[1], [2], [3], [4]])}
ROWS = EncodedNumbers(TOKENS, (1, 3, 2, 4), 0, left=False, truncated=0, values=VALUES, scale=(12.0, 2.0))
OUTPUTS = torch.tensor([[-1.0], [0.5], [1.0], [1.5]])
"""10, 13, 14 and 15 in the unit of the rows."""


class Fixed:
    """A model that gives row i the output i."""

    device = torch.device("cpu")

    def logits(self, inputs: dict[str, Tensor], last: int | None = None) -> Tensor:
        return OUTPUTS[inputs["input_ids"][:, 0] - 1]

    def for_scoring(self) -> None:
        pass


MODEL: Any = Fixed()


def test_the_loss_is_in_deviations_of_the_train_rows() -> None:
    """Scaled, the rows are -1, 1, 0 and 2."""
    assert float(Regression().batch_loss(MODEL, ROWS, [1, 2])) == pytest.approx((0.25 + 1) / 2)
    assert Regression().mean_loss(MODEL, ROWS, 1) == pytest.approx((0 + 0.25 + 1 + 0.25) / 4)


@pytest.mark.parametrize("metric", ["spearman", "pearson"])
def test_metrics_are_in_the_unit_of_the_rows_beside_always_the_mean(metric: str) -> None:
    """Errors 0, 1, 2 and 1; of the mean 12: 2, 2, 0 and 4. Ranks 1 3 2 4 and 1 2 3 4 differ by 1 twice."""
    found = Regression(metric=metric).measure(MODEL, ROWS, 1)
    error, plain = math.sqrt(6 / 4), math.sqrt(24 / 4)
    expected = {"spearman": 1 - 6 * 2 / (4 * 15), "rmse": error, "rmse_of_mean": plain, "r2": 1 - 6 / 24, "loss": 0.375}
    expected["pearson"] = float(np.corrcoef(VALUES, [10, 13, 14, 15])[0, 1])
    assert dict(found.metrics) == pytest.approx(expected)
    assert sum(found.per_row) / 4 == pytest.approx(found.metrics[metric])
    assert found.predictions == {"prediction": [10.0, 13.0, 14.0, 15.0]} and found.confusion == ()
    assert Regression(metric=metric).majority_score([], []) == 0.0


def test_a_prediction_is_in_the_unit_of_the_client() -> None:
    assert Regression().read_outputs(OUTPUTS[:2], ("value",), (100.0, 10.0)) == [
        {"prediction": 90.0},
        {"prediction": 105.0},
    ]


def test_a_client_whose_rows_do_not_vary_has_finite_scores() -> None:
    flat = EncodedNumbers(TOKENS, (1,) * 4, 0, left=False, truncated=0, values=np.full(4, 3.0), scale=(3.0, 0.0))
    found = Regression().measure(MODEL, flat, 1).metrics
    assert found["spearman"] == found["r2"] == found["rmse"] == 0.0 and math.isfinite(found["loss"])


def test_rows_are_ranked_so_that_halves_are_alike() -> None:
    rows = [Row("x", None, 0, value=value) for value in (5.0, -1.0, 5.0, 2.0)]

    class Tokenizer:
        pad_token_id, padding_side = 0, "right"

        def __call__(self, texts: list[str], *_: Any, **__: Any) -> dict[str, list[list[int]]]:
            return {"input_ids": [[1]] * len(texts)}

    found = Regression().encode(rows, Tokenizer(), (2.0, 3.0))
    assert found.labels == (3, 1, 3, 2) and found.scaled.tolist() == [1.0, -1.0, 1.0, 0.0]
    assert found.take([3, 1]).values.tolist() == [2.0, -1.0]


def test_a_file_is_graded_where_it_has_numbers() -> None:
    rows = [{"label": "1.5"}, {"label": 3}, {"label": None}, {"label": 6}]
    table = Table(Path("x"), ("label",), tuple(Record(i, row) for i, row in enumerate(rows)), typed=True)
    predictions = [{"prediction": value} for value in (1.5, 4.0, 9.0, 5.0)]
    found = Regression().grade(table, DataSettings(), ("value",), predictions)
    assert found is not None and found.rows == 3 and found.cells == ()
    assert found.metrics["spearman"] == pytest.approx(1.0) and found.metrics["rmse"] == pytest.approx(math.sqrt(2 / 3))


def test_class_weights_and_metrics_of_others_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"train.class_weights: must be none when task is 'regression', whose rows"):
        small_settings(task="regression", train__class_weights="balanced")
    with pytest.raises(ConfigError, match=r"metric: must be one of spearman, pearson when task is 'regression'"):
        small_settings(task="regression", metric="rmse")


def test_a_run_ends_in_correlations_errors_and_predictions(finished: FinishedRuns, tmp_path: Path) -> None:
    """Clients of every other task have numbers ten times as large, and train alike."""
    run = finished(task="regression", baselines=["local"], rounds=1)
    summary = run.summaries["fedlease"]
    assert (summary["metric"], summary["majority_mean"]) == ("spearman", 0.0) and not summary["classes"]
    assert "mean_r2" in summary and "mean_rmse" not in summary, "RMSE has the unit of each client's rows"
    losses, errors = ([row[k] for row in summary["per_client"].values()] for k in ("loss", "rmse"))
    assert max(losses) < 3 * min(losses) and max(errors) > 5 * min(errors)
    assert summary["verdict"]["clients"]["planted-0-0"]["metrics"].keys() == {"rmse", "rmse_of_mean", "pearson", "r2"}
    clients = json.loads((run.out / "clients.json").read_text())
    mean, deviation = clients["planted-1-0"]["scale"]
    report = (run.out / "report.html").read_text()
    assert "regression, scored by Spearman" in report and "always the mean" in report and "RMSE of the mean" in report
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": text, "label": 30.0}) + "\n" for text in ("abc", "def")))
    opened = OpenRun(run.out)
    found: list[Any] = []
    said = json.loads(predict_file(opened, "planted-1-0", rows, on_scores=found.append).splitlines()[0])
    opened.load("planted-1-0")
    output = opened.resident.logits(opened.encode([Row("abc", None, 0)]).pad([0], opened.device)).item()
    assert said["prediction"] == pytest.approx(mean + deviation * output, abs=1e-5)
    assert found[0].classes is None and found[0].metrics["rmse"] > 0
