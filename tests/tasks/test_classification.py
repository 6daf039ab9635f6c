"""Tokenising, batching and scoring of classification rows."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef
from tasks import architectures
from transformers import ByT5Tokenizer, CanineTokenizer

from fedlease.data.federation import Row
from fedlease.errors import DataError
from fedlease.models.base import load_tokenizer
from fedlease.models.sources import locate
from fedlease.tasks.classification import Classification, collate, loss, score
from fedlease.tasks.encoded import Encoded


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("base")
    return load_tokenizer(locate("tiny-random", None, folder, 0))


def test_rows_are_cut_and_counted(tokenizer: Any) -> None:
    """[CLS], one token per byte, [SEP]: 2 + 3 and 2 + 9 tokens; at most 8 leaves one row cut."""
    encoded = Classification(8).encode([Row("abc", None, 0), Row("abcdefghi", None, 1)], tokenizer)
    assert encoded.lengths == [5, 8]
    assert encoded.truncated == 1
    assert encoded.labels == (0, 1)


@pytest.mark.parametrize("make", [ByT5Tokenizer, CanineTokenizer], ids=lambda make: make.__name__)
def test_rows_are_cut_and_counted_by_tokenizers_in_python_too(make: Any) -> None:
    """A byte a token; ByT5 adds one, CANINE two. A pair is cut as well."""
    slow = make()
    rows = [Row("abc", None, 0), Row("a longer text", None, 1), Row("ab", "a longer text", 0), Row("a", "b", 1)]
    encoded = Classification(8).encode(rows, slow)
    assert encoded.truncated == 2
    assert [length == 8 for length in encoded.lengths] == [False, True, True, False]
    mask = encoded.pad(range(4), torch.device("cpu"))["attention_mask"]
    assert mask.sum(1).tolist() == encoded.lengths


def test_every_row_is_tokenised_as_if_it_were_alone(tokenizer: Any) -> None:
    """Single texts and pairs in any order; a second text that is empty is one."""
    rows = [Row("ab", None, 0), Row("ab", "cd", 1), Row("abc", None, 0), Row("ab", "", 1)]
    together = Classification(32).encode(rows, tokenizer)
    for place, row in enumerate(rows):
        alone = Classification(32).encode([row], tokenizer).pad([0], torch.device("cpu"))
        found = together.pad([place], torch.device("cpu"))
        assert {n: v.tolist() for n, v in found.items()} == {n: v.tolist() for n, v in alone.items()}
    assert together.lengths == [4, 7, 5, 5]


def test_a_row_without_tokens_is_told_by_its_place() -> None:
    bare = architectures.tokenizer("$A")
    rows = [Row("ab", None, 0), Row("", None, 0, place=(Path("a.csv"), 7)), Row("", None, 0)]
    with pytest.raises(DataError) as caught:
        Classification(8).encode(rows, bare)
    rule = "the model's tokenizer makes no token of it"
    assert caught.value.faults == (f"a.csv, line 7: {rule}", f"'': {rule}")


def test_a_pair_becomes_one_input_with_two_segments(tokenizer: Any) -> None:
    encoded = Classification(32).encode([Row("ab", "cde", 0)], tokenizer)
    assert encoded.lengths == [3 + 2 + 3]
    assert encoded.columns["token_type_ids"][0] == [0] * 4 + [1] * 4


def test_no_rows_are_no_batch(tokenizer: Any) -> None:
    assert len(Classification(8).encode([], tokenizer)) == 0


@pytest.mark.parametrize("left", [False, True])
def test_padding_is_masked_on_the_tokenizers_side(left: bool, tokenizer: Any) -> None:
    encoded = Classification(32).encode([Row("a", None, 0), Row("abcd", None, 1)], tokenizer)
    encoded = replace(encoded, left=left)
    inputs, labels = collate(encoded, [1, 0], torch.device("cpu"))
    assert labels.tolist() == [1, 0]
    short = [0, 0, 0, 1, 1, 1] if left else [1, 1, 1, 0, 0, 0]
    assert inputs["attention_mask"].tolist() == [[1] * 6, short]
    assert inputs["input_ids"].shape == (2, 6)
    padded = inputs["input_ids"][1][inputs["attention_mask"][1] == 0]
    assert padded.tolist() == [tokenizer.pad_token_id] * 3


class Fixed:
    """A model whose logits are those of its table, by the first token of a row."""

    device = torch.device("cpu")

    def __init__(self, table: dict[int, list[float]]) -> None:
        self.table = table

    def logits(self, inputs: Any, last: int | None = None) -> torch.Tensor:
        return torch.tensor([self.table[int(ids[0])] for ids in inputs["input_ids"]])

    def for_scoring(self) -> None:
        pass


ROWS = Encoded.of({"input_ids": [[i] for i in range(4)]}, [0, 0, 0, 1], 0, left=False)
"""Three rows of label 0 and one of label 1, with probabilities of the right label 1/2, 1/2, 1/2 and 1/4."""
MODEL: Any = Fixed({0: [0.0, 0.0], 1: [0.0, 0.0], 2: [0.0, 0.0], 3: [math.log(3), 0.0]})


def test_balanced_labels_weigh_the_same_in_the_loss() -> None:
    """Weights are 4 / (2 x 3) and 4 / (2 x 1); the mean is that of the labels' means, log 2 and log 4."""
    task = Classification(balanced=True)
    weights = task.label_weights(ROWS)
    assert weights is not None and weights.tolist() == pytest.approx([2 / 3, 2.0])
    expected = (math.log(2) + math.log(4)) / 2
    assert task.mean_loss(MODEL, ROWS, 1) == pytest.approx(expected)
    assert float(task.batch_loss(MODEL, ROWS, [0, 1, 2, 3])) == pytest.approx(expected)
    # A batch weighs by the labels of all train rows, not by its own: batches of one size average to the whole.
    batches = [float(task.batch_loss(MODEL, ROWS, batch)) for batch in ([0, 1], [2, 3])]
    assert batches == pytest.approx([2 / 3 * math.log(2), (2 / 3 * math.log(2) + 2 * math.log(4)) / 2])
    assert sum(batches) / 2 == pytest.approx(expected)


def test_a_label_without_train_rows_takes_no_weight_from_the_others() -> None:
    rows = replace(ROWS, labels=(0, 0, 2, 2))
    weights = Classification(balanced=True).label_weights(rows)
    assert weights is not None and weights[[0, 2]].tolist() == [1.0, 1.0]


def test_without_balance_rows_weigh_the_same() -> None:
    assert Classification().label_weights(ROWS) is None
    expected = (3 * math.log(2) + math.log(4)) / 4
    assert Classification().mean_loss(MODEL, ROWS, 1) == pytest.approx(expected)


@pytest.mark.parametrize(("metric", "whole"), [("accuracy", 0.75), ("macro_f1", 3 / 7), ("mcc", 0.0)])
def test_row_scores_average_to_the_headline(metric: str, whole: float) -> None:
    """All four are taken for label 0: F1 of 0 is 6/7, of 1 it is 0."""
    found = Classification(metric=metric).measure(MODEL, ROWS, 1)
    assert found.metrics[metric] == pytest.approx(whole)
    assert sum(found.per_row) / 4 == pytest.approx(whole)
    assert found.confusion == [[0, 0, 3], [1, 0, 1]]
    rows = [Row("x", None, label) for label in ROWS.labels]
    assert Classification(metric=metric).majority_score(rows, rows) == pytest.approx(whole)


def test_scores_by_hand() -> None:
    """Truth 0 0 1 1, guesses 0 1 1 1: accuracy 3/4; F1 of 0 is 2/3, of 1 is 4/5; MCC = 2 / sqrt(1 * 3 * 2 * 2)."""
    logits = torch.tensor([[2.0, 0.0], [0.0, 2.0], [0.0, 2.0], [0.0, 2.0]])
    result = score(logits, [0, 0, 1, 1])
    assert result["accuracy"] == 0.75
    assert result["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert result["mcc"] == pytest.approx(2 / 12**0.5)
    right, wrong = torch.log1p(torch.exp(torch.tensor(-2.0))), torch.log1p(torch.exp(torch.tensor(2.0)))
    assert result["loss"] == pytest.approx(float((3 * right + wrong) / 4))


@pytest.mark.parametrize("num_labels", [1, 2, 3, 7])
def test_scores_are_those_of_scikit_learn(num_labels: int) -> None:
    """On random guesses; with many labels and few rows some occur in truth or guess alone, or nowhere."""
    generator = torch.Generator().manual_seed(num_labels)
    for rows in (1, 2, 5, 40):
        logits = torch.randn(rows, num_labels, generator=generator)
        truth = torch.randint(num_labels, (rows,), generator=generator).tolist()
        found, guesses = score(logits, truth), logits.argmax(-1).tolist()
        assert found["accuracy"] == pytest.approx(accuracy_score(truth, guesses), abs=1e-12)
        assert found["macro_f1"] == pytest.approx(
            f1_score(truth, guesses, average="macro", zero_division=0.0), abs=1e-12
        )
        expected = matthews_corrcoef(truth, guesses) if len({*truth, *guesses}) > 1 else 0.0
        assert found["mcc"] == pytest.approx(expected, abs=1e-12)


def test_one_label_in_truth_and_guess_has_nothing_to_correlate() -> None:
    result = score(torch.tensor([[2.0, 0.0], [2.0, 0.0]]), [0, 0])
    assert (result["accuracy"], result["macro_f1"], result["mcc"]) == (1.0, 1.0, 0.0)


def test_loss_of_16_bit_logits_is_computed_in_32(tokenizer: Any) -> None:
    logits = torch.tensor([[100.0, 100.5]], dtype=torch.bfloat16)
    assert loss(logits, torch.tensor([0])).dtype == torch.float32


def test_majority_is_counted_on_train_and_scored_on_test() -> None:
    rows = [Row("a", None, label) for label in (1, 1, 0)]
    assert Classification().majority_score(rows, [Row("a", None, label) for label in (1, 0, 0, 0)]) == 0.25
    tie = [Row("a", None, label) for label in (0, 1)]
    assert Classification().majority_score(tie, [Row("a", None, 0)]) == 1.0
