"""A warm-up on halves: both from the same start, neither sees the other's rows."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from client.test_training import small

from fedlease.client.halves import split, train_halves
from fedlease.client.results import Half, LocalResult, as_trained, kept_result, sketched
from fedlease.client.store import Private
from fedlease.client.training import Optimiser, Trainer
from fedlease.core.sketch import Sketch, is_sketch
from fedlease.core.types import AdapterSpec, ClientModel, ClientTask, ClientUpdate, Stage
from fedlease.errors import UpdateRefusedError
from fedlease.tasks.encoded import Encoded

SKETCH = Sketch(2, "BA", 0)
OPTIMISER = Optimiser(lr=1e-2, weight_decay=0.0, batch_size=2, clip_norm=1.0, threads=1, seed=0)


def rows(labels: list[int]) -> Encoded:
    return Encoded.of({"input_ids": [[2, 3]] * len(labels)}, labels, 0, left=False)


@pytest.mark.parametrize("labels", [[0] * 10 + [1] * 6, [0, 1] * 9 + [1], [2] * 5 + [0] + [1] * 11])
def test_halves_divide_every_label_evenly_and_hold_every_row_once(labels: list[int]) -> None:
    one, other = split(rows(labels), 0, "a")
    assert sorted([*one, *other]) == list(range(len(labels))) and 0 <= len(one) - len(other) <= 1
    for label in set(labels):
        counts = [sum(labels[row] == label for row in half) for half in (one, other)]
        assert abs(counts[0] - counts[1]) <= 1


def test_halves_that_may_not_tell_of_labels_are_the_same_for_all_labels() -> None:
    one, other = split(rows([0] * 19), 0, "a", by_label=False)
    assert sorted([*one, *other]) == list(range(19)) and len(one) == 10
    assert split(rows([0, 1] * 9 + [2]), 0, "a", by_label=False) == (one, other)


def test_halves_depend_on_seed_and_client_alone() -> None:
    labels = [0, 1] * 20
    assert split(rows(labels), 0, "a") == split(rows(labels), 0, "a")
    assert split(rows(labels), 0, "a") not in (split(rows(labels), 1, "a"), split(rows(labels), 0, "b"))


def test_each_half_gives_what_it_gives_alone_and_the_head_is_the_mean(tmp_path: Path) -> None:
    resident, encoded, adapter, head = small(tmp_path)
    model = ClientModel(adapter.spec, {**adapter.tensors, **head})
    names = adapter.names("AB")
    task = ClientTask("warmup", 0, model, (Stage(names | head.keys(), 2),), upload=names, halves=True)
    trainer, steps = Trainer(resident, OPTIMISER), []

    def load(tensors: object) -> None:
        resident.load(model, 2, tensors)  # type: ignore[arg-type]

    def on_batch(client: str, done: int, total: int, loss: float) -> None:
        steps.append((done, total))

    found = train_halves(trainer, load, "a", task, encoded, on_batch)
    assert found.update.tensors.keys() == task.expected.keys() and found.update.num_examples == 8
    assert steps == [(step, 8) for step in range(1, 9)], "two batches, two passes, two halves"
    # A head that starts at the labels' frequencies: both halves have as many of each, so it is the same for both.
    prior = {
        name: tensor + torch.tensor(0.5).log() if name.endswith("bias") else tensor for name, tensor in head.items()
    }
    alone = []
    for half, chosen in enumerate(split(encoded, 0, "a")):
        load({**model.tensors, **prior})
        single = ClientTask("warmup", 0, model, task.stages, upload=names)
        alone.append(trainer.train("a", single, encoded.take(chosen), half=Half(half)))
        for name in names:
            assert found.update.tensors[name[:-1] + str(half)].equal(alone[half].update.tensors[name])
    for name in head:
        assert found.private[name].equal((alone[0].private[name] + alone[1].private[name]) / 2)


def test_halves_that_go_on_begin_with_what_each_has_learnt_and_draw_new_batches(tmp_path: Path) -> None:
    resident, encoded, adapter, head = small(tmp_path)
    names = adapter.names("AB")
    starts = tuple({name: adapter.tensors[name] + half for name in names} for half in (0.1, 0.2))
    model = ClientModel(adapter.spec, {**adapter.tensors, **head}, starts)
    seen, numbers = [], []

    class Recorder(Trainer):
        def train(self, client, task, rows, on_batch=None, *, half=0):  # type: ignore[no-untyped-def]
            seen.append(resident.read(names))
            numbers.append(half.number)
            return super().train(client, task, rows, on_batch, half=half)

    task = ClientTask("warmup", 0, model, (Stage(names, 1),), upload=names, halves=True)
    train_halves(Recorder(resident, OPTIMISER), lambda t: resident.load(model, 2, t), "a", task, encoded)
    assert all(before[name].equal(start[name]) for before, start in zip(seen, starts, strict=True) for name in names)
    assert numbers == [2, 3], "0 and 1 have drawn theirs"


def test_skewed_labels_of_one_task_leave_b_alone(tmp_path: Path) -> None:
    """Rows that say nothing: without the labels' frequencies in the head, clients would learn them as contrary B."""
    resident, encoded, adapter, head = small(tmp_path)
    names = adapter.names("AB")
    model = ClientModel(adapter.spec, {**adapter.tensors, **head})
    task = ClientTask("warmup", 0, model, (Stage(names, 1),), upload=names, halves=True)
    biases = []

    class Recorder(Trainer):
        def train(self, client, task, rows, on_batch=None, *, half=0):  # type: ignore[no-untyped-def]
            biases.append(resident.parameters["head/classifier.bias"].detach().clone())
            return super().train(client, task, rows, on_batch, half=half)

    skewed = encoded.take([0, 2, 4, 6, 0, 2, 1, 3])
    train_halves(Recorder(resident, OPTIMISER), lambda t: resident.load(model, 2, t), "a", task, skewed)
    start = head["head/classifier.bias"]
    # Three rows of label 0 and one of label 1 in each half, one added to each.
    expected = start + torch.tensor([4 / 6, 2 / 6]).log()
    assert all(torch.allclose(bias, expected) for bias in biases) and len(biases) == 2


def test_halves_that_the_client_has_kept_go_on_as_those_that_are_sent() -> None:
    halves = {f"q/{kind}/{half}": torch.full((2, 2), 10.0 * half + ord(kind)) for kind in "AB" for half in (0, 1)}
    one, other = ({f"q/{kind}/0": halves[f"q/{kind}/{half}"] for kind in "AB"} for half in (0, 1))
    spec, names = AdapterSpec(2, 4.0, 0.0, ("q",)), frozenset(one)
    model = ClientModel(spec, {name: torch.zeros(2, 2) for name in names})
    plain = ClientTask("warmup", 0, model, (Stage(names, 1),), upload=names, halves=True)
    first = sketched(LocalResult(ClientUpdate("a", "warmup", 0, 8, halves), {}, 4, 0.0), replace(plain, sketch=SKETCH))
    assert is_sketch(first.update.tensors) and len(first.update.tensors) == 2
    private = Private().trained(1, spec, first.private, sketched=True).accepted(1, replace(model, warmed=True))
    task = as_trained("a", replace(plain, sketch=SKETCH, model=replace(model, warmed=True)), private)
    assert task.sketch is None and not task.model.warmed
    for found, expected in zip(task.model.candidates, (one, other), strict=True):
        assert found.keys() == names and all(tensor.equal(expected[name]) for name, tensor in found.items())
    # What is summed in the end is both: the mean of A, the sum of B.
    start = ClientTask("start", 0, replace(model, warmed=True), (), upload=names)
    kept = kept_result("a", start, 8, private).update
    assert kept.metrics == {} and float(kept.tensors["q/A/0"][0, 0]) == ord("A") + 5
    assert float(kept.tensors["q/B/0"][0, 0]) == 2 * ord("B") + 10
    for asked in (replace(plain, model=replace(model, warmed=True)), start):
        with pytest.raises(UpdateRefusedError, match="it has kept no warm-up"):
            as_trained("a", asked, Private()) if asked.stages else kept_result("a", asked, 8, Private())
    broken = {**halves, "q/B/1": torch.full((2, 2), float("nan"))}
    with pytest.raises(UpdateRefusedError, match="q/B/1 holds values that are NaN"):
        sketched(LocalResult(ClientUpdate("a", "warmup", 0, 8, broken), {}, 4, 0.0), replace(plain, sketch=SKETCH))
