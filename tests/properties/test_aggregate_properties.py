"""Laws of the weighted mean."""

import math

import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from fedlease.core.aggregate import weighted_mean

finite = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=True)
weight = st.one_of(st.integers(0, 10**6).map(float), st.floats(0, 1e6))


@st.composite
def weighted_states(draw: st.DrawFn) -> tuple[list[dict[str, Tensor]], list[float]]:
    count, size = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    rows = st.lists(finite, min_size=size, max_size=size)
    states = [{"b": torch.tensor(draw(rows)), "a": torch.tensor(draw(rows))} for _ in range(count)]
    weights = draw(st.lists(weight, min_size=count, max_size=count))
    assume(sum(weights) > 0)
    return states, weights


def one_ulp(x: Tensor, y: Tensor) -> bool:
    inf = torch.full_like(x, math.inf)
    return bool(((torch.nextafter(x, -inf) <= y) & (y <= torch.nextafter(x, inf))).all())


@given(weighted_states())
def test_lies_between_the_smallest_and_the_largest(case: tuple[list[dict[str, Tensor]], list[float]]) -> None:
    states, weights = case
    mean = weighted_mean(states, weights)
    for name in ("a", "b"):
        # A state of weight 0 is not among those that bound the mean.
        stacked = torch.stack([state[name] for state, w in zip(states, weights, strict=True) if w > 0])
        low, high = stacked.amin(0), stacked.amax(0)
        assert (torch.nextafter(low, torch.full_like(low, -math.inf)) <= mean[name]).all()
        assert (mean[name] <= torch.nextafter(high, torch.full_like(high, math.inf))).all()


@given(weighted_states(), st.integers(1, 5))
def test_mean_of_equal_states_is_the_state(case: tuple[list[dict[str, Tensor]], list[float]], copies: int) -> None:
    states, weights = case
    mean = weighted_mean([states[0]] * len(states) * copies, weights * copies)
    assert torch.equal(mean["a"], states[0]["a"])
    assert torch.equal(mean["b"], states[0]["b"])


@given(weighted_states(), st.randoms())
def test_order_changes_at_most_the_last_bit(case: tuple[list[dict[str, Tensor]], list[float]], random: object) -> None:
    states, weights = case
    # Where large values cancel, an error of one part in 2^53 of the largest may be many ulps of a tiny result.
    order = list(range(len(states)))
    random.shuffle(order)  # type: ignore[attr-defined]
    one = weighted_mean(states, weights)
    two = weighted_mean([states[i] for i in order], [weights[i] for i in order])
    for name in ("a", "b"):
        largest = torch.stack([state[name] for state in states]).double().abs().amax(0)
        cancelled = (one[name].double() - two[name].double()).abs() <= largest * 2.0**-48
        assert one_ulp(one[name], two[name]) or bool(cancelled.all())


@given(weighted_states())
def test_equals_exact_arithmetic(case: tuple[list[dict[str, Tensor]], list[float]]) -> None:
    states, weights = case
    mean = weighted_mean(states, weights)["a"].tolist()
    total = math.fsum(weights)
    for i, got in enumerate(mean):
        exact = math.fsum(w / total * state["a"][i].item() for state, w in zip(states, weights, strict=True))
        largest = max(abs(state["a"][i].item()) for state in states)
        assert math.isclose(got, exact, rel_tol=2.0**-23, abs_tol=largest * 2.0**-48 + 2.0**-149)


@given(weighted_states(), st.integers(-20, 20))
def test_scaling_all_weights_changes_nothing(case: tuple[list[dict[str, Tensor]], list[float]], exponent: int) -> None:
    states, weights = case
    one, two = weighted_mean(states, weights), weighted_mean(states, [w * 2.0**exponent for w in weights])
    assert all(torch.equal(one[name], two[name]) for name in one)
