"""Sparse differences to frozen weights. Both sides draw the positions from a seed, so that only values are sent.

Positions are drawn without replacement over the whole matrix and sorted; matrices of one shape have the same positions.
"""

from functools import lru_cache

import torch
from torch import Tensor

from fedlease.core.seeds import generator

__all__ = ["as_pair", "count_of", "dense", "positions"]


def count_of(shape: tuple[int, int], density: float) -> int:
    """The number of values of a matrix, at least 1.

    Args:
        shape: (out, in).
        density: share of the matrix's entries, in (0, 1].
    """
    return max(1, round(density * shape[0] * shape[1]))


def dense(values: Tensor, shape: tuple[int, int], seed: int) -> Tensor:
    """The matrix with the values at their positions and 0 elsewhere; gradients reach the values.

    Args:
        values: (k,), or per row, (rows, k).
        shape: (out, in).
        seed: of the positions.

    Returns:
        (out, in), or (rows, out, in), with the dtype and device of the values.
    """
    places = positions(seed, shape, values.shape[-1], values.device).expand(values.shape)
    zeros = values.new_zeros(*values.shape[:-1], shape[0] * shape[1])
    return zeros.scatter(-1, places, values).view(*values.shape[:-1], *shape)


def as_pair(values: Tensor, shape: tuple[int, int], seed: int) -> tuple[Tensor, Tensor]:
    """The matrix of :func:`dense` as a product b a: (k, in) and (out, k), where k is its smaller side."""
    matrix = dense(values, shape, seed)
    eye = torch.eye(min(shape), dtype=values.dtype)
    return (matrix, eye) if shape[0] < shape[1] else (eye, matrix)


@lru_cache(2**10)
def positions(seed: int, shape: tuple[int, int], count: int, device: torch.device) -> Tensor:
    """Positions of the values in the flattened matrix, (count,) int64, ascending."""
    with torch.inference_mode(False):  # training must be able to use the cached tensor if scoring has made it
        drawn = torch.randperm(shape[0] * shape[1], generator=generator(seed, "sparse", *shape))[:count]
        return drawn.sort().values.to(device)
