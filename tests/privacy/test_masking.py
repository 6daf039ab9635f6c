"""Fixed-point numbers, masks and shares of secure sums."""

from contextlib import suppress

import numpy as np
import pytest
import torch

from fedlease.privacy.masking import (
    SECRET,
    SumError,
    agreed,
    as_bytes,
    combined,
    fixed,
    mean_of,
    new_secret,
    noise,
    public_of,
    read_bytes,
    seal,
    shares_of,
    unseal,
    width_of,
)

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")

UNIT = 1e-7


def test_a_mean_is_off_by_at_most_half_a_unit_times_clients_per_weight() -> None:
    # Rounding moves each client's weighted values by half a unit at most: N clients with W rows together by
    # N / 2 units, and their mean by N / (2 W).
    rows = [1, 3, 7, 21]
    like = {"b": torch.zeros(50, dtype=torch.float64), "a": torch.zeros(2, 3, dtype=torch.float64)}
    rng = torch.Generator().manual_seed(0)
    states = [{n: torch.randn(t.shape, generator=rng, dtype=torch.float64) for n, t in like.items()} for _ in rows]
    width = width_of(sum(rows), UNIT)
    sent = [as_bytes(fixed(state, weight, UNIT), width) for state, weight in zip(states, rows, strict=True)]
    weight, mean = mean_of(read_bytes(sent, width), like, UNIT)
    assert weight == 32 and {n: t.shape for n, t in mean.items()} == {n: t.shape for n, t in like.items()}
    worst = max(
        float((mean[n] - sum(w * s[n] for w, s in zip(rows, states, strict=True)) / 32).abs().max()) for n in like
    )
    assert 0 < worst <= UNIT * 4 / (2 * 32) * (1 + 1e-6)


def test_numbers_are_as_wide_as_their_sum_and_no_wider() -> None:
    # 2^8 is the largest value: 2^4 rows at a unit of 2^-10 are 2^22, and a sign: 23 bits, in a spare one 3 bytes;
    # 2^5 rows take one more bit.
    assert width_of(2**4, 2**-10) == 3 and width_of(2**5, 2**-10) == 4


def test_the_largest_values_of_all_do_not_overflow() -> None:
    like, rows = {"a": torch.zeros(2, dtype=torch.float64)}, [5, 11]
    width = width_of(16, 2**-10)
    for value in (256.0, -256.0):
        sent = [as_bytes(fixed({"a": torch.full((2,), value)}, weight, 2**-10), width) for weight in rows]
        weight, mean = mean_of(read_bytes(sent, width), like, 2**-10)
        assert weight == 16 and mean["a"].tolist() == [value, value]


@pytest.mark.parametrize("value", [256.1, float("nan"), float("inf")])
def test_a_value_that_would_not_be_exact_is_refused(value: float) -> None:
    with pytest.raises(SumError, match=r"privacy\.sum_resolution = 1e-07 allow at most 256"):
        fixed({"a": torch.tensor([0.0, value])}, 1, UNIT)


def test_fewer_shares_than_the_threshold_say_nothing_and_as_many_give_the_secret() -> None:
    secret = new_secret()
    shares = shares_of(secret, 3, 5)
    assert combined(shares[1:4]) == combined([shares[4], shares[0], shares[2]]) == secret
    with suppress(SumError):
        assert combined(shares[:2]) != secret
    # A share is its number and one block: as long as the secret with its padding, whatever the threshold.
    assert {len(share) for share in shares} == {4 + SECRET + 1}


def test_both_ends_agree_and_nobody_else_does() -> None:
    one, other, third = new_secret(), new_secret(), new_secret()
    assert agreed(one, public_of(other)) == agreed(other, public_of(one)) != agreed(third, public_of(one))
    with pytest.raises(SumError, match="a public key is invalid"):
        agreed(one, bytes(32))  # the point of order 1, with which everyone agrees on zero


def test_masks_are_of_one_secret_and_one_session() -> None:
    secret = new_secret()
    assert (noise(secret, "s", 8) == noise(secret, "s", 8)).all()
    assert not (noise(secret, "s", 8) == noise(secret, "t", 8)).any()
    assert not (noise(secret, "s", 8) == noise(new_secret(), "s", 8)).any()


def test_masked_numbers_are_uniform_whatever_they_hide() -> None:
    # 60,000 bytes, each of 256 values 234 times on average, with a standard deviation of 15: none is 6 away.
    words = fixed({"a": torch.zeros(10_000)}, 1, UNIT) + noise(new_secret(), "s", 10_001)
    counts = np.bincount(as_bytes(words, 6).numpy(), minlength=256)
    assert abs(counts - 60_006 / 256).max() < 6 * (60_006 / 256) ** 0.5


def test_what_is_sealed_opens_for_its_context_alone() -> None:
    key = new_secret()
    sealed = seal(key, b"share", "s a b")
    assert unseal(key, sealed, "s a b") == b"share" and seal(key, b"share", "s a b") != sealed
    for wrong in ((new_secret(), sealed, "s a b"), (key, sealed, "s a c"), (key, sealed[:-1] + b"x", "s a b")):
        with pytest.raises(SumError, match="was not sealed for this client"):
            unseal(*wrong)
