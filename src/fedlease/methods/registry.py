"""Federated LoRA methods over one contract; :data:`METHODS` is the only table, and other packages add to it."""

import importlib
from collections.abc import Mapping
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING, Any

from fedlease.core.plugins import imported, installed

if TYPE_CHECKING:
    from fedlease.methods.base import Builder, Method, Terms

__all__ = [
    "CENTRALISED",
    "GROUP",
    "METHODS",
    "UNEQUAL_RANKS",
    "builders",
    "known_methods",
    "load_method",
    "make_method",
]

METHODS: dict[str, str] = {
    "fedalt": "fedlease.methods.fedalt:build",
    "feddpa": "fedlease.methods.feddpa:build",
    "fedit": "fedlease.methods.fedit:fedit",
    "fedlease": "fedlease.methods.fedlease_variants:build",
    "fedlease-plus": "fedlease.methods.fedlease_plus:build",
    "fedsa-lora": "fedlease.methods.fedit:fedsa_lora",
    "fedtreelora": "fedlease.methods.fedtreelora:build",
    "ffa-lora": "fedlease.methods.fedit:ffa_lora",
    "ifca": "fedlease.methods.ifca:build",
    "local": "fedlease.methods.local:build",
}
"""Name -> ``module:builder``, see :data:`fedlease.methods.base.Builder`; imported when it is asked for."""

CENTRALISED = "centralised"
"""The ceiling, all rows pooled: no federated method, but a run that leaves FedIT's state."""

UNEQUAL_RANKS: dict[str, dict[str, str]] = {
    "fedlease": {"signal": "BA", "average": "product"},
    "fedlease-plus": {"signal": "BA", "average": "product"},
    "local": {},
    CENTRALISED: {},
}
"""Methods whose clients may have unequal ranks -> the values that their settings then must have: A and B by themselves
can be neither compared nor averaged. Pooled rows train one adapter, of the largest rank."""

GROUP = "fedlease.methods"
"""The group of entry points by which other packages add methods: name -> ``module:builder``."""


def builders() -> dict[str, str]:
    """Name -> ``module:builder`` of every federated method, those of other packages among them.

    Raises:
        ConfigError: as for :func:`known_methods`.
    """
    return {**METHODS, **{name: entry.value for name, entry in _added().items()}}


def known_methods() -> list[str]:
    """What ``method`` and ``baselines`` may name, sorted.

    Raises:
        ConfigError: two packages, or a package and fedlease, give one name to a method.
    """
    return sorted([CENTRALISED, *builders()])


def load_method(name: str) -> "Builder":
    """Imports what builds a method, and with it makes the method's state readable.

    Raises:
        KeyError: no such method.
        ConfigError: the package that adds it cannot be imported.
    """
    if name in _added():
        added: Builder = imported(_added()[name])
        return added
    module, _, attribute = METHODS["fedit" if name == CENTRALISED else name].partition(":")
    own: Builder = getattr(importlib.import_module(module), attribute)
    return own


def make_method(name: str, terms: "Terms", settings: Mapping[str, Any] | None = None) -> "Method":
    """Builds a method by name.

    Args:
        name: one of :func:`known_methods`.
        terms: what compared methods share.
        settings: those of the method's own section.

    Raises:
        KeyError: no such method.
        TypeError: a setting that the method does not have.
    """
    return load_method(name)(terms, **(settings or {}))


def _added() -> dict[str, EntryPoint]:
    return installed((*METHODS, CENTRALISED), GROUP)
