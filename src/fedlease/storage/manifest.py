"""``state/manifest.json``: the files of a checkpoint with the hashes of their contents."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from fedlease.core.types import ClientId
from fedlease.storage.documents import Count, Finite
from fedlease.storage.run_files import Digest

__all__ = ["BestStep", "CompleteStep", "Entry", "Manifest", "StepFiles"]


class Entry(BaseModel):
    """A file of the checkpoint."""

    model_config = ConfigDict(strict=True, extra="forbid")

    file: Annotated[str, Field(pattern=r"^[0-9a-f]{32}\.safetensors$")]
    sha256: Digest


class StepFiles(BaseModel):
    """The files of one step.

    Attributes:
        state: file of the method's state.
        clients: client -> slot -> file of its private tensors.
        apart: further files to which the state refers by their hashes.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    state: Entry
    clients: dict[ClientId, dict[str, Entry]]
    apart: list[Entry] = Field(default_factory=list)


class BestStep(StepFiles):
    """See :class:`fedlease.storage.saved.Best`."""

    step: Count
    value: Finite
    waited: Count
    values: dict[ClientId, Finite] = Field(default_factory=dict)


class CompleteStep(StepFiles):
    """A step from which a run can continue."""

    step: Count
    round: Count
    rounds_lines: Count
    totals: dict[str, Finite]
    seen: Entry | None = None
    filters: Entry | None = None


class Manifest(CompleteStep):
    """The last complete step, earlier steps that are kept and, under early stopping, the best step so far."""

    method: str
    finished: bool
    rounds_sha256: Digest
    best: BestStep | None = None
    earlier: list[CompleteStep] = Field(default_factory=list)

    @property
    def named(self) -> set[str]:
        """The files that it names."""
        complete: list[CompleteStep] = [self, *self.earlier]
        steps: list[StepFiles] = [*complete, *([] if self.best is None else [self.best])]
        slots = (entry for step in steps for slots in step.clients.values() for entry in slots.values())
        noted = (one for step in complete for one in (step.seen, step.filters) if one is not None)
        states = (entry for step in steps for entry in (step.state, *step.apart))
        return {entry.file for entry in (*states, *slots, *noted)}
