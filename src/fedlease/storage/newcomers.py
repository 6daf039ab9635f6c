"""Clients that joined after the run, in ``onboarded/<client>/`` of the run folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field

from fedlease.core.codec import CodecError, dumps, loads
from fedlease.core.types import ClientId, ClientModel
from fedlease.errors import RunFolderError
from fedlease.files import new_folder, write_atomically
from fedlease.storage.documents import ClientName, Content, Count, Expert, Finite, MeanAndDeviation
from fedlease.storage.run_files import MOST_WEIGHTS, RunFiles, as_json

__all__ = ["Newcomer", "newcomer_model", "read_newcomers", "write_newcomer"]

MODEL = "model.safetensors"
ENTRY = "onboarding.json"


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain NUL")
    return text


class Newcomer(Content):
    """``onboarding.json``: the onboarding of a client.

    Attributes:
        client: its id.
        task: what its rows are about.
        labels: its own label list.
        pairs: whether its rows are pairs of texts.
        scale: mean and standard deviation of its numbers.
        train_rows: number of train rows.
        valid_rows: number of validation rows.
        test_rows: number of test rows.
        data: folder or file of its rows.
        data_fingerprint: SHA-256 over its rows.
        expert: its expert; None under a method without experts.
        distances: distance of its warm-up to the centroid of every expert.
        margin: how much farther the second nearest expert is, as a share; None for one expert.
        unlike: whether it is farther from its expert than any client of the run from its own; with similarities,
            whether no expert is known to have its task.
        similarities: corrected similarity to every expert, None if unknown; [] if it was placed by distances.
        errors: standard errors of the similarities.
        reliability: share of its warm-up that is due to its task; None if it was placed by distances.
        learnt: whether it had learnt enough to be compared.
        likeness: words for its similarity to its expert.
        epochs: passes of local training after the placement.
        metric: the headline metric.
        scores: name of a model -> headline metric on its test rows, in order.
    """

    client: ClientName
    task: str = "default"
    labels: list[str] = Field(default_factory=list)
    pairs: bool | None = None
    scale: MeanAndDeviation | None = None
    train_rows: Count = 0
    valid_rows: Count = 0
    test_rows: Count = 0
    data: Annotated[str, AfterValidator(_no_nul)] | None = None
    data_fingerprint: str | None = None
    expert: Expert | None = None
    distances: list[Finite] = Field(default_factory=list)
    margin: float | None = None
    unlike: bool = False
    similarities: list[Finite | None] = Field(default_factory=list)
    errors: list[Finite | None] = Field(default_factory=list)
    reliability: Finite | None = None
    learnt: bool = True
    likeness: str = ""
    epochs: Count = 0
    metric: str = ""
    scores: Mapping[str, Finite | None] = Field(default_factory=dict)


def read_newcomers(out: Path) -> dict[ClientId, Newcomer]:
    """Client -> its onboarding, sorted.

    Raises:
        RunFolderError: one is damaged, or is in another client's folder.
    """
    found = {}
    # A folder whose name begins with a dot was never completed.
    for path in sorted((out / "onboarded").glob(f"[!.]*/{ENTRY}")):
        newcomer = _files(out, path.parent.name).read_model(ENTRY, Newcomer)
        if newcomer.client != path.parent.name:
            raise RunFolderError(f"{path} is damaged: it is about another client, {newcomer.client!r}")
        found[newcomer.client] = newcomer
    return found


def newcomer_model(out: Path, client: ClientId) -> ClientModel:
    """The model of a newcomer.

    Raises:
        RunFolderError: its file is missing or damaged.
    """
    files = _files(out, client)
    path = files.folder / MODEL
    try:
        model = loads(files.read(MODEL, MOST_WEIGHTS))
    except CodecError as error:
        raise RunFolderError(f"{path} is missing or damaged: {error}") from error
    if not isinstance(model, ClientModel):
        raise RunFolderError(f"{path} is damaged: it contains a {type(model).__name__}")
    return model


def write_newcomer(out: Path, model: ClientModel, newcomer: Newcomer) -> Path:
    """Writes a newcomer's folder, which appears complete or not at all, and returns its path.

    Raises:
        OSError: it cannot be written.
    """
    files = _files(out, newcomer.client)
    contents = {MODEL: dumps(model), ENTRY: as_json(newcomer.content)}
    files.expect(contents)
    with new_folder(files.folder) as folder:
        for name, blob in contents.items():
            write_atomically(folder / name, blob)
    return files.folder


def _files(out: Path, client: ClientId) -> RunFiles:
    # Ids are checked to be folder names when they are first read.
    return RunFiles(out, f"onboarded/{client}")
