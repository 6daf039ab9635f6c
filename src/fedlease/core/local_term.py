"""What a method adds to the local loss of its clients: a pull towards what was received, and a linear term."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from fedlease.core.serialisable import serialisable

__all__ = ["LocalTerm"]


@serialisable
@dataclass(frozen=True)
class LocalTerm:
    """pull / 2 ||w - w0||^2 + <slope, w>, added to the loss of every batch.

    FedProx (Li et al., MLSys 2020) has pull = mu. SCAFFOLD (Karimireddy et al., ICML 2020) has slope = c - c_i, a
    client's control variate against the mean of all; FedDyn (Acar et al., ICLR 2021) has both.

    Attributes:
        pull: mu, at least 0. w are the tensors that the task trains and uploads, w0 their values as the client received
            them; a private tensor has no common value that it could be pulled to.
        slope: name -> gradient that is added, of the shape of the tensor, which the task trains.
    """

    pull: float = 0.0
    slope: Mapping[str, Tensor] = field(default_factory=dict)

    def adder(self, parameters: Mapping[str, Tensor], pulled: Collection[str]) -> Callable[[], None]:
        """A function that adds the term's gradient, pull (w - w0) + slope, to those of a backward pass.

        Args:
            parameters: by name, at w0; those that do not learn at the time of a call are passed over.
            pulled: names of w.
        """
        start = {name: parameters[name].detach().clone() for name in pulled} if self.pull else {}
        slope = {name: tensor.to(parameters[name]) for name, tensor in self.slope.items()}

        def add() -> None:
            for name in sorted({*start, *slope}):
                parameter = parameters[name]
                if parameter.requires_grad and name in start:
                    _add_gradient(parameter, self.pull * (parameter.detach() - start[name]))
                if parameter.requires_grad and name in slope:
                    _add_gradient(parameter, slope[name])

        return add


def _add_gradient(parameter: Tensor, more: Tensor) -> None:
    # Never the tensor itself: gradients are clipped in place.
    parameter.grad = more.clone() if parameter.grad is None else parameter.grad + more
