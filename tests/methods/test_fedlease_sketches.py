"""FedLEASE with sketches of warm-ups, on planted groups."""

from typing import Any

import torch
from contract.planted import CLIENTS, SHAPES, adapter, constant, train

from fedlease.core.types import Budget, Sketch
from fedlease.methods.fedlease import FedLease
from fedlease.methods.fedlease_sketches import START, SketchedFedLease

METHOD = FedLease(Budget(warmup_epochs=2, rounds=3))
SKETCHED = SketchedFedLease(METHOD.budget, numbers=10, least=3)


def allocated(method: FedLease) -> Any:
    state = method.init(adapter(), CLIENTS, 0)
    updates = [train(client, method.task(state, client), rows) for client, rows in CLIENTS.items()]  # type: ignore[arg-type]
    return method.aggregate(state, updates)


def sketched(*absent: str) -> tuple[Any, dict[str, Any]]:
    """The state after warm-ups of which the server has sketches, and the tasks by which they are asked for."""
    state = allocated(SKETCHED)
    return state, {client: SKETCHED.task(state, client) for client in CLIENTS if client not in absent}


def test_of_sketched_warm_ups_the_first_experts_are_asked_for_by_cluster() -> None:
    warmup = SKETCHED.task(SKETCHED.init(adapter(), CLIENTS, 0), "a0")
    assert warmup is not None
    # Ten numbers over two modules; A and B stay.
    assert {name: tuple(tensor.shape) for name, tensor in warmup.expected.items()} == {
        f"{module}/B/0": (5, 1) for module in SHAPES
    }
    assert warmup.private == warmup.trainable
    state, tasks = sketched()
    assert state.round == 0 and state.experts == () and state.assignment == allocated(METHOD).assignment
    for task in tasks.values():
        assert task.phase == START and task.stages == () and task.model.warmed
        assert task.upload == task.model.names("AB") == task.expected.keys()
    assert SKETCHED.group(state, "a0") == 0 and SKETCHED.group(state, "b0") == 1
    updates = [constant(train(c, task, CLIENTS[c]), int(c[1]) + 1.0) for c, task in tasks.items()]
    after = SKETCHED.aggregate(state, updates)
    assert after.round == 1 and not after.begun and not SKETCHED.model(after, "a0").warmed
    # 10, 20 and 30 rows of 1, 2 and 3: (10 + 40 + 90) / 60.
    for expert in after.experts:
        assert all(torch.allclose(tensor, torch.full_like(tensor, 7 / 3)) for tensor in expert.values())
    assert len(after.routers) == 2
    task = SKETCHED.task(after, "a0")
    assert task is not None and task.phase == "experts" and task.sketch is None


def test_a_cluster_whose_warm_ups_cannot_be_summed_is_asked_once_more_and_then_begins_from_the_common_start() -> None:
    state, tasks = sketched()
    some = [train(client, tasks[client], CLIENTS[client]) for client in ("a0", "a1", "a2")]
    again = SKETCHED.aggregate(state, some, absent={"b0", "b1", "b2"})
    assert again.round == 0 and again.experts == ()
    assert [c for c in CLIENTS if SKETCHED.task(again, c) is not None] == ["b0", "b1", "b2"]
    others = [train(client, tasks[client], CLIENTS[client]) for client in ("b0", "b1", "b2")]
    whole, at_once = SKETCHED.aggregate(again, others), SKETCHED.aggregate(state, [*some, *others])
    for one, other in zip(whole.experts, at_once.experts, strict=True):
        assert all(tensor.equal(other[name]) for name, tensor in one.items())
    lost = SKETCHED.aggregate(again, [], absent={"b0", "b1", "b2"})
    assert lost.round == 1 and all(tensor is state.adapter.tensors[name] for name, tensor in lost.experts[1].items())
    (note,) = lost.notes
    assert note == "expert 2 starts from the common adapter, as the warm-ups of its clients could not be summed"


def test_a_client_that_comes_after_sketches_is_placed_by_its_own() -> None:
    state, tasks = sketched()
    state = SKETCHED.admit(state, "b9", 20)
    late = SKETCHED.task(state, "b9")
    assert late is not None and late.phase == "warmup" and late.sketch == Sketch(5, "B", 0)
    updates = [train(client, task, CLIENTS[client]) for client, task in tasks.items()]
    after = SKETCHED.aggregate(state, [*updates, train("b9", late, 20)])
    assert after.assignment["b9"] == 1 and "client 'b9' came late and was placed with expert 2" in after.notes[0]
