"""Phase 2: router logits -> the weight of each expert."""

import math

import pytest
import torch
from reference import equations
from torch import Tensor

from fedlease.core.routing import expert_weights, left_out, num_slots

LN2, LN3 = math.log(2), math.log(3)


def kept_slots(logits: Tensor, top_k: int) -> Tensor:
    """Marks the slots that are not left out."""
    return torch.ones_like(logits, dtype=torch.bool).scatter(-1, left_out(logits, top_k), False)


@pytest.mark.parametrize(("num_experts", "slots"), [(1, 1), (2, 3), (4, 7), (8, 15)])
def test_router_has_2m_minus_1_slots(num_experts: int, slots: int) -> None:
    assert num_slots(num_experts) == slots


class TestByHand:
    def test_two_experts_own_first(self) -> None:
        # M = 2, slots (own, own, other) with exp = (1, 2, 3). The two largest are 2 (own) and 3 (other).
        logits = torch.tensor([0.0, LN2, LN3])
        torch.testing.assert_close(expert_weights(logits, 0), torch.tensor([2 / 5, 3 / 5]))
        torch.testing.assert_close(expert_weights(logits, 0, renormalise=False), torch.tensor([2 / 6, 3 / 6]))

    def test_two_experts_own_second(self) -> None:
        logits = torch.tensor([0.0, LN2, LN3])
        torch.testing.assert_close(expert_weights(logits, 1), torch.tensor([3 / 5, 2 / 5]))
        torch.testing.assert_close(expert_weights(logits, 1, renormalise=False), torch.tensor([3 / 6, 2 / 6]))

    @pytest.mark.parametrize("own", [0, 1, 2])
    def test_three_experts_every_own(self, own: int) -> None:
        # M = 3, exp = (4, 1, 2 | 8, 1): own slots 4 and 2 are kept, and 8 of the first other; sum 14, of all 16.
        logits = torch.tensor([4.0, 1.0, 2.0, 8.0, 1.0]).log()
        first_other = 1 if own == 0 else 0
        expected = torch.zeros(3)
        expected[own], expected[first_other] = 6 / 14, 8 / 14
        torch.testing.assert_close(expert_weights(logits, own), expected)
        torch.testing.assert_close(expert_weights(logits, own, renormalise=False), expected * 14 / 16)

    def test_all_foreign_slots_win_and_own_is_still_in(self) -> None:
        # M = 3: both foreign slots and the best own slot: exp = (1, 1, 1 | 4, 5), kept 4, 5 and one 1; sum 10.
        logits = torch.tensor([1.0, 1.0, 1.0, 4.0, 5.0]).log()
        torch.testing.assert_close(expert_weights(logits, 1), torch.tensor([0.4, 0.1, 0.5]))

    def test_own_slots_win_and_own_is_alone(self) -> None:
        logits = torch.tensor([3.0, 2.0, 1.0, 0.0, 0.0])
        assert expert_weights(logits, 2).tolist() == [0, 0, pytest.approx(1)]

    def test_one_expert_has_all_the_weight(self) -> None:
        assert expert_weights(torch.tensor([[-7.0], [3.0]]), 0).tolist() == [[1.0], [1.0]]

    def test_top_k(self) -> None:
        # exp = (1, 2 | 3): top 1 is the other expert alone, top 3 is everything.
        logits = torch.tensor([0.0, LN2, LN3])
        assert expert_weights(logits, 0, top_k=1).tolist() == [0, 1]
        torch.testing.assert_close(expert_weights(logits, 0, top_k=3), torch.tensor([0.5, 0.5]))


class TestTies:
    def test_all_equal_keeps_the_own_slots(self) -> None:
        assert kept_slots(torch.zeros(7), 4).tolist() == [True] * 4 + [False] * 3
        assert expert_weights(torch.zeros(7), 2).tolist() == [0, 0, 1, 0]

    def test_a_tie_at_the_cut_goes_to_the_lower_slot(self) -> None:
        # M = 3: 9 is in; 5 stands at slots 1, 2 and 4, two of which fit.
        assert kept_slots(torch.tensor([1.0, 5.0, 5.0, 9.0, 5.0]), 3).tolist() == [False, True, True, True, False]

    def test_a_tie_between_foreign_slots_goes_to_the_smaller_expert(self) -> None:
        # M = 3, own slots (1, 0, 0), foreign both .5: 1, then the first .5, then the second.
        logits = torch.tensor([1.0, 0.0, 0.0, 0.5, 0.5])
        assert kept_slots(logits, 2).tolist() == [True, False, False, True, False]
        assert (expert_weights(logits, 2, top_k=2) > 0).tolist() == [True, False, True]

    def test_negative_zero_ties_with_zero(self) -> None:
        assert kept_slots(torch.tensor([-0.0, 0.0, 0.0]), 2).tolist() == [True, True, False]

    def test_minus_infinity_at_the_cut(self) -> None:
        inf = float("inf")
        assert kept_slots(torch.tensor([1.0, -inf, -inf, -inf, -inf]), 3).tolist() == [True, True, True, False, False]


class TestAgainstTheLoop:
    @pytest.mark.parametrize("num_experts", range(1, 9))
    @pytest.mark.parametrize("renormalise", [True, False])
    def test_every_size_and_every_own(self, num_experts: int, renormalise: bool) -> None:
        g = torch.Generator().manual_seed(num_experts)
        # Rounding to halves makes ties frequent.
        logits = (2 * torch.randn(20, num_slots(num_experts), generator=g)).round() / 2
        for own in range(num_experts):
            expected = [equations.weights(row, own, num_experts, renormalise=renormalise) for row in logits.tolist()]
            got = expert_weights(logits, own, renormalise=renormalise)
            torch.testing.assert_close(got, torch.tensor(expected), atol=1e-6, rtol=0)

    @pytest.mark.parametrize("top_k", range(1, 8))
    def test_every_top_k(self, top_k: int) -> None:
        logits = torch.randn(20, 7, generator=torch.Generator().manual_seed(top_k)).round()
        for renormalise in (True, False):
            expected = [equations.weights(row, 1, 4, renormalise=renormalise, top_k=top_k) for row in logits.tolist()]
            got = expert_weights(logits, 1, top_k=top_k, renormalise=renormalise)
            torch.testing.assert_close(got, torch.tensor(expected), atol=1e-6, rtol=0)


class TestOwnAsTensor:
    def test_equals_the_integer_for_every_own(self) -> None:
        logits = torch.randn(4, 5, 7, generator=torch.Generator().manual_seed(0))
        own = torch.tensor([0, 1, 2, 3])
        got = expert_weights(logits, own.view(4, 1))
        for row, expert in enumerate(own.tolist()):
            assert torch.equal(got[row], expert_weights(logits[row], expert))

    def test_one_per_token(self) -> None:
        logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
        own = torch.tensor([[0, 1, 2], [2, 0, 1]])
        got = expert_weights(logits, own, renormalise=False)
        for i in range(2):
            for j in range(3):
                assert torch.equal(got[i, j], expert_weights(logits[i, j], int(own[i, j]), renormalise=False))

    def test_scalar(self) -> None:
        logits = torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
        assert torch.equal(expert_weights(logits, torch.tensor(2)), expert_weights(logits, 2))

    def test_refuses_other_dtypes_and_ids(self) -> None:
        for own in (torch.tensor(0.0), torch.tensor(3), torch.tensor(-1)):
            with pytest.raises(ValueError, match=r"own must be a LongTensor of ids in 0 \.\. 2"):
                expert_weights(torch.zeros(5), own)


class TestNumerics:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_sixteen_bit_logits_are_routed_in_float32(self, dtype: torch.dtype) -> None:
        logits = torch.randn(6, 7, generator=torch.Generator().manual_seed(0)).to(dtype)
        weights = expert_weights(logits, 1)
        assert weights.dtype == torch.float32
        assert torch.equal(weights, expert_weights(logits.float(), 1))

    def test_float64_stays_float64(self) -> None:
        assert expert_weights(torch.zeros(3, dtype=torch.float64), 0).dtype == torch.float64

    def test_huge_logits_do_not_overflow(self) -> None:
        torch.testing.assert_close(expert_weights(torch.tensor([1e30, 0.0, 1e30]), 0), torch.tensor([0.5, 0.5]))
        assert expert_weights(torch.tensor([-1e30, -1e30, 1e30]), 0).tolist() == [0, 1]

    def test_leaves_its_argument_alone(self) -> None:
        logits = torch.tensor([0.0, LN2, LN3])
        before = logits.clone()
        expert_weights(logits, 0)
        assert torch.equal(logits, before)


class TestGradients:
    @pytest.mark.parametrize("num_experts", range(2, 9))
    def test_zero_logits_are_a_dead_point(self, num_experts: int) -> None:
        # Ties keep the own slots alone, whose renormalised sum is 1 whatever the logits are: nothing can be learnt.
        # The derivative of softmax, p (g - sum p g), has g the same for all kept slots; 1 - M (1 / M) may leave 1 ulp.
        logits = torch.zeros(5, num_slots(num_experts), dtype=torch.float64, requires_grad=True)
        factors = torch.randn(5, num_experts, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        (expert_weights(logits, 1) * factors).sum().sin().backward()
        assert logits.grad is not None
        assert logits.grad.abs().max() <= 1e-15

    @pytest.mark.parametrize("num_experts", [2, 4, 8])
    def test_the_dead_point_is_exactly_zero(self, num_experts: int) -> None:
        # Where 1 / M is a binary fraction there is no rounding at all.
        logits = torch.zeros(5, num_slots(num_experts), requires_grad=True)
        (expert_weights(logits, 0) ** 2).sum().backward()
        assert logits.grad is not None
        assert torch.equal(logits.grad, torch.zeros_like(logits))

    def test_random_logits_are_not(self) -> None:
        g = torch.Generator().manual_seed(0)
        logits = torch.randn(50, 7, generator=g, requires_grad=True)
        factors = torch.randn(50, 4, generator=g)
        (expert_weights(logits, 0) * factors).sum().backward()
        assert logits.grad is not None
        foreign = kept_slots(logits.detach(), 4)[:, 4:].any(-1)
        assert foreign.any()
        assert (logits.grad[foreign].abs().amax(-1) > 1e-4).all()
        # A token that keeps own slots only is dead as well.
        assert (logits.grad[~foreign].abs() < 1e-6).all()

    def test_zero_logits_learn_without_renormalising(self) -> None:
        logits = torch.zeros(3, 7, requires_grad=True)
        expert_weights(logits, 0, renormalise=False)[..., 0].sum().backward()
        # w = M p with p = 1/7: dw / dl of a kept slot is p - 4 p p = 3/49, of another - 4/49.
        expected = torch.tensor([3 / 49] * 4 + [-4 / 49] * 3).expand(3, 7)
        assert logits.grad is not None
        torch.testing.assert_close(logits.grad, expected)

    def test_gradient_equals_finite_differences(self) -> None:
        logits = torch.randn(3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
        for renormalise in (True, False):
            assert torch.autograd.gradcheck(lambda x, r=renormalise: expert_weights(x, 2, renormalise=r), logits)


class TestRefusals:
    def test_even_number_of_slots(self) -> None:
        with pytest.raises(ValueError, match="2M - 1 slots, an odd number, received 4"):
            expert_weights(torch.zeros(4), 0)

    @pytest.mark.parametrize("own", [-1, 2])
    def test_own_out_of_range(self, own: int) -> None:
        with pytest.raises(ValueError, match=rf"own must be in 0 \.\. 1, received {own}"):
            expert_weights(torch.zeros(3), own)

    @pytest.mark.parametrize("top_k", [0, 4])
    def test_top_k_out_of_range(self, top_k: int) -> None:
        with pytest.raises(ValueError, match=rf"top_k must be in 1 \.\. 3, received {top_k}"):
            expert_weights(torch.zeros(3), 0, top_k=top_k)
