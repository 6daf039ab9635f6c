"""Functions to run, check and resume, and the result of a run."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedlease.config.call import settings_of_call
from fedlease.config.settings import Settings
from fedlease.core.names import ClientId
from fedlease.errors import ConfigError
from fedlease.runs.machine import resolve_paths
from fedlease.runs.rows import rows_of
from fedlease.storage.run_folder import check_no_run, default_out, read_settings
from fedlease.storage.summary import contents_of
from fedlease.use.watching import watched

if TYPE_CHECKING:
    from fedlease.runs.estimate import CheckReport
    from fedlease.server.events import Listener

__all__ = ["RunResult", "check", "resume", "run"]

LOADING = "Run folder {}: loading libraries, rows and model"


@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        out: its folder.
        summaries: method -> content of its ``summary.json``, the main method first.
    """

    out: Path
    summaries: dict[str, dict[str, Any]] = field(repr=False)

    @property
    def summary(self) -> dict[str, Any]:
        """The summary of the main method."""
        return next(iter(self.summaries.values()))

    @property
    def verdict(self) -> dict[str, Any]:
        """The outcome of the run: gains over ``local``, groups, warnings and the next step."""
        found: dict[str, Any] = self.summary["verdict"]
        return found

    def load(self, client: ClientId, method: str | None = None, **how: Any) -> Any:
        """The client's personalised model as a ``PeftModel``; for the arguments, see :func:`fedlease.load`."""
        from fedlease.use.load import load

        return load(self.out, client, method, **how)


def run(
    config: str | Path | Mapping[str, Any] | Settings | None = None,
    *,
    data: object = None,
    out: str | Path | None = None,
    listeners: "Sequence[Listener]" = (),
    continue_from: str | Path | None = None,
    new_rows: bool = False,
    progress: bool = True,
    **overrides: Any,
) -> RunResult:
    """Runs FedLEASE or another method.

    Args:
        config: a YAML file, the name of a preset, dotted keys with values, or settings; None is the quickstart.
        data: rows: ``{client: ROWS}`` or ``{client: (train, test)}``, where ROWS is a list of dicts, a DataFrame or a
            Dataset; one of these, or a DatasetDict, with a client column; a
            :class:`~fedlease.data.federation.Federation`; or the path of files. None takes those of the settings.
        out: folder to write; None makes one in ``runs``.
        listeners: receive every event.
        continue_from: folder of a finished run that this one continues with the same settings; ``config`` then has only
            changes, and ``rounds="+5"`` means five more than before.
        new_rows: whether the rows may differ from those of ``continue_from``.
        progress: whether to print progress, on standard error or in the notebook, and the results.
        **overrides: settings by name, with ``__`` for the dot: ``train__lr=1e-3``.

    Raises:
        InputError: settings, data or model are wrong; nothing was trained.
        RunFailedError: the run cannot continue; ``resume`` continues from its last step.
    """
    origin = Path(continue_from) if continue_from is not None else None
    settings, rows = _call(config, overrides, data) if origin is None else _going_on(origin, config, overrides, data)
    folder = Path(out) if out is not None else default_out(settings)
    check_no_run(folder)
    with watched(LOADING.format(folder), progress=progress, listeners=listeners) as heard:
        # Rows are read before libraries that take seconds to load; with ``continue_from``, they are compared later.
        read = rows_of(resolve_paths(settings), rows) if origin is None else None
        from fedlease.runs.runner import run_settings

        found = run_settings(settings, folder, heard(), data=rows, rows=read, continue_from=origin, new_rows=new_rows)
    return RunResult(folder, contents_of(found))


def check(
    config: str | Path | Mapping[str, Any] | Settings | None = None, *, data: object = None, **overrides: Any
) -> "CheckReport":
    """Checks settings, rows and model without training, and estimates time, memory and bytes.

    Args:
        config: as for :func:`run`.
        data: as for :func:`run`.
        **overrides: as for :func:`run`.

    Raises:
        InputError: whatever a run would raise before its first step.
    """
    settings, rows = _call(config, overrides, data)
    read = rows_of(resolve_paths(settings), rows)
    from fedlease.runs.check import check_settings

    return check_settings(settings, read)


def resume(
    folder: str | Path,
    *,
    to: int | None = None,
    without: Sequence[ClientId] = (),
    data: object = None,
    listeners: "Sequence[Listener]" = (),
    progress: bool = True,
) -> RunResult:
    """Continues an interrupted run after its last complete step; a finished run does not change.

    With ``to`` or ``without``, a finished or unfinished run goes back first.

    Args:
        folder: run folder.
        to: first round to repeat; 0, or None with ``without``, is the warm-up. For other rounds, the run must have kept
            the step before (``checkpoints``).
        without: clients that take no part from then on.
        data: the rows with which the run started, if they were in memory.
        listeners: receive every event.
        progress: whether to print progress, on standard error or in the notebook, and the results.

    Raises:
        RunFolderError: the folder has no run or a damaged one, or the rows or the base model are no longer those with
            which the run started.
        ConfigError: the run does not have a client of ``without``.
        RunFailedError: the run cannot continue.
    """
    out = Path(folder)
    read_settings(out)  # before libraries that take seconds to load
    with watched(LOADING.format(out), progress=progress, listeners=listeners) as heard:
        from fedlease.runs import runner

        return RunResult(out, contents_of(runner.resume(out, heard(), data=data, to=to, without=without)))


def _call(config: object, overrides: Mapping[str, Any], data: object) -> tuple[Settings, object]:
    """The settings of a call, and its rows in memory."""
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    settings = settings_of_call(config, changes, data)
    return settings, data if settings.data.source == "memory" else None


def _going_on(origin: Path, config: object, overrides: Mapping[str, Any], data: object) -> tuple[Settings, object]:
    """The settings of a call that continues a run, and its rows in memory."""
    if config is not None and not isinstance(config, Mapping):
        raise ConfigError(
            f"config: must be changes to the settings of continue_from, by their dotted names, received {config!r}"
        )
    changes = {**(config or {}), **{key.replace("__", "."): value for key, value in overrides.items()}}
    if isinstance(data, str | os.PathLike):
        changes |= {"data.source": "folder", "data.path": data}
    elif data is not None:
        changes |= {"data.source": "memory", "data.path": None}
    from fedlease.runs.continued_settings import continued_settings

    settings = continued_settings(origin, changes)
    return settings, data if settings.data.source == "memory" else None
