"""What a run folder holds before anything is trained: settings, environment, clients, and a base made for the run."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedlease._version import __version__
from fedlease.config.layers import MOST_YAML
from fedlease.config.settings import Settings
from fedlease.core.types import ClientId
from fedlease.data.federation import ClientCard
from fedlease.errors import RunFolderError
from fedlease.files import write_atomically
from fedlease.storage.checkpoint import FORMAT
from fedlease.storage.run_files import RunFiles
from fedlease.storage.run_folder import CONFIG, write_clients
from fedlease.storage.run_identity import new_identity

__all__ = ["start_run"]

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
    *,
    made: Mapping[str, bytes],
    identity: str | None = None,
    skipped: Mapping[ClientId, str] | None = None,
    base_files: Mapping[str, str],
) -> None:
    """Writes ``config.yaml``, ``environment.json`` and ``clients.json``, and a base made for this run.

    ``config.yaml`` comes last: a folder with it can be resumed.

    Args:
        out: the run folder.
        settings: resolved.
        cards: what is known of every client.
        fingerprint: of all rows.
        warnings: of the data and of the base model.
        made: the files of a base model that exists nowhere else, by name.
        identity: of the run; None makes a new one.
        skipped: client -> why it takes no part.
        base_files: SHA-256 of the files of the base model and its tokenizer, by name.

    Raises:
        RunFolderError: ``out`` already holds a run or a part of one, or cannot be written.
    """
    if (out / CONFIG).exists():
        raise RunFolderError(
            f"out: {out} already holds a run; go on with: fedlease resume {out}, or choose another --out"
        )
    if parts := [name for name in ("state", "baselines", "onboarded") if (out / name).exists()]:
        raise RunFolderError(f"out: {out} holds a part of a run, {parts[0]}, without {CONFIG}; choose another --out")
    written = settings.to_yaml()
    if len(written) > MOST_YAML:
        raise RunFolderError(f"{CONFIG}: the settings have {len(written):,} characters, the most is {MOST_YAML:,}")
    files = RunFiles(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        files.begin(settings.model_dump(mode="json"))
        for name, blob in made.items():
            files.write(f"base/{name}", blob)
        write_clients(out, cards)
        environment = _environment(settings, fingerprint, warnings, identity, base_files)
        content = {**environment, "skipped_clients": dict(sorted((skipped or {}).items()))}
        files.write_json("environment.json", content)
        write_atomically(out / CONFIG, written.encode())
    except OSError as error:
        raise RunFolderError(f"out: {out} cannot be written: {error}; make room or choose another --out") from error


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
