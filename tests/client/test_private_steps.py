"""Gradients of single rows are those of one-by-one backward passes; what is learnt is their bounded, noisy mean."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from client.test_stacked import Made, federation, job

from fedlease.client.private_steps import PrivacyTerms, PrivateTraining
from fedlease.client.results import LocalResult
from fedlease.client.stacked_training import Job
from fedlease.client.training import Optimiser, Trainer
from fedlease.core.row_noise import Amount
from fedlease.core.types import LocalTerm, Stage
from fedlease.data.federation import Row
from fedlease.models.base import load_tokenizer
from fedlease.models.sources import locate
from fedlease.tasks.generation import Generation
from fedlease.tasks.multilabel import Multilabel
from fedlease.tasks.regression import Regression

OPTIMISER = Optimiser(lr=1e-2, weight_decay=0.1, batch_size=4, clip_norm=None, threads=1, seed=0)
TERMS = PrivacyTerms(epsilon=8.0, delta=1e-3, clip=0.5, batch_size=4, passes={"fedit": Amount(2)}, seed=0)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return federation(tmp_path_factory.mktemp("made"), "cpu")


def training(made: Made, **changes: Any) -> PrivateTraining:
    return PrivateTraining(made[0], replace(TERMS, **changes), made[2].spec.target_modules)


def one_by_one(made: Made, job: Job, batch: list[int]) -> list[dict[str, torch.Tensor]]:
    """The gradient of every row by itself, without padding: a batch of one row, and a backward pass of its own."""
    resident, found = made[0], []
    (stage,) = job.task.stages
    resident.load(job.task.model, job.num_labels, job.tensors)
    resident.train_only(stage.trainable)
    resident.restrict(stage.experts)
    resident.model.train()
    for row in batch:
        resident.task.batch_loss(resident, job.rows, [row]).backward()
        found.append({name: resident.parameters[name].grad.clone() for name in sorted(stage.trainable)})
        resident.model.zero_grad(set_to_none=True)
    return found


LAYERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "routed": {"mixer": "top_m", "own": 1},
    "softmax": {"mixer": "softmax"},
    "sum": {"mixer": "sum"},
    "core": {"mixer": "core"},
    "scalar": {"mixer": "scalar"},
    "instance": {"mixer": "instance"},
    "one expert of several": {"mixer": "instance", "only": (1,)},
}


def check_rows(made: Made, wanted: Job, batch: list[int]) -> None:
    private = training(made)
    expected = one_by_one(made, wanted, batch)
    _, found = private.row_gradients(wanted.rows, batch, wanted.task, wanted.task.stages[0])
    assert found.keys() == expected[0].keys() == wanted.task.stages[0].trainable
    for name, gradients in found.items():
        assert gradients.shape == (len(batch), *expected[0][name].shape)
        for gradient, alone in zip(gradients, expected, strict=True):
            assert torch.allclose(gradient, alone[name], rtol=1e-3, atol=1e-6), name
    norms = [sum(float(g.square().sum()) for g in alone.values()) for alone in expected]
    assert min(norms) > 0


@pytest.mark.parametrize("case", LAYERS)
def test_gradients_of_a_b_router_and_head_are_those_of_each_row_alone(case: str, made: Made) -> None:
    changes = dict(LAYERS[case])
    only = changes.pop("only", None)
    wanted = job(made, "a", **changes)
    if only is not None:
        (stage,) = wanted.task.stages
        wanted = replace(wanted, task=replace(wanted.task, stages=(replace(stage, experts=only),)))
    check_rows(made, wanted, [0, 3, 8, 5])


@pytest.mark.parametrize("task", [Multilabel(24), Regression(24), Generation(24, max_new_tokens=5)], ids=repr)
def test_gradients_of_other_tasks_are_those_of_each_row_alone(task: Any, tmp_path: Path) -> None:
    writes, numbers = isinstance(task, Generation), isinstance(task, Regression)
    mine = federation(tmp_path, "cpu", task if writes else None)
    if not writes:
        tokenizer = load_tokenizer(locate("tiny-random", None, tmp_path / "base", 0))
        mine[0].task = task
        targets = [{"value": float(i)} if numbers else {"marks": (*range(i % 3),)} for i in range(9)]
        rows = [Row("a" * (1 + i % 4) + f" {i}", None, 0, **target) for i, target in enumerate(targets)]
        mine[1]["a"] = task.encode(rows, tokenizer, (4.0, 2.5))  # type: ignore[index]
    check_rows(mine, job(mine, "a", labels=1 if numbers else 2), [2, 3, 8])


class Silent(PrivacyTerms):
    """Terms without noise: what is left is sampling and bounding."""

    def noise(self, rows: int) -> float:
        return 0.0


def trained(made: Made, wanted: Job, private: PrivateTraining | None, optimiser: Optimiser = OPTIMISER) -> LocalResult:
    made[0].load(wanted.task.model, wanted.num_labels, wanted.tensors)
    return Trainer(made[0], optimiser, private).train(wanted.client, wanted.task, wanted.rows)


@pytest.mark.parametrize("mixer", ["none", "top_m"])
def test_with_all_rows_in_every_step_no_bound_and_no_noise_it_is_plain_training(mixer: str, made: Made) -> None:
    """Every row takes part with probability 9 / 9; the term and the mean gradients are those of plain training, too."""
    names = made[2].names("B")
    term = LocalTerm(0.5, {name: torch.full_like(made[2].tensors[name], 0.01) for name in names})
    whole = replace(OPTIMISER, batch_size=9)
    wanted = job(made, "a", mixer) if mixer != "none" else job(made, "a", term=term, gradients=True)
    silent = PrivateTraining(made[0], Silent(8.0, 1e-3, 1e9, 9, {"fedit": 2}, 0), made[2].spec.target_modules)
    mine, plain = trained(made, wanted, silent, whole), trained(made, wanted, None, whole)
    assert mine.steps == plain.steps == 2
    for name, tensor in plain.update.tensors.items():
        assert torch.allclose(mine.update.tensors[name], tensor, atol=1e-4), name


@pytest.mark.parametrize(("mixer", "parts"), [("none", 2), ("top_m", 3)])
def test_one_row_moves_a_step_by_the_clipping_norm_at_most_and_its_head_leaves_room_for_b(
    mixer: str, parts: int, made: Made
) -> None:
    """Adapter, router and head each have an equal share of the squared norm, however long the head's gradient is."""
    wanted, clip = job(made, "a", mixer), 1e-4
    silent = PrivateTraining(made[0], Silent(8.0, 1e-3, clip, 1, {"fedit": Amount(2)}, 0), made[2].spec.target_modules)
    made[0].load(wanted.task.model, wanted.num_labels, wanted.tensors)
    (stage,) = wanted.task.stages
    made[0].train_only(stage.trainable)
    silent.steps(wanted.task, stage, wanted.rows, ("a",)).backward([3])
    squares = dict.fromkeys(("head", "G", "adapter"), 0.0)
    for name in stage.trainable:
        part = "head" if name.startswith("head/") else "G" if name.endswith("/G") else "adapter"
        squares[part] += float(made[0].parameters[name].grad.square().sum())  # type: ignore[union-attr]
    made[0].at_rest()
    found = [square for square in squares.values() if square]
    assert found == pytest.approx([clip**2 / parts] * parts, rel=1e-4)


def test_the_same_seed_gives_the_same_bits_and_the_system_never_does(made: Made) -> None:
    wanted = job(made, "a")
    results = [trained(made, wanted, training(made, seed=seed)).update.tensors for seed in (0, 0, 1, None, None)]
    name = sorted(results[0])[0]
    assert all(torch.equal(results[0][each], results[1][each]) for each in results[0])
    others = [result[name] for result in results[1:]]
    assert not any(torch.equal(one, other) for i, one in enumerate(others) for other in others[:i])


def test_a_row_without_a_number_for_a_loss_counts_nothing_and_is_told_to_nobody(made: Made) -> None:
    """A refused update with the loss in its reason would tell of the row."""
    broken = {name: torch.full_like(t, torch.inf) if "/A/" in name else t for name, t in made[2].tensors.items()}
    wanted = job(made, "a")
    stage = Stage(made[2].names("B"), 1)
    tensors = {**wanted.tensors, **broken}
    model = replace(wanted.task.model, tensors=tensors)
    task = replace(wanted.task, model=model, stages=(stage,), upload=stage.trainable)
    found = trained(made, replace(wanted, task=task, tensors=tensors), training(made))
    assert all(bool(tensor.isfinite().all()) for tensor in found.update.tensors.values())


def test_noise_is_enough_for_all_methods_of_a_run_and_its_parts_cost_less(made: Made) -> None:
    """100 rows, 10 a step: 10 steps a pass. Six passes in all are within epsilon, half of them well below it."""
    terms = PrivacyTerms(3.0, 1e-4, 1.0, 10, {"fedlease": Amount(4), "fedit": Amount(2)}, None)
    assert terms.planned(100) == Amount(60)
    assert 2.97 <= terms.spent(100, Amount(60)) <= 3.0
    assert 0 == terms.spent(100, Amount()) < terms.spent(100, Amount(30)) < terms.spent(100, Amount(60))
    assert terms.noise(1000) < terms.noise(100)
