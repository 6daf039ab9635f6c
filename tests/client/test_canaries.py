"""An audit of differential privacy: which of many inserted rows took part cannot be told better than epsilon allows.

Steinke, Nasr, Jagielski: Privacy Auditing with One (1) Training Run, NeurIPS 2023. Each canary takes part with
probability 1/2. Whoever sees the start and all that was trained guesses for every canary whether it did. Under epsilon,
each guess is right with probability e^epsilon / (1 + e^epsilon) at most, whatever the other guesses are.
"""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from client.test_private_steps import Silent
from client.test_stacked import Made, federation, job
from scipy.stats import binom

from fedlease.client.head_inputs import HeadInputs, head_inputs_of
from fedlease.client.private_steps import PrivacyTerms, PrivateTraining
from fedlease.client.resident import ResidentModel
from fedlease.client.training import Optimiser, Trainer
from fedlease.core.row_noise import Amount
from fedlease.core.types import Stage
from fedlease.data.federation import Row
from fedlease.models.base import load_tokenizer
from fedlease.models.sources import locate
from fedlease.tasks.encoded import Encoded

CANARIES, LABELS, PASSES, EPSILON = 60, 10, 60, 1.0
OPTIMISER = Optimiser(lr=1e-2, weight_decay=0.0, batch_size=16, clip_norm=None, threads=1, seed=0, momentum=0.0)
TERMS: dict[str, Any] = {
    "epsilon": EPSILON,
    "delta": 1e-4,
    "clip": 0.02,
    "batch_size": 16,
    "passes": {"fedit": Amount(PASSES)},
    "seed": 3,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Encoded, HeadInputs | None]:
    """A resident model, canaries, which are texts of random letters with random labels, and the inputs of its heads."""
    folder = tmp_path_factory.mktemp("made")
    resident, rows, adapter = federation(folder, "cpu")
    tokenizer = load_tokenizer(locate("tiny-random", None, folder / "again", 0))
    draw = torch.Generator().manual_seed(1)
    letters = torch.randint(26, (CANARIES, 12), generator=draw).tolist()
    labels = torch.randint(LABELS, (CANARIES,), generator=draw).tolist()
    texts = ["".join(chr(97 + letter) for letter in row) for row in letters]
    canaries = [Row(text, None, label) for text, label in zip(texts, labels, strict=True)]
    inputs = head_inputs_of(resident, tokenizer, 24)
    return (resident, rows, adapter), resident.task.encode(canaries, tokenizer), inputs


def losses(resident: ResidentModel, rows: Encoded) -> torch.Tensor:
    """The loss of every row under the loaded model."""
    with torch.no_grad():
        return resident.task.row_losses(resident, rows, range(len(rows)))  # type: ignore[attr-defined,no-any-return]


def shown(made: tuple[Made, Encoded, HeadInputs | None], terms: PrivacyTerms) -> float:
    """The largest epsilon that the guesses rule out with 95 % confidence.

    The guess is that the half of the canaries took part whose losses fell most. The others have a random label of
    many, which no model can know.
    """
    (resident, _, adapter), canaries, inputs = made
    taken = torch.rand(CANARIES, generator=torch.Generator().manual_seed(2)) < 0.5
    rows = canaries.take(taken.nonzero().flatten().tolist())
    wanted = job((resident, {"a": rows}, adapter), "a", labels=LABELS)
    (stage,) = wanted.task.stages
    wanted = replace(wanted, task=replace(wanted.task, stages=(Stage(stage.trainable, PASSES),)))
    private = PrivateTraining(resident, terms, adapter.spec.target_modules, inputs)
    resident.load(wanted.task.model, LABELS, wanted.tensors)
    before = losses(resident, canaries)
    Trainer(resident, OPTIMISER, private).train("a", wanted.task, rows)
    fell = before - losses(resident, canaries)
    guesses = fell > fell.median()
    right = int((guesses == taken).sum())
    found = 0.0
    while binom.sf(right - 1, CANARIES, 1 / (1 + math.exp(-found))) <= 0.05:
        found += 0.01
    return found


def test_what_is_trained_shows_less_than_epsilon_allows(made: tuple[Made, Encoded, HeadInputs | None]) -> None:
    assert shown(made, PrivacyTerms(**TERMS)) < EPSILON


def test_without_noise_the_same_guesses_show_more(made: tuple[Made, Encoded, HeadInputs | None]) -> None:
    assert shown(made, Silent(**TERMS)) > EPSILON
