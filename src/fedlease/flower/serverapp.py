"""The Flower app of the server: reads settings from the run configuration and starts the strategy."""

import logging
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedlease.config.settings import Settings, resolve
from fedlease.errors import ConfigError, FedLeaseError
from fedlease.flower.strategy import FedLeaseStrategy
from fedlease.server.events import Listener

__all__ = ["server_app", "settings_of"]

RESERVED = ("config", "preset", "out", "set")
log = logging.getLogger("flwr")


def server_app(
    listeners: Sequence[Listener] | None = None,
    settings: Callable[[Mapping[str, Any]], Settings] | None = None,
    *,
    folder: Path | None = None,
) -> ServerApp:
    """A ServerApp that runs the settings of the run configuration.

    Its keys are: ``out``, the run folder (an unfinished run in it is resumed); ``config``, a YAML file, or ``preset``;
    ``set``, changes such as ``"rounds=5 train.lr=1e-3"``; all others are settings by their dotted names.

    Args:
        listeners: receive every event; None prints progress.
        settings: makes settings from the run configuration; None is :func:`settings_of`.
        folder: folder to which a relative ``config`` refers; None is that in which the SuperLink was started.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        receivers = listeners
        if receivers is None:
            from rich.console import Console

            from fedlease.reporting.terminal import Terminal

            receivers = [Terminal(Console(), models_here=False)]
        try:
            run = dict(context.run_config)
            if not run.get("out"):
                raise ConfigError("out: the run configuration must name a folder, for example out='runs/first'")
            if folder is not None and run.get("config"):
                run["config"] = str(folder / str(run["config"]))
            made = (settings or settings_of)(run)
            FedLeaseStrategy(made, Path(str(run["out"])), receivers).start(grid)
        except FedLeaseError as error:
            # One line per fault, before Flower's traceback.
            for line in str(error).splitlines():
                log.error("fedlease: %s", line)
            raise

    return app


def settings_of(run: Mapping[str, Any]) -> Settings:
    """Settings from a run configuration.

    Raises:
        ConfigError: there are unknown names or values out of range; the error has every fault.
    """
    overrides = {key: value for key, value in run.items() if key not in RESERVED and value != ""}
    path, preset = run.get("config") or None, run.get("preset") or None
    base = resolve(Path(str(path)) if path else None, preset=str(preset) if preset else None, overrides=overrides)
    changes = shlex.split(str(run.get("set", "")))
    return resolve(base=base, overrides=changes) if changes else base
