"""A term in the local loss: its gradient, by hand and against autograd."""

import pytest
import torch
from torch import nn

from fedlease.core.local_term import LocalTerm


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values))


def test_its_gradient_is_added_to_that_of_the_rows() -> None:
    """w0 = (1, 2), w = (3, 2), pull .5, slope (1, -1): 10 + .5 x 2 + 1 = 12 and 10 + 0 - 1 = 9."""
    w = parameter(1.0, 2.0)
    add = LocalTerm(0.5, {"w": torch.tensor([1.0, -1.0])}).adder({"w": w}, ["w"])
    with torch.no_grad():
        w.copy_(torch.tensor([3.0, 2.0]))
    w.grad = torch.tensor([10.0, 10.0])
    add()
    assert w.grad.tolist() == [12.0, 9.0]
    w.grad = None
    add()
    assert torch.tensor([2.0, -1.0]).equal(w.grad), "no gradient of the rows: the term's alone"


def test_it_is_the_gradient_of_the_formula() -> None:
    torch.manual_seed(0)
    start, slope = torch.randn(3, 2), torch.randn(3, 2)
    w = nn.Parameter(start.clone())
    add = LocalTerm(0.3, {"w": slope}).adder({"w": w}, ["w"])
    with torch.no_grad():
        w += torch.randn(3, 2)
    (0.15 * (w - start).square().sum() + (slope * w).sum()).backward()
    expected, w.grad = w.grad, None
    add()
    torch.testing.assert_close(w.grad, expected)


def test_what_is_not_pulled_or_does_not_learn_is_left_alone() -> None:
    learns, rests, private = parameter(1.0), parameter(1.0), parameter(1.0)
    rests.requires_grad_(False)
    names = {"learns": learns, "rests": rests, "private": private}
    add = LocalTerm(1.0, {"rests": torch.ones(1)}).adder(names, ["learns", "rests"])
    with torch.no_grad():
        for one in names.values():
            one += 1
    add()
    assert learns.grad is not None and learns.grad.tolist() == [1.0]
    assert rests.grad is None and private.grad is None


@pytest.mark.parametrize("gradients", [(1.0, 5.0, -3.0)])
def test_control_variates_give_all_clients_the_same_gradient(gradients: tuple[float, ...]) -> None:
    """SCAFFOLD with exact variates c_i = g_i: every client goes by c, the mean of all, here 1."""
    mean = sum(gradients) / len(gradients)
    found = []
    for own in gradients:
        w = parameter(0.0)
        w.grad = torch.tensor([own])
        LocalTerm(slope={"w": torch.tensor([mean - own])}).adder({"w": w}, [])()
        found.append(w.grad.tolist())
    assert found == [[1.0]] * 3


def test_b_is_drawn_away_from_those_that_do_not_learn_by_the_gradient_of_the_formula() -> None:
    torch.manual_seed(0)
    b = {f"m/B/{e}": nn.Parameter(torch.randn(5, 2)) for e in range(3)} | {"m/A/2": nn.Parameter(torch.randn(2, 4))}
    b |= {"n/B/0": nn.Parameter(torch.randn(5, 2)), "head/classifier.weight": nn.Parameter(torch.randn(2, 5))}
    for name in ("m/B/0", "m/B/1", "n/B/0"):
        b[name].requires_grad_(False)
    (0.3 * sum((b[f].T @ b["m/B/2"]).square().sum() for f in ("m/B/0", "m/B/1"))).backward()
    expected, b["m/B/2"].grad = b["m/B/2"].grad, None
    LocalTerm(apart=0.3).adder(b, [])()
    torch.testing.assert_close(b["m/B/2"].grad, expected)
    assert all(parameter.grad is None for name, parameter in b.items() if name != "m/B/2"), "and nothing else"
