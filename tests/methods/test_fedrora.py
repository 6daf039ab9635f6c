"""FedRoRA: every client has of the common directions those that its own update goes in."""

from typing import Any

import torch
from contract.planted import CLIENTS, adapter, made, train
from methods.sums import whole_update

from fedlease.core.ranks import Ranks
from fedlease.core.types import Budget, ClientModel, ClientUpdate, TensorName

BUDGET = Budget(1, 3)
MODULES = ("layer.0.query", "layer.10.value")


def answered(method: Any, state: Any, client: str, sides: tuple[int, ...], values: tuple[float, ...]) -> ClientUpdate:
    """An update that maps input k to output k, for the sides and with the values given; others are 0."""
    task = method.task(state, client)
    tensors = {}
    for name, like in task.expected.items():
        kind, filled = TensorName.parse(name).kind, torch.zeros_like(like)
        for place, (side, value) in enumerate(zip(sides, values, strict=True)):
            if kind == "A":
                filled[place, side] = 5.0  # its length does not count
            elif kind == "B":
                filled[side, place] = 0.5
            else:
                filled[place] = value
        tensors[name] = filled
    return ClientUpdate(client, task.phase, task.round, CLIENTS[client], tensors, metrics={"loss": 0.5})


def test_clients_get_the_directions_that_they_go_in_most_with_their_own_coefficients() -> None:
    """a0 goes 3 along input 0 and -1 along input 1, a1 goes 2 along input 2; both weigh the same.

    The mean has singular values 1.5, 1 and .5 for inputs 0, 2 and 1, so of rank 2 the basis is inputs 0 and 2: a0 keeps
    3 along the first, a1 its 2 along the second, and a client that is new has the mean's 1.5 and 1.
    """
    method = made("fedrora", BUDGET, weights="uniform", ranks=Ranks(2, {"a1": 1}))
    state = method.init(adapter(), CLIENTS, 0)
    updates = [answered(method, state, "a0", (0, 1), (3.0, -1.0)), answered(method, state, "a1", (2,), (2.0,))]
    after = method.aggregate(state, updates)
    scale = 2 * method.gain  # alpha / r of the adapter, and the gain
    for client, expected in (("a0", (3, 0, 0)), ("a1", (0, 0, 2)), ("b0", (1.5, 0, 1))):
        for module, change in whole_update(method.model(after, client)).items():
            found = torch.zeros_like(change)
            for side, value in enumerate(expected):
                found[side, side] = value * scale
            torch.testing.assert_close(change, found, atol=1e-3, rtol=1e-5, msg=f"{client} {module}")
    assert method.model(after, "a1").spec.r == 1


def test_a_client_starts_from_directions_of_its_own_whose_update_has_length_one() -> None:
    method = made("fedrora", BUDGET)
    state = method.init(adapter(), CLIENTS, 0)
    one, other = (method.model(state, client) for client in ("a0", "a1"))
    assert not torch.equal(one.tensors["layer.0.query/A/0"], other.tensors["layer.0.query/A/0"])
    for module in MODULES:
        # S is 1 / sqrt r for all r directions.
        diagonal = one.tensors[f"{module}/G"] * one.spec.alpha / one.spec.r
        torch.testing.assert_close(diagonal.square().sum(), torch.tensor(1.0))
        a, b = (one.tensors[f"{module}/{kind}/0"] for kind in "AB")
        torch.testing.assert_close((a.norm(dim=1), b.norm(dim=0)), (torch.ones(2), torch.ones(2)))


def test_lengths_of_a_and_b_do_not_count() -> None:
    method = made("fedrora", BUDGET)
    model = method.model(method.init(adapter(), CLIENTS, 0), "a0")
    longer = {name: 3 * tensor if "/G" not in name else tensor for name, tensor in model.tensors.items()}
    found, expected = whole_update(ClientModel(model.spec, longer)), whole_update(model)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_who_sits_out_is_projected_on_the_new_basis_by_what_it_sent_last() -> None:
    method = made("fedrora", BUDGET)
    state = method.init(adapter(), CLIENTS, 0)
    state = method.aggregate(state, [train(c, method.task(state, c), CLIENTS[c]) for c in CLIENTS])
    after = method.aggregate(state, [train("a0", method.task(state, "a0"), CLIENTS["a0"])])
    assert torch.equal(after.updates["b0"]["layer.0.query/G"], state.updates["b0"]["layer.0.query/G"])
    before, now = (whole_update(method.model(s, "b0"))["layer.0.query"] for s in (state, after))
    assert not torch.allclose(before, now)
