"""Sparse differences to frozen weights: values at positions that both ends draw from a seed, so that they travel alone.

Positions are drawn without replacement over the whole matrix, and are ascending; matrices of one shape have the same.
"""

from functools import lru_cache

import torch
from torch import Tensor

from fedlease.core.seeds import generator

__all__ = ["as_pair", "count_of", "dense", "positions"]


def count_of(shape: tuple[int, int], density: float) -> int:
    """Values of a matrix, at least one.

    Args:
        shape: (out, in).
        density: share of its entries, in (0, 1].
    """
    return max(1, round(density * shape[0] * shape[1]))


def dense(values: Tensor, shape: tuple[int, int], seed: int) -> Tensor:
    """The matrix that has the values at their positions and 0 elsewhere; gradients reach the values.

    Args:
        values: (k,), or one row of them per client, (rows, k).
        shape: (out, in).
        seed: of the positions.

    Returns:
        (out, in), or (rows, out, in), in type and place of the values.
    """
    places = positions(seed, shape, values.shape[-1], values.device).expand(values.shape)
    zeros = values.new_zeros(*values.shape[:-1], shape[0] * shape[1])
    return zeros.scatter(-1, places, values).view(*values.shape[:-1], *shape)


def as_pair(values: Tensor, shape: tuple[int, int], seed: int) -> tuple[Tensor, Tensor]:
    """The matrix of :func:`dense` as a product b a of its smaller side: (k, in) and (out, k)."""
    matrix = dense(values, shape, seed)
    eye = torch.eye(min(shape), dtype=values.dtype)
    return (matrix, eye) if shape[0] < shape[1] else (eye, matrix)


@lru_cache(2**10)
def positions(seed: int, shape: tuple[int, int], count: int, device: torch.device) -> Tensor:
    """Places of the values in the flattened matrix, (count,) int64, ascending."""
    with torch.inference_mode(False):  # scoring may ask first, and training must be able to use them
        drawn = torch.randperm(shape[0] * shape[1], generator=generator(seed, "sparse", *shape))[:count]
        return drawn.sort().values.to(device)
