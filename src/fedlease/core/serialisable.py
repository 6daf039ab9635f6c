"""The register of serialisable classes, and hashes: the part of :mod:`fedlease.core.codec` that needs no torch."""

import hashlib
from typing import TypeVar

__all__ = ["CLASSES", "digest", "serialisable"]

T = TypeVar("T")
CLASSES: dict[str, type] = {}
"""Name -> class, of all that were marked."""


def serialisable(cls: type[T]) -> type[T]:
    """Class decorator: lets frozen dataclasses be written and read.

    Raises:
        TypeError: not a frozen dataclass, or another class of that name is registered.
    """
    name = cls.__name__
    params = getattr(cls, "__dataclass_params__", None)
    if params is None or not params.frozen:
        raise TypeError(f"{name} must be a frozen dataclass to be serialisable")
    if name in CLASSES and CLASSES[name].__module__ != cls.__module__:
        raise TypeError(f"two serialisable classes are called {name}: {CLASSES[name].__module__} and {cls.__module__}")
    CLASSES[name] = cls
    return cls


def digest(blob: bytes) -> str:
    """SHA-256 of ``blob``, hexadecimal."""
    return hashlib.sha256(blob).hexdigest()
