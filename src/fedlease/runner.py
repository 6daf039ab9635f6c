"""One run: settings -> federation, model, methods, engine -> run folder."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any

from fedlease.config import Settings, resolve
from fedlease.core.codec import digest
from fedlease.core.types import ClientId, ClientModel
from fedlease.data import load_federation
from fedlease.engines.centralised import CentralisedEngine
from fedlease.engines.checkpoint import Checkpoint
from fedlease.engines.events import Allocated, Event, Listener, MethodFinished, RunFinished, RunStarted
from fedlease.engines.in_process import Engine, fields_of
from fedlease.engines.scoring import summarise
from fedlease.engines.work_cache import WorkCache
from fedlease.errors import RunFolderError
from fedlease.methods import CENTRALISED
from fedlease.model_sources import locate
from fedlease.prepare import Prepared, build_method, check_methods, optimiser_of, participation_of, prepare, settle
from fedlease.reporting.report import write_report
from fedlease.reporting.run_folder import (
    method_folder,
    read_json,
    read_settings,
    start_run,
    write_allocation,
    write_json,
)

__all__ = ["RunResult", "default_out", "resume", "run", "run_settings"]


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        out: its folder.
        summaries: method -> content of its ``summary.json``, the main method first.
    """

    out: Path
    summaries: dict[str, dict[str, Any]]

    @property
    def summary(self) -> dict[str, Any]:
        """The main method's."""
        return next(iter(self.summaries.values()))

    def load(self, client: ClientId, method: str | None = None) -> Any:
        """The client's personalised model as a ``PeftModel``; see :func:`fedlease.load`."""
        from fedlease.use.load import load

        return load(self.out, client, method)


def run(
    config: str | Path | Mapping[str, Any] | Settings | None = None,
    *,
    out: str | Path | None = None,
    listeners: Sequence[Listener] = (),
    **overrides: Any,
) -> RunResult:
    """Runs FedLEASE, or another method, from one call.

    Args:
        config: a YAML file, the name of a preset, dotted keys with values, or settings; None is the quickstart.
        out: folder to write; None makes one in ``runs``.
        listeners: told of every event.
        **overrides: settings by name, with ``__`` for the dot: ``train__lr=1e-3``.

    Raises:
        InputError: something given is wrong; nothing was trained.
        RunFailedError: the run cannot go on; ``resume`` goes on from its last step.
    """
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    if isinstance(config, Settings):
        settings = resolve(base=config, overrides=changes)
    elif isinstance(config, Mapping):
        settings = resolve(overrides={**config, **changes})
    elif isinstance(config, Path) or (config is not None and config.endswith((".yaml", ".yml"))):
        settings = resolve(Path(config), overrides=changes)
    else:
        settings = resolve(preset=config, overrides=changes)
    return run_settings(settings, Path(out) if out is not None else default_out(settings), listeners)


def default_out(settings: Settings) -> Path:
    """``runs/<time>-<method>``, a folder that does not exist yet."""
    stem = Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{settings.method}"
    return next(path for n in count() if not (path := stem if n == 0 else Path(f"{stem}-{n}")).exists())


def run_settings(
    settings: Settings, out: Path, listeners: Sequence[Listener] = (), shared: Path | None = None
) -> RunResult:
    """Runs the method and its baselines into a new folder.

    Args:
        settings: of the run.
        out: folder to write.
        listeners: told of every event.
        shared: folder of first steps that other runs may have done; None shares within the run only.

    Raises:
        InputError: settings, data or model are wrong, or ``out`` already holds a run; nothing was trained.
        RunFailedError: the run cannot go on; ``resume`` goes on from its last step.
    """
    if (out / "config.yaml").exists():
        raise RunFolderError(
            f"out: {out} already holds a run; go on with: fedlease resume {out}, or choose another --out"
        )
    settings = settle(settings)
    federation = load_federation(settings.data, settings.seed, settings.task)
    with tempfile.TemporaryDirectory() as scratch:
        # Nothing is written to ``out`` before everything that can be checked is sound.
        made = Path(scratch) / "base"
        prepared = prepare(
            settings, federation, locate(settings.model, settings.revision, made, settings.seed, settings.task)
        )
        check_methods(prepared)
        start_run(out, prepared.settings, federation, made if made.is_dir() else None)
    return _run(out, prepared, listeners, shared, resumed=False)


def resume(out: Path, listeners: Sequence[Listener] = (), shared: Path | None = None) -> RunResult:
    """Goes on from the last complete step; a finished run is left as it is.

    Args:
        out: a run folder.
        listeners: told of every event.
        shared: as for :func:`run_settings`.

    Raises:
        RunFolderError: no run folder, damaged, or the rows are no longer those the run began with.
        ConfigError: the run's device is not one of this machine.
    """
    settings = read_settings(out)
    summaries = _finished(out, settings)
    if summaries is not None:
        return RunResult(out, summaries)
    settings = settle(settings)
    federation = load_federation(settings.data, settings.seed, settings.task)
    expected = read_json(out / "environment.json").get("data_fingerprint")
    if federation.fingerprint() != expected:
        raise RunFolderError(f"{out}: the rows have changed since the run began, so it cannot be resumed")
    source = locate(settings.model, settings.revision, out / "base", settings.seed, settings.task)
    return _run(out, prepare(settings, federation, source), listeners, shared, resumed=True)


def _run(
    out: Path, prepared: Prepared, listeners: Sequence[Listener], shared: Path | None, *, resumed: bool
) -> RunResult:
    settings = prepared.settings
    _tell(
        listeners,
        RunStarted(
            out=out,
            settings=settings.model_dump(mode="json"),
            tasks={data.id: data.task for data in prepared.federation},
            train_rows={data.id: len(data.train) for data in prepared.federation},
            test_rows={data.id: len(data.test) for data in prepared.federation},
            warnings=prepared.warnings,
            resumed=resumed,
        ),
    )
    cache = WorkCache(_context(prepared), shared)
    summaries = {}
    for name in (settings.method, *settings.baselines):
        summaries[name] = _run_method(out, prepared, name, listeners, cache)
    write_report(out)
    _tell(listeners, RunFinished(out, summaries))
    return RunResult(out, summaries)


def _context(prepared: Prepared) -> str:
    """All that a client's first step depends on beside the task it is given."""
    settings = prepared.settings.model_dump(mode="json")
    names = ("seed", "task", "model", "revision", "dtype", "base", "data", "train", "generation", "threads", "device")
    return digest(json.dumps([{name: settings[name] for name in names}, prepared.federation.fingerprint()]).encode())


def _run_method(
    out: Path, prepared: Prepared, name: str, listeners: Sequence[Listener], cache: WorkCache
) -> dict[str, Any]:
    settings = prepared.settings
    folder = method_folder(out, settings, name)
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / "summary.json").is_file():
        summary = read_json(folder / "summary.json")
        _tell(listeners, MethodFinished(name, summary))
        return summary
    tasks = {data.id: data.task for data in prepared.federation}

    def keep_allocation(event: Event) -> None:
        if isinstance(event, Allocated):
            write_allocation(folder, event.allocation, None, tasks)

    pooled = name == CENTRALISED
    engine = (CentralisedEngine if pooled else Engine)(
        prepared.resident,
        prepared.clients,
        optimiser_of(settings),
        participation_of(settings).everyone() if pooled else participation_of(settings),
        Checkpoint(folder),
        (keep_allocation, *listeners),
        cache,
    )
    method = build_method(settings, name, prepared.heads)
    state = engine.run(name, method, prepared.adapter)
    inner = fields_of(state)
    if inner.get("allocation") is not None:
        write_allocation(folder, inner["allocation"], inner["centres"], tasks)
    untrained = {
        client: ClientModel(prepared.adapter.spec, {**prepared.adapter.tensors, **head.tensors})
        for client, head in prepared.heads.items()
    }
    summary = summarise(engine, name, method, state, untrained)
    # Row by row, apart from what people read: comparisons are paired by it.
    write_json(folder / "row_scores.json", summary.pop("row_scores"))
    samples = summary.pop("samples")
    if samples:
        write_json(folder / "samples.json", samples)
    summary = {"method": name, "seed": settings.seed, "head": settings.head, **summary}
    write_json(folder / "summary.json", summary)
    _tell(listeners, MethodFinished(name, summary))
    return summary


def _finished(out: Path, settings: Settings) -> dict[str, dict[str, Any]] | None:
    folders = {name: method_folder(out, settings, name) for name in (settings.method, *settings.baselines)}
    if not all((folder / "summary.json").is_file() for folder in folders.values()):
        return None
    return {name: read_json(folder / "summary.json") for name, folder in folders.items()}


def _tell(listeners: Sequence[Listener], event: Event) -> None:
    for listener in listeners:
        listener(event)
