"""What joining gains every client in a comparison: over seeds, never surer than rows and seeds allow."""

from typing import Any

import numpy as np
import pytest

from fedlease.experiments.joining import joining, row_metric
from fedlease.storage.summary import Summary

CLIENTS = {"a": "news", "b": "mood"}


def summaries(*means: dict[str, float]) -> list[Summary]:
    return [
        Summary.model_validate(
            {
                "method": "m",
                "metric": "accuracy",
                "per_client": {c: {"task": CLIENTS[c], "num_test": 100, "accuracy": mean} for c, mean in of.items()},
            }
        )
        for of in means
    ]


def run(*right: dict[str, int]) -> Any:
    """One seed per argument: of a hundred rows so many are right, the first ones."""
    rows = [{c: np.array([1.0] * n + [0.0] * (100 - n)) for c, n in of.items()} for of in right]
    return summaries(*({c: n / 100 for c, n in of.items()} for of in right)), rows


def keys(seeds: int, *, shared: bool = True) -> list[dict[str, list[tuple[int, int]]]]:
    return [{c: [(0 if shared else seed, row) for row in range(100)] for c in CLIENTS} for seed in range(seeds)]


def test_one_seed_is_as_in_a_run() -> None:
    verdict = joining("fedlease", run({"a": 90, "b": 60}), run({"a": 70, "b": 75}), keys(1), "accuracy")
    assert verdict.sentences[0] == "fedlease helps 1 of 2 clients; costs b 15.0 points."
    assert verdict.gain is not None and verdict.gain.difference == pytest.approx(0.025)
    assert {task: found.gain.difference for task, found in verdict.tasks.items()} == pytest.approx(
        {"mood": -0.15, "news": 0.2}
    )
    assert verdict.next_step.text.startswith("Add seeds, three at least")


def test_several_seeds_have_the_mean_and_seeds_that_differ_widen_the_interval() -> None:
    alone = run(*[{"a": 70, "b": 70}] * 3)
    verdict = joining("fedlease", run(*({"a": n, "b": 90} for n in (90, 70, 110 - 20))), alone, keys(3), "accuracy")
    a, b = (verdict.clients[client].gain for client in "ab")
    assert a is not None and b is not None
    # (0.2 + 0 + 0.2) / 3, and 0.2 three times.
    assert (a.difference, b.difference) == pytest.approx((0.4 / 3, 0.2))
    assert verdict.clients["b"].effect == "helps" and verdict.clients["a"].effect == "unclear"
    assert verdict.clients["a"].score == pytest.approx(2.5 / 3) and verdict.clients["a"].local == pytest.approx(0.7)


def test_equal_rows_in_every_seed_are_not_certain() -> None:
    same = run(*[{"a": 70, "b": 70}] * 2)
    gain = joining("fedlease", same, same, keys(2), "accuracy").clients["a"].gain
    assert gain is not None and gain.low < 0 < gain.high


def test_rows_that_seeds_share_count_once() -> None:
    ours, alone = run(*[{"a": 80, "b": 80}] * 2), run(*[{"a": 70, "b": 70}] * 2)
    once, twice = (
        joining("fedlease", ours, alone, keys(2, shared=shared), "accuracy").clients["a"].gain
        for shared in (True, False)
    )
    assert once is not None and twice is not None and once.high - once.low > twice.high - twice.low


def test_without_local_there_are_scores_and_a_sentence_how_to_get_gains() -> None:
    verdict = joining("fedlease", run({"a": 90, "b": 60}), None, keys(1), "accuracy")
    assert verdict.sentences == [] and verdict.gain is None and verdict.against is None
    assert verdict.clients["a"].score == 0.9 and "local among --methods" in verdict.next_step.text


def test_a_client_that_one_of_them_missed_has_no_gain() -> None:
    verdict = joining("fedlease", run({"a": 90, "b": 60}), run({"a": 70}), keys(1), "accuracy")
    assert verdict.clients["b"].gain is None and verdict.clients["b"].local is None
    assert verdict.clients["a"].effect == "helps" and verdict.tasks == {}


def test_a_class_missed_in_some_seeds_is_told_with_their_number() -> None:
    first, rows = run({"a": 90, "b": 60}, {"a": 90, "b": 60})
    missed = {"labels": ["x", "y"], "support": [90, 10], "predicted": [100, 0],
              "precision": [0.9, None], "recall": [1.0, 0.0], "f1": [0.95, 0.0]}  # fmt: skip
    first[1] = Summary.model_validate({**first[1].content, "classes": {"a": missed}})
    verdict = joining("fedlease", (first, rows), None, keys(2), "accuracy")
    assert verdict.alarms == ["Never predicted: 'y' of a (in 1 of 2 seeds)."]
    assert verdict.clients["a"].never_predicted == ["y"]


def test_scores_of_rows_are_the_accuracy_where_the_headline_is_of_all_rows() -> None:
    found, rows = run({"a": 90})
    assert row_metric(found, rows) == "accuracy"
    entry = {"task": "news", "num_test": 100}
    for metric, score, named in (("macro_f1", 0.5, "accuracy"), ("rouge1", 0.9, "rouge1")):
        content = {"method": "m", "metric": metric, "per_client": {"a": {**entry, metric: score}}}
        assert row_metric([Summary.model_validate(content)], rows) == named
