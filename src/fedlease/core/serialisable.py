"""The register of serialisable classes, and hashes: the parts of :mod:`fedlease.core.codec` that do not need torch."""

import hashlib
from typing import TypeVar

__all__ = ["CLASSES", "digest", "serialisable"]

T = TypeVar("T")
CLASSES: dict[str, type] = {}
"""Name -> class, for every class marked with :func:`serialisable`."""


def serialisable(cls: type[T]) -> type[T]:
    """Marks a frozen dataclass as one that :mod:`fedlease.core.codec` may write and read (class decorator).

    Raises:
        TypeError: the class is not a frozen dataclass, or another class of that name is marked.
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
