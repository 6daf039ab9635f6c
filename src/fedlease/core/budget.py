"""The amount of training that every compared method gets, in passes over a client's rows."""

from dataclasses import dataclass

from fedlease.core.serialisable import serialisable

__all__ = ["Budget"]


@serialisable
@dataclass(frozen=True)
class Budget:
    """The amount of training of every compared method: T = E + R x local epochs passes over each client's rows.

    A method without a warm-up spends E in ``opening_rounds`` in its place, and R rounds after them. They ask everyone,
    as a warm-up does, so that also where clients are sampled all methods make the same passes.

    Attributes:
        warmup_epochs: E, at least 1.
        rounds: R, rounds after the warm-up, at least 0.
        local_epochs: passes per round, at least 1.
        warmup_as_rounds: whether a warm-up has one stage, with a fresh optimiser, for each of the ``opening_rounds``.
    """

    warmup_epochs: int
    rounds: int
    local_epochs: int = 1
    warmup_as_rounds: bool = False

    @property
    def passes(self) -> int:
        """T, all passes over a client's rows."""
        return self.warmup_epochs + self.rounds * self.local_epochs

    @property
    def opening_rounds(self) -> int:
        """Rounds that a method without a warm-up makes in its place: E / local epochs, rounded up."""
        return -(-self.warmup_epochs // self.local_epochs)

    def passes_before(self, round_: int) -> int:
        """Passes that a method without a warm-up has made before a round in 1 .. ``opening_rounds`` + R + 1."""
        opening = min(round_ - 1, self.opening_rounds)
        return min(self.warmup_epochs, opening * self.local_epochs) + (round_ - 1 - opening) * self.local_epochs

    def epochs(self, round_: int) -> int:
        """Epochs of one round of a method without a warm-up; the last opening round makes what is left of E."""
        return self.passes_before(round_ + 1) - self.passes_before(round_)
