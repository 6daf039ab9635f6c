"""A wrapper whose server steps towards the method's means by an optimiser, see :mod:`fedlease.core.server_step`.

Every mean has its own steps: the adapter of FedIT, every expert and router of FedLEASE, every candidate of IFCA.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from torch import Tensor

from fedlease.core.codec import serialisable
from fedlease.core.server_step import Moments, ServerStep
from fedlease.core.types import ClientId, ClientModel, ClientUpdate
from fedlease.methods.wrapper import Wrapper, WrapperState, innermost, with_innermost

__all__ = ["StepState", "WithServerStep", "unstepped"]


@serialisable
@dataclass(frozen=True, kw_only=True)
class StepState(WrapperState):
    """The wrapped state with the server's moments.

    Attributes:
        moments: place of a mean in the state, such as ``experts/0/<tensor>`` -> its moments.
    """

    moments: Mapping[str, Moments] = field(default_factory=dict)


@dataclass(frozen=True)
class WithServerStep(Wrapper):
    """Applies the server's step to every mean that the wrapped method has made.

    A tensor that the method leaves in place is not a mean and does not change: a frozen matrix, or the expert of a
    cluster without an answer. In a round that groups clients again, the means are new experts, which are taken as they
    are, and all moments are dropped.

    Attributes:
        step: the server's optimiser.
    """

    step: ServerStep

    STATE: ClassVar[type[WrapperState]] = StepState

    def aggregate(
        self, state: StepState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> StepState:
        """The wrapped method's aggregation, followed by the server's step."""
        after = self.method.aggregate(state.inner, updates, absent)
        if state.round == 0 or after.allocation is not state.inner.allocation:
            return replace(state, inner=after, moments={})
        moments = dict(state.moments)

        def stepped(path: str, old: Any, new: Any) -> Any:
            if isinstance(new, Tensor):
                if new is old or old is None:
                    return new
                value, remembered = self.step(old, new, state.moments.get(path))
                if remembered is not None:
                    moments[path] = remembered
                return value
            if isinstance(new, ClientModel):
                return replace(new, tensors=stepped(path, old.tensors, new.tensors))
            if isinstance(new, Mapping):
                return {name: stepped(f"{path}/{name}", old.get(name), value) for name, value in new.items()}
            return tuple(stepped(f"{path}/{i}", a, b) for i, (a, b) in enumerate(zip(old, new, strict=True)))

        before, averaged = innermost(state.inner), innermost(after)
        means = {name: stepped(name, getattr(before, name), getattr(averaged, name)) for name in self.averaged}
        return replace(state, inner=with_innermost(after, replace(averaged, **means)), moments=moments)


def unstepped(method: Any, state: Any) -> tuple[Any, Any]:
    """Removes the wrapper from a method and its state, for training without a server."""
    if isinstance(method, WithServerStep):
        return unstepped(method.method, state.inner)
    if isinstance(method, Wrapper):
        within, inner = unstepped(method.method, state.inner)
        return replace(method, method=within), replace(state, inner=inner)
    return method, state
