"""The arithmetic of a layer with experts: a matrix per row is one call per row, and what each mixer weighs."""

import pytest
import torch
from torch import Tensor

from fedlease.core.experts import Rule, add_experts, chosen, mix, project

ROWS, TOKENS, IN, OUT, M, R = 3, 4, 6, 5, 3, 2
RULE = Rule("top_m", M, 2.0)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(x: Tensor, result: Tensor, stack: Tensor, b: Tensor, own: int | Tensor, dropped: Tensor | None) -> Tensor:
    hidden, logits = project(x, stack, stack.shape[-2] - M * R, dropped)
    return add_experts(result, hidden, mix(logits, RULE, own) * RULE.scaling, b)


@pytest.mark.parametrize("dropping", [False, True])
def test_rows_of_different_clients_are_one_call_per_client_with_the_same_gradients(dropping: bool) -> None:
    x, result = drawn(ROWS, TOKENS, IN, seed=0), drawn(ROWS, TOKENS, OUT, seed=1)
    dropped = x * (drawn(ROWS, TOKENS, IN, seed=2) > 0) if dropping else None
    stack = drawn(ROWS, M * R + 2 * M - 1, IN, seed=3).requires_grad_()
    b = drawn(ROWS, OUT, M * R, seed=4).requires_grad_()
    owns = [2, 0, 1]
    by_row = zip(x, result, stack, b, owns, [None] * ROWS if dropped is None else dropped, strict=True)
    alone = torch.stack([layer(*row) for row in by_row])
    gradients = torch.autograd.grad(alone.square().sum(), [stack, b])
    together = layer(x, result, stack, b, torch.tensor(owns).unsqueeze(1), dropped)
    torch.testing.assert_close(together, alone)
    for found, expected in zip(torch.autograd.grad(together.square().sum(), [stack, b]), gradients, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


def test_every_mixer_weighs_by_hand() -> None:
    two = Rule("scalar", 2, 1.0)
    share = torch.tensor([0.0])
    assert mix(share, two, 0).tolist() == [0.5, 0.5]
    assert mix(torch.tensor([[0.25]]), two._replace(mixer="instance"), 0).tolist() == [[0.75, 0.25]]
    assert mix(torch.tensor([0.0, 0.0]).bfloat16(), two._replace(mixer="softmax"), 0).dtype == torch.float32
    assert chosen((0, 2), 3, share).tolist() == [1.0, 0.0, 1.0]
    with pytest.raises(ValueError, match="mixer 'none' has no router"):
        mix(share, two._replace(mixer="none"), 0)


def test_no_argument_is_changed() -> None:
    x, result = drawn(TOKENS, IN, seed=0), drawn(TOKENS, OUT, seed=1)
    stack, b = drawn(M * R + 2 * M - 1, IN, seed=2), drawn(OUT, M * R, seed=3)
    before = [tensor.clone() for tensor in (x, result, stack, b)]
    layer(x, result, stack, b, 0, None)
    assert all(map(torch.equal, before, (x, result, stack, b)))
