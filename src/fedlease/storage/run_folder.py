"""The files of a run folder other than checkpoints: settings, environment, clients, allocation, summary."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from fedlease._version import __version__
from fedlease.config.faults import not_installed, sentences
from fedlease.config.layers import MOST_YAML, differences, parse_yaml
from fedlease.config.precedence import is_said
from fedlease.config.settings import Settings
from fedlease.core.types import ClientId
from fedlease.core.wording import listed, printable
from fedlease.data.federation import ClientCard
from fedlease.errors import RunFolderError
from fedlease.files import check_walls, locked, write_atomically
from fedlease.storage.checkpoint import FORMAT
from fedlease.storage.contents import (
    AllocationContent,
    ClientsContent,
    EnvironmentContent,
    NewcomerContent,
)
from fedlease.storage.run_files import INDEX, RunFiles, as_json

__all__ = [
    "CONFIG",
    "changed_settings",
    "data_fingerprint",
    "method_files",
    "method_folder",
    "newcomer_files",
    "newcomer_folder",
    "read_allocation",
    "read_clients",
    "read_environment",
    "read_newcomers",
    "read_settings",
    "read_skipped",
    "run_lock",
    "write_clients",
    "write_json",
]

CONFIG = "config.yaml"
MAY_CHANGE = ("data.path", "device", "fedlease.admitted", "fedlease.unlike", "flower.")
"""Settings that may be edited in a run folder: where rows and machine are now, and what is of a call."""
TRACKED = "wandb"
"""A folder of a run that holds links, which nothing here reads."""
FEW = 5
"""Changed settings that are told one by one."""
LONGEST = 500
"""Characters that they are told in."""


def run_lock(out: Path) -> AbstractContextManager[None]:
    """Keeps other processes from writing into a run folder while this one runs, resumes or onboards.

    Raises:
        RunFolderError: another process holds it, or the folder cannot be written.
    """
    return locked(out, "run")


def read_skipped(out: Path) -> dict[ClientId, str]:
    """Client -> why it takes no part in the run."""
    return dict(read_environment(out).get("skipped_clients") or {})


def write_clients(out: Path, cards: Mapping[ClientId, ClientCard]) -> None:
    """Writes ``clients.json``."""
    names = ("task", "labels", "pairs", "train_rows", "valid_rows", "test_rows", "fingerprint")
    content = {c: {name: getattr(card, name) for name in names} for c, card in cards.items()}
    RunFiles(out).write_json("clients.json", content)


def method_folder(out: Path, settings: Settings, method: str) -> Path:
    """The run folder itself for the main method, ``baselines/<method>`` for the others."""
    return out if method == settings.method else out / "baselines" / method


def method_files(out: Path, settings: Settings, method: str) -> RunFiles:
    """The files in :func:`method_folder`."""
    return RunFiles(out, "" if method == settings.method else f"baselines/{method}")


def read_settings(out: Path) -> Settings:
    """The resolved settings of a run, whose folder is made sure to hold files and folders alone.

    Raises:
        RunFolderError: no run folder, damaged, of another version, changed since the run began, or with a link in it.
    """
    path = out / CONFIG
    if not path.exists() and not path.is_symlink():
        raise RunFolderError(f"{out} is not a run folder: it holds no {CONFIG}")
    check_walls(out, skip=frozenset({TRACKED}))
    files = RunFiles(out)
    if not files.indexed and (out / "state").exists():
        raise RunFolderError(f"{out / INDEX} is missing or damaged: there is no such file")
    environment = read_environment(out)
    if environment["format"] != FORMAT:
        raise RunFolderError(
            f"{out} was written in format {environment['format']} by fedlease {environment.get('fedlease')}; "
            f"this is fedlease {__version__}, which reads format {FORMAT}"
        )
    try:
        settings = Settings.model_validate(parse_yaml(files.read(CONFIG, MOST_YAML).decode("utf-8")))
    except ValidationError as error:
        raise RunFolderError([f"{path} is damaged: {fault}" for fault in sentences(error, Settings)]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{path} is damaged: {printable(' '.join(str(error).split()))}") from error
    try:
        begun = settings if files.settings is None else Settings.model_validate(files.settings)
    except ValidationError as error:
        raise RunFolderError(f"{out / INDEX} is damaged: {sentences(error, Settings)[0]}") from error
    here, there = (s.model_dump(mode="json") for s in (begun, settings))
    changed = [change for change in differences(there, here) if not change[0].startswith(MAY_CHANGE)]
    if changed:
        told = [printable(f"{key} is {now!r}, and was {then!r}", longest=LONGEST) for key, now, then in changed]
        raise RunFolderError(
            f"{path} was changed since the run began: {listed(told, FEW, separator='; ')}; put it back, or begin "
            "a new run with it"
        )
    if absent := not_installed((settings.method, *settings.baselines)):
        raise RunFolderError([f"{out}: {sentence}" for sentence in absent])
    return settings


def read_environment(out: Path) -> dict[str, Any]:
    """Versions, machine and data that a run began with.

    Raises:
        RunFolderError: missing or damaged.
    """
    return RunFiles(out).read_json("environment.json", EnvironmentContent)


def data_fingerprint(out: Path) -> str | None:
    """SHA-256 over all rows that a run began with.

    Raises:
        RunFolderError: the file that holds it is missing or damaged.
    """
    found: str | None = read_environment(out).get("data_fingerprint")
    return found


def read_allocation(out: Path) -> dict[str, Any] | None:
    """Who trains which expert under the main method; None where nothing is allocated.

    Raises:
        RunFolderError: damaged.
    """
    files = RunFiles(out)
    return files.read_json("allocation.json", AllocationContent) if files.has("allocation.json") else None


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


def read_clients(out: Path) -> dict[str, dict[str, Any]]:
    """Client -> task, labels and row counts.

    Raises:
        RunFolderError: missing or damaged, or an id that is none.
    """
    return RunFiles(out).read_json("clients.json", ClientsContent)


def newcomer_folder(out: Path, client: ClientId) -> Path:
    """``onboarded/<client>``; ids are checked to be folder names when they are first read."""
    return out / "onboarded" / client


def newcomer_files(out: Path, client: ClientId) -> RunFiles:
    """The files in :func:`newcomer_folder`."""
    return RunFiles(out, f"onboarded/{client}")


def read_newcomers(out: Path) -> dict[ClientId, dict[str, Any]]:
    """Client -> content of its ``onboarding.json``, for clients that joined after the run; sorted.

    Raises:
        RunFolderError: one is damaged, or does not stand in the folder of its client.
    """
    found = {}
    # A name with a dot in front is a folder that was never completed.
    for path in sorted((out / "onboarded").glob("[!.]*/onboarding.json")):
        content = newcomer_files(out, path.parent.name).read_json("onboarding.json", NewcomerContent)
        if content["client"] != path.parent.name:
            raise RunFolderError(f"{path} is damaged: it is about another client, {content['client']!r}")
        found[path.parent.name] = content
    return found


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes JSON that is no part of a run, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, as_json(content))
