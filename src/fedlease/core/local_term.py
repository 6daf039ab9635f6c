"""What a method adds to the local loss of its clients: a pull towards what was received, a linear term, penalties."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedlease.core.serialisable import serialisable

__all__ = ["LocalTerm"]


@serialisable
@dataclass(frozen=True)
class LocalTerm:
    """pull / 2 ||w - w0||^2 + <slope, w> + tail x sum over modules of ||A_tail|| ||B_tail|| + apart x sum over modules
    and experts that do not learn of ||B_frozen^T B||^2, added to the loss of every batch.

    FedProx (Li et al., MLSys 2020) has pull = mu. SCAFFOLD (Karimireddy et al., ICML 2020) has slope = c - c_i, a
    client's control variate against the mean of all; FedDyn (Acar et al., ICLR 2021) has both. HetLoRA (Cho et al.,
    EMNLP 2024) has a tail. HiLoRA (Peng et al., CVPR 2026) keeps its tiers apart.

    Attributes:
        pull: mu, at least 0. w are the tensors that the task trains and uploads, w0 their values as the client received
            them; a private tensor has no common value that it could be pulled to.
        slope: name -> gradient that is added, of the shape of the tensor, which the task trains.
        tail: lambda, at least 0: how strongly the last directions of uploaded adapters are drawn to zero.
        kept: directions before the tail: rows of A and columns of B.
        apart: gamma, at least 0: how strongly the columns of a B that learns are drawn away from the space of those of
            the module's experts that do not.
    """

    pull: float = 0.0
    slope: Mapping[str, Tensor] = field(default_factory=dict)
    tail: float = 0.0
    kept: int = 0
    apart: float = 0.0

    def adder(self, parameters: Mapping[str, Tensor], pulled: Collection[str]) -> Callable[[], None]:
        """A function that adds the term's gradient to those of a backward pass.

        Args:
            parameters: by name, at w0; those that do not learn at the time of a call are passed over.
            pulled: names of w.
        """
        start = {name: parameters[name].detach().clone() for name in pulled} if self.pull else {}
        slope = {name: tensor.to(parameters[name]) for name, tensor in self.slope.items()}
        parts = [name.rsplit("/", 2) for name in sorted(pulled) if self.tail]
        pairs = [(f"{m}/A/{e}", f"{m}/B/{e}") for m, kind, e in (p for p in parts if len(p) == 3) if kind == "A"]
        columns: dict[str, list[Tensor]] = {}  # of B, by module
        for name in sorted(parameters) if self.apart else ():
            if (whole := name.rsplit("/", 2))[1:2] == ["B"] and len(whole) == 3:
                columns.setdefault(whole[0], []).append(parameters[name])

        def add() -> None:
            for name in sorted({*start, *slope}):
                parameter = parameters[name]
                if parameter.requires_grad and name in start:
                    _add_gradient(parameter, self.pull * (parameter.detach() - start[name]))
                if parameter.requires_grad and name in slope:
                    _add_gradient(parameter, slope[name])
            for a, b in pairs:
                self._add_tail(parameters[a], parameters[b])
            for experts in columns.values():
                self._add_apart(experts)

        return add

    def _add_apart(self, experts: Sequence[Tensor]) -> None:
        """The gradient of apart ||F^T B||^2, 2 apart F (F^T B), for every B that learns and F that does not."""
        frozen = [each.detach() for each in experts if not each.requires_grad]
        for b in (each for each in experts if each.requires_grad):
            for f in frozen:
                _add_gradient(b, 2 * self.apart * (f @ (f.T @ b.detach())))

    def _add_tail(self, a: Tensor, b: Tensor) -> None:
        """The gradient of tail ||A_tail|| ||B_tail||; 0 where a tail is 0."""
        ends = a.detach()[self.kept :], b.detach()[:, self.kept :]
        norms = [end.norm() for end in ends]
        for i, (whole, end) in enumerate(zip((a, b), ends, strict=True)):
            more = torch.zeros_like(whole)
            tail = more[self.kept :] if i == 0 else more[:, self.kept :]
            tail.copy_(end * (self.tail * norms[1 - i] / norms[i].clamp(min=torch.finfo(end.dtype).tiny)))
            if whole.requires_grad:
                _add_gradient(whole, more)


def _add_gradient(parameter: Tensor, more: Tensor) -> None:
    # Never the tensor itself: gradients are clipped in place.
    parameter.grad = more.clone() if parameter.grad is None else parameter.grad + more
