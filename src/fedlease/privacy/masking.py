"""Building blocks of secure sums: fixed-point numbers, masks, shares and sealed messages.

Bonawitz and others, "Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS 2017
(https://eprint.iacr.org/2017/281). Keys, masks and seals come from ``cryptography``, Shamir's shares from Flower; both
are imported when a sum begins. Flower's masks are not used: a generator that is not cryptographic makes them from a
32-bit seed, so a server could try every seed.
"""

import math
import os
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlease.core.types import Tensors
from fedlease.errors import ConfigError

__all__ = [
    "LARGEST",
    "SECRET",
    "SumError",
    "agreed",
    "as_bytes",
    "check_sums",
    "combined",
    "fixed",
    "mean_of",
    "new_secret",
    "noise",
    "public_of",
    "read_bytes",
    "seal",
    "shares_of",
    "unseal",
    "width_of",
]

Words = NDArray[np.uint64]
"""Integers modulo 2^64; sums travel modulo 2^(8 width), which divides it."""

SECRET = 15
"""Bytes of a secret: 120 bits, the most that one block of Flower's secret sharing holds."""

NONCE = 12
LARGEST = 256.0
"""Largest absolute value in an update that is summed."""

EXACT = 2.0**52
"""Whole numbers up to this are exact in float64."""


class SumError(ValueError):
    """A message is not one that a party of a secure sum sends."""


def check_sums() -> None:
    """Checks that the packages for secure sums are installed.

    Raises:
        ConfigError: one is missing.
    """
    if find_spec("cryptography") is None or find_spec("flwr") is None:
        raise ConfigError(
            "privacy.secure_sums: needs the packages cryptography and flwr; install them with pip install "
            "'fedlease[flower]'"
        )


def width_of(total: int, resolution: float) -> int:
    """Bytes per number with which no sum overflows.

    Args:
        total: summed weight of all clients.
        resolution: value of one unit of a fixed-point number.
    """
    return math.ceil((math.log2(total * LARGEST / resolution) + 2) / 8)


def fixed(tensors: Tensors, weight: int, resolution: float) -> Words:
    """The weight, then each value times the weight in units of the resolution, rounded; tensors in order of name.

    Raises:
        SumError: a value is not finite, or too large to be exact.
    """
    flat = torch.cat([tensors[name].detach().cpu().double().flatten() for name in sorted(tensors)])
    most = float(flat.abs().max()) if flat.numel() else 0.0
    if not most <= min(LARGEST, EXACT * resolution / weight):
        raise SumError(
            f"its update has values up to {most:g}; sums at privacy.sum_resolution = {resolution:g} allow at most "
            f"{min(LARGEST, EXACT * resolution / weight):g}"
        )
    whole = (flat * (weight / resolution)).round().long()
    return torch.cat([torch.tensor([weight]), whole]).numpy().view(np.uint64)


def mean_of(total: Words, like: Tensors, resolution: float) -> tuple[int, dict[str, Tensor]]:
    """The summed weight and the weighted mean in a sum; both are meaningless while a mask remains in it.

    The mean differs from that of the exact values by at most resolution x clients / (2 x weight), before it is rounded
    to the types of ``like``.

    Args:
        total: from :func:`read_bytes`.
        like: name -> a tensor of the same shape and type.
        resolution: as for :func:`fixed`.
    """
    signed = torch.from_numpy(total.view(np.int64).copy())
    weight, flat = int(signed[0]), signed[1:].double()
    flat = flat * (resolution / max(weight, 1))
    mean, begin = {}, 0
    for name in sorted(like):
        count = like[name].numel()
        mean[name] = flat[begin : begin + count].reshape(like[name].shape).to(like[name].dtype)
        begin += count
    return weight, mean


def as_bytes(words: Words, width: int) -> Tensor:
    """The ``width`` lowest bytes of each number: (numbers x width,) uint8."""
    plain = words.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :width]
    return torch.from_numpy(plain.reshape(-1).copy())


def read_bytes(sent: Sequence[Tensor], width: int, less: Sequence[Words] = ()) -> Words:
    """The sum of the sent numbers, each of ``width`` bytes, minus the masks ``less``, as signed numbers."""
    total = np.zeros(len(sent[0]) // width, np.uint64)
    for tensor in sent:
        wide = np.zeros((len(total), 8), np.uint8)
        wide[:, :width] = tensor.numpy().reshape(-1, width)
        total += wide.reshape(-1).view("<u8").astype(np.uint64)
    for mask in less:
        total -= mask
    shift = np.uint64(64 - 8 * width)
    return ((total << shift).view(np.int64) >> shift.astype(np.int64)).view(np.uint64)


def new_secret() -> bytes:
    """Random bytes from the operating system."""
    return os.urandom(SECRET)


def noise(secret: bytes, session: str, count: int) -> Words:
    """``count`` uniform numbers: the key stream of ChaCha20 under a key derived from the secret for one session."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

    stream = Cipher(algorithms.ChaCha20(_derived(secret, "mask", session), bytes(16)), mode=None).encryptor()
    return np.frombuffer(stream.update(bytes(8 * count)), "<u8").astype(np.uint64)


def public_of(secret: bytes) -> bytes:
    """X25519 public key of a secret."""
    return bytes(_private(secret).public_key().public_bytes_raw())


def agreed(secret: bytes, public: bytes) -> bytes:
    """The shared secret of two parties, which each computes from its own secret and the other's public key.

    Raises:
        SumError: ``public`` is not a usable public key.
    """
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    try:
        return bytes(_private(secret).exchange(X25519PublicKey.from_public_bytes(public)))
    except ValueError as error:
        raise SumError("a public key is invalid") from error


def seal(secret: bytes, text: bytes, context: str) -> bytes:
    """Encrypts a text for the holder of the secret; it can be decrypted only with the same context."""
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    nonce = os.urandom(NONCE)
    return nonce + bytes(ChaCha20Poly1305(_derived(secret, "seal", context)).encrypt(nonce, text, context.encode()))


def unseal(secret: bytes, sealed: bytes, context: str) -> bytes:
    """Decrypts what :func:`seal` gave.

    Raises:
        SumError: the text was not sealed with this secret and context.
    """
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    try:
        cipher = ChaCha20Poly1305(_derived(secret, "seal", context))
        return bytes(cipher.decrypt(sealed[:NONCE], sealed[NONCE:], context.encode()))
    except (InvalidTag, ValueError) as error:
        raise SumError("a share was not sealed for this client and this sum") from error


def shares_of(secret: bytes, threshold: int, count: int) -> list[bytes]:
    """``count`` shares of a secret: any ``threshold`` of them give it back, fewer reveal nothing."""
    from flwr.common.secure_aggregation.crypto.shamir import create_shares

    return create_shares(secret, threshold, count)


def combined(shares: Sequence[bytes]) -> bytes:
    """The secret, from as many shares as its threshold; a wrong share gives other bytes, not always an error.

    Raises:
        SumError: the shares do not fit each other.
    """
    from flwr.common.secure_aggregation.crypto.shamir import combine_shares

    try:
        return combine_shares([*shares])
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise SumError("shares do not fit each other") from error


@cache
def _primitives() -> tuple[Any, Any, Any]:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return X25519PrivateKey, SHA256, HKDF


def _derived(secret: bytes, purpose: str, context: str) -> bytes:
    _, sha256, hkdf = _primitives()
    return bytes(hkdf(sha256(), 32, salt=None, info=f"fedlease {purpose} {context}".encode()).derive(secret))


def _private(secret: bytes) -> Any:
    return _primitives()[0].from_private_bytes(_derived(secret, "key", ""))
