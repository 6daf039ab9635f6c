"""Federated LoRA methods over one contract; :data:`METHODS` is the only table."""

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlease.core.types import Budget
    from fedlease.methods.base import Method

__all__ = ["CENTRALISED", "METHODS", "known_methods", "make_method", "method_class"]

METHODS: dict[str, str] = {
    "fedalt": "fedlease.methods.fedalt:FedALT",
    "feddpa": "fedlease.methods.feddpa:FedDPA",
    "fedit": "fedlease.methods.fedit:FedIT",
    "fedlease": "fedlease.methods.fedlease:FedLease",
    "fedsa-lora": "fedlease.methods.fedsa_lora:FedSALoRA",
    "fedtreelora": "fedlease.methods.fedtreelora:FedTreeLoRA",
    "ffa-lora": "fedlease.methods.ffa_lora:FFALoRA",
    "ifca": "fedlease.methods.ifca:IFCA",
    "local": "fedlease.methods.local:Local",
}
"""Name -> ``module:class``; a class is imported when it is asked for."""

CENTRALISED = "centralised"
"""The ceiling, all rows pooled: no federated method, but an engine that leaves FedIT's state."""


def known_methods() -> list[str]:
    """What ``method`` and ``baselines`` may name, sorted."""
    return sorted([CENTRALISED, *METHODS])


def method_class(name: str) -> Any:
    """Imports a method's class, and with it makes its state readable.

    Raises:
        KeyError: no such method.
    """
    module, _, cls = METHODS["fedit" if name == CENTRALISED else name].partition(":")
    return getattr(importlib.import_module(module), cls)


def make_method(name: str, budget: "Budget", parameters: Mapping[str, Any] | None = None) -> "Method":
    """Builds a method by name.

    Args:
        name: one of :func:`known_methods`.
        budget: E, R and local epochs.
        parameters: values for fields of the method's dataclass; those it does not have are left out, so that one
            set of settings serves every method.

    Raises:
        KeyError: no such method.
    """
    method = method_class(name)
    fields = method.__dataclass_fields__
    known = {key: value for key, value in (parameters or {}).items() if key in fields}
    made: Method = method(budget=budget, **known)
    return made
