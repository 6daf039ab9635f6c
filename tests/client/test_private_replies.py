"""What leaves a client under differential privacy, and what it refuses to do."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from fedlease.client.messages import FinalScores, Finish, Finished, Score, Scored, Train, Trained
from fedlease.client.private_replies import disclosed, passes_in, refusal
from fedlease.client.private_steps import PrivacyTerms
from fedlease.core.row_noise import Amount
from fedlease.core.types import AdapterSpec, ClientModel, ClientTask, ClientUpdate, Stage

TERMS = PrivacyTerms(3.0, 1e-5, 1.0, 10, {"fedit": Amount(4, halves=2)}, None)
MODEL = ClientModel(AdapterSpec(2, 4, 0.0, ("m",)), {"m/A/0": torch.zeros(2, 4), "m/B/0": torch.zeros(4, 2)})
TASK = ClientTask("train", 1, MODEL, (Stage(frozenset(MODEL.tensors), 3),), frozenset(MODEL.tensors))


def train(**changes: Any) -> Train:
    return Train("fedit", 1, replace(TASK, **changes))


def test_steps_are_counted_before_they_are_made() -> None:
    """25 rows in batches of 10 are 3 steps a pass; their larger half has 13, which are 2."""
    assert passes_in(train()).steps(25, 10) == Amount(9)
    assert passes_in(train(halves=True)).steps(25, 10) == Amount(halves=6)
    assert passes_in(Score("fedit", MODEL)) == Amount()


def test_no_step_is_made_beyond_what_the_noise_is_enough_for() -> None:
    assert refusal(TERMS, train(), 25, Amount(12, 4)) == ""
    assert refusal(TERMS, train(halves=True), 25, Amount(0, 4)) == ""
    assert refusal(TERMS, train(), 25, Amount(13)) == (
        "it has spent its epsilon of 3: fedit would make 13 steps, and the noise is enough for 12 steps and 4 on halves"
    )
    assert "fedit would make 0 steps and 5 on halves" in refusal(TERMS, train(halves=True), 25, Amount(0, 5))
    assert "is enough for 0 steps" in refusal(TERMS, replace(train(), method="other"), 25, Amount(1))


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        (Score("fedit", MODEL, rows="valid"), "validation rows are not scored"),
        (train(model=replace(MODEL, candidates=({},))), "does not choose among adapters"),
        (Finish("fedit", replace(MODEL, candidates=({},)), MODEL), "does not choose among adapters"),
    ],
)
def test_what_noise_does_not_cover_is_refused(request_: Any, why: str) -> None:
    assert why in refusal(TERMS, request_, 25, Amount())


def test_losses_stay_at_home_and_scores_are_rounded() -> None:
    update = ClientUpdate("a", "train", 1, 25, {}, metrics={"loss": 0.123})
    found = disclosed(Trained(update, 0.8765, 9, 0.0, 0.0, metrics={"macro_f1": 0.1234}), 1.5)
    assert isinstance(found, Trained)
    assert (found.update.metrics, found.score, found.metrics, found.epsilon) == ({}, 0.88, {"macro_f1": 0.12}, 1.5)
    assert disclosed(Scored(0.8765), 0.0) == Scored(0.88)


def test_of_the_end_leaves_nothing_by_row_or_by_train_label() -> None:
    scores = FinalScores(
        {"accuracy": 2 / 3}, 3, 0.51, 0.499, 0.666, None, None, "101", ({"prompt": "x"},), ((0, 1, 1),)
    )
    kept = FinalScores({"accuracy": 0.67}, 3, None, 0.5, 0.67, notes=())
    assert disclosed(Finished(scores), 0.0) == Finished(kept)
