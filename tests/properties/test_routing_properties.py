"""Laws of the adaptive top-M selection, for any logits."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from reference import equations
from torch import Tensor

from fedlease.core.routing import expert_weights, left_out, num_slots

# A narrow grid makes ties frequent; floats of any size test the arithmetic.
values = st.one_of(
    st.integers(-3, 3).map(float), st.floats(-50, 50, width=32), st.floats(-(2.0**100), 2.0**100, width=32)
)


def kept_slots(logits: Tensor, top_k: int) -> Tensor:
    return torch.ones_like(logits, dtype=torch.bool).scatter(-1, left_out(logits, top_k), False)


@st.composite
def tokens(draw: st.DrawFn, min_experts: int = 1) -> tuple[Tensor, int, int]:
    """Logits of one token, M and the own expert."""
    num_experts = draw(st.integers(min_experts, 8))
    slots = num_slots(num_experts)
    logits = torch.tensor(draw(st.lists(values, min_size=slots, max_size=slots)), dtype=torch.float32)
    return logits, num_experts, draw(st.integers(0, num_experts - 1))


@given(tokens())
def test_weights_sum_to_one_and_own_takes_part(token: tuple[Tensor, int, int]) -> None:
    logits, num_experts, own = token
    weights = expert_weights(logits.double(), own)
    assert abs(weights.sum().item() - 1) < 1e-12
    assert (weights >= 0).all()
    # At most M - 1 slots are foreign, so one of the M kept is own; its weight may only underflow.
    kept = kept_slots(logits, num_experts)
    assert kept.sum() == num_experts
    assert kept[:num_experts].any()
    assert 1 <= int((weights > 0).sum()) <= num_experts
    if logits.max() - logits.min() < 80:
        assert weights[own] > 0


@given(tokens())
def test_without_renormalising_they_are_shares_of_the_softmax(token: tuple[Tensor, int, int]) -> None:
    logits, num_experts, own = token
    raw = expert_weights(logits.double(), own, renormalise=False)
    full = expert_weights(logits.double(), own)
    assert (raw >= 0).all()
    assert 0 < raw.sum().item() <= 1 + 1e-12
    torch.testing.assert_close(raw / raw.sum(), full, atol=1e-12, rtol=1e-9)
    kept = kept_slots(logits, num_experts)
    assert abs(raw.sum().item() - logits.double().softmax(-1)[kept].sum().item()) < 1e-12


@given(tokens(), st.booleans(), st.data())
def test_equals_the_loop(token: tuple[Tensor, int, int], renormalise: bool, data: st.DataObject) -> None:
    logits, num_experts, own = token
    top_k = data.draw(st.one_of(st.none(), st.integers(1, num_slots(num_experts))))
    expected = equations.weights(logits.tolist(), own, num_experts, renormalise=renormalise, top_k=top_k)
    got = expert_weights(logits.double(), own, renormalise=renormalise, top_k=top_k)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=1e-9)


@given(tokens())
def test_kept_slots_are_the_largest_and_ties_go_to_the_lower_slot(token: tuple[Tensor, int, int]) -> None:
    logits, _, _ = token
    order = sorted(range(len(logits)), key=lambda slot: (-logits[slot].item(), slot))
    for top_k in range(1, len(logits) + 1):
        assert set(kept_slots(logits, top_k).nonzero().flatten().tolist()) == set(order[:top_k])


@given(st.integers(1, 8), st.floats(-(2.0**100), 2.0**100, width=32), st.data())
def test_all_equal_logits_go_to_the_own_expert_alone(num_experts: int, value: float, data: st.DataObject) -> None:
    own = data.draw(st.integers(0, num_experts - 1))
    weights = expert_weights(torch.full((num_slots(num_experts),), value), own)
    expected = torch.zeros(num_experts)
    expected[own] = 1
    torch.testing.assert_close(weights, expected)
    assert (weights > 0).sum() == 1


@given(tokens())
def test_adding_a_constant_changes_nothing(token: tuple[Tensor, int, int]) -> None:
    logits, _, own = token
    whole = logits.clamp(-100, 100).round().double()
    assert torch.equal(expert_weights(whole, own), expert_weights(whole + 1024, own))


@given(tokens(min_experts=2), st.integers(1, 4), st.integers(1, 3))
def test_tokens_do_not_see_each_other(token: tuple[Tensor, int, int], rows: int, columns: int) -> None:
    logits, num_experts, own = token
    batch = torch.randn(rows, columns, len(logits), generator=torch.Generator().manual_seed(0))
    batch[-1, -1] = logits
    weights = expert_weights(batch, own)
    assert weights.shape == (rows, columns, num_experts)
    assert torch.equal(weights[-1, -1], expert_weights(logits, own))
    mixed = torch.full((rows, columns), (own + 1) % num_experts)
    mixed[-1, -1] = own
    assert torch.equal(expert_weights(batch, mixed)[-1, -1], expert_weights(logits, own))
