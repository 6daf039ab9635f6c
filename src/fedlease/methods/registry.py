"""The table of federated LoRA methods, :data:`METHODS`, to which other packages can add theirs."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedlease.core.plugins import added, added_names
from fedlease.errors import ConfigError

if TYPE_CHECKING:
    from fedlease.methods.base import Builder, Method, Terms

__all__ = [
    "CENTRALISED",
    "GROUP",
    "METHODS",
    "OTHER_NAMES",
    "OWN_RANKS",
    "UNEQUAL_RANKS",
    "MethodFacts",
    "added_methods",
    "builder_path",
    "known_methods",
    "load_method",
    "make_method",
    "method_facts",
]

METHODS: dict[str, str] = {
    "fed-sb": "fedlease.methods.fed_sb:build",
    "fedalt": "fedlease.methods.fedalt:build",
    "feddpa": "fedlease.methods.feddpa:build",
    "fedex-lora": "fedlease.methods.fedex_lora:build",
    "fedit": "fedlease.methods.fedit:fedit",
    "fedlease": "fedlease.methods.fedlease_variants:build",
    "fedlease-plus": "fedlease.methods.fedlease_plus:build",
    "fedmomentum": "fedlease.methods.fedmomentum:build",
    "fedprox": "fedlease.methods.fedprox:build",
    "fedrora": "fedlease.methods.fedrora:build",
    "fedrot-lora": "fedlease.methods.fedrot_lora:build",
    "fedsa-lora": "fedlease.methods.fedit:fedsa_lora",
    "fedsvd": "fedlease.methods.fedsvd:build",
    "fedtreelora": "fedlease.methods.fedtreelora:build",
    "ffa-lora": "fedlease.methods.fedit:ffa_lora",
    "flexlora": "fedlease.methods.flexlora:build",
    "flora": "fedlease.methods.flora:build",
    "hetlora": "fedlease.methods.hetlora:build",
    "hilora": "fedlease.methods.hilora:build",
    "ifca": "fedlease.methods.ifca:build",
    "local": "fedlease.methods.local:build",
    "ravan": "fedlease.methods.ravan:build",
    "rolora": "fedlease.methods.rolora:build",
    "scaffold": "fedlease.methods.scaffold:build",
    "slora": "fedlease.methods.slora:build",
}
"""Name -> ``module:builder``, see :data:`fedlease.methods.base.Builder`; a module is imported when it is needed."""

CENTRALISED = "centralised"
"""Training on all rows pooled, an upper bound: not a federated method, but a run with FedIT's state."""

UNEQUAL_RANKS: dict[str, dict[str, str]] = {
    "fedlease": {"signal": "BA", "average": "product"},
    "fedlease-plus": {"signal": "BA", "average": "product"},
    "fedrora": {},
    "flexlora": {},
    "flora": {},
    "hetlora": {},
    "local": {},
    CENTRALISED: {},
}
"""Method whose clients may have unequal ranks -> settings that it then needs, because A and B of unequal ranks can be
compared and averaged only as products. Pooled rows train one adapter, of the largest rank."""

OWN_RANKS = frozenset({"fedrora", "flora", "hetlora"})
"""Methods that apply the clients' ranks themselves, see ``Terms.ranks``; others only work at the largest rank."""

OTHER_NAMES: dict[str, str] = {
    "fedavg": "fedit",
    "fedavg-lora": "fedit",
    "hypcluster": "ifca",
    "individual": "local",
    "local-only": "local",
    "pooled": "centralised",
    "centralized": "centralised",
    "standalone": "local",
}
"""A method's name elsewhere -> its name here, for error messages; settings and files accept only the latter."""

GROUP = "fedlease.methods"
"""The entry point group by which other packages add methods: name -> :class:`MethodFacts`."""


@dataclass(frozen=True)
class MethodFacts:
    """Facts about a method of another package, known without importing the method: the target of its entry point.

    Attributes:
        build: ``module:builder``, see :data:`fedlease.methods.base.Builder`; imported when the method is used.
        settings: class of the method's own settings, a :class:`fedlease.config.sections.Section` with a default for
            each. The section has the method's name, with ``_`` for ``-``. None for a method without settings.
    """

    build: str
    settings: type[Any] | None = None


def added_methods() -> set[str]:
    """The names of methods of other packages; nothing is imported, so a name may turn out unusable."""
    return added_names(GROUP)


def method_facts(name: str) -> MethodFacts | None:
    """Facts about a method of another package; None for this package's methods and unknown names.

    Raises:
        ConfigError: the name is taken, or the package cannot be imported.
    """
    return added((*METHODS, CENTRALISED), GROUP, name, MethodFacts)


def known_methods() -> list[str]:
    """Names allowed for ``method`` and ``baselines``, sorted; other packages are not imported."""
    return sorted({CENTRALISED, *METHODS, *added_methods()})


def builder_path(name: str) -> str:
    """The ``module:builder`` of a method.

    Raises:
        KeyError: no such method.
        ConfigError: as for :func:`method_facts`.
    """
    facts = method_facts(name)
    return METHODS["fedit" if name == CENTRALISED else name] if facts is None else facts.build


def load_method(name: str) -> "Builder":
    """Imports a method's builder, which also makes the method's state readable.

    Raises:
        KeyError: no such method.
        ConfigError: the package that adds it cannot be imported, or does not have the builder.
    """
    path = builder_path(name)
    module, _, attribute = path.partition(":")
    try:
        found: Builder = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever code of others raises
        if name in METHODS or name == CENTRALISED:
            raise
        reason = " ".join(f"{type(error).__name__} {error}".split())
        raise ConfigError(f"entry points {GROUP}: {path} of {name!r} cannot be imported: {reason}") from error
    return found


def make_method(name: str, terms: "Terms", settings: Mapping[str, Any] | None = None) -> "Method":
    """Builds a method by name.

    Args:
        name: one of :func:`known_methods`.
        terms: settings that compared methods share.
        settings: of the method's own section.

    Raises:
        KeyError: no such method.
        TypeError: a setting that the method does not have.
    """
    return load_method(name)(terms, **(settings or {}))
