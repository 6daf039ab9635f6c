"""The Flower app of the server: settings from the run configuration, everything else is the strategy's."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedlease.config import Settings, resolve
from fedlease.engines.events import Listener
from fedlease.engines.flower.strategy import FedLeaseStrategy
from fedlease.errors import ConfigError

__all__ = ["server_app", "settings_of"]

RESERVED = ("config", "preset", "out")


def server_app(
    listeners: Sequence[Listener] | None = None,
    settings: Callable[[Mapping[str, Any]], Settings] | None = None,
) -> ServerApp:
    """A ServerApp that runs what the run configuration says.

    Its keys: ``out``, the run folder (the same again goes on with it); ``config``, a YAML file, or ``preset``; all
    others are settings by their dotted names, such as ``rounds`` or ``train.lr``.

    Args:
        listeners: told of every event; None prints progress.
        settings: makes settings of the run configuration; None is :func:`settings_of`.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        run = dict(context.run_config)
        if not run.get("out"):
            raise ConfigError("out: the run configuration must name a folder, for example out='runs/first'")
        told = listeners
        if told is None:
            from rich.console import Console

            from fedlease.reporting.terminal import Terminal

            told = [Terminal(Console())]
        made = (settings or settings_of)(run)
        FedLeaseStrategy(made, Path(str(run["out"])), told).start(grid)

    return app


def settings_of(run: Mapping[str, Any]) -> Settings:
    """Settings from a run configuration.

    Raises:
        ConfigError: an unknown name, or a value out of range; all faults at once.
    """
    overrides = {key: value for key, value in run.items() if key not in RESERVED and value != ""}
    path, preset = run.get("config") or None, run.get("preset") or None
    return resolve(Path(str(path)) if path else None, preset=str(preset) if preset else None, overrides=overrides)
