"""A run from one call, and the models of its result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlease.config.call import settings_of_call
from fedlease.config.settings import Settings
from fedlease.core.types import ClientId
from fedlease.runs import runner
from fedlease.server.events import Listener
from fedlease.storage.summary import contents_of
from fedlease.use.load import load

__all__ = ["RunResult", "run"]


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

    def load(self, client: ClientId, method: str | None = None, **how: Any) -> Any:
        """The client's personalised model as a ``PeftModel``; ``how`` and all else: see :func:`fedlease.load`."""
        return load(self.out, client, method, **how)


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
        listeners: receive every event.
        **overrides: settings by name, with ``__`` for the dot: ``train__lr=1e-3``.

    Raises:
        InputError: something given is wrong; nothing was trained.
        RunFailedError: the run cannot continue; ``resume`` continues from its last step.
    """
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    settings = settings_of_call(config, changes)
    folder = Path(out) if out is not None else runner.default_out(settings)
    return RunResult(folder, contents_of(runner.run_settings(settings, folder, listeners)))
