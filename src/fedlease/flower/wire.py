"""Packs messages for Flower: a JSON tree and arrays, without pickle, checked before their use.

The name of an array is the SHA-256 of its content, so that arrays which a node already has are not sent again.
"""

import hashlib
import io
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from fedlease.core.codec import CodecError, decode, encode

__all__ = ["Packed", "RecordError", "Shared", "fingerprint_of", "pack", "unpack"]

RECORD, ARRAYS, TREE = "fedlease", "arrays", "tree"
MAX_TREE = 8 * 2**20
"""Most characters of JSON; the row scores of half a million rows, or the names of 16,000 tensors, need fewer."""

DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "int64": torch.int64,
    "uint8": torch.uint8,
}
BFLOAT16 = "bfloat16"
"""A type that NumPy lacks; its bits are sent as uint16."""


class RecordError(ValueError):
    """A message is malformed or too large."""


@dataclass(frozen=True)
class Packed:
    """A value ready to be sent.

    Attributes:
        record: the content of a message.
        names: SHA-256 of every array that the value needs, sent or not.
        sent: SHA-256 of every array in the record.
    """

    record: RecordDict
    names: frozenset[str]
    sent: frozenset[str]


def fingerprint_of(tensor: Tensor) -> str:
    """SHA-256 over a tensor's type, shape and values, in hexadecimal digits."""
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(_bits(tensor).tobytes())
    return digest.hexdigest()


@dataclass
class Shared:
    """A cache for the messages of one step, so that tensors which several clients get are hashed and copied once.

    Attributes:
        names: ``id`` of a tensor -> its SHA-256, and the tensor, which keeps the ``id`` from being reused.
        arrays: SHA-256 -> Flower's array.
    """

    names: dict[int, tuple[Tensor, str]] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)

    def name(self, tensor: Tensor) -> str:
        """The tensor's SHA-256."""
        if id(tensor) not in self.names:
            self.names[id(tensor)] = tensor, fingerprint_of(tensor)
        return self.names[id(tensor)][1]


def pack(value: object, known: Collection[str] = frozenset(), shared: Shared | None = None) -> Packed:
    """Packs a value into the content of a message.

    Args:
        value: anything that :mod:`fedlease.core.codec` can write.
        known: SHA-256 of arrays that are left out because the receiver has them.
        shared: cache that several messages use, between which tensors must not change.
    """
    shared = Shared() if shared is None else shared
    tree, tensors = encode(value)
    names = {key: shared.name(tensor) for key, tensor in tensors.items()}
    sent = {names[key]: tensor for key, tensor in tensors.items() if names[key] not in known}
    types = {name: BFLOAT16 for name, tensor in sent.items() if tensor.dtype == torch.bfloat16}
    text = json.dumps({"value": tree, "names": names, "types": types}, ensure_ascii=True, allow_nan=False)
    shared.arrays |= {name: Array(_bits(tensor)) for name, tensor in sent.items() if name not in shared.arrays}
    arrays = ArrayRecord({name: shared.arrays[name] for name in sorted(sent)})
    record = RecordDict({RECORD: ConfigRecord({TREE: text}), ARRAYS: arrays})
    return Packed(record, frozenset(names.values()), frozenset(sent))


def unpack(
    record: RecordDict, max_bytes: int, bank: Mapping[str, Tensor] | None = None, *, max_tree: int = MAX_TREE
) -> tuple[Any, dict[str, Tensor], tuple[str, ...]]:
    """Reads the value of a message.

    Args:
        record: the content of the message.
        max_bytes: most bytes of all arrays, checked before anything is decoded.
        bank: SHA-256 -> array, for arrays that were left out.
        max_tree: most characters of JSON, likewise.

    Returns:
        The value, or None if arrays are missing; its arrays by SHA-256; and the SHA-256 of the missing ones.

    Raises:
        RecordError: it is malformed or too large, or the content of an array does not fit its name.
    """
    try:
        arrays, text = record.array_records[ARRAYS], record.config_records[RECORD][TREE]
    except (KeyError, AttributeError, TypeError) as error:
        raise RecordError(f"the message has no fedlease record: {error}") from error
    if not isinstance(text, str):
        raise RecordError("the message's JSON is missing")
    if len(text) > min(max_tree, MAX_TREE):
        raise RecordError(f"the message holds {len(text)} characters of JSON, at most {max_tree} are expected")
    size = sum(len(array.data) for array in arrays.values())
    if size > max_bytes:
        raise RecordError(f"the message holds {size} bytes of arrays, at most {max_bytes} are expected")
    try:
        content = json.loads(text)
        names, types, tree = dict(content["names"]), dict(content["types"]), content["value"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise RecordError(f"the message's JSON is malformed: {type(error).__name__} {error}") from error
    if not all(isinstance(name, str) for name in (*names, *names.values(), *types, *types.values())):
        raise RecordError("the message's JSON is malformed: names of arrays must be texts")
    if strange := arrays.keys() - {*names.values()}:
        raise RecordError(f"the message holds {len(strange)} arrays that it does not name")
    known = {name: _tensor(name, array, types.get(name)) for name, array in arrays.items()}
    for name in set(names.values()) - known.keys():
        if bank is not None and name in bank:
            known[name] = bank[name]
    lacking = tuple(sorted(set(names.values()) - known.keys()))
    if lacking:
        return None, known, lacking
    try:
        value = decode(tree, {key: known[name] for key, name in names.items()})
    except CodecError as error:
        raise RecordError(str(error)) from error
    return value, {name: known[name] for name in names.values()}, ()


def _bits(tensor: Tensor) -> Any:
    plain = tensor.detach().cpu().contiguous()
    return (plain.view(torch.uint16) if plain.dtype == torch.bfloat16 else plain).numpy()


def _tensor(name: str, array: Array, written: str | None) -> Tensor:
    """Reads an array into a tensor; checks its size against its type and shape, and its content against its name."""
    dtype = "uint16" if written == BFLOAT16 else array.dtype
    if array.dtype != dtype or (dtype not in DTYPES and written != BFLOAT16):
        raise RecordError(f"array {name[:12]} is of type {array.dtype!r}, known are {', '.join(DTYPES)}, {BFLOAT16}")
    expected = math.prod(array.shape) * np.dtype(dtype).itemsize
    size = len(array.data)
    # np.save puts a header of at most a few hundred bytes before the values.
    if not expected <= size <= expected + 1024:
        raise RecordError(f"array {name[:12]} has {size} bytes, its type and shape need {expected}")
    stream = io.BytesIO(array.data)
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, stated = read(stream)
    except Exception as error:  # NumPy parses the header as Python text, which may raise anything
        raise RecordError(f"array {name[:12]} cannot be read: {type(error).__name__}") from error
    if (shape, by_columns, stated, expected) != (tuple(array.shape), False, np.dtype(dtype), size - stream.tell()):
        raise RecordError(f"array {name[:12]} is not of the type and shape that the message states")
    try:
        values = np.frombuffer(array.data, stated, math.prod(shape), stream.tell()).reshape(shape)
    except (ValueError, OverflowError) as error:  # a shape that no array has
        raise RecordError(f"array {name[:12]} cannot be read: {error}") from error
    tensor = torch.from_numpy(values.copy())
    tensor = tensor.view(torch.bfloat16) if written == BFLOAT16 else tensor
    if fingerprint_of(tensor) != name:
        raise RecordError(f"array {name[:12]} does not hold what its name says")
    return tensor
