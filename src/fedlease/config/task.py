"""The settings of the frozen base, and of text generation."""

from typing import Annotated, Literal

from pydantic import Field

from fedlease.config.sections import Positive, Section

__all__ = ["QUANTISATION_DEVICES", "BaseSettings", "GenerationSettings", "Quantisation"]

Quantisation = Literal["none", "int8", "nf4"]
QUANTISATION_DEVICES = {"int8": ("cpu", "cuda"), "nf4": ("cuda",)}
"""Where each works. On a CPU bitsandbytes packs 4-bit weights anew when they are first evaluated, and rounds their
scales: the frozen base would not stay what it is."""


class BaseSettings(Section):
    """How the frozen base is held in memory."""

    quantisation: Quantisation = "none"
    """``int8`` or ``nf4`` (4 bits) packs its linear layers, by bitsandbytes; adapters stay in float32."""


class GenerationSettings(Section):
    """Prompts and answers, for ``task: generation``."""

    template: Literal["auto", "chat", "plain"] = "auto"
    """``chat``: the tokenizer's own; ``plain``: lines that begin with ``User:`` and ``Assistant:``; ``auto``: the
    tokenizer's where it has one."""
    max_new_tokens: Positive = 64
    """Longest answer that is generated."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Texts that end an answer, beside the model's end token; they are cut off."""
    batch_size: Positive = 16
    """Answers generated together."""
    score_rounds: bool = True
    """Whether every round is scored by generating answers; false leaves rounds without a score, which saves most of the
    time, and scores the result only."""
    samples: Annotated[int, Field(ge=0)] = 3
    """Test rows per client whose prompt, reference and answers are written to the run folder and the report."""
