"""``state/manifest.json``: which files are a checkpoint, each by its content's hash."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from fedlease.core.types import ClientId
from fedlease.storage.run_files import Digest

__all__ = ["BestStep", "Earlier", "Entry", "Manifest"]


class Entry(BaseModel):
    """A file of the checkpoint."""

    model_config = ConfigDict(strict=True, extra="forbid")

    file: Annotated[str, Field(pattern=r"^[0-9a-f]{32}\.safetensors$")]
    sha256: Digest


class BestStep(BaseModel):
    """See :class:`fedlease.storage.saved.Best`."""

    model_config = ConfigDict(strict=True, extra="forbid")

    step: Annotated[int, Field(ge=0)]
    value: Annotated[float, Field(allow_inf_nan=False)]
    waited: Annotated[int, Field(ge=0)]
    values: dict[ClientId, Annotated[float, Field(allow_inf_nan=False)]] = Field(default_factory=dict)
    state: Entry
    clients: dict[ClientId, dict[str, Entry]]


class Earlier(BaseModel):
    """A step before the last, to go back to."""

    model_config = ConfigDict(strict=True, extra="forbid")

    step: Annotated[int, Field(ge=0)]
    round: Annotated[int, Field(ge=0)]
    rounds_lines: Annotated[int, Field(ge=0)]
    totals: dict[str, Annotated[float, Field(allow_inf_nan=False)]]
    state: Entry
    clients: dict[ClientId, dict[str, Entry]]
    seen: Entry | None = None


class Manifest(BaseModel):
    """The last complete step, and under early stopping the best one so far."""

    model_config = ConfigDict(strict=True, extra="forbid")

    method: str
    step: Annotated[int, Field(ge=0)]
    round: Annotated[int, Field(ge=0)]
    finished: bool
    rounds_lines: Annotated[int, Field(ge=0)]
    rounds_sha256: Digest
    totals: dict[str, Annotated[float, Field(allow_inf_nan=False)]]
    state: Entry
    clients: dict[ClientId, dict[str, Entry]]
    best: BestStep | None = None
    seen: Entry | None = None
    earlier: list[Earlier] = Field(default_factory=list)

    @property
    def named(self) -> set[str]:
        """The files that it names."""
        steps: list[Manifest | BestStep | Earlier] = [self, *self.earlier, *([] if self.best is None else [self.best])]
        slots = (entry for step in steps for slots in step.clients.values() for entry in slots.values())
        seen = (one for one in (self.seen, *(step.seen for step in self.earlier)) if one is not None)
        return {entry.file for entry in (*(step.state for step in steps), *slots, *seen)}
