"""FLoRA: everyone has the exact mean of products after every round, whatever the ranks; each round begins anew."""

import pytest
from contract.planted import CLIENTS, SHAPES, adapter, made, train
from methods.sums import assert_exact_mean_after_every_round

from fedlease.core.ranks import Ranks
from fedlease.core.types import Budget, TensorName

BUDGET = Budget(1, 3)
UNEQUAL = Ranks(2, {"a1": 1, "b0": 1})


@pytest.mark.parametrize("ranks", [None, UNEQUAL])
def test_everyone_has_the_exact_mean_of_products_after_every_round(ranks: Ranks | None) -> None:
    assert_exact_mean_after_every_round(made("flora", BUDGET, ranks=ranks))


def test_every_round_begins_with_another_a_and_with_b_zero() -> None:
    method = made("flora", BUDGET)
    state = method.init(adapter(), CLIENTS, 0)
    seen = []
    for _ in range(3):
        for name, tensor in state.adapter.tensors.items():
            assert bool(tensor.any()) == (TensorName.parse(name).kind == "A")
        seen.append(state.adapter.tensors["layer.0.query/A/0"])
        state = method.aggregate(state, [train(c, method.task(state, c), CLIENTS[c]) for c in CLIENTS])
    assert len({str(a.tolist()) for a in seen}) == 3


def test_a_client_sends_its_own_rank_and_gets_its_adapter_with_the_whole_stack() -> None:
    method = made("flora", BUDGET, ranks=UNEQUAL)
    state = method.init(adapter(), CLIENTS, 0)
    per_rank = sum(map(sum, SHAPES.values()))
    uploads = {c: method.task(state, c) for c in ("a0", "a1")}
    sent = {c: sum(task.model.tensors[n].numel() for n in task.upload) for c, task in uploads.items()}
    assert sent == {"a0": 2 * per_rank, "a1": per_rank}
    state = method.aggregate(state, [train(c, task, CLIENTS[c]) for c, task in uploads.items()])
    # Ranks 2 and 1 are stacked to 3, in experts of rank 2 for the one, of rank 1 for the other.
    got = {c: sum(t.numel() for t in method.model(state, c).tensors.values()) for c in uploads}
    assert got == {"a0": (2 + 4) * per_rank, "a1": (1 + 3) * per_rank}
    specs = [method.model(state, c).spec for c in uploads]
    assert len({spec.alpha / spec.r for spec in specs}) == 1
