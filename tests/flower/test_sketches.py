"""What a node lets its server ask of a warm-up that it keeps."""

from dataclasses import replace
from typing import Any

import pytest
from small import small_settings

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")

from contract.planted import CLIENTS, adapter, train
from flower.test_policy import hello

from fedlease.client.messages import Train
from fedlease.core.types import Budget, ClientTask, Stage
from fedlease.errors import RulesError
from fedlease.flower.model_validation import task_fault
from fedlease.flower.policy import NodePolicy
from fedlease.methods.fedlease_sketches import SketchedFedLease

METHOD = SketchedFedLease(Budget(warmup_epochs=2, rounds=3), numbers=10, least=3)
PRIVACY: dict[str, Any] = {"privacy.secure_sums": True, "privacy.sketch": 100}


def tasks() -> tuple[ClientTask, ClientTask]:
    """The warm-up of a client, and how what it has kept of it is asked for."""
    state = METHOD.init(adapter(), CLIENTS, 0)
    asked = {client: METHOD.task(state, client) for client in CLIENTS}
    after = METHOD.aggregate(state, [train(c, task, CLIENTS[c]) for c, task in asked.items() if task])
    first, then = asked["a0"], METHOD.task(after, "a0")
    assert first is not None and then is not None
    return first, then


def test_what_a_client_has_kept_of_its_warm_up_leaves_within_a_sum_alone() -> None:
    warmup, start = tasks()
    assert task_fault(warmup, ()) == "" and task_fault(start, (), masked=True) == ""
    assert task_fault(start, ()) == "a warm-up that was sketched is not sent without masks (privacy.secure_sums)"
    # B has (4 + 6) x 2 numbers.
    for numbers, fault in ((10, ""), (11, "its sketch has more numbers, 22, than B, 20")):
        assert warmup.sketch is not None
        assert task_fault(replace(warmup, sketch=replace(warmup.sketch, numbers=numbers)), ()) == fault
    # Nor by way of a round on it, nor where the model does not say what it is.
    trained = replace(start, stages=(Stage(start.upload, 1),))
    assert (
        task_fault(trained, (), masked=True)
        == "tensors that a client has kept from its warm-up are not trained further"
    )
    other = replace(start, model=replace(start.model, warmed=False))
    assert task_fault(other, (), masked=True).startswith("upload names tensors that are not trained")


@pytest.mark.parametrize(("most", "asked", "rules"), [(None, None, 0), (100, 100, 0), (99, 100, 1), (100, None, 1)])
def test_a_node_may_demand_a_sketch_of_at_most_so_many_numbers(most: Any, asked: Any, rules: int) -> None:
    settings = small_settings(**PRIVACY | {"privacy.sketch": asked})
    policy, warmup = NodePolicy(max_sketch=most), tasks()[0]
    assert len(broken(policy, hello(settings), settings)) == rules
    if most is not None:
        whole = replace(hello(settings), request=Train("fedlease", 1, replace(warmup, sketch=None)))
        said = f"a warm-up: leaves as a sketch of at most {most} numbers (max-sketch)"
        assert said in broken(policy, whole, settings)


def test_a_sketch_may_be_a_whole_number_in_each_module() -> None:
    """65 numbers over two modules are 33 in each."""
    warmup = replace(tasks()[0], sketch=METHOD.sketch(METHOD.init(adapter(), CLIENTS, 0)))
    assert warmup.sketch is not None
    settings = small_settings(**PRIVACY | {"privacy.sketch": 65})
    for numbers, halves, faults in ((33, False, 0), (33, True, 0), (34, False, 1), (34, True, 1)):
        task = replace(warmup, sketch=replace(warmup.sketch, numbers=numbers), halves=halves)
        message = replace(hello(settings), request=Train("fedlease", 1, task))
        assert len(broken(NodePolicy(max_sketch=65), message, settings)) == faults


def broken(policy: NodePolicy, message: Any, settings: Any) -> list[str]:
    try:
        policy.check(message, settings, own_model=False, own_rows=True)
    except RulesError as error:
        return list(error.faults)
    return []
