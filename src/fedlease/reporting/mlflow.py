"""A listener that streams the figures of a run to MLflow."""

import os
import time
from pathlib import Path
from typing import Any

from fedlease.core.wording import printable
from fedlease.errors import ConfigError
from fedlease.reporting.scalars import few_scalars
from fedlease.server.events import Event, RunFinished, RunStarted
from fedlease.storage.environment import read_environment

__all__ = ["MlflowTracker"]

PARAMETERS = ("method", "baselines", "task", "model", "seed", "rounds", "head")
IDENTITY = "fedlease.run"
"""A tag with the run's identity, by which a resumed run is found again."""
LONGEST = 300
"""Most characters of MLflow's own message that are shown."""


class MlflowTracker:
    """A run of MLflow, in the store that MLflow's own variables name (``MLFLOW_TRACKING_URI``).

    It has a handful of parameters, tags and metrics, and all settings in its file ``settings.json``. A resumed run
    continues its run of MLflow. Settings and means are sent; rows, weights and scores of single clients are not.

    Raises:
        ConfigError: the store cannot be used.
    """

    def __init__(self, library: Any, out: Path) -> None:
        self._mlflow = library
        self._out = out
        self._run: str | None = None
        self._finished = False
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "fedlease")
        try:
            self._client = library.MlflowClient()
            found = self._client.get_experiment_by_name(name)
            self._experiment = found.experiment_id if found is not None else self._client.create_experiment(name)
        except Exception as error:  # errors of MLflow, of its stores and of HTTP, without a common base
            reason = printable(str(error).strip().split("\n")[0], longest=LONGEST)
            raise ConfigError(
                f"--log mlflow cannot start: {reason}; MLFLOW_TRACKING_URI names the server or the database"
            ) from error

    def __call__(self, event: Event) -> None:
        """Logs the event's figures, all at once."""
        if isinstance(event, RunStarted):
            self._run = self._begun(event)
        if self._run is None:
            return
        now, metric = int(1000 * time.time()), self._mlflow.entities.Metric
        metrics = [metric(name, float(value), now, step) for name, value, step in few_scalars(event)]
        if metrics:
            self._client.log_batch(self._run, metrics=metrics)
        self._finished = self._finished or isinstance(event, RunFinished)

    def close(self) -> None:
        """Ends the run, as failed if it has not finished."""
        if self._run is not None:
            self._client.set_terminated(self._run, "FINISHED" if self._finished else "FAILED")

    def _begun(self, event: RunStarted) -> str:
        """The id of a new run of MLflow, or of the existing one if the run is resumed."""
        environment = read_environment(self._out)
        if event.resumed:
            there = f"tags.`{IDENTITY}` = '{environment.run}'"
            for run in self._client.search_runs([self._experiment], filter_string=there, max_results=1):
                self._client.update_run(run.info.run_id, status="RUNNING")
                return str(run.info.run_id)
        tags = {IDENTITY: environment.run, "fedlease.version": environment.fedlease}
        if event.continues:
            tags["fedlease.goes_on_from"] = event.continues
        run = str(self._client.create_run(self._experiment, tags=tags, run_name=self._out.resolve().name).info.run_id)
        settings = event.settings
        values = {name: settings[name] for name in PARAMETERS}
        values |= {"clients": len(event.tasks), "lora.r": settings["lora"]["r"], "train.lr": settings["train"]["lr"]}
        values["warmup.epochs"] = settings["warmup"]["epochs"]
        parameter = self._mlflow.entities.Param
        self._client.log_batch(run, params=[parameter(name, str(value)[:500]) for name, value in values.items()])
        self._client.log_dict(run, dict(settings), "settings.json")
        return run
