"""A packed tensor comes back within half a level, and whatever is wrong with one is refused before it is unpacked."""

import struct
import zlib
from typing import Literal

import pytest
import torch
from torch import Tensor

from fedlease.privacy.packing import LacksBaseError, PackingError, pack, unpack, whole_bytes

GENERATOR = torch.Generator().manual_seed(0)
A, B = torch.randn(8, 50, generator=GENERATOR), torch.randn(51, 8, generator=GENERATOR)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    "values", [A, B, B**5, torch.randn(7), torch.zeros(3, 4), torch.tensor(2.5), torch.zeros(0, 4), torch.ones(1, 9)]
)
def test_a_value_changes_by_at_most_half_a_level_of_its_rank(bits: Literal[4, 8], values: Tensor) -> None:
    packed, decoded = pack(values, bits)
    there = unpack(packed, bits, most=values.numel())
    assert torch.equal(there.view(torch.int32), decoded.view(torch.int32))  # -0.0 is another base than 0.0
    assert whole_bytes(packed) == 4 * values.numel() and decoded.shape == values.shape
    if values.numel():
        # One level for each of the 8 rows of A and columns of B, and for a whole vector.
        axis = {A.shape: 1, B.shape: 0, (3, 4): 1}.get(values.shape, list(range(values.dim())))
        level = values.abs().amax(axis, keepdim=True) / 127
        if bits == 4:
            level = level.maximum(values.square().mean(axis, keepdim=True).sqrt() / 3)
        assert bool(((decoded - values).abs() <= level / 2 * 1.001).all())


def test_levels_by_hand() -> None:
    # The largest is 12.7, so that a level is 0.1: 0.26 is 2.6 of them and becomes 3.
    _, decoded = pack(torch.tensor([12.7, -0.26, 0.04, 0.0]), 8)
    assert decoded.tolist() == pytest.approx([12.7, -0.3, 0.0, 0.0])
    # The root mean square is sqrt((0.25 + 0.01 + 0.09 + 0.01) / 4) = 0.3, so that a level is 0.1.
    _, decoded = pack(torch.tensor([0.5, -0.1, 0.3, 0.1]), 4)
    assert decoded.tolist() == pytest.approx([0.5, -0.1, 0.3, 0.1])
    # The root mean square is 762 / 300 = 2.54: of a third of it 762 would be 900 levels, and there are 127.
    far = torch.zeros(90_000)
    far[0] = 762.0
    _, decoded = pack(far, 4)
    assert torch.equal(decoded, far)


def test_four_bits_take_a_hundredth_of_the_squared_length_at_most_whatever_the_values_are() -> None:
    normal = torch.randn((8, 4000), generator=GENERATOR)
    uniform = torch.rand((8, 4000), generator=GENERATOR) - 0.5
    lost = [
        float((pack(values, 4)[1] - values).square().sum() / values.square().sum())
        for values in (normal, uniform, normal**3, normal**5)
    ]
    # A level is a third of the root mean square, and an even error within it has the variance level^2 / 12; values that
    # are smaller than half a level lose less.
    assert lost[:2] == pytest.approx([1 / 108, 1 / 108], rel=0.05)
    assert max(lost) < 1.05 / 108


def test_normal_values_take_less_than_an_eighth_of_float32() -> None:
    for shape in ((8, 384), (384, 8), (7, 384)):
        values = torch.randn(shape, generator=GENERATOR)
        assert pack(values, 4)[0].nbytes < values.nbytes / 8 and pack(values, 8)[0].nbytes < values.nbytes / 4


def test_a_difference_needs_the_very_base_and_says_nothing_where_nothing_changed() -> None:
    base = A + 0.25
    packed, decoded = pack(A, 4, base)
    assert torch.equal(unpack(packed, 4, base, most=400), decoded)
    for other in (None, A, base.T):
        with pytest.raises(LacksBaseError, match="a difference from values that this side does not have"):
            unpack(packed, 4, other, most=400)
    same, _ = pack(base, 8, base)
    assert same.nbytes < 20 and torch.equal(unpack(same, 8, base, most=400), base)
    assert pack(A, 32, base)[0] is A or torch.equal(pack(A, 32, base)[0], A)


def _changed(at: int, value: bytes, bits: int = 4) -> Tensor:
    blob = bytearray(pack(A, bits)[0].numpy().tobytes())  # type: ignore[arg-type]
    blob[at : at + len(value)] = value
    return torch.frombuffer(blob, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (A, "it must be a packed tensor, received torch.float32"),
        (torch.zeros(5, dtype=torch.uint8), "it has 5 bytes, too few"),
        (_changed(0, b"\x07"), "it is packed in form 7 with 4 bits, expected 4 bits"),
        (_changed(0, b"", bits=8), "it is packed in form 1 with 8 bits, expected 4 bits"),
        (_changed(2, b"\xff"), "it has 255 dimensions, at most 4"),
        (_changed(11, struct.pack("<I", 2**31)), "it would unpack to 107374182400 values, at most 400 are expected"),
        (_changed(15, struct.pack("<I", 49)), "its codes are not the 392 bytes that its shape needs"),
        (_changed(19, struct.pack("<f", float("nan"))), r"a scale must be in 0 .. 1e\+06"),
        (_changed(19, struct.pack("<f", 1e30)), "a scale must be in 0"),
        (_changed(19, struct.pack("<f", -1.0)), "a scale must be in 0"),
        (_changed(0, b"\x00"), "it refers to earlier values, but there are none"),
    ],
)
def test_what_is_wrong_is_said(packed: Tensor, reason: str) -> None:
    with pytest.raises(PackingError, match=reason):
        unpack(packed, 4, most=400)


@pytest.mark.parametrize("plain", [bytes(399), bytes(401), bytes(2**20), bytes([255] * 400)])
def test_a_stream_that_gives_another_length_or_other_codes_is_refused_without_being_unpacked(plain: bytes) -> None:
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    blob = pack(A, 4)[0].numpy().tobytes()[: 19 + 4 * 8] + bomb.compress(plain) + bomb.flush()
    with pytest.raises(PackingError, match=r"its codes are not the 400 bytes|a code is out of range"):
        unpack(torch.frombuffer(bytearray(blob), dtype=torch.uint8), 4, most=400)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_values_that_no_weight_has_are_refused_where_they_arrive(value: float) -> None:
    with pytest.raises(PackingError, match="a scale must be in 0"):
        unpack(pack(torch.tensor([1.0, value]), 8)[0], 8, most=2)
