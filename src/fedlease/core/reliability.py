"""How sure a warm-up is, and how alike tasks are once that is taken into account.

B of a client is the signal of its task and the noise of its few rows. So the cosine of two clients of one task is not 1
but the share of signal in both, their reliability, and raw distances compare how well tasks are learnt. A client that
trains two halves of its rows apart shows its reliability, and Spearman's correction for attenuation divides by it.

Spearman: The Proof and Measurement of Association between Two Things. American Journal of Psychology 15, 1904.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedlease.core.adapters import a_matrices, b_matrices
from fedlease.core.choices import Signal
from fedlease.core.distances import cosines, product_cosines
from fedlease.core.types import ClientId, Tensors

__all__ = ["LEARNT", "WIDEN", "Similarities", "from_cosines", "similarities"]

LEARNT = 0.1
"""A client whose reliability is below this has not learnt its task yet: what it is like is unknown."""

WIDEN = 1.7
"""Modules are not independent: the jackknife over them gives errors that are too small by about this factor."""

FLOOR = 0.02
"""No reliability is taken to be smaller, so that a correction stays finite."""


@dataclass(frozen=True)
class Similarities:
    """What halves say about clients; the order of all rows and columns is that of ``clients``.

    Attributes:
        clients: sorted.
        reliability: mean over modules of the cosine between a client's halves, (N,) float64.
        reliability_error: standard error of it, (N,).
        corrected: c_ij, 1 for the same task, 0 for unrelated ones, below 0 for contrary ones; (N, N), diagonal 1.
        error: standard error of c_ij, (N, N), 0 on the diagonal.
        left_out: c_ij without one module, (modules, N, N), of which errors of means over pairs are made.
    """

    clients: list[ClientId]
    reliability: Tensor
    reliability_error: Tensor
    corrected: Tensor
    error: Tensor
    left_out: Tensor

    @property
    def learnt(self) -> list[bool]:
        """Whether each client has learnt enough to be compared: reliability above :data:`LEARNT`, beyond its error."""
        sure = (self.reliability > LEARNT) & (self.reliability > 2 * self.reliability_error)
        flags: list[bool] = sure.tolist()
        return flags

    def between(self, rows: Sequence[int], columns: Sequence[int]) -> tuple[float, float]:
        """Mean corrected similarity of two groups of clients, by place in ``clients``, and its standard error."""
        mean = float(self.corrected[rows][:, columns].mean())
        jackknife = self.left_out[:, rows][:, :, columns].mean((1, 2))
        return mean, float(_error(jackknife))


def similarities(uploads: Mapping[ClientId, Tensors], signal: Signal = "BA") -> Similarities:
    """Reliabilities and corrected similarities of clients that trained halves of their rows apart.

    With u_ih^l the direction of client i's half h in module l, and means over modules as in the paper's distance:

        rel_i = mean over l of u_i0^l . u_i1^l
        c_ij  = mean over l, h, h' of u_ih^l . u_jh'^l / sqrt(rel_i rel_j)

    Errors are those of the jackknife, which leaves out one module after another, times :data:`WIDEN`.

    Args:
        uploads: client -> A and B of its halves, numbered as experts 0 and 1.
        signal: what is compared: ``B``, ``A``, or the products ``BA``, which keep unlike tasks farther apart.

    Raises:
        ValueError: no clients, or modules, shapes or values that :func:`fedlease.core.distances.distances` refuses.
    """
    # Sorted as 0, 1 of the first client, 0, 1 of the second, and so on.
    order = {(client, half): f"{place:06d}/{half}" for place, client in enumerate(sorted(uploads)) for half in (0, 1)}
    a = {name: a_matrices(uploads[client], half) for (client, half), name in order.items()}
    b = {name: b_matrices(uploads[client], half) for (client, half), name in order.items()}
    found = product_cosines(b, a) if signal == "BA" else cosines(a if signal == "A" else b)
    return from_cosines(sorted(uploads), found)


def from_cosines(clients: list[ClientId], modules: Iterable[Tensor]) -> Similarities:
    """As :func:`similarities`, from the cosines between all halves.

    Args:
        clients: sorted.
        modules: per module (2 N, 2 N), the halves of a client one after the other.
    """
    pairs, halves = [], []
    for cosine in modules:
        blocks = cosine.view(len(clients), 2, len(clients), 2)
        halves.append(blocks[:, 0].diagonal(dim1=0, dim2=1)[1])
        pairs.append(blocks.mean((1, 3)))
    each, own = torch.stack(pairs), torch.stack(halves)  # (L, N, N), (L, N)
    own_left_out = _without_one(own)
    left_out = _corrected(_without_one(each), own_left_out)
    return Similarities(
        clients,
        own.mean(0),
        _error(own_left_out),
        _corrected(each.mean(0), own.mean(0)),
        _error(left_out),
        left_out,
    )


def _corrected(pairs: Tensor, reliability: Tensor) -> Tensor:
    root = reliability.clamp(min=FLOOR).sqrt()
    corrected = pairs / (root.unsqueeze(-1) * root.unsqueeze(-2))
    corrected.diagonal(dim1=-2, dim2=-1).fill_(1)
    return corrected


def _without_one(modules: Tensor) -> Tensor:
    """The mean over the first dimension without one of it after the other; of a single one, itself."""
    count = len(modules)
    return (modules.sum(0) - modules) / (count - 1) if count > 1 else modules


def _error(left_out: Tensor) -> Tensor:
    """The jackknife's standard error over the first dimension, widened; 0 for a single module, which tells nothing."""
    count = len(left_out)
    return WIDEN * ((count - 1) / count * (left_out - left_out.mean(0)).square().sum(0)).sqrt()
