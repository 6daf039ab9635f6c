"""Definitions of comparisons: variants of methods, and experiments of several comparisons with published figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from fedlease.config.faults import nearest_method
from fedlease.config.settings import Settings
from fedlease.errors import ConfigError
from fedlease.experiments.paper_numbers import NO_NUMBERS, PaperRow
from fedlease.methods.registry import CENTRALISED, known_methods

__all__ = [
    "ALL",
    "BOTH",
    "GENERATION",
    "PAPER",
    "SCALES",
    "SMALL",
    "Experiment",
    "Scenario",
    "Variant",
    "evaluated",
    "repeated",
    "variants_of",
]

ALL = "all"
"""A name that stands for all methods."""

SCALES: Mapping[str, str] = {"small": "glue-small", "paper": "paper-nlu"}
"""Scale -> preset, for experiments that name no other presets."""
GENERATION: Mapping[str, str] = {"small": "flan-small", "paper": "paper-nlg"}
SMALL = ("small",)
PAPER = ("paper",)
BOTH = (*SMALL, *PAPER)


@dataclass(frozen=True)
class Variant:
    """A variant in a comparison: a method, with settings of its own if it has any.

    Attributes:
        name: name of its folder and its row; in an experiment ``fedlease`` is always the method with the preset's
            settings.
        method: one of ``known_methods()``.
        changes: dotted settings that override the common ones; in an experiment, a value may be a function of these.
        scales: scales of an experiment at which it takes part.
    """

    name: str
    method: str = "fedlease"
    changes: Mapping[str, Any] = field(default_factory=dict)
    scales: tuple[str, ...] = BOTH


@dataclass(frozen=True)
class Scenario:
    """A comparison on rows of its own.

    Attributes:
        name: name of its folder; empty for the only scenario of an experiment.
        changes: settings of all its variants, see :class:`Variant`.
        scales: scales at which it is run.
    """

    name: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    scales: tuple[str, ...] = BOTH


@dataclass(frozen=True)
class Experiment:
    """An experiment, which runs under one name.

    Attributes:
        asks: the question, in one line.
        how: what is done, what stays equal, and where the paper had to be interpreted.
        variants: variants, of which the first is compared with each of the others.
        scenarios: comparisons on different rows.
        paper: variant -> published figures.
        paper_words: further published results.
        adds: a further table, of experts used per layer and task or of times.
        over_scenarios: whether ``paper`` has means over the scenarios, so that these are also reported.
        presets: scale -> preset.
    """

    asks: str
    how: str
    variants: tuple[Variant, ...]
    scenarios: tuple[Scenario, ...] = (Scenario(),)
    paper: Mapping[str, PaperRow] = field(default_factory=dict)
    paper_words: str = NO_NUMBERS
    adds: Literal["", "usage", "overhead"] = ""
    over_scenarios: bool = False
    presets: Mapping[str, str] = field(default_factory=lambda: SCALES)


def evaluated(changes: Mapping[str, Any], settings: Settings) -> dict[str, Any]:
    """The changes with functions replaced by their values for the common settings."""
    return {key: value(settings) if callable(value) else value for key, value in changes.items()}


def variants_of(methods: Sequence[str]) -> list[Variant]:
    """Variants of plain methods; ``["all"]`` stands for all known methods, ``fedlease`` first.

    Raises:
        ConfigError: there is no name, a name twice, or an unknown one; the message suggests the nearest name.
    """
    faults = [] if methods else ["methods: at least one is needed"]
    faults += [f"methods: {name!r} is named twice" for name in repeated(methods)]
    known = known_methods()
    if list(methods) == [ALL]:
        methods = sorted(known, key=lambda name: (name != "fedlease", name == CENTRALISED, name))
    faults += [f"methods: unknown method {name!r}{nearest_method(name)}" for name in methods if name not in known]
    if faults:
        raise ConfigError(faults)
    return [Variant(name, name) for name in methods]


def repeated(values: Sequence[Any]) -> list[Any]:
    """Values that occur more than once, sorted."""
    return sorted({value for value in values if values.count(value) > 1})
