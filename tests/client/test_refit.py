"""Who compares candidates without favour: refitted heads, and what a half has learnt on the other half's rows."""

import math
from typing import Any

import pytest
import torch

from fedlease.client.halves import split
from fedlease.client.worker import Client, ClientWorker
from fedlease.core.types import AdapterSpec, ClientModel
from fedlease.data.federation import ClientData
from fedlease.tasks.classification import Classification
from fedlease.tasks.encoded import Encoded

ROWS = Encoded.of({"input_ids": [[number + 2] for number in range(20)]}, [0, 1] * 10, 0, left=False)
SPEC = AdapterSpec(1, 1, 0.0, ("layer",))


class Recorder:
    """A trainer's resident model and task that give planted losses: adapter value -> loss."""

    def __init__(self, losses: dict[float, float]) -> None:
        self.losses, self.asked = losses, []
        self.resident = self.task = self.optimiser = self
        self.seed, self.threads = 0, 1

    def load(self, model: ClientModel, num_labels: int, tensors: Any) -> None:
        self.loaded = float(tensors["layer/B/0"])

    def refitted_loss(self, resident: Any, rows: Encoded, threads: int) -> float:
        self.asked.append((self.loaded, [rows.columns["input_ids"][row][0] - 2 for row in range(len(rows))]))
        return self.losses[self.loaded]


def adapter(value: float) -> dict[str, torch.Tensor]:
    return {"layer/B/0": torch.tensor(value)}


@pytest.mark.parametrize(
    ("losses", "chosen", "value"), [((1, 1, 3, 4), 0, 9), ((5, 5, 3, 4), 2, 3), ((5, 5, 4, 3), 3, 4)]
)
def test_the_lowest_loss_is_chosen_and_own_halves_leave_the_models_tensors(
    losses: Any, chosen: int, value: int
) -> None:
    trainer: Any = Recorder(dict(zip((1.0, 2.0, 3.0, 4.0), losses, strict=True)))
    data = ClientData("a", "default", ("no", "yes"), (), (), ())
    worker = ClientWorker(Client(data, ROWS, ROWS), trainer)
    model = ClientModel(SPEC, adapter(9.0), tuple(adapter(number) for number in (1.0, 2.0, 3.0, 4.0)))
    tensors, choice = worker.received(model, refit=True)
    assert (choice, float(tensors["layer/B/0"])) == (chosen, value)
    one, other = split(ROWS, 0, "a")
    # What the first half has learnt (1) is compared on the second, and the other way round.
    assert trainer.asked[:2] == [(2.0, one), (1.0, other)]
    assert trainer.asked[2:] == [(3.0, one), (3.0, other), (4.0, one), (4.0, other)]


class Features:
    """A model whose features are planted."""

    device = torch.device("cpu")

    def __init__(self, features: torch.Tensor) -> None:
        self.planted = features

    def for_scoring(self) -> None:
        """Nothing to switch."""

    def features(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.planted[inputs["input_ids"][:, 0] - 2]


def test_features_that_tell_labels_apart_have_the_lower_loss_whatever_the_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(20, 4, generator=generator)
    telling = noise.clone()
    telling[:, 0] = torch.tensor([0.0, 1.0] * 10) * 3 + 0.1 * noise[:, 0]
    losses = [
        Classification(8).refitted_loss(Features(given), ROWS, 1)  # type: ignore[arg-type]
        for given in (telling, 1000 * telling, noise)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3) and losses[0] < 0.1 < losses[2]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_rows_have_a_finite_loss(count: int) -> None:
    """A client of three rows has halves of two and one, of which no rows can be predicted from several others."""

    class Bare(Features):
        def logits(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
            return torch.zeros(len(inputs["input_ids"]), 2)

    model: Any = Bare(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)))
    found = Classification(8).refitted_loss(model, ROWS.take(list(range(count))), 1)
    assert math.isfinite(found) and (count > 2 or found == pytest.approx(math.log(2)))


def test_balanced_labels_weigh_the_same_in_the_refitted_loss_too() -> None:
    """Two rare rows in twenty: features that tell them are worth more than noise only where they count as much."""
    labels = [1 if number in (3, 12) else 0 for number in range(20)]
    uneven = Encoded.of({"input_ids": [[number + 2] for number in range(20)]}, labels, 0, left=False)
    noise = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    telling = noise.clone()
    telling[:, 0] = torch.tensor(labels) * 3 + 0.1 * noise[:, 0]

    def losses(task: Classification, rows: Encoded) -> list[float]:
        return [task.refitted_loss(Features(given), rows, 1) for given in (telling, noise)]  # type: ignore[arg-type]

    plain, balanced = Classification(8), Classification(8, balanced=True)
    gain, weighted = (noisy - told for told, noisy in (losses(plain, uneven), losses(balanced, uneven)))
    assert weighted > 2 * gain > 0
    # Labels that are even anyway weigh 1 each.
    assert losses(balanced, ROWS) == pytest.approx(losses(plain, ROWS))
