"""Warm-ups that tell halves apart, by a factor model: a direction per task, and noise of each half."""

from collections.abc import Mapping

import torch
from torch import Tensor

from fedlease.core.reliability import COURSE
from fedlease.core.seeds import generator

MODULES = tuple(f"layer.{number}.query" for number in range(6))


def halves(
    task: str, *, signal: float = 1.0, noise: float, seed: int, size: int = 48, rank: int = 4, rested: bool = False
) -> dict[str, Tensor]:
    """A, and B in the parts of both halves of one client; its reliability is signal^2 / (signal^2 + noise^2).

    Its halves share so much of their noise that the reliability is the power COURSE of what they have in common; in
    rested warm-ups, they share none.
    """
    tensors, reliability = {}, signal**2 / (signal**2 + noise**2)
    course = (reliability ** (1 / COURSE) - reliability) / (1 - reliability) if noise and not rested else 0.0
    for module in MODULES:
        a = torch.randn(rank, size, generator=generator(0, "a", module)) / size**0.5
        common = torch.randn(size, rank, generator=generator(0, "task", task, module))
        tensors[f"{module}/A/0"] = a
        shared = torch.randn(size, rank, generator=generator(seed, "course", module))
        for half in (0, 1):
            own = torch.randn(size, rank, generator=generator(seed, "noise", module, half))
            drawn = course**0.5 * shared + (1 - course) ** 0.5 * own
            tensors[f"{module}/B/{half}"] = signal * common + noise * drawn
    return tensors


def uploads(
    tasks: Mapping[str, int], *, noise: tuple[float, float], rested: bool = False
) -> dict[str, dict[str, Tensor]]:
    """Clients ``<task><number>`` of several tasks, with noise that runs evenly from the first value to the second."""
    names = [(task, number) for task, count in tasks.items() for number in range(count)]
    low, high = noise
    return {
        f"{task}{number}": halves(
            task, noise=low + (high - low) * place / max(1, len(names) - 1), seed=place + 1, rested=rested
        )
        for place, (task, number) in enumerate(names)
    }
