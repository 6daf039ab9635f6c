"""A method whose server steps towards its means by an optimiser of its own, see :mod:`fedlease.core.server_step`.

Whatever the method averages is stepped by itself: the one adapter of FedIT, every expert and router of FedLEASE, every
candidate of IFCA.
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
    """The state of the method within, and what the server remembers of its steps.

    Attributes:
        moments: where a mean stands in the state, ``experts/0/<tensor>`` for example -> its moments.
    """

    moments: Mapping[str, Moments] = field(default_factory=dict)


@dataclass(frozen=True)
class WithServerStep(Wrapper):
    """Steps by ``step`` wherever the method within has put a mean.

    A tensor that the method leaves in place is no mean and stays: a frozen half, the expert of a cluster of which
    nobody answered. After a round that groups clients anew the means are new experts, which are taken as they are, and
    nothing is remembered.

    Attributes:
        step: how.
    """

    step: ServerStep

    STATE: ClassVar[type[WrapperState]] = StepState

    def aggregate(
        self, state: StepState, updates: Sequence[ClientUpdate], absent: Collection[ClientId] = frozenset()
    ) -> StepState:
        """The aggregation of the method within, and the step."""
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
    """A method and its state without the server's steps, for rounds in which no server takes part."""
    if isinstance(method, WithServerStep):
        return unstepped(method.method, state.inner)
    if isinstance(method, Wrapper):
        within, inner = unstepped(method.method, state.inner)
        return replace(method, method=within), replace(state, inner=inner)
    return method, state
