"""Packs a tensor into few bits: integers with one scale per row or column, in a Huffman code.

A packed tensor is a flat uint8 tensor, so it is counted, hashed and sent like any other. Its length, scales and
unpacked size are checked before use. Its layout:

    form, bits, dimensions     one byte each
    base                       first 8 bytes of the SHA-256 of the base of a difference; zeros without a base
    shape                      4 bytes per dimension
    scales                     float32; none where the values equal the base
    codes                      a deflate stream of one byte per value
"""

import hashlib
import math
import struct
import zlib
from typing import Literal

import numpy as np
import torch
from torch import Tensor

__all__ = ["Bits", "LacksBaseError", "PackingError", "is_packed", "pack", "unpack", "whole_bytes"]

Bits = Literal[4, 8, 32]
"""Largest mean number of bits per value; 32 sends values as they are, and none where they equal the base."""

LEVELS = 127
"""Largest absolute value of a code."""

FINE = 1 / 3
"""Size of a level with 4 bits, in units of a row's root mean square. The codes of normally distributed values then have
log2(3 sqrt(2 pi e)) = 3.6 bits of entropy, those of other distributions fewer."""

SAME, CODED = 0, 1
HEAD, NOTHING = struct.Struct("<BBB8s"), bytes(8)
MOST_DIMENSIONS = 4
MOST_SCALE = 1e6
"""Largest scale that is accepted: no honest difference of weights needs more, and a larger one could ruin a mean."""


class PackingError(ValueError):
    """The bytes do not come from :func:`pack`, or unpack to more values than expected."""


class LacksBaseError(PackingError):
    """The values are a difference from a base that the receiver does not have."""


def is_packed(tensor: Tensor) -> bool:
    """Whether a tensor is one that :func:`pack` made."""
    return tensor.dtype == torch.uint8 and tensor.dim() == 1


def pack(values: Tensor, bits: Bits, base: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Rounds values, or their difference from what the receiver has, to multiples of a level.

    With 8 bits a level is 1/127 of the largest absolute value of a row, or of a column where there are fewer columns.
    With 4 bits it is a third of the root mean square, at which rounding changes the values by about 1/108 of their
    squared length or less; it is the level of 8 bits if that is larger. No value changes by more than half a level.

    Args:
        values: floating-point, of at most 4 dimensions.
        bits: per value.
        base: what the receiver has, of the same shape, or None.

    Returns:
        The packed tensor, and the values that :func:`unpack` gives for it, in float32 if they are rounded.
    """
    values = values.detach().cpu()
    mark = NOTHING if base is None else _mark(base)
    if base is not None and values.dtype == base.dtype and torch.equal(values, base):
        return _joined(SAME, bits, mark, values.shape, b"", b""), base
    if bits == 32:
        return values, values
    values = values.float()
    difference = values if base is None else values - base
    scales = _scales(difference, bits)
    spread = _spread(scales, values.shape)
    codes = torch.where(spread > 0, difference / spread, 0.0).round().nan_to_num(0, LEVELS, -LEVELS)
    whole = (codes.clamp(-LEVELS, LEVELS) + LEVELS).to(torch.uint8)
    stream = _deflated(whole.numpy().tobytes())
    packed = _joined(CODED, bits, mark, values.shape, scales.reshape(-1).numpy().astype("<f4").tobytes(), stream)
    # Decoded from the codes as sent: a code of -0.0 would give the sender other bits than the receiver.
    return packed, _decoded(whole.float() - LEVELS, spread, base)


def unpack(packed: Tensor, bits: Bits, base: Tensor | None = None, *, most: int) -> Tensor:
    """The values of a packed tensor.

    Args:
        packed: from :func:`pack`, received from the network and not trusted.
        bits: per value, which both sides take from their settings.
        base: the receiver's present values of this tensor, or None.
        most: largest number of values.

    Raises:
        LacksBaseError: the tensor is a difference from another base.
        PackingError: it is malformed, or larger than expected; no memory was allocated for its values.
    """
    if not is_packed(packed):
        raise PackingError(f"it must be a packed tensor, received {packed.dtype} of shape {tuple(packed.shape)}")
    blob = packed.contiguous().numpy().tobytes()
    form, found, mark, shape, at = _head(blob)
    if form not in (SAME, CODED) or found != bits or (form == CODED and bits == 32):
        raise PackingError(f"it is packed in form {form} with {found} bits, expected {bits} bits")
    count = math.prod(shape)
    if count > most:
        raise PackingError(f"it would unpack to {count} values, at most {most} are expected")
    if mark == NOTHING:
        base = None
    elif base is None or tuple(base.shape) != shape or _mark(base) != mark:
        raise LacksBaseError("it is a difference from values that this side does not have")
    if form == SAME:
        if base is None or len(blob) != at:
            raise PackingError("it refers to earlier values, but there are none")
        return base
    rows = _ranks(shape)
    if len(blob) < at + 4 * rows:
        raise PackingError(f"it has {len(blob)} bytes, its {rows} scales alone need {at + 4 * rows}")
    scales = torch.from_numpy(np.frombuffer(blob, dtype="<f4", count=rows, offset=at).astype(np.float32))
    # NaN fails the comparison as well.
    if not bool(((scales >= 0) & (scales <= MOST_SCALE)).all()):
        raise PackingError(f"a scale must be in 0 .. {MOST_SCALE:g}")
    codes = torch.tensor(np.frombuffer(_inflated(blob[at + 4 * rows :], count), dtype=np.uint8))
    if count and int(codes.max()) > 2 * LEVELS:
        raise PackingError("a code is out of range")
    return _decoded(codes.float().reshape(shape) - LEVELS, _spread(scales, shape), base)


def whole_bytes(tensor: Tensor) -> int:
    """Size in bytes of a tensor when it is not packed; packed values count as float32."""
    return 4 * math.prod(_head(tensor.numpy().tobytes())[3]) if is_packed(tensor) else tensor.nbytes


def _head(blob: bytes) -> tuple[int, int, bytes, tuple[int, ...], int]:
    """Form, bits, base, shape, and where the scales begin."""
    try:
        form, bits, mark = (fields := HEAD.unpack_from(blob))[0], fields[1], fields[3]
        shape = struct.unpack_from(f"<{min(fields[2], MOST_DIMENSIONS + 1)}I", blob, HEAD.size)
    except struct.error as error:
        raise PackingError(f"it has {len(blob)} bytes, too few for its header") from error
    if len(shape) > MOST_DIMENSIONS:
        raise PackingError(f"it has {fields[2]} dimensions, at most {MOST_DIMENSIONS} are expected")
    return form, bits, mark, shape, HEAD.size + 4 * len(shape)


def _joined(form: int, bits: int, mark: bytes, shape: torch.Size, scales: bytes, stream: bytes) -> Tensor:
    head = HEAD.pack(form, bits, len(shape), mark) + struct.pack(f"<{len(shape)}I", *shape)
    return torch.frombuffer(bytearray(head + scales + stream), dtype=torch.uint8)


def _mark(base: Tensor) -> bytes:
    plain = base.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(plain.numpy().tobytes()).digest()[:8]


def _axis(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The axes over which a scale is shared: all but the shortest, so that LoRA's A and B have one scale per rank."""
    if len(shape) < 2:
        return tuple(range(len(shape)))
    kept = min(range(len(shape)), key=lambda axis: shape[axis])
    return tuple(axis for axis in range(len(shape)) if axis != kept)


def _ranks(shape: tuple[int, ...]) -> int:
    """Number of scales for a shape."""
    return math.prod(size for axis, size in enumerate(shape) if axis not in _axis(shape))


def _scales(difference: Tensor, bits: Bits) -> Tensor:
    """The size of a level, one for each row or column that has its own."""
    axis = _axis(difference.shape)
    if not difference.numel():
        return torch.zeros(_ranks(difference.shape))
    widest = difference.abs().amax(axis) / LEVELS
    return widest if bits == 8 else torch.maximum(widest, FINE * difference.square().mean(axis).sqrt())


def _spread(scales: Tensor, shape: tuple[int, ...]) -> Tensor:
    """One scale per row or column, in the shape in which it multiplies the values."""
    return scales.reshape([1 if axis in _axis(shape) else size for axis, size in enumerate(shape)])


def _decoded(codes: Tensor, scales: Tensor, base: Tensor | None) -> Tensor:
    difference = codes * scales
    return difference if base is None else base + difference


def _deflated(plain: bytes) -> bytes:
    # Codes do not repeat in sequences, but some are more frequent: Huffman coding alone is enough.
    packer = zlib.compressobj(1, zlib.DEFLATED, -15, 9, zlib.Z_HUFFMAN_ONLY)
    return packer.compress(plain) + packer.flush()


def _inflated(stream: bytes, expected: int) -> bytes:
    """Unpacks a stream of exactly ``expected`` bytes; one that holds more is not unpacked further."""
    unpacker = zlib.decompressobj(-15)
    try:
        plain = unpacker.decompress(stream, expected + 1)
    except zlib.error as error:
        raise PackingError(f"its codes cannot be read: {error}") from error
    if len(plain) != expected or not unpacker.eof or unpacker.unused_data:
        raise PackingError(f"its codes are not the {expected} bytes that its shape needs")
    return plain
