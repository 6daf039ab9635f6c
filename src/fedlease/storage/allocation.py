"""``allocation.json``, with the expert of every client, and files for matrices of many clients and for placement."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, model_validator
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedlease.core.directions import GroupDirections
from fedlease.core.placement import Centroids
from fedlease.core.types import Allocation, ClientId
from fedlease.core.wording import printable
from fedlease.errors import RunFolderError
from fedlease.storage.documents import MOST_EXPERTS, ClientName, Content, Expert, Finite
from fedlease.storage.run_files import MOST_WEIGHTS, RunFiles

__all__ = ["read_allocation", "write_allocation"]

NAME = "allocation.json"
PAIRS = "distances.safetensors"
MATRICES = ("distances", "corrected", "corrected_error")

LISTED = 64
"""Most clients for which the JSON file has the matrices of all pairs; for more they are in a float32 file."""

DIGITS = 4
"""Number of decimals of similarities, whose errors are far larger than the rounding."""

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Allocation(Content):
    clients: list[ClientName]
    num_experts: Annotated[int, Field(ge=1, le=MOST_EXPERTS)]
    assignment: dict[ClientName, Expert]
    silhouettes: dict[Annotated[str, Field(pattern=r"^[0-9]{1,6}$")], Finite]
    distances: list[list[Finite]] | None = None
    warnings: list[str] = Field(default_factory=list)
    reliability: dict[ClientName, Finite] = Field(default_factory=dict)
    corrected: list[list[Finite | None]] | None = None
    corrected_error: list[list[NotNegative | None]] | None = None
    evidence: dict[ClientName, Finite] = Field(default_factory=dict)
    unsure: list[ClientName] = Field(default_factory=list)

    @model_validator(mode="after")
    def _fits(self) -> "_Allocation":
        count = len(self.clients)
        if len(set(self.clients)) < count:
            raise ValueError("a client is named twice")
        for name in MATRICES:
            matrix = getattr(self, name)
            if matrix is not None and (len(matrix) != count or any(len(row) != count for row in matrix)):
                raise ValueError(f"{name} must have {count} rows and columns, one per client")
        if _unknown(self.corrected) != _unknown(self.corrected_error):
            raise ValueError("corrected and corrected_error must be known for the same pairs")
        if strangers := {*self.reliability, *self.evidence, *self.unsure} - set(self.clients):
            raise ValueError(f"reliability, evidence or unsure names {min(strangers)!r}, which is none of the clients")
        if missing := set(self.clients) - self.assignment.keys():
            raise ValueError(f"no expert is assigned to {min(missing)!r}")
        if any(expert >= self.num_experts for expert in self.assignment.values()):
            raise ValueError(f"an assigned expert is not below num_experts = {self.num_experts}")
        return self


def _unknown(matrix: list[list[float | None]] | None) -> list[list[bool]] | None:
    return None if matrix is None else [[value is None for value in row] for row in matrix]


def write_allocation(
    files: RunFiles,
    allocation: Allocation,
    centroids: Centroids | GroupDirections | None,
    tasks: Mapping[ClientId, str],
) -> None:
    """Writes an allocation, and the centroids or directions of groups with which late clients are compared.

    Args:
        files: the method's files.
        allocation: the allocation.
        centroids: mean warm-up of every cluster, or common part of every group's warm-ups; None writes none.
        tasks: client -> what its rows are about.

    Raises:
        OSError: a file cannot be written.
    """
    if isinstance(centroids, GroupDirections):
        factors = {f"{module}/A": tensor for module, tensor in centroids.a.items()}
        factors |= {f"{module}/B": tensor for module, tensor in centroids.b.items()}
        files.write("allocation.safetensors", save(factors, metadata={"experts": json.dumps(centroids.experts)}))
    elif centroids is not None:
        metadata = {"modules": json.dumps(centroids.modules), "reach": json.dumps([str(r) for r in centroids.reach])}
        blob = save({"units": centroids.units, "zeros": centroids.zeros}, metadata=metadata)
        files.write("allocation.safetensors", blob)
    if len(allocation.clients) > LISTED:
        allocation = _written_apart(files, allocation)
    content = _Allocation(
        clients=allocation.clients,
        num_experts=allocation.num_experts,
        assignment=allocation.assignment,
        silhouettes={str(k): score for k, score in allocation.silhouettes.items()},
        distances=None if allocation.distances is None else allocation.distances.tolist(),
        warnings=list(allocation.warnings),
        **_of_halves(allocation),
    )
    found = {name: value for name, value in content.content.items() if value is not None}
    named = {client: tasks.get(client, "default") for client in allocation.clients}
    files.write_json(NAME, {**found, "tasks": named})


def _written_apart(files: RunFiles, allocation: Allocation) -> Allocation:
    """The allocation without its matrices, which are written if they are not on disk yet."""
    found = {name: matrix for name in MATRICES if (matrix := getattr(allocation, name)) is not None}
    blob = save({name: matrix.float().contiguous() for name, matrix in found.items()})
    if found and not files.holds(PAIRS, blob):
        files.write(PAIRS, blob)
    return replace(allocation, distances=None, corrected=None, corrected_error=None)


def _read_apart(files: RunFiles, count: int) -> dict[str, Tensor]:
    """The matrices that :func:`_written_apart` wrote, for this number of clients."""
    if not files.has(PAIRS):
        return {}
    fault = ""
    try:
        found = load(files.read(PAIRS, MOST_WEIGHTS))
    except (SafetensorError, ValueError, KeyError) as error:
        found, fault = {}, str(error)
    for name, matrix in found.items():
        known = matrix[~matrix.isnan()] if name in MATRICES[1:] else matrix
        if name not in MATRICES or matrix.dtype != torch.float32:
            fault = f"{printable(name)} is none of {', '.join(MATRICES)} in float32"
        elif matrix.shape != (count, count):
            fault = f"{name} must have {count} rows and columns, one per client"
        elif not bool(known.isfinite().all()) or (name == MATRICES[2] and bool((known < 0).any())):
            fault = f"{name} has values that are not finite or out of range"
    unknown = [found[name].isnan() for name in MATRICES[1:] if name in found]
    if not fault and unknown and (len(unknown) == 1 or not unknown[0].equal(unknown[1])):
        fault = "corrected and corrected_error must be known for the same pairs"
    if fault:
        raise RunFolderError(f"{files.folder / PAIRS} is damaged: {fault}")
    return {name: matrix.double() for name, matrix in found.items()}


def read_allocation(out: Path) -> Allocation | None:
    """Reads the allocation of the main method; None if there is none.

    Raises:
        RunFolderError: it is damaged.
    """
    files = RunFiles(out)
    if not files.has(NAME):
        return None
    content = files.read_model(NAME, _Allocation)
    listed = {name: _matrix(getattr(content, name)) for name in MATRICES}
    apart = {} if any(matrix is not None for matrix in listed.values()) else _read_apart(files, len(content.clients))
    matrices = {**listed, **apart}
    return Allocation(
        num_experts=content.num_experts,
        assignment=content.assignment,
        silhouettes={int(k): score for k, score in sorted(content.silhouettes.items(), key=lambda i: int(i[0]))},
        clients=content.clients,
        warnings=tuple(content.warnings),
        reliability=content.reliability,
        distances=matrices["distances"],
        corrected=matrices["corrected"],
        corrected_error=matrices["corrected_error"],
        evidence=content.evidence,
        unsure=tuple(content.unsure),
    )


def _of_halves(allocation: Allocation) -> dict[str, Any]:
    """The evidence from warm-ups with halves; empty for other methods, whose file has no such keys."""
    found = {
        "reliability": dict(allocation.reliability),
        "corrected": _listed(allocation.corrected),
        "corrected_error": _listed(allocation.corrected_error),
        "evidence": {c: round(value, DIGITS) for c, value in allocation.evidence.items() if math.isfinite(value)},
        "unsure": list(allocation.unsure),
    }
    return {name: value for name, value in found.items() if value}


def _listed(matrix: Tensor | None) -> list[list[float | None]] | None:
    """Replaces NaN, which JSON does not have, by null."""
    if matrix is None:
        return None
    return [[None if math.isnan(value) else round(value, DIGITS) for value in row] for row in matrix.tolist()]


def _matrix(rows: Sequence[Sequence[float | None]] | None) -> Tensor | None:
    if rows is None:
        return None
    known = [[math.nan if value is None else value for value in row] for row in rows]
    return torch.tensor(known, dtype=torch.float64)
