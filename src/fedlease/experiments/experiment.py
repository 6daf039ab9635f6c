"""What an experiment is made of: variants, comparisons on rows of their own, scales, and published figures."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fedlease.experiments.paper_numbers import NO_NUMBERS, PaperRow

__all__ = ["BOTH", "GENERATION", "PAPER", "SCALES", "SMALL", "Arm", "Experiment", "Part"]

SCALES: Mapping[str, str] = {"small": "glue-small", "paper": "paper-nlu"}
"""Scale -> preset, of all experiments that name no others."""
GENERATION: Mapping[str, str] = {"small": "flan-small", "paper": "paper-nlg"}
SMALL = ("small",)
PAPER = ("paper",)
BOTH = (*SMALL, *PAPER)


@dataclass(frozen=True)
class Arm:
    """One variant.

    Attributes:
        name: names its folder and its row; ``fedlease`` is always the method as the preset has it.
        method: one of ``known_methods()``.
        changes: dotted settings of its own; a function is called with the common settings.
        scales: where it takes part.
    """

    name: str
    method: str = "fedlease"
    changes: Mapping[str, Any] = field(default_factory=dict)
    scales: tuple[str, ...] = BOTH


@dataclass(frozen=True)
class Part:
    """A comparison on rows of its own.

    Attributes:
        name: names its folder; empty where there is one part only.
        changes: as of :class:`Arm`, for all its variants.
        scales: where it takes part.
    """

    name: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)
    scales: tuple[str, ...] = BOTH


@dataclass(frozen=True)
class Experiment:
    """What is run under one name.

    Attributes:
        asks: the question, one line.
        how: what is done and held equal, and where a reading of the paper was needed.
        arms: variants; the first is the one that the others are held against.
        parts: comparisons; results of different parts are on different rows.
        paper: variant -> published figures.
        paper_words: what was published beside them.
        adds: a further table, of experts used per layer and task or of times.
        over_parts: whether the mean over the parts is of interest, and is what ``paper`` holds.
        presets: scale -> preset.
    """

    asks: str
    how: str
    arms: tuple[Arm, ...]
    parts: tuple[Part, ...] = (Part(),)
    paper: Mapping[str, PaperRow] = field(default_factory=dict)
    paper_words: str = NO_NUMBERS
    adds: Literal["", "usage", "overhead"] = ""
    over_parts: bool = False
    presets: Mapping[str, str] = field(default_factory=lambda: SCALES)
