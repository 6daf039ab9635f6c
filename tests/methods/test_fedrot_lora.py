"""FedRot-LoRA: what is turned computes what it did, and copies that are turned against each other average to one."""

import math

import pytest
import torch
from contract.planted import CLIENTS, adapter, made, train

from fedlease.core.alignment import aligned
from fedlease.core.codec import dumps
from fedlease.core.types import Budget, ClientUpdate

BUDGET = Budget(1, 3)
A = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
B = torch.tensor([[1.0, 0.0], [0.0, 3.0], [1.0, 1.0]], dtype=torch.float64)


def turn(degrees: float, *, mirrored: bool = False) -> torch.Tensor:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return (
        torch.tensor([[c, -s], [s, c]]).double() @ torch.diag(torch.tensor([1.0, -1.0 if mirrored else 1.0])).double()
    )


@pytest.mark.parametrize("side", ["A", "B"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_turned_pair_is_turned_back_whichever_half_is_looked_at(side: str, mirrored: bool) -> None:
    r = turn(70, mirrored=mirrored)
    a, b = aligned(r.T @ A, B @ r, A if side == "A" else B, side)
    torch.testing.assert_close((a, b), (A, B))


def test_of_half_a_turn_by_ninety_degrees_forty_five_are_left() -> None:
    # I + R of a rotation by 90 degrees is sqrt 2 times the rotation by 45; the nearest orthogonal matrix is that.
    r = turn(90)
    a, b = aligned(r.T @ A, B @ r, A, "A", 0.5)
    torch.testing.assert_close((a, b), (turn(45).T @ A, B @ turn(45)))


def test_a_reflection_is_never_half_made() -> None:
    a, b = aligned(turn(70, mirrored=True).T @ A, B @ turn(70, mirrored=True), A, "A", 0.5)
    torch.testing.assert_close(b @ a, B @ A)


def test_clients_whose_adapters_are_turned_copies_of_one_average_to_it_and_those_of_fedit_do_not() -> None:
    names = sorted(adapter().tensors)
    found = {}
    for name in ("fedrot-lora", "fedit"):
        method = made(name, BUDGET)
        state = method.init(adapter(), CLIENTS, 0)
        state = method.aggregate(state, [train(c, method.task(state, c), CLIENTS[c]) for c in CLIENTS])
        received = state.adapter.tensors
        updates = []
        for number, client in enumerate(CLIENTS):
            r = turn(30.0 * number).float()
            own = {n: r.T @ received[n] if "/A/" in n else received[n] @ r for n in names}
            updates.append(ClientUpdate(client, "federated", 2, CLIENTS[client], own, metrics={"loss": 0.5}))
        after = method.aggregate(state, updates).adapter.tensors
        found[name] = max(float((after[n] - received[n]).abs().max()) for n in names)
    assert found["fedrot-lora"] < 1e-5 < 1e-2 < found["fedit"]


def test_with_strength_0_and_in_the_first_round_it_is_fedit_to_the_bit() -> None:
    methods = [made("fedrot-lora", BUDGET, strength=0.0), made("fedrot-lora", BUDGET), made("fedit", BUDGET)]
    states = [m.init(adapter(), CLIENTS, 0) for m in methods]
    for number in (1, 2, 3):
        states = [
            m.aggregate(s, [train(c, m.task(s, c), CLIENTS[c]) for c in CLIENTS])
            for m, s in zip(methods, states, strict=True)
        ]
        none, whole, fedit = map(dumps, states)
        assert none == fedit and (whole == fedit) == (number == 1)
