"""Local training, which shares nothing."""

import pytest
import torch
from contract.planted import CLIENTS, adapter

from fedlease.core.types import Budget
from fedlease.methods.fedlease import FedLease
from fedlease.methods.local import Local


def test_local_shares_nothing() -> None:
    method = Local(Budget(2, 1))
    state = method.init(adapter(), CLIENTS, 0)
    task = method.task(state, "a0")
    assert task is not None
    assert task.upload == frozenset() and task.private == task.trainable
    assert task.stages[0].epochs == 2


@pytest.mark.parametrize(
    ("budget", "stages"), [(Budget(3, 2), [3]), (Budget(5, 1, 2, warmup_as_rounds=True), [2, 2, 1])]
)
def test_local_begins_with_the_same_work_as_fedlease(budget: Budget, stages: list[int]) -> None:
    """Same model, same trainable tensors, same epochs and round: only then may a run do it once for both."""
    local, fedlease = Local(budget), FedLease(budget)
    first = local.task(local.init(adapter(), CLIENTS, 0), "a0")
    other = fedlease.task(fedlease.init(adapter(), CLIENTS, 0), "a0")
    assert first is not None and other is not None
    assert [stage.epochs for stage in first.stages] == stages
    assert first.stages == other.stages and first.round == other.round and first.phase == other.phase
    assert first.model.spec == other.model.spec
    assert all(torch.equal(first.model.tensors[n], other.model.tensors[n]) for n in first.model.tensors)
