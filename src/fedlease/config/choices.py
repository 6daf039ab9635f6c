"""Values that settings choose by name, beside those of the algorithm in ``fedlease.core.choices``. No torch here."""

from typing import Literal

__all__ = [
    "QUANTISATION_DEVICES",
    "BadRows",
    "ClassWeights",
    "Dtype",
    "GlueTask",
    "Partition",
    "Quantisation",
    "ScoreRows",
    "Template",
    "UnusableClients",
]

ClassWeights = Literal["none", "balanced"]
"""How rows of a class weigh in a client's loss."""

Dtype = Literal["float32", "bfloat16"]
"""Types of the frozen base and its products."""

Quantisation = Literal["none", "int8", "nf4"]
"""How the linear layers of the frozen base are packed."""

QUANTISATION_DEVICES = {"int8": ("cpu", "cuda"), "nf4": ("cuda",)}
"""Devices on which each works. On a CPU bitsandbytes packs 4-bit weights anew when they are first evaluated, and rounds
their scales: the frozen base would not stay what it is."""

Template = Literal["auto", "chat", "plain"]
"""How a prompt is written for the model."""

GlueTask = Literal["sst2", "qnli", "mrpc", "qqp", "cola", "rte", "mnli", "wnli"]
"""Tasks of ``data.source: glue``."""

Partition = Literal["natural", "dirichlet", "task-and-label"]
"""How rows are dealt to clients."""

ScoreRows = Literal["test", "valid"]
"""The rows that scores are computed on."""

BadRows = Literal["refuse", "drop"]
"""The treatment of rows that cannot be used."""

UnusableClients = Literal["require", "skip"]
"""The treatment of clients whose rows cannot be used."""
