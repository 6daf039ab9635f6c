"""``state/manifest.json``: the files of a checkpoint, each by its content's hash."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from fedlease.core.types import ClientId
from fedlease.storage.run_files import Digest

__all__ = ["BestStep", "Earlier", "Entry", "Manifest", "StepFiles"]


class Entry(BaseModel):
    """A file of the checkpoint."""

    model_config = ConfigDict(strict=True, extra="forbid")

    file: Annotated[str, Field(pattern=r"^[0-9a-f]{32}\.safetensors$")]
    sha256: Digest


class StepFiles(BaseModel):
    """The files of one step.

    Attributes:
        state: of the method.
        clients: client -> slot -> its private tensors.
        apart: what the state names by its hash.
    """

    model_config = ConfigDict(strict=True, extra="forbid")

    state: Entry
    clients: dict[ClientId, dict[str, Entry]]
    apart: list[Entry] = Field(default_factory=list)


class BestStep(StepFiles):
    """See :class:`fedlease.storage.saved.Best`."""

    step: Annotated[int, Field(ge=0)]
    value: Annotated[float, Field(allow_inf_nan=False)]
    waited: Annotated[int, Field(ge=0)]
    values: dict[ClientId, Annotated[float, Field(allow_inf_nan=False)]] = Field(default_factory=dict)


class Earlier(StepFiles):
    """A step before the last, to go back to."""

    step: Annotated[int, Field(ge=0)]
    round: Annotated[int, Field(ge=0)]
    rounds_lines: Annotated[int, Field(ge=0)]
    totals: dict[str, Annotated[float, Field(allow_inf_nan=False)]]
    seen: Entry | None = None
    filters: Entry | None = None


class Manifest(StepFiles):
    """The last complete step, and under early stopping the best one so far."""

    method: str
    step: Annotated[int, Field(ge=0)]
    round: Annotated[int, Field(ge=0)]
    finished: bool
    rounds_lines: Annotated[int, Field(ge=0)]
    rounds_sha256: Digest
    totals: dict[str, Annotated[float, Field(allow_inf_nan=False)]]
    best: BestStep | None = None
    seen: Entry | None = None
    filters: Entry | None = None
    earlier: list[Earlier] = Field(default_factory=list)

    @property
    def named(self) -> set[str]:
        """The files that it names."""
        steps: list[Manifest | BestStep | Earlier] = [self, *self.earlier, *([] if self.best is None else [self.best])]
        slots = (entry for step in steps for slots in step.clients.values() for entry in slots.values())
        lines: list[Manifest | Earlier] = [self, *self.earlier]
        noted = (one for step in lines for one in (step.seen, step.filters) if one is not None)
        states = (entry for step in steps for entry in (step.state, *step.apart))
        return {entry.file for entry in (*states, *slots, *noted)}
