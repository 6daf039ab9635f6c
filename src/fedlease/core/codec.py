"""Serialisation of every state and message as safetensors bytes and JSON.

Frozen dataclasses, mappings, sequences, sets, scalars and tensors become one JSON tree, in which each tensor is a
reference into one safetensors file. Reading builds only classes that are marked with :func:`serialisable`, so a file
can name data but never code.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from functools import cache
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from fedlease.core.serialisable import CLASSES, digest, serialisable

__all__ = ["CodecError", "decode", "digest", "dumps", "encode", "loads", "serialisable"]


class CodecError(ValueError):
    """The bytes are not what :func:`dumps` writes, or name a class that is not serialisable."""


Apart = Callable[[Any], str | None]
"""Function of a tensor or a mapping of tensors: the name under which it is written separately, or None."""


def encode(value: object, apart: Apart | None = None) -> tuple[Any, dict[str, Tensor]]:
    """Splits ``value`` into a JSON tree and the tensors it refers to.

    A tensor that occurs several times as the same object is written once; different tensors over the same memory are
    written one by one.

    Args:
        value: what is written.
        apart: decides for every tensor and every mapping of tensors whether it is written separately; the tree then
            holds only the name that this function returns.

    Raises:
        TypeError: a part is of a type that cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    seen: dict[int, str] = {}
    storages: set[int] = set()

    def walk(part: object) -> Any:
        if part is None or isinstance(part, bool | int | str):
            return part
        if isinstance(part, float):
            return part if math.isfinite(part) else {"$": "float", "value": repr(part)}
        if apart is not None and _holds_tensors(part) and (name := apart(part)) is not None:
            return {"$": "apart", "name": name}
        if isinstance(part, Tensor):
            if id(part) not in seen:
                seen[id(part)] = f"t{len(seen)}"
                # The same object where possible, so that a caller that writes several values recognises shared ones.
                tensor = (part.detach() if part.requires_grad else part).cpu().contiguous()
                memory = tensor.untyped_storage().data_ptr()
                # safetensors refuses tensors that share memory.
                tensors[seen[id(part)]] = tensor.clone() if memory in storages else tensor
                storages.add(memory)
            return {"$": "tensor", "name": seen[id(part)]}
        if dataclasses.is_dataclass(part) and not isinstance(part, type):
            name = type(part).__name__
            if CLASSES.get(name) is not type(part):
                raise TypeError(f"{name} is not marked serialisable")
            fields = {item.name: walk(getattr(part, item.name)) for item in dataclasses.fields(part)}
            return {"$": "class", "name": name, "fields": fields}
        if isinstance(part, Mapping):
            # Equal mappings give equal bytes, whatever order they were built in.
            items = (
                sorted(part.items(), key=lambda item: item[0])
                if all(isinstance(key, str) for key in part)
                else part.items()
            )
            return {"$": "dict", "items": [[walk(key), walk(item)] for key, item in items]}
        if isinstance(part, tuple):
            return {"$": "tuple", "items": [walk(item) for item in part]}
        if isinstance(part, list):
            return [walk(item) for item in part]
        if isinstance(part, frozenset):
            return {"$": "frozenset", "items": [walk(item) for item in sorted(part)]}
        raise TypeError(f"a {type(part).__name__} has no written form")

    return walk(value), tensors


def _holds_tensors(part: object) -> bool:
    if isinstance(part, Mapping):
        return bool(part) and all(isinstance(item, Tensor) for item in part.values())
    return isinstance(part, Tensor)


def decode(tree: Any, tensors: Mapping[str, Tensor], apart: Callable[[str], Any] | None = None) -> Any:
    """Inverse of :func:`encode`.

    Args:
        tree: as :func:`encode` gave it.
        tensors: likewise.
        apart: returns, by its name, what was written separately.

    Raises:
        CodecError: the tree is malformed, or names a missing tensor, a missing separate part or an unregistered class.
    """

    def named(name: str) -> Any:
        if apart is None:
            raise CodecError(f"malformed state: {name!r} was written separately and is missing")
        return apart(name)

    try:
        return _build(tree, tensors, named)
    except CodecError:
        raise
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise CodecError(f"malformed state: {type(error).__name__} {error}") from error


def _build(tree: Any, tensors: Mapping[str, Tensor], apart: Callable[[str], Any]) -> Any:
    def build(part: Any) -> Any:
        return _build(part, tensors, apart)

    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    if isinstance(tree, list):
        return [build(item) for item in tree]
    kind = tree["$"]
    if kind == "float":
        return float(tree["value"])
    if kind == "tensor":
        return tensors[tree["name"]]
    if kind == "apart":
        return apart(tree["name"])
    if kind == "tuple":
        return tuple(build(item) for item in tree["items"])
    if kind == "frozenset":
        return frozenset(build(item) for item in tree["items"])
    if kind == "dict":
        return {build(key): build(item) for key, item in tree["items"]}
    if kind == "class":
        cls = CLASSES[tree["name"]]
        fields = {name: build(item) for name, item in tree["fields"].items()}
        kinds = _kinds(cls)
        for name, value in fields.items():
            if name in kinds and not _fits(value, kinds[name]):
                raise CodecError(f"malformed state: {tree['name']}.{name} cannot be a {type(value).__name__}")
        return cls(**fields)
    raise CodecError(f"malformed state: unknown form {kind!r}")


@cache
def _kinds(cls: type) -> dict[str, Any]:
    """Field -> type of a serialisable class."""
    try:
        return get_type_hints(cls)
    except NameError:  # a class of another package that imports its types under TYPE_CHECKING
        return {}


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value and its members are of an annotated type."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any or kind is object or isinstance(kind, TypeVar):
        return True
    if origin is Literal:
        return any(value is choice or (value == choice and type(value) is type(choice)) for choice in inner)
    if origin in (Union, UnionType):
        return any(_fits(value, choice) for choice in inner)
    if origin is tuple and inner and inner[-1] is not Ellipsis:
        return isinstance(value, tuple) and len(value) == len(inner) and all(map(_fits, value, inner))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    if origin is not None:
        return isinstance(value, origin) and not isinstance(value, str) and all(_fits(v, inner[0]) for v in value)
    if kind is None or kind is type(None):
        return value is None
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def dumps(value: object, apart: Apart | None = None) -> bytes:
    """One safetensors blob whose header holds the JSON tree; ``apart`` is as for :func:`encode`."""
    tree, tensors = encode(value, apart)
    return safetensors.torch.save(tensors, metadata={"fedlease": json.dumps(tree, ensure_ascii=True, allow_nan=False)})


def loads(blob: bytes, apart: Callable[[str], Any] | None = None) -> Any:
    """Inverse of :func:`dumps`; ``apart`` is as for :func:`decode`.

    Raises:
        CodecError: not a blob that :func:`dumps` wrote.
    """
    try:
        tensors = safetensors.torch.load(blob)
        size = int.from_bytes(blob[:8], "little")
        tree = json.loads(json.loads(blob[8 : 8 + size])["__metadata__"]["fedlease"])
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CodecError(f"not a fedlease state: {type(error).__name__} {error}") from error
    return decode(tree, tensors, apart)
