"""A Flower simulation on this machine from the settings of any run: ``fedlease run --engine flower``."""

import logging
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedlease.config.settings import Settings
from fedlease.errors import ConfigError, FedLeaseError, MissingPackageError, RunFailedError, RunFolderError
from fedlease.reporting.quiet import quiet_libraries
from fedlease.runs.machine import resolve_machine
from fedlease.runs.rows import rows_of, rows_of_run
from fedlease.runs.threads import usable_cores
from fedlease.server.events import Listener

__all__ = ["simulate"]

RESTARTS = 3
"""Number of times that a dead worker process, or the task that it had, is started again."""


def simulate(
    settings: Settings, out: Path, listeners: Sequence[Listener] = (), *, workers: int | None = None
) -> dict[str, dict[str, Any]]:
    """Runs the federation of the settings with one simulated node per client; the run folder is that of other engines.

    The server is a thread of this process. Clients run in worker processes, each of which has the base model in memory
    once. An unfinished run in the folder is resumed. A worker that dies is replaced and its task repeated, with the
    same result bit for bit; if that fails, the run ends and can be resumed.

    Args:
        settings: settings of the run; ``threads`` is per worker.
        out: run folder.
        listeners: receive every event.
        workers: number of processes; None is the number of usable cores divided by ``threads``.

    Returns:
        Method -> content of its ``summary.json``.

    Raises:
        MissingPackageError: Flower or Ray is not installed.
        FedLeaseError: for the same reasons as a run in one process.
    """
    quiet_libraries()
    try:
        import ray
        from flwr.app import Context
        from flwr.serverapp import Grid, ServerApp
        from flwr.simulation import run_simulation
    except ImportError as error:
        raise MissingPackageError(str(error.name), "engine: flower", "pip install 'fedlease[simulation]'") from error
    from fedlease.flower.clientapp import client_app
    from fedlease.flower.strategy import FedLeaseStrategy, resumed_settings

    resumed = (out / "config.yaml").is_file()
    settings = resumed_settings(out, resolve_machine(settings)) if resumed else resolve_machine(settings)
    federation = rows_of_run(out, settings) if resumed else rows_of(settings)
    count = len(federation)
    if count < 2:
        raise ConfigError(f"engine: a Flower simulation needs at least 2 clients, the federation has {count}")
    flower = settings.flower.model_copy(update={"min_nodes": count})
    settings = settings.model_copy(update={"flower": flower})
    strategy = FedLeaseStrategy(
        settings, out, listeners, hand_over=True, fingerprint=federation.fingerprint(), skipped=federation.skipped
    )
    if (out / "nodes").is_symlink():  # its target would be deleted at the end
        raise RunFolderError(f"{out / 'nodes'} is a link; a run folder may only have files and folders")
    nodes = (out / "nodes").resolve()
    failed: list[BaseException] = []
    server = ServerApp()

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        try:
            strategy.start(grid)
        except FedLeaseError as error:
            # Flower would print it and raise an error of its own.
            failed.append(error)

    cores, threads = usable_cores(), settings.num_threads
    processes = min(workers or max(1, cores // threads), count)
    backend: Any = {
        # Flower passes these to Ray as options of its actors.
        "client_resources": {
            "num_cpus": 1,
            "num_gpus": 1 / processes if settings.device.startswith("cuda") else 0.0,
            "max_restarts": RESTARTS,
            "max_task_retries": RESTARTS,
        },
        "init_args": {"num_cpus": processes, "log_to_driver": False, "include_dashboard": False},
    }
    logging.getLogger("flwr").setLevel(logging.ERROR)
    with _quiet_ray():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                run_simulation(server, client_app(state_dir=nodes, one_machine=True), count, backend_config=backend)
        finally:
            ray.shutdown()
    if failed:
        raise failed[0]
    if not strategy.summaries:
        raise RunFailedError("the simulation ended before the run did; the lines above say why")
    # The run folder has the nodes' private tensors now.
    shutil.rmtree(nodes, ignore_errors=True)
    return strategy.summaries


@contextmanager
def _quiet_ray() -> Iterator[None]:
    """Silences Ray's lines on standard output, which report the normal end of workers as failures."""
    from ray._private import worker

    printed = worker.print_to_stdstream
    worker.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        worker.print_to_stdstream = printed
