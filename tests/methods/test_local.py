"""Local training, which shares nothing."""

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


def test_local_begins_with_the_same_work_as_fedlease() -> None:
    """Same model, same trainable tensors, same epochs and round: only then may a run do it once for both."""
    budget = Budget(3, 2)
    local, fedlease = Local(budget), FedLease(budget)
    first = local.task(local.init(adapter(), CLIENTS, 0), "a0")
    other = fedlease.task(fedlease.init(adapter(), CLIENTS, 0), "a0")
    assert first is not None and other is not None
    assert first.stages == other.stages and first.round == other.round and first.phase == other.phase
    assert first.model.spec == other.model.spec
    assert all(torch.equal(first.model.tensors[n], other.model.tensors[n]) for n in first.model.tensors)
