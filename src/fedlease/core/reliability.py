"""How much of a warm-up is the client's task: what the halves of its rows have added alike, and those of others.

B of a client is the signal of its task and the noise of its few rows. So the cosine of two clients of one task is not 1
but the share of signal in both, their reliability, and raw distances compare how well tasks are learnt. A client that
tells what each half of its rows has added to B shows its reliability, and Spearman's correction for attenuation divides
by it.

Spearman: The Proof and Measurement of Association between Two Things. American Journal of Psychology 15, 1904.
"""

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
    "from_cosines",
    "has_learnt",
    "of_one_client",
]

Floats = NDArray[np.float64]

LEARNT = 0.1
"""A client whose halves show less reliability, or less than its error, has not learnt its task by itself yet."""

COURSE = 1.5
"""Halves of one client also share A and the course of the training, and so have more in common than the client's task:
its reliability is about this power of it. So it is with the 84 clients of eight federations, of tasks as well as badly
learnt (docs/findings); groups are the same for powers from 1.5 to 2."""

WIDEN = 1.7
"""Modules are not independent: the jackknife over them gives errors that are too small by about this factor."""

LEAST_ERROR = 0.01
"""No mean of cosines is taken to be known better."""

ROUGH = 0.1
"""Clients of one task are alike to about a tenth: the relative error of a cosine that no jackknife sees."""

DEPENDENT = 0.08
"""The error of a client's own reliability that no jackknife sees; of two clients there is none."""


@dataclass(frozen=True)
class Agreement:
    """Raw similarities of halves; rows and columns are in the order of ``clients``.

    Attributes:
        clients: sorted.
        own: each client's reliability by its own halves, (N,) float64.
        own_error: its standard error, (N,).
        cross: mean over modules and halves of the cosine between two clients, (N, N), 0 on the diagonal.
        cross_error: its standard error, (N, N).
    """

    clients: list[ClientId]
    own: Floats
    own_error: Floats
    cross: Floats
    cross_error: Floats

    @property
    def learnt(self) -> list[bool]:
        """Whether each client's own halves show that it has learnt: above :data:`LEARNT`, and beyond its error."""
        flags: list[bool] = has_learnt(self.own, self.own_error).tolist()
        return flags


def agreement(uploads: Mapping[ClientId, Tensors], signal: Signal = "BA") -> Agreement:
    """Similarities of clients that tell what each half of their rows has added to B.

    With u_ih^l the direction of client i's half h in module l:

        own_i    = max(0, mean over l of u_i0^l . u_i1^l) ^ COURSE
        cross_ij = mean over l, h, h' of u_ih^l . u_jh'^l

    Errors are those of the jackknife, which leaves out one module after another, times :data:`WIDEN`; with those of
    :data:`ROUGH` and :data:`DEPENDENT` in quadrature.

    Args:
        uploads: client -> A, and B in the parts of its halves, numbered as experts 0 and 1.
        signal: what is compared: ``B``, or the products ``BA``, which keep unlike tasks farther apart; of A both halves
            have the same, which tells nothing.

    Raises:
        ValueError: no clients, or modules, shapes or values that :func:`fedlease.core.distances.distances` refuses.
    """
    # Sorted as 0, 1 of the first client, 0, 1 of the second, and so on.
    halves = {
        f"{place:06d}/{half}": half_of(uploads[client], half)
        for place, client in enumerate(sorted(uploads))
        for half in (0, 1)
    }
    a = {name: a_matrices(tensors) for name, tensors in halves.items()}
    b = {name: b_matrices(tensors) for name, tensors in halves.items()}
    found = product_cosines(b, a) if signal == "BA" else cosines(a if signal == "A" else b)
    return from_cosines(sorted(uploads), found)


def from_cosines(clients: list[ClientId], modules: Iterable[Tensor]) -> Agreement:
    """Computes :func:`agreement` from the cosines between all halves.

    Args:
        clients: sorted.
        modules: per module (2 N, 2 N), the halves of a client one after the other.
    """
    pairs, halves = [], []
    for cosine in modules:
        blocks = cosine.double().view(len(clients), 2, len(clients), 2)
        halves.append(blocks[:, 0].diagonal(dim1=0, dim2=1)[1])
        pairs.append(blocks.mean((1, 3)).fill_diagonal_(0))
    return Agreement(clients, *of_one_client(halves), *between_clients(pairs))


def of_one_client(modules: Sequence[Tensor]) -> tuple[Floats, Floats]:
    """Reliability and standard error by cosines between the halves of one client, one tensor per module."""
    values = torch.stack(list(modules)).numpy()
    alike = np.maximum(values.mean(0), 0)
    slope = COURSE * alike ** (COURSE - 1)
    return alike**COURSE, np.hypot(slope * jackknife(values), DEPENDENT)


def between_clients(modules: Sequence[Tensor]) -> tuple[Floats, Floats]:
    """Mean and standard error of cosines between halves of clients, one tensor per module."""
    values = torch.stack(list(modules)).numpy()
    mean = values.mean(0)
    return mean, np.hypot(np.maximum(jackknife(values), LEAST_ERROR), ROUGH * np.abs(mean))


def has_learnt(own: Floats, error: Floats) -> NDArray[np.bool_]:
    """Whether what a client's halves have in common shows that it has learnt its task."""
    flags: NDArray[np.bool_] = (own > LEARNT) & (own > error)
    return flags


def jackknife(modules: Floats) -> Floats:
    """The standard error of the mean over the first dimension, widened; 0 for a single module, which tells nothing."""
    count = len(modules)
    left_out = (modules.sum(0) - modules) / (count - 1) if count > 1 else modules
    error: Floats = WIDEN * np.sqrt((count - 1) / count * np.square(left_out - left_out.mean(0)).sum(0))
    return error
