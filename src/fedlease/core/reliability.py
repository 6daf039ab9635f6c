"""Reliability of warm-ups: the share of a client's B that is its task rather than noise.

B is the signal of the client's task plus the noise of its few rows. The cosine of two clients of one task is therefore
not 1 but the share of signal in both, and raw distances mostly tell how well tasks were learnt. A client that uploads
what each half of its rows has added to B shows this share, its reliability, by which Spearman's correction for
attenuation divides.

Spearman: The Proof and Measurement of Association between Two Things. American Journal of Psychology 15, 1904.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedlease.core.adapters import a_matrices, b_matrices, half_of
from fedlease.core.choices import Signal
from fedlease.core.distances import cosines, product_cosines
from fedlease.core.types import ClientId, Tensors

__all__ = [
    "Agreement",
    "Floats",
    "agreement",
    "between_clients",
    "chance",
    "from_cosines",
    "has_learnt",
    "of_one_client",
]

Floats = NDArray[np.float64]

LEARNT = 0.1
"""Reliability below which, or below its own error, a client has not learnt its task yet."""

COURSE = 1.5
"""Power of the cosine between a client's halves that is its reliability. The halves also share A and the course of the
training, so that their cosine is too large. Measured on 84 clients of eight federations, with tasks learnt well and
badly (docs/findings); groups are the same for powers from 1.5 to 2."""

WIDEN = 1.7
"""Factor on the jackknife's errors, which are too small because modules are not independent."""

LEAST_ERROR = 0.01
"""Smallest error of a mean of cosines."""

ROUGH = 0.1
"""Relative error of a cosine between clients that the jackknife does not see: clients of one task differ so much."""

DEPENDENT = 0.08
"""Error of a client's own reliability that the jackknife does not see."""

CLEAR = 2.0
"""Reliability, in its errors, from which a client of rested warm-ups has learnt its task."""


@dataclass(frozen=True)
class Agreement:
    """Raw similarities between halves of clients; rows and columns are in the order of ``clients``.

    Attributes:
        clients: sorted.
        own: each client's reliability, by its own halves, (N,) float64.
        own_error: standard error of ``own``, (N,).
        cross: mean over modules and halves of the cosine between two clients, (N, N), 0 on the diagonal.
        cross_error: standard error of ``cross``, (N, N).
        noise: see :func:`agreement`.
    """

    clients: list[ClientId]
    own: Floats
    own_error: Floats
    cross: Floats
    cross_error: Floats
    noise: float | None = None

    @property
    def learnt(self) -> list[bool]:
        """Whether each client has learnt its task, see :func:`has_learnt`."""
        flags: list[bool] = has_learnt(self.own, self.own_error, self.noise).tolist()
        return flags


def agreement(uploads: Mapping[ClientId, Tensors], signal: Signal = "BA", noise: float | None = None) -> Agreement:
    """Similarities of clients that upload what each half of their rows has added to B.

    With u_ih^l the direction of client i's half h in module l:

        own_i    = max(0, mean over l of u_i0^l . u_i1^l) ^ COURSE
        cross_ij = mean over l, h, h' of u_ih^l . u_jh'^l

    Errors are those of the jackknife over modules times :data:`WIDEN`, combined in quadrature with :data:`ROUGH` for
    pairs and :data:`DEPENDENT` for single clients.

    In rested warm-ups, A and heads kept their initial values, so that halves share neither, and the cosine itself is
    the reliability. What is left of it is noise, whose error is known better than modules show it.

    Args:
        uploads: client -> A and B of its halves, numbered as experts 0 and 1.
        signal: the matrices that are compared: ``B``, or the products ``BA``, which keep unlike tasks farther apart.
            With ``A``, which both halves share, ``own`` says nothing.
        noise: :func:`chance` for rested warm-ups; None for those that have trained A.

    Raises:
        ValueError: no clients, or modules, shapes or values that :func:`fedlease.core.distances.distances` refuses.
    """
    # These names sort as halves 0 and 1 of the first client, then of the second, and so on.
    halves = {
        f"{place:06d}/{half}": half_of(uploads[client], half)
        for place, client in enumerate(sorted(uploads))
        for half in (0, 1)
    }
    a = {name: a_matrices(tensors) for name, tensors in halves.items()}
    b = {name: b_matrices(tensors) for name, tensors in halves.items()}
    found = product_cosines(b, a) if signal == "BA" else cosines(a if signal == "A" else b)
    return from_cosines(sorted(uploads), found, noise)


def chance(tensors: Tensors) -> float:
    """The standard deviation, for B of independent noise, of the mean over modules of the cosine between two of them.

    Args:
        tensors: A and B of a client's halves.
    """
    sizes = [matrix.numel() for matrix in b_matrices(half_of(tensors, 0)).values()]
    return math.sqrt(math.fsum(1 / max(1, size) for size in sizes)) / max(1, len(sizes))


def from_cosines(clients: list[ClientId], modules: Iterable[Tensor], noise: float | None = None) -> Agreement:
    """Computes :func:`agreement` from the cosines between all halves.

    Args:
        clients: sorted.
        modules: per module (2 N, 2 N), the halves of a client one after the other.
        noise: see :func:`agreement`.
    """
    pairs, halves = [], []
    for cosine in modules:
        blocks = cosine.double().view(len(clients), 2, len(clients), 2)
        halves.append(blocks[:, 0].diagonal(dim1=0, dim2=1)[1])
        pairs.append(blocks.mean((1, 3)).fill_diagonal_(0))
    return Agreement(clients, *of_one_client(halves, noise), *between_clients(pairs, noise), noise)


def of_one_client(modules: Sequence[Tensor], noise: float | None = None) -> tuple[Floats, Floats]:
    """Reliability and its standard error, from the cosines between each client's halves, one (N,) per module."""
    values = torch.stack(list(modules)).numpy()
    alike = np.maximum(values.mean(0), 0)
    if noise is not None:
        return alike, np.hypot(noise, ROUGH * alike)
    slope = COURSE * alike ** (COURSE - 1)
    return alike**COURSE, np.hypot(slope * jackknife(values), DEPENDENT)


def between_clients(modules: Sequence[Tensor], noise: float | None = None) -> tuple[Floats, Floats]:
    """Mean and standard error of the cosines between clients, one tensor per module, each a mean over four halves."""
    values = torch.stack(list(modules)).numpy()
    mean = values.mean(0)
    if noise is not None:
        return mean, np.hypot(noise / 2, ROUGH * np.abs(mean))
    return mean, np.hypot(np.maximum(jackknife(values), LEAST_ERROR), ROUGH * np.abs(mean))


def has_learnt(own: Floats, error: Floats, noise: float | None = None) -> NDArray[np.bool_]:
    """Whether clients have learnt their task: their reliability is above :data:`LEARNT` and above its error.

    In rested warm-ups, it is above :data:`CLEAR` of its errors.
    """
    flags: NDArray[np.bool_] = (own > LEARNT) & (own > error) if noise is None else own > CLEAR * error
    return flags


def jackknife(modules: Floats) -> Floats:
    """The standard error of the mean over the first dimension, times :data:`WIDEN`; 0 for a single module."""
    count = len(modules)
    left_out = (modules.sum(0) - modules) / (count - 1) if count > 1 else modules
    error: Floats = WIDEN * np.sqrt((count - 1) / count * np.square(left_out - left_out.mean(0)).sum(0))
    return error
