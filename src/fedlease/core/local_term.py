"""Terms that a method adds to the local loss: a pull towards the received model, a linear term and two penalties."""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedlease.core.serialisable import serialisable

__all__ = ["LocalTerm"]


@serialisable
@dataclass(frozen=True)
class LocalTerm:
    """A sum of four terms that is added to the loss of every batch::

        pull / 2 ||w - w0||^2  +  <slope, w>
          +  tail  x sum over modules of ||A_tail|| ||B_tail||
          +  apart x sum over modules and their frozen experts of ||B_frozen^T B||^2

    FedProx (Li et al., MLSys 2020) uses pull = mu. SCAFFOLD (Karimireddy et al., ICML 2020) uses slope = c - c_i, the
    difference between the mean control variate and the client's; FedDyn (Acar et al., ICLR 2021) uses both. HetLoRA
    (Cho et al., EMNLP 2024) uses tail, and HiLoRA (Peng et al., CVPR 2026) uses apart.

    Attributes:
        pull: mu, at least 0. w are the tensors that the task trains and uploads, and w0 their received values; private
            tensors have no common value to be pulled to.
        slope: name -> gradient to add, of the shape of the tensor, which the task must train.
        tail: lambda, at least 0: the weight of the penalty on the last directions of uploaded adapters.
        kept: number of directions before the tail: rows of A and columns of B.
        apart: gamma, at least 0: the weight of the penalty on columns of a trained B that are not orthogonal to those
            of the module's frozen experts.
    """

    pull: float = 0.0
    slope: Mapping[str, Tensor] = field(default_factory=dict)
    tail: float = 0.0
    kept: int = 0
    apart: float = 0.0

    def adder(self, parameters: Mapping[str, Tensor], pulled: Collection[str]) -> Callable[[], None]:
        """A function that adds the term's gradient to the gradients of a backward pass.

        Args:
            parameters: by name, at w0; parameters that are frozen when the function is called are skipped.
            pulled: names of w.
        """
        start = {name: parameters[name].detach().clone() for name in pulled} if self.pull else {}
        slope = {name: tensor.to(parameters[name]) for name, tensor in self.slope.items()}
        values = {name: parameter.detach() for name, parameter in parameters.items()}

        def add() -> None:
            for name in sorted({*start, *slope}):
                parameter = parameters[name]
                if parameter.requires_grad and name in start:
                    _add_gradient(parameter, self.pull * (parameter.detach() - start[name]))
                if parameter.requires_grad and name in slope:
                    _add_gradient(parameter, slope[name])
            if self.penalises:
                learning = {name for name, parameter in parameters.items() if parameter.requires_grad}
                for name, more in self.penalties(values, learning, pulled):
                    _add_gradient(parameters[name], more)

        return add

    @property
    def penalises(self) -> bool:
        """Whether the term has :meth:`penalties`."""
        return bool(self.tail or self.apart)

    def penalties(
        self, values: Mapping[str, Tensor], learning: Collection[str], pulled: Collection[str]
    ) -> Iterator[tuple[str, Tensor]]:
        """Yields names of trained tensors with gradients of ``tail`` and ``apart``; a name can occur several times.

        Args:
            values: by name; A (..., r, in) and B (..., out, r), with a leading dimension where clients are stacked.
            learning: names of the tensors that are trained.
            pulled: names of w.
        """
        experts: dict[str, list[str]] = {}  # module -> names of its B
        for name in sorted(values):
            module, kind, expert = (*name.rsplit("/", 2), "", "")[:3]
            if kind == "B":
                experts.setdefault(module, []).append(name)
            elif kind == "A" and self.tail and name in pulled:
                names = name, f"{module}/B/{expert}"
                both = zip(names, self._of_tail(*(values[each] for each in names)), strict=True)
                yield from ((each, more) for each, more in both if each in learning)
        for same in experts.values() if self.apart else ():
            for b in (name for name in same if name in learning):
                for f in (values[name] for name in same if name not in learning):
                    # The gradient of ||F^T B||^2 for every frozen F.
                    yield b, 2 * self.apart * (f @ (f.mT @ values[b]))

    def _of_tail(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of tail ||A_tail|| ||B_tail|| with respect to A and B; 0 where a tail is 0."""
        of_a, of_b = torch.zeros_like(a), torch.zeros_like(b)
        end_a, end_b = a[..., self.kept :, :], b[..., self.kept :]
        norm_a, norm_b = (torch.linalg.matrix_norm(end, keepdim=True) for end in (end_a, end_b))
        tiny = torch.finfo(a.dtype).tiny
        of_a[..., self.kept :, :] = end_a * (self.tail * norm_b / norm_a.clamp(min=tiny))
        of_b[..., self.kept :] = end_b * (self.tail * norm_a / norm_b.clamp(min=tiny))
        return of_a, of_b


def _add_gradient(parameter: Tensor, more: Tensor) -> None:
    # A clone, because gradients are clipped in place.
    parameter.grad = more.clone() if parameter.grad is None else parameter.grad + more
