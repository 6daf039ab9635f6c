"""Return of a run to an earlier round, with or without some of the clients."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedlease.client.store import ELSEWHERE
from fedlease.config.faults import nearest
from fedlease.config.settings import Settings, resolve
from fedlease.core.types import ClientId
from fedlease.core.wording import listed
from fedlease.errors import ConfigError, RunFolderError
from fedlease.methods.continuing import without_clients
from fedlease.runs.rows import rows_of, rows_of_run
from fedlease.storage.audit import Trail
from fedlease.storage.checkpoint import Checkpoint
from fedlease.storage.environment import read_environment
from fedlease.storage.run_files import RunFiles
from fedlease.storage.run_folder import CONFIG, method_files, read_clients, read_settings, write_clients
from fedlease.storage.saved import Saved
from fedlease.storage.summary import RESULT

__all__ = ["go_back"]

TOLD_APART = (
    "fedit", "feddpa", "fedlease", "fedlease-plus", "fedprox", "fedsa-lora", "ffa-lora", "ifca", "local", "rolora",
)  # fmt: skip
"""Methods whose state keeps clients apart, so that one can be removed; others sum over clients, or build a tree."""


def go_back(out: Path, to: int, without: Sequence[ClientId] = (), data: object = None) -> None:
    """Takes a run back to the start of a round; the caller holds the lock, and resumes the run afterwards.

    Round 0 is the warm-up, which removes all updates of clients. For a later round, the run must have kept the step
    before it (``checkpoints``). A baseline restarts if it has not kept this step, or if clients are removed and its
    state does not keep them apart.

    Args:
        out: run folder, of a finished or unfinished run.
        to: first round to repeat.
        without: clients that take no part from then on.
        data: the rows with which the run started, if they were in memory.

    Raises:
        ConfigError: a client does not exist, or no client would be left.
        RunFolderError: the step was not kept, the run is damaged, or its clients are on other machines.
    """
    settings, known = read_settings(out), read_clients(out)
    faults = [f"--without: {c!r} is not a client of {out}{nearest(c, known)}" for c in without if c not in known]
    if not faults and not {*known}.difference(without):
        faults.append("--without: names every client, and a run needs at least one")
    if faults:
        raise ConfigError(faults)
    steps = dict(_steps(out, settings, to, without))
    if without:
        rows_of_run(out, settings, data)  # checks that they are the rows with which the run started
    for name in (settings.method, *settings.baselines):
        files = method_files(out, settings, name)
        # Results are removed first, so that the run counts as unfinished even if this is interrupted.
        for result in (*RESULT, "report.html"):
            (files.folder / result).unlink(missing_ok=True)
    if without:
        _leave_out(out, settings, without, data)
    if settings.audit:
        trail = Trail.of(out)
        trail.add("went back", to=to, without=[*without])
        trail.flush()
    for name, saved in steps.items():
        checkpoint = Checkpoint(method_files(out, settings, name).folder, settings.checkpoints)
        if saved is None:
            checkpoint.forget()
        else:
            checkpoint.go_back(_reduced(saved, without))


def _steps(out: Path, settings: Settings, to: int, without: Sequence[ClientId]) -> Iterator[tuple[str, Saved | None]]:
    """Yields every method with the step to which it returns, or None if it restarts."""
    for name in (settings.method, *settings.baselines):
        checkpoint = Checkpoint(method_files(out, settings, name).folder, settings.checkpoints)
        last, earlier = checkpoint.load(), checkpoint.earlier()
        if last is not None and any(ELSEWHERE in slots for slots in last.private.values()):
            raise RunFolderError(
                f"{out}: its clients trained on their own machines, which keep a part of their models; start again in "
                "another folder, with data.without for clients that must not take part"
            )
        apart = name in TOLD_APART or not without
        if to and name == settings.method and not apart:
            raise ConfigError(
                f"--to: must be 0 with --without for {name}, whose state does not keep clients apart, received {to}"
            )
        if to and name == settings.method and to not in earlier:
            kept = f"only to rounds {', '.join(map(str, sorted(earlier)))}" if earlier else "as no round was kept"
            raise RunFolderError(
                f"{out}: the run cannot go back to round {to}, {kept} (checkpoints = {settings.checkpoints}); --to 0 "
                "starts with the warm-up again"
            )
        yield name, earlier.get(to) if to and apart else None


def _reduced(saved: Saved, without: Collection[ClientId]) -> Saved:
    """The saved step without some clients."""

    def rest(own: Mapping[ClientId, Any]) -> dict[ClientId, Any]:
        return {client: value for client, value in own.items() if client not in without}

    state = without_clients(saved.state, without) if without else saved.state
    noted: dict[str, Any] = {name: rest(getattr(saved, name)) for name in ("private", "seen", "received", "residuals")}
    return replace(saved, state=state, **noted)


def _leave_out(out: Path, settings: Settings, without: Sequence[ClientId], data: object) -> None:
    """Writes settings, cards and environment of a run without some clients."""
    left = resolve(base=settings, overrides={"data.without": [*dict.fromkeys((*settings.data.without, *without))]})
    federation, files = rows_of(left, data), RunFiles(out)
    environment = read_environment(out)
    note = f"left out after the start of the run: {listed(without, 5)}"
    changed = environment.model_copy(
        update={
            "data_fingerprint": federation.fingerprint(),
            "data_warnings": [*environment.data_warnings, note],
            "skipped_clients": dict(federation.skipped),
        }
    )
    cards = {client: card for client, card in read_clients(out).items() if client not in without}
    files.write_json("environment.json", changed.content)
    write_clients(out, cards)
    files.change_settings(left.model_dump(mode="json"), CONFIG, left.to_yaml().encode())
