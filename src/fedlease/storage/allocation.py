"""``allocation.json`` and ``allocation.safetensors``: who trains which expert, and what places a late client."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, model_validator
from safetensors.torch import save

from fedlease.core.placement import Centroids
from fedlease.core.types import Allocation, ClientId
from fedlease.storage.documents import MOST_EXPERTS, ClientName, Content, Expert, Finite
from fedlease.storage.run_files import RunFiles

__all__ = ["read_allocation", "write_allocation"]

NAME = "allocation.json"


class _Allocation(Content):
    clients: list[ClientName]
    num_experts: Annotated[int, Field(ge=1, le=MOST_EXPERTS)]
    assignment: dict[ClientName, Expert]
    silhouettes: dict[Annotated[str, Field(pattern=r"^[0-9]{1,6}$")], Finite]
    distances: list[list[Finite]]
    warnings: list[str] = Field(default_factory=list)

    @model_validator(mode="after")
    def _fits(self) -> "_Allocation":
        count = len(self.clients)
        if len(set(self.clients)) < count:
            raise ValueError("a client is named twice")
        if len(self.distances) != count or any(len(row) != count for row in self.distances):
            raise ValueError(f"distances must have {count} rows and columns, one per client")
        if missing := set(self.clients) - self.assignment.keys():
            raise ValueError(f"no expert is assigned to {min(missing)!r}")
        if any(expert >= self.num_experts for expert in self.assignment.values()):
            raise ValueError(f"an assigned expert is not below num_experts = {self.num_experts}")
        return self


def write_allocation(
    files: RunFiles, allocation: Allocation, centroids: Centroids | None, tasks: Mapping[ClientId, str]
) -> None:
    """Writes an allocation, and the mean warm-up vector of every cluster.

    Args:
        files: of the method.
        allocation: who trains which expert.
        centroids: None writes none.
        tasks: client -> what its rows are about.

    Raises:
        OSError: it cannot be written.
    """
    if centroids is not None:
        metadata = {"modules": json.dumps(centroids.modules), "reach": json.dumps([str(r) for r in centroids.reach])}
        blob = save({"units": centroids.units, "zeros": centroids.zeros}, metadata=metadata)
        files.write("allocation.safetensors", blob)
    content = _Allocation(
        clients=allocation.clients,
        num_experts=allocation.num_experts,
        assignment=allocation.assignment,
        silhouettes={str(k): score for k, score in allocation.silhouettes.items()},
        distances=allocation.distances.tolist(),
        warnings=list(allocation.warnings),
    )
    named = {client: tasks.get(client, "default") for client in allocation.clients}
    files.write_json(NAME, {**content.content, "tasks": named})


def read_allocation(out: Path) -> Allocation | None:
    """Who trains which expert under the main method; None where nothing is allocated.

    Raises:
        RunFolderError: damaged.
    """
    files = RunFiles(out)
    if not files.has(NAME):
        return None
    content = files.read_model(NAME, _Allocation)
    return Allocation(
        num_experts=content.num_experts,
        assignment=content.assignment,
        silhouettes={int(k): score for k, score in sorted(content.silhouettes.items(), key=lambda i: int(i[0]))},
        distances=torch.tensor(content.distances, dtype=torch.float64),
        clients=content.clients,
        warnings=tuple(content.warnings),
    )
