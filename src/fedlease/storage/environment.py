"""``environment.json``: the environment in which a run began, and the number of the folder's format."""

import importlib.metadata
import os
import platform
import re
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from fedlease._version import __version__
from fedlease.config.settings import Settings
from fedlease.config.tables import SOURCE_GROUP, TASK_GROUP
from fedlease.core.names import ClientId
from fedlease.core.plugins import package_versions
from fedlease.core.wording import printable
from fedlease.errors import RunFolderError
from fedlease.methods.registry import GROUP
from fedlease.storage.documents import Content, Count, Name, read_object
from fedlease.storage.run_files import RunFiles

__all__ = ["FORMAT", "Continued", "Environment", "is_identity", "new_environment", "new_identity", "read_environment"]

FORMAT = 2
"""Number of the run folder's format, raised by every change that another version would misread."""
NAME = "environment.json"
IDENTITY = r"^[0-9a-f]{32}$"

PACKAGES = (
    "accelerate", "datasets", "flwr-datasets", "numpy", "peft", "pydantic", "safetensors", "scikit-learn", "scipy",
    "tokenizers", "torch", "transformers",
)  # fmt: skip


class _Git(Content):
    commit: str
    clean: bool


class Continued(Content):
    """A run that another one continues.

    Attributes:
        run: identity of the run.
        name: name of its folder, without the folders above.
        rounds: number of its rounds.
    """

    run: Annotated[str, Field(pattern=IDENTITY)]
    name: Name
    rounds: Count


class Environment(Content):
    """The environment in which a run began.

    Attributes:
        format: number of the folder's format.
        run: identity of the run, which no other run has.
        fedlease: version of fedlease.
        started: date and time, UTC.
        python: version of Python.
        platform: operating system.
        cores: number of cores of the machine.
        threads: number of threads with which a client computes.
        device: device on which clients compute.
        packages: package -> version, including packages that add the method, task or source.
        git: state of the working directory.
        data_fingerprint: SHA-256 over all rows.
        data_warnings: warnings about the data and the base model.
        model_revision: commit of a hub model.
        base_files: name of a file of the base model or its tokenizer -> SHA-256.
        skipped_clients: client -> why it takes no part.
        continued: the runs that it continues, oldest first.
    """

    format: int
    run: Annotated[str, Field(pattern=IDENTITY)]
    fedlease: str | None = None
    started: str | None = None
    python: str | None = None
    platform: str | None = None
    cores: int | None = None
    threads: int | None = None
    device: str | None = None
    packages: dict[str, str | None] = Field(default_factory=dict)
    git: _Git | None = None
    data_fingerprint: str | None = None
    data_warnings: list[str] = Field(default_factory=list)
    model_revision: str | None = None
    base_files: dict[str, str] | None = None
    skipped_clients: dict[Name, str] = Field(default_factory=dict)
    continued: list[Continued] = Field(default_factory=list)


def new_identity() -> str:
    """The identity of a new run: 32 random hexadecimal digits."""
    return secrets.token_hex(16)


def is_identity(value: Any) -> bool:
    """Whether a value has the form of :func:`new_identity`, so that it can name a folder on a node."""
    return isinstance(value, str) and re.match(IDENTITY, value) is not None and len(value) == 32


def new_environment(
    settings: Settings,
    fingerprint: str,
    warnings: Sequence[str],
    base_files: Mapping[str, str],
    skipped: Mapping[ClientId, str],
    identity: str | None,
    continued: Sequence[Continued] = (),
) -> Environment:
    """The environment of a run that begins now; see :func:`fedlease.storage.run_folder.start_run`."""
    versions = {package: _version(package) for package in PACKAGES}
    methods = (settings.method, *settings.baselines)
    versions |= package_versions({GROUP: methods, TASK_GROUP: [settings.task], SOURCE_GROUP: [settings.data.source]})
    return Environment(
        format=FORMAT,
        run=identity or new_identity(),
        fedlease=__version__,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        python=platform.python_version(),
        platform=platform.platform(),
        cores=os.cpu_count(),
        threads=settings.num_threads,
        device=settings.device,
        packages=versions,
        git=_git_state(),
        data_fingerprint=fingerprint,
        data_warnings=list(warnings),
        model_revision=settings.revision,
        base_files=dict(base_files),
        skipped_clients=dict(sorted(skipped.items())),
        **({"continued": list(continued)} if continued else {}),
    )


def read_environment(out: Path) -> Environment:
    """Reads the environment in which a run began; refuses a folder of another format.

    Raises:
        RunFolderError: it is missing, damaged, or has another format.
    """
    # The format is checked first, since other formats may have other contents.
    stated = read_object(out / NAME)
    found = stated.get("format")
    if type(found) is not int or found != FORMAT:
        what = f"is of format {printable(repr(found), longest=20)}" if "format" in stated else "states no format"
        writer = printable(str(stated.get("fedlease", "unknown")), longest=20)
        raise RunFolderError(
            f"{out} {what}: read it with the fedlease that wrote it, version {writer}; version {__version__}, which is "
            f"installed here, reads format {FORMAT}"
        )
    return RunFiles(out).read_model(NAME, Environment)


@cache
def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git_state() -> _Git | None:
    """Commit and cleanliness of the working directory; None if it is no git checkout."""
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=5)
        status = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return None
    return _Git(commit=commit.stdout.strip(), clean=not status.stdout.strip())
