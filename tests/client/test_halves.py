"""A warm-up that tells what either half of the rows has added: the parts are the whole, and each is its half's."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from client.test_training import small

from fedlease.client.halves import SecondHalf, batches, beginning, in_turn, split
from fedlease.client.results import LocalResult, kept_result, sketched
from fedlease.client.store import Private
from fedlease.client.training import Optimiser, Trainer
from fedlease.core.adapters import half_of, whole
from fedlease.core.seeds import generator
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


def test_batches_are_of_one_half_each_in_turn_and_hold_every_row_once_a_pass() -> None:
    halves = ([0, 2, 4, 6, 8, 10, 12], [1, 3, 5])
    drawn = batches([3] * 13, halves, 2, generator(0))
    assert [half for half, _ in drawn] == [0, 1, 0, 1, 0, 0], "what the other half has too few for comes last"
    for half, own in enumerate(halves):
        assert sorted(row for of, batch in drawn if of == half for row in batch) == own
    assert [half for half, _ in batches([3] * 13, (), 2, generator(0))] == [0] * 7
    assert in_turn([[[], [1]], [[2], []]]) == [(0, []), (1, [2]), (0, [1]), (1, [])], "a sample may be empty"


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("stages", [1, 2])
def test_the_parts_of_two_halves_are_all_that_adamw_has_learnt(decay: float, stages: int) -> None:
    draw = torch.Generator().manual_seed(3)
    value = torch.nn.Parameter(torch.zeros(5, 4, dtype=torch.float64))
    late = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    one, other = (SecondHalf([value, late]) for _ in range(2))
    for _ in range(stages):
        adamw = torch.optim.AdamW([value, late], lr=0.03, weight_decay=decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(adamw, lambda step: 1 - step / 20)
        one.fresh(), other.fresh()
        for step in range(20):
            half = int(torch.rand(1, generator=draw) < 0.4)
            value.grad = torch.randn(5, 4, generator=draw, dtype=torch.float64)
            late.grad = None if step < 3 else torch.randn(3, generator=draw, dtype=torch.float64)
            adamw.step()
            one.follow(adamw, [half, half])
            other.follow(adamw, [1 - half, 1 - half])
            schedule.step()
    for place, trained in enumerate((value, late)):
        assert one.part[place].abs().min() > 0 and other.part[place].abs().min() > 0
        torch.testing.assert_close(one.part[place] + other.part[place], trained.detach(), atol=1e-12, rtol=1e-9)


def test_a_half_without_batches_has_no_part_and_the_other_has_all() -> None:
    value = torch.nn.Parameter(torch.zeros(4))
    adamw = torch.optim.AdamW([value], lr=0.1)
    nothing, everything = (SecondHalf([value]) for _ in range(2))
    for step in range(5):
        value.grad = torch.arange(4.0) - step
        adamw.step()
        nothing.follow(adamw, [0])
        everything.follow(adamw, [1])
    assert nothing.part[0].equal(torch.zeros(4))
    torch.testing.assert_close(everything.part[0], value.detach(), atol=1e-7, rtol=1e-6)


def test_clients_in_the_rows_of_one_value_are_followed_each_by_its_own_half() -> None:
    value = torch.nn.Parameter(torch.zeros(2, 3))
    adamw = torch.optim.AdamW([value], lr=0.1)
    both = SecondHalf([value])
    value.grad = torch.ones(2, 3)
    adamw.step()
    both.follow(adamw, [torch.tensor([[0.0], [1.0]])])
    assert both.part[0][0].equal(torch.zeros(3)) and torch.allclose(both.part[0][1], value.detach()[1])


def test_a_warm_up_gives_its_adapter_with_b_in_parts_for_no_step_more(tmp_path: Path) -> None:
    resident, encoded, adapter, head = small(tmp_path)
    model = ClientModel(adapter.spec, {**adapter.tensors, **head})
    names = adapter.names("AB")
    task = ClientTask("warmup", 0, model, (Stage(names | head.keys(), 2),), upload=names, halves=True)
    trainer, steps = Trainer(resident, OPTIMISER), []

    def on_batch(client: str, done: int, total: int, loss: float) -> None:
        steps.append((done, total))

    resident.load(model, 2, model.tensors)
    found = trainer.train("a", task, encoded, on_batch)
    assert found.update.tensors.keys() == task.expected.keys() and found.update.num_examples == 8
    assert steps == [(step, 8) for step in range(1, 9)], "four batches, two passes"
    assert not [name for name in found.update.tensors if "/A/1" in name], "A is one"
    trained = resident.read(names | head.keys())
    for name, tensor in whole(found.update.tensors).items():
        torch.testing.assert_close(tensor, trained[name], atol=1e-7, rtol=1e-5)
    for name in head:
        assert found.private[name].equal(trained[name])
    for half in (0, 1):
        assert all(half_of(found.update.tensors, half)[name].any() for name in names)
    # The parts change nothing of what is learnt, and the same call gives the same.
    resident.load(model, 2, model.tensors)
    again = trainer.train("a", task, encoded)
    assert all(tensor.equal(again.update.tensors[name]) for name, tensor in found.update.tensors.items())


def test_rows_of_the_second_half_that_teach_nothing_leave_it_no_part(tmp_path: Path) -> None:
    """The gradient of a half is its own: with weights of 0 for its rows, the other half has made all of B."""
    resident, encoded, adapter, head = small(tmp_path)
    model = ClientModel(adapter.spec, {**adapter.tensors, **head})
    names = adapter.names("AB")
    task = ClientTask("warmup", 0, model, (Stage(names, 1),), upload=names, halves=True)
    _, silent = split(encoded, 0, "a")
    loss = resident.task.batch_loss

    def of_one_half(resident, rows, batch):  # type: ignore[no-untyped-def]
        return loss(resident, rows, batch) * float(not set(silent).issuperset(batch))

    resident.load(model, 2, model.tensors)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(resident.task), "batch_loss", lambda self, *args: of_one_half(*args))
        found = Trainer(resident, OPTIMISER).train("a", task, encoded).update.tensors
    for name in adapter.names("B"):
        assert not found[name[:-1] + "1"].any() and found[name].any()


def test_skewed_labels_of_one_task_begin_with_their_frequencies_in_the_head(tmp_path: Path) -> None:
    """Rows that say nothing: else clients would learn the frequencies as contrary B."""
    resident, encoded, adapter, head = small(tmp_path)
    model = ClientModel(adapter.spec, {**adapter.tensors, **head})
    names = adapter.names("AB")
    task = ClientTask("warmup", 0, model, (Stage(names, 1),), upload=names, halves=True)
    skewed = encoded.take([0, 2, 4, 6, 0, 2, 1, 3])
    begin = beginning(task, model.tensors, resident.task, skewed)
    # Six rows of label 0 and two of label 1, one added to each.
    expected = head["head/classifier.bias"] + torch.tensor([7 / 10, 3 / 10]).log()
    torch.testing.assert_close(begin.pop("head/classifier.bias"), expected)
    assert all(tensor is model.tensors[name] for name, tensor in begin.items())
    plain = replace(task, halves=False)
    assert beginning(plain, model.tensors, resident.task, skewed) == model.tensors


def test_a_sketched_warm_up_is_kept_and_given_whole() -> None:
    halves = {"q/A/0": torch.ones(2, 2), "q/B/0": torch.full((2, 2), 3.0), "q/B/1": torch.full((2, 2), 4.0)}
    spec, names = AdapterSpec(2, 4.0, 0.0, ("q",)), frozenset(["q/A/0", "q/B/0"])
    model = ClientModel(spec, {name: torch.zeros(2, 2) for name in names})
    plain = ClientTask("warmup", 0, model, (Stage(names, 1),), upload=names, halves=True)
    first = sketched(LocalResult(ClientUpdate("a", "warmup", 0, 8, halves), {}, 4, 0.0), replace(plain, sketch=SKETCH))
    assert is_sketch(first.update.tensors) and len(first.update.tensors) == 2
    private = Private().trained(1, spec, first.private, sketched=True).accepted(1, replace(model, warmed=True))
    start = ClientTask("start", 0, replace(model, warmed=True), (), upload=names)
    kept = kept_result("a", start, 8, private).update
    assert kept.metrics == {} and kept.tensors.keys() == names
    assert kept.tensors["q/A/0"].equal(torch.ones(2, 2)) and kept.tensors["q/B/0"].equal(torch.full((2, 2), 7.0))
    with pytest.raises(UpdateRefusedError, match="it has kept no warm-up"):
        kept_result("a", start, 8, Private())
    broken = {**halves, "q/B/1": torch.full((2, 2), float("nan"))}
    with pytest.raises(UpdateRefusedError, match="q/B/1 holds values that are NaN"):
        sketched(LocalResult(ClientUpdate("a", "warmup", 0, 8, broken), {}, 4, 0.0), replace(plain, sketch=SKETCH))
