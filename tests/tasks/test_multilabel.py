"""Any number of labels per text: loss, metrics and predictions with values by hand."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from small import FinishedRuns, rounds_of, small_settings
from torch import Tensor

from fedlease.config.data import DataSettings
from fedlease.core.confusion import Cells
from fedlease.data.federation import Row
from fedlease.data.reading.rows import Record, Table
from fedlease.errors import ConfigError
from fedlease.tasks.encoded import Packed
from fedlease.tasks.encoded_sets import EncodedSets
from fedlease.tasks.multilabel import Multilabel
from fedlease.use.open_run import OpenRun
from fedlease.use.predict import predict_file

MARKS = [(0, 1), (0,), (), (1,)]
TOKENS = Packed.of([[1], [2], [3], [4]])
ROWS = EncodedSets({"input_ids": TOKENS}, (2, 1, 0, 3), 0, left=False, truncated=0, marks=Packed.of(MARKS))
LOGITS = torch.tensor([[2.0, -1.0, -3.0], [1.0, -2.0, 1.0], [-1.0, -1.0, -1.0], [0.5, -0.5, -2.0]])
"""Labels 0; 0 and 2; none; and 0 are predicted."""


class Fixed:
    """A model that gives row i the logits i."""

    device = torch.device("cpu")

    def logits(self, inputs: dict[str, Tensor], last: int | None = None) -> Tensor:
        return LOGITS[inputs["input_ids"][:, 0] - 1]

    def for_scoring(self) -> None:
        pass


MODEL: Any = Fixed()


def test_the_loss_is_binary_cross_entropy_of_every_label() -> None:
    """Of row 2, which has none: log(1 + e^-1) for each label."""
    assert float(Multilabel().batch_loss(MODEL, ROWS, [2])) == pytest.approx(math.log(1 + math.exp(-1)))


def test_balanced_labels_weigh_rows_without_over_rows_with_them() -> None:
    """Labels 0 and 1 have two of four rows; label 2 has none, and weighs 1."""
    rows = ROWS.take([0, 1, 2])
    weights = Multilabel(balanced=True).label_weights(rows, 3)
    assert weights is not None and weights.tolist() == [0.5, 2.0, 1.0]
    assert Multilabel().label_weights(rows, 3) is None
    plain, balanced = (float(Multilabel(balanced=b).batch_loss(MODEL, rows, [0])) for b in (False, True))
    mine = math.log(1 + math.exp(-2)), math.log(1 + math.exp(1))
    assert balanced - plain == pytest.approx((-0.5 * mine[0] + mine[1]) / 3, rel=1e-5)


def test_the_bias_of_a_head_is_the_log_odds_of_its_labels() -> None:
    bias = Multilabel().bias(ROWS, 3)
    assert bias is not None and bias.tolist() == pytest.approx([0.0, 0.0, math.log(1 / 5)])
    assert Multilabel().bias(ROWS, 1) is None, "two labels occur"


@pytest.mark.parametrize(("metric", "value"), [("micro_f1", 0.5), ("macro_f1", 0.8 / 3), ("subset_accuracy", 0.25)])
def test_the_headline_is_the_mean_of_the_scores_of_rows(metric: str, value: float) -> None:
    found = Multilabel(metric=metric).measure(MODEL, ROWS, 1)
    assert found.metrics[metric] == pytest.approx(value) == pytest.approx(sum(found.per_row) / 4)
    assert found.predictions["prediction"] == [[0], [0, 2], [], [0]]
    assert {*found.metrics} == {*Multilabel.metrics}


def test_a_lower_threshold_predicts_more() -> None:
    found = Multilabel(threshold=0.25).measure(MODEL, ROWS, 1)
    assert found.predictions["prediction"] == [[0, 1], [0, 2], [0, 1, 2], [0, 1]]
    said = Multilabel(threshold=0.25).read_outputs(LOGITS[:1], ("a", "b", "c"))
    assert said[0]["prediction"] == ["a", "b"] and said[0]["probabilities"]["c"] == pytest.approx(1 / (1 + math.exp(3)))


def test_the_trivial_baseline_gives_the_most_frequent_set() -> None:
    train = [Row("x", None, 0, marks=marks) for marks in ((0, 2), (1,), (0, 2), ())]
    test = [Row("x", None, 0, marks=marks) for marks in ((0, 2), (0,), (1,))]
    assert Multilabel(metric="subset_accuracy").majority_score(train, test) == pytest.approx(1 / 3)
    assert Multilabel().majority_score(train, test) == pytest.approx(2 * 3 / (6 + 4))


@pytest.mark.parametrize(
    ("cells", "fits"),
    [
        ([[0, 0, 2], [1, 2, 1], [2, 2, 3]], True),
        ([[0, 0, 2], [2, 2, 4]], False),
        ([[0, 1, 1], [2, 2, 3]], False),
        ([[0, 0, 4], [2, 2, 3]], False),
        ([[0, 0, 1]], False),
    ],
)
def test_cells_that_no_three_rows_of_two_labels_give_are_told(cells: Cells, fits: bool) -> None:
    assert (Multilabel().tallied(cells, 2, 3) is not None) == fits


def test_a_file_is_graded_by_lists_texts_and_columns() -> None:
    predictions = [{"prediction": ["a"]}, {"prediction": ["a", "b"]}, {"prediction": []}]
    lists = [["a"], ["b", "new"], []]
    forms: list[tuple[list[dict[str, Any]], dict[str, Any]]] = [
        ([{"label": names} for names in lists], {}),
        ([{"label": "; ".join(names)} for names in lists], {"label_separator": ";"}),
        (
            [{k: int(k in names) for k in ("a", "b", "new")} for names in lists],
            {"columns": {"labels": ("a", "b", "new")}},
        ),
    ]
    for rows, options in forms:
        table = Table(Path("x"), tuple(rows[0]), tuple(Record(i, row) for i, row in enumerate(rows)), typed=True)
        found = Multilabel().grade(table, DataSettings(**options), ("a", "b"), predictions)
        assert found is not None and (found.rows, found.unknown) == (3, ("new",))
        assert found.metrics == pytest.approx(
            {"micro_f1": 2 / 3, "macro_f1": (2 / 3 + 1) / 3, "subset_accuracy": 2 / 3}
        )
    assert Multilabel().grade(Table(Path("x"), ("text",), (), typed=True), DataSettings(), ("a",), []) is None


def test_settings_of_the_task_reach_it_and_those_of_others_are_refused() -> None:
    task = Multilabel.of(small_settings(task="multilabel", multilabel__threshold=0.3, train__class_weights="balanced"))
    assert (task.threshold, task.balanced, task.metric) == (0.3, True, "micro_f1")
    with pytest.raises(ConfigError, match=r"multilabel.threshold: must be below 1, received 1"):
        small_settings(task="multilabel", multilabel__threshold=1)
    with pytest.raises(ConfigError, match=r"metric: must be one of micro_f1, macro_f1, subset_accuracy when task is"):
        small_settings(task="multilabel", metric="accuracy")


def test_a_run_ends_in_scores_by_label_a_verdict_and_predictions(finished: FinishedRuns, tmp_path: Path) -> None:
    run = finished(task="multilabel", baselines=["local"], rounds=1)
    summary = run.summaries["fedlease"]
    assert (summary["metric"], summary["learnt"]) == ("micro_f1", "multilabel")
    scores = summary["classes"]["planted-0-0"]
    assert scores["support"] == [4, 4, 4] and scores["test_rows"] == 8 and scores["confusion"] == []
    assert summary["verdict"]["against"] == "local" and summary["verdict"]["gain"]["paired"]
    missed = {c: [m["labels"][i] for i, n in enumerate(m["predicted"]) if not n] for c, m in summary["classes"].items()}
    assert {c: row["never_predicted"] for c, row in summary["verdict"]["clients"].items()} == missed
    assert rounds_of(run.out)[-1]["clients"]["planted-0-0"]["metrics"].keys() == {*Multilabel.metrics} - {"loss"}
    kept = json.loads((run.out / "predictions.jsonl").read_text().splitlines()[3])
    assert kept["label"] == ["low", "middle"] and {*kept["prediction"]} <= {"low", "middle", "high"}
    report = (run.out / "report.html").read_text()
    assert "multi-label classification, scored by micro F1" in report and "most frequent label set" in report
    rows = tmp_path / "rows.csv"
    rows.write_text('text,label\nabc,"low,high"\ndef,\n')
    found: list[Any] = []
    said = predict_file(OpenRun(run.out), "planted-0-0", rows, tmp_path / "out.csv", on_scores=found.append)
    assert said.splitlines()[0].endswith("prediction,probability of low,probability of middle,probability of high")
    assert found[0].scored == 2 and found[0].classes.support == [1, 0, 1]
