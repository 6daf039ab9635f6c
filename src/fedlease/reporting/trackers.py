"""Listeners that stream the figures of a run to TensorBoard, Weights & Biases or MLflow."""

import importlib
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from fedlease.core.wording import printable
from fedlease.errors import ConfigError, FedLeaseError, MissingPackageError, RunFailedError, limit_reached
from fedlease.reporting.mlflow import MlflowTracker
from fedlease.reporting.scalars import scalars
from fedlease.server.events import Allocated, Event, MethodFinished, RunStarted, StepFinished

__all__ = ["TensorBoardTracker", "Tracker", "WandbTracker", "tracker"]

LONGEST = 300
"""Most characters of a library's own message that are shown."""


class Tracker(Protocol):
    """A listener that must be closed."""

    def __call__(self, event: Event) -> None:
        """Streams the event's figures."""

    def close(self) -> None:
        """Writes what is left."""


def tracker(name: str, out: Path) -> Tracker:
    """The tracker called ``name``.

    Args:
        name: ``mlflow``, ``tensorboard`` or ``wandb``.
        out: the run folder.

    Raises:
        ConfigError: there is no such tracker, or it cannot start; nothing is written.
        MissingPackageError: its package is not installed.
    """
    if name not in TRACKERS:
        raise ConfigError(f"log: must be one of {', '.join(TRACKERS)}, received {name!r}")
    kind, module = TRACKERS[name]
    try:
        library = importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(name, f"--log {name}", f"pip install {name}") from error
    return _Guarded(name, kind(library, out), out)


def _check_key(wandb: Any) -> None:
    """Checks, before anything is written, that wandb has a valid key or does not need one.

    Raises:
        ConfigError: it has no valid key, or cannot start.
    """
    offline = "or set WANDB_MODE=offline to keep the figures on this machine"
    try:
        if wandb.setup().settings.mode in ("offline", "disabled", "dryrun"):
            return
        # Versions of wandb without the parameter "prompt" would ask at the terminal, unless they know a key.
        asks_not = "prompt" in inspect.signature(wandb.login).parameters
        known = wandb.login(prompt=False, verify=True) if asks_not else wandb.api.api_key and wandb.login(verify=True)
    except Exception as error:  # errors of wandb, of pydantic and of several HTTP libraries, without a common base
        reason = printable(str(error).strip().split("\n")[0], longest=LONGEST)
        raise ConfigError(f"--log wandb cannot start: {reason}; run wandb login, {offline}") from error
    if not known:
        raise ConfigError(f"--log wandb: no key of Weights & Biases is found; run wandb login first, {offline}")


class _Guarded:
    """A tracker whose errors, from any library, end the run with one sentence; the run can be resumed."""

    def __init__(self, name: str, inner: Tracker, out: Path) -> None:
        self._name = name
        self._inner = inner
        self._out = out
        self._failed = False

    def __call__(self, event: Event) -> None:
        """Streams the event's figures."""
        self._call(lambda: self._inner(event))

    def close(self) -> None:
        """Writes what is left, unless the tracker has failed."""
        if not self._failed:
            self._call(self._inner.close)

    def _call(self, action: Callable[[], None]) -> None:
        try:
            action()
        except FedLeaseError:
            raise
        except Exception as error:
            self._failed = True
            reason = limit_reached(error) or f"{type(error).__name__} {printable(str(error), longest=LONGEST)}"
            raise RunFailedError(
                f"--log {self._name} failed: {reason}; go on with: fedlease resume {self._out}"
            ) from error


class TensorBoardTracker:
    """Writes event files to ``<run folder>/tensorboard``; nothing leaves the machine.

    Raises:
        ConfigError: its folder is something else.
    """

    def __init__(self, library: Any, out: Path) -> None:
        self._module = library
        self._folder = out / "tensorboard"
        if self._folder.is_symlink() or (self._folder.exists() and not self._folder.is_dir()):
            raise ConfigError(f"--log tensorboard: {self._folder} is no folder, so nothing can be written into it")
        self._writer: Any = None

    def __call__(self, event: Event) -> None:
        """Writes the event's figures, and the settings when the run starts."""
        if isinstance(event, RunStarted):
            self._writer = self._module.SummaryWriter(str(self._folder))
            self._writer.add_text("settings", f"```\n{json.dumps(event.settings, indent=1)}\n```")
        if self._writer is None:
            return
        for name, value, step in scalars(event):
            self._writer.add_scalar(name, value, step)
        if isinstance(event, Allocated):
            self._writer.add_text(f"{event.method}/assignment", json.dumps(event.allocation.assignment, indent=1))
        if isinstance(event, StepFinished | MethodFinished):
            self._writer.flush()

    def close(self) -> None:
        """Closes the event file."""
        if self._writer is not None:
            self._writer.close()


class WandbTracker:
    """A run of Weights & Biases, sent where wandb is configured to; ``WANDB_MODE=offline`` keeps it on this machine.

    Client names, scores and settings are sent; rows and weights are not.

    Raises:
        ConfigError: wandb has no key, or cannot start for another reason.
    """

    def __init__(self, library: Any, out: Path) -> None:
        self._wandb = library
        if (out / "wandb" / "settings").exists():
            raise ConfigError(
                f"--log wandb: {out / 'wandb' / 'settings'} would change where figures go; delete it first"
            )
        _check_key(self._wandb)
        self._out = out
        self._run: Any = None

    def __call__(self, event: Event) -> None:
        """Logs the event's figures, those of one step together."""
        if isinstance(event, RunStarted):
            self._run = self._wandb.init(
                project="fedlease", name=self._out.name, dir=str(self._out), config=dict(event.settings)
            )
            self._run.define_metric("*", step_metric="step")
        if self._run is None:
            return
        by_step: dict[int, dict[str, float]] = {}
        for name, value, step in scalars(event):
            by_step.setdefault(step, {})[name] = value
        for step, values in by_step.items():
            self._run.log({**values, "step": step})
        if isinstance(event, Allocated):
            rows = [[client, expert] for client, expert in event.allocation.assignment.items()]
            self._run.log({f"{event.method}/assignment": self._wandb.Table(["client", "expert"], data=rows)})

    def close(self) -> None:
        """Ends the run."""
        if self._run is not None:
            self._run.finish()


TRACKERS: dict[str, tuple[Callable[[Any, Path], Tracker], str]] = {
    "mlflow": (MlflowTracker, "mlflow"),
    "tensorboard": (TensorBoardTracker, "torch.utils.tensorboard"),
    "wandb": (WandbTracker, "wandb"),
}
"""Name of a tracker, which is also that of its package -> the tracker, and the module that is passed to it."""
