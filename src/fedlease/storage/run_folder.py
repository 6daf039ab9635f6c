"""The files of a run folder other than checkpoints: settings, environment, clients, allocation, summary."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, RootModel, ValidationError

from fedlease.config.faults import not_installed, sentences
from fedlease.config.layers import MOST_YAML, differences, parse_yaml
from fedlease.config.precedence import is_stated
from fedlease.config.settings import Settings, read_values
from fedlease.config.tables import RowKind
from fedlease.core.names import ClientId
from fedlease.core.wording import listed, printable
from fedlease.data.federation import ClientCard
from fedlease.errors import RunFolderError
from fedlease.files import check_walls, locked, write_atomically
from fedlease.storage.documents import ClientName, Content, Count, MeanAndDeviation
from fedlease.storage.environment import Continued, new_environment, read_environment
from fedlease.storage.run_files import INDEX, RunFiles, as_json

__all__ = [
    "CONFIG",
    "changed_settings",
    "check_no_run",
    "default_out",
    "method_files",
    "read_clients",
    "read_settings",
    "run_lock",
    "start_run",
    "write_clients",
    "write_json",
]

CONFIG = "config.yaml"
MAY_CHANGE = ("data.path", "device", "fedlease.admitted", "fedlease.unlike", "flower.")
"""Settings that may be edited in a run folder: the places of rows, the machine, and options of a call."""
TRACKED = "wandb"
"""A folder in a run folder that may contain links, and is never read."""
FEW = 5
"""Number of changed settings that a message lists."""
LONGEST = 500
"""Characters of one listed setting."""


class _Client(Content):
    task: str
    labels: list[str]
    pairs: bool
    train_rows: Count
    valid_rows: Count
    test_rows: Count
    fingerprint: str
    kind: RowKind = "labels"
    scale: MeanAndDeviation | None = None
    key: Annotated[str, Field(max_length=100)] = ""


class _Clients(RootModel[dict[ClientName, _Client]]):
    pass


def run_lock(out: Path) -> AbstractContextManager[None]:
    """Keeps other processes from writing into a run folder while this one runs, resumes or onboards.

    Raises:
        RunFolderError: another process has it, or the folder cannot be written.
    """
    return locked(out, "run")


def default_out(settings: Settings) -> Path:
    """``runs/<time>-<method>``, a folder that does not exist yet."""
    stem = Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{settings.method}"
    return next(path for n in count() if not (path := stem if n == 0 else Path(f"{stem}-{n}")).exists())


def check_no_run(out: Path) -> None:
    """Checks that a run can begin in a folder.

    Raises:
        RunFolderError: it already contains a run or a piece of one.
    """
    if (out / CONFIG).exists():
        raise RunFolderError(
            f"out: {out} already holds a run; go on with: fedlease resume {out}, or choose another --out"
        )
    if rest := [name for name in ("state", "baselines", "onboarded") if (out / name).exists()]:
        raise RunFolderError(f"out: {out} holds a part of a run, {rest[0]}, without {CONFIG}; choose another --out")


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
    continued: Sequence[Continued] = (),
    before: Callable[[], None] | None = None,
) -> None:
    """Writes ``config.yaml``, ``environment.json`` and ``clients.json``, and a base made for this run.

    ``config.yaml`` comes last: a folder with it can be resumed.

    Args:
        out: the run folder.
        settings: resolved settings.
        cards: client -> its card.
        fingerprint: SHA-256 over all rows.
        warnings: warnings about the data and the base model.
        made: name -> content, of the files of a base model that was made for this run.
        identity: identity of the run; None makes a new one.
        skipped: client -> why it takes no part.
        base_files: name of a file of the base model or its tokenizer -> SHA-256.
        continued: the runs that it continues, oldest first.
        before: writes the state from which the run continues; called just before ``config.yaml`` is written.

    Raises:
        RunFolderError: ``out`` already contains a run or a piece of one, or cannot be written.
    """
    check_no_run(out)
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
        environment = new_environment(settings, fingerprint, warnings, base_files, skipped or {}, identity, continued)
        files.write_json("environment.json", environment.content)
        if before is not None:
            before()
        write_atomically(out / CONFIG, written.encode())
    except OSError as error:
        raise RunFolderError(f"out: {out} cannot be written: {error}; make room or choose another --out") from error


def method_files(out: Path, settings: Settings, method: str) -> RunFiles:
    """The files of a method: in the run folder itself for the main one, in ``baselines/<method>`` for the others."""
    return RunFiles(out, "" if method == settings.method else f"baselines/{method}")


def read_settings(out: Path) -> Settings:
    """Reads the resolved settings of a run, after checking that its folder has only regular files and folders.

    Raises:
        RunFolderError: it is no run folder, is damaged, has another version, was changed since the run began, or
            contains a link.
    """
    path = out / CONFIG
    if not path.exists() and not path.is_symlink():
        raise RunFolderError(f"{out} is not a run folder: it holds no {CONFIG}")
    check_walls(out, skip=frozenset({TRACKED}))
    files = RunFiles(out)
    if not (out / INDEX).exists() and (out / "state").exists():
        raise RunFolderError(f"{out / INDEX} is missing or damaged: there is no such file")
    read_environment(out)
    try:
        values = parse_yaml(files.read(CONFIG, MOST_YAML).decode("utf-8"))
        # Methods that are not installed come first, since their settings would be unknown.
        if absent := not_installed(values):
            raise RunFolderError([f"{out}: {sentence}" for sentence in absent])
        settings = read_values(values)
    except ValidationError as error:
        raise RunFolderError([f"{path} is damaged: {fault}" for fault in sentences(error, Settings)]) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{path} is damaged: {printable(' '.join(str(error).split()))}") from error
    try:
        begun = settings if files.settings is None else read_values(files.settings)
    except ValidationError as error:
        raise RunFolderError(f"{out / INDEX} is damaged: {sentences(error, Settings)[0]}") from error
    here, there = (s.model_dump(mode="json") for s in (begun, settings))
    changed = [change for change in differences(there, here) if not change[0].startswith(MAY_CHANGE)]
    if changed:
        shown = [printable(f"{key} is {now!r}, and was {then!r}", longest=LONGEST) for key, now, then in changed]
        raise RunFolderError(
            f"{path} was changed since the run began: {listed(shown, FEW, separator='; ')}; put it back, or begin "
            "a new run with it"
        )
    return settings


def changed_settings(found: Settings, wanted: Settings, exclude: Any = None) -> list[tuple[str, Any, Any]]:
    """Settings that differ from those of a run: (dotted key, the run's value, the wanted value).

    Args:
        found: the run's settings.
        wanted: settings that are resolved for this machine.
        exclude: settings that may differ, in the form of pydantic's ``exclude``.
    """
    there, here = (s.model_dump(mode="json", exclude=exclude) for s in (found, wanted))
    if wanted.revision is None:  # a hub model's is resolved when the run begins
        here["revision"] = there["revision"]
    if wanted.clients_per_step == "auto" and "clients_per_step" in here:  # measured when the run begins
        here["clients_per_step"] = there["clients_per_step"]
    if wanted.base.skip_unread == "auto":  # depends on the model
        here["base"]["skip_unread"] = there["base"]["skip_unread"]
    for group, name in (("data", "max_tokens"), ("generation", "max_new_tokens")):
        if not is_stated(wanted, f"{group}.{name}"):  # fitted to the model when the run begins
            here[group][name] = min(here[group][name], there[group][name])
    return list(differences(there, here))


def write_clients(out: Path, cards: Mapping[ClientId, ClientCard]) -> None:
    """Writes ``clients.json``."""
    content = {c: {name: getattr(card, name) for name in _Client.model_fields} for c, card in cards.items()}
    RunFiles(out).write_json("clients.json", content)


def read_clients(out: Path) -> dict[ClientId, ClientCard]:
    """Client -> its card.

    Raises:
        RunFolderError: the file is missing or damaged, or an id is invalid.
    """
    found = RunFiles(out).read_model("clients.json", _Clients).root
    return {c: _card(c, entry) for c, entry in found.items()}


def _card(client: ClientId, entry: _Client) -> ClientCard:
    scale = None if entry.scale is None else (entry.scale[0], entry.scale[1])
    return ClientCard(id=client, **{**entry.content, "labels": tuple(entry.labels), "scale": scale})


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file that is no part of a run, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, as_json(content))
