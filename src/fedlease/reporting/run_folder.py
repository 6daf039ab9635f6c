"""The files of a run folder other than checkpoints: settings, environment, clients, allocation, summary."""

import importlib.metadata
import json
import os
import platform
import re
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from safetensors.torch import save

from fedlease import __version__
from fedlease.config import Settings
from fedlease.config_faults import not_installed, sentences
from fedlease.config_layers import differences
from fedlease.config_presets import is_said
from fedlease.core.allocate import Centres
from fedlease.core.types import Allocation, ClientId
from fedlease.data.federation import ClientCard
from fedlease.engines.checkpoint import FORMAT
from fedlease.errors import RunFolderError
from fedlease.files import copy_folder, locked, write_atomically
from fedlease.model_prints import check_files
from fedlease.model_sources import ModelSource

__all__ = [
    "changed_settings",
    "check_base",
    "is_identity",
    "method_folder",
    "new_identity",
    "newcomer_folder",
    "read_clients",
    "read_identity",
    "read_json",
    "read_newcomers",
    "read_settings",
    "read_skipped",
    "run_lock",
    "start_run",
    "write_allocation",
    "write_clients",
    "write_json",
]

PACKAGES = (
    "accelerate", "datasets", "flwr-datasets", "numpy", "peft", "pydantic", "safetensors", "scikit-learn", "scipy",
    "tokenizers", "torch", "transformers",
)  # fmt: skip


def start_run(
    out: Path,
    settings: Settings,
    cards: Mapping[ClientId, ClientCard],
    fingerprint: str,
    warnings: Sequence[str] = (),
    base: Path | None = None,
    *,
    identity: str | None = None,
    skipped: Mapping[ClientId, str] | None = None,
    base_files: Mapping[str, str],
) -> None:
    """Writes ``config.yaml``, ``environment.json`` and ``clients.json``, and copies a model made for this run.

    ``config.yaml`` comes last: a folder with it can be resumed.

    Args:
        out: the run folder.
        settings: resolved.
        cards: what is known of every client.
        fingerprint: of all rows.
        warnings: of the data and of the base model.
        base: folder of a base model that exists nowhere else, or None.
        identity: of the run; None makes a new one.
        skipped: client -> why it takes no part.
        base_files: SHA-256 of the files of the base model and its tokenizer, by name.

    Raises:
        RunFolderError: ``out`` already holds a run, or cannot be written.
    """
    if (out / "config.yaml").exists():
        raise RunFolderError(
            f"out: {out} already holds a run; go on with: fedlease resume {out}, or choose another --out"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        if base is not None:
            copy_folder(base, out / "base")
        write_clients(out, cards)
        environment = _environment(settings, fingerprint, warnings, identity, base_files)
        write_json(out / "environment.json", {**environment, "skipped_clients": dict(sorted((skipped or {}).items()))})
        write_atomically(out / "config.yaml", settings.to_yaml().encode())
    except OSError as error:
        raise RunFolderError(f"out: {out} cannot be written: {error}; make room or choose another --out") from error


def run_lock(out: Path) -> AbstractContextManager[None]:
    """Keeps other processes from writing into a run folder while this one runs, resumes or onboards.

    Raises:
        RunFolderError: another process holds it, or the folder cannot be written.
    """
    return locked(out, "run")


def read_skipped(out: Path) -> dict[ClientId, str]:
    """Client -> why it takes no part in the run."""
    return {str(c): str(why) for c, why in (read_json(out / "environment.json").get("skipped_clients") or {}).items()}


def write_clients(out: Path, cards: Mapping[ClientId, ClientCard]) -> None:
    """Writes ``clients.json``."""
    names = ("task", "labels", "pairs", "train_rows", "valid_rows", "test_rows", "fingerprint")
    write_json(out / "clients.json", {c: {name: getattr(card, name) for name in names} for c, card in cards.items()})


def method_folder(out: Path, settings: Settings, method: str) -> Path:
    """The run folder itself for the main method, ``baselines/<method>`` for the others."""
    return out if method == settings.method else out / "baselines" / method


def read_settings(out: Path) -> Settings:
    """The resolved settings of a run.

    Raises:
        RunFolderError: no run folder, damaged, or of another version.
    """
    path = out / "config.yaml"
    if not path.is_file():
        raise RunFolderError(f"{out} is not a run folder: it holds no config.yaml")
    environment = read_json(out / "environment.json")
    if environment.get("format") != FORMAT:
        raise RunFolderError(
            f"{out} was written in format {environment.get('format')} by fedlease {environment.get('fedlease')}; "
            f"this is fedlease {__version__}, which reads format {FORMAT}"
        )
    try:
        settings = Settings.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        raise RunFolderError([f"{path} is damaged: {fault}" for fault in sentences(error, Settings)]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{path} is damaged: {str(error).splitlines()[0]}") from error
    if absent := not_installed((settings.method, *settings.baselines)):
        raise RunFolderError([f"{out}: {sentence}" for sentence in absent])
    return settings


def new_identity() -> str:
    """A run's own name, which no other run has, whatever its settings: 32 random hexadecimal digits."""
    return secrets.token_hex(16)


def is_identity(value: Any) -> bool:
    """Whether it is one that :func:`new_identity` may have made; it names folders on nodes."""
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{32}", value) is not None


def read_identity(out: Path) -> str:
    """The identity of the run in a folder.

    Raises:
        RunFolderError: the folder does not say it.
    """
    found = read_json(out / "environment.json").get("run")
    if not is_identity(found):
        raise RunFolderError(f"{out / 'environment.json'} is damaged: run must be 32 hexadecimal digits")
    return str(found)


def changed_settings(found: Settings, wanted: Settings, exclude: Any = None) -> list[tuple[str, Any, Any]]:
    """Where settings are others than those of the run in a folder: dotted key, the run's value, the wanted one.

    Args:
        found: of the run folder.
        wanted: settled.
        exclude: what may differ, as pydantic's ``exclude``.
    """
    there, here = (s.model_dump(mode="json", exclude=exclude) for s in (found, wanted))
    if wanted.revision is None:  # a hub model's is resolved when the run begins
        here["revision"] = there["revision"]
    for group, name in (("data", "max_tokens"), ("generation", "max_new_tokens")):
        if not is_said(wanted, f"{group}.{name}"):  # fitted to the model when the run begins
            here[group][name] = min(here[group][name], there[group][name])
    return list(differences(there, here))


def check_base(out: Path, source: ModelSource, *, weights: bool = True) -> None:
    """Compares a base model with the one that a run was trained on.

    Args:
        out: run folder.
        source: of the model, as it is now.
        weights: whether its weights are compared too; else configuration and tokenizer alone.

    Raises:
        RunFolderError: it has changed, or the run folder is damaged.
        ModelError: a file of the hub cannot be had.
    """
    check_files(out, source, read_json(out / "environment.json").get("base_files"), weights=weights)


def read_clients(out: Path) -> dict[str, dict[str, Any]]:
    """Client -> task, labels and row counts."""
    return read_json(out / "clients.json")


def newcomer_folder(out: Path, client: ClientId) -> Path:
    """``onboarded/<client>``; ids are checked to be folder names when they are first read."""
    return out / "onboarded" / client


def read_newcomers(out: Path) -> dict[ClientId, dict[str, Any]]:
    """Client -> content of its ``onboarding.json``, for clients that joined after the run; sorted."""
    # A name with a dot in front is a folder that was never completed.
    found = [read_json(path) for path in sorted((out / "onboarded").glob("[!.]*/onboarding.json"))]
    return {str(entry["client"]): entry for entry in sorted(found, key=lambda entry: str(entry["client"]))}


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a run folder.

    Raises:
        RunFolderError: missing or damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{path} is missing or damaged: {type(error).__name__} {error}") from error
    if not isinstance(content, dict):
        raise RunFolderError(f"{path} is damaged: expected a JSON object")
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n")


def write_allocation(folder: Path, allocation: Allocation, centres: Centres | None, tasks: Mapping[str, str]) -> None:
    """Writes ``allocation.json`` and, with the mean warm-up vector of every cluster, ``allocation.safetensors``."""
    folder.mkdir(parents=True, exist_ok=True)
    if centres is not None:
        metadata = {"modules": json.dumps(centres.modules), "reach": json.dumps([str(r) for r in centres.reach])}
        blob = save({"units": centres.units, "zeros": centres.zeros}, metadata=metadata)
        write_atomically(folder / "allocation.safetensors", blob)
    write_json(
        folder / "allocation.json",
        {
            "clients": allocation.clients,
            "tasks": {client: tasks.get(client, "default") for client in allocation.clients},
            "num_experts": allocation.num_experts,
            "assignment": allocation.assignment,
            "silhouettes": {str(k): score for k, score in allocation.silhouettes.items()},
            "distances": allocation.distances.tolist(),
            "warnings": list(allocation.warnings),
        },
    )


def _environment(
    settings: Settings,
    fingerprint: str,
    warnings: Sequence[str],
    identity: str | None,
    base_files: Mapping[str, str],
) -> dict[str, Any]:
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "format": FORMAT,
        "run": identity or new_identity(),
        "fedlease": __version__,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": settings.threads,
        "device": settings.device,
        "packages": versions,
        "git": _git_state(),
        "data_fingerprint": fingerprint,
        "data_warnings": list(warnings),
        "model_revision": settings.revision,
        "base_files": dict(base_files),
    }


def _git_state() -> dict[str, Any] | None:
    """Commit and cleanliness of the working directory, where it is a git checkout."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=5)
        status = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.stdout.strip(), "clean": not status.stdout.strip()}
