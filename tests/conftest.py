"""Switches every library's telemetry off before it is imported, and makes runs repeatable.

What is imported above is imported once more than there are workers: by the process that hands out the tests, before any
of them begins. Torch therefore waits for a process that runs tests.
"""

import gc
import logging
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.update(
    FLWR_TELEMETRY_ENABLED="0",
    FLWR_DISABLE_UPDATE_CHECK="1",
    RAY_USAGE_STATS_ENABLED="0",
    HF_HUB_DISABLE_TELEMETRY="1",
    MLFLOW_DISABLE_TELEMETRY="true",
    TOKENIZERS_PARALLELISM="false",
    # While it is imported, bitsandbytes hands functions to torch's compiler, which loads all of it for nothing.
    TORCHDYNAMO_DISABLE="1",
)
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # HF_HUB_OFFLINE=0 pytest -m hub: the tests that download

import hypothesis
import pytest

if TYPE_CHECKING:
    from small import FinishedRuns

# A small run waits for the disk 125 times, for longer than it computes, and no test pulls the plug.
os.fsync = os.fstat  # type: ignore[assignment]  # fails where fsync would: a descriptor that is closed

# Deadlines measure the machine, not the code; derandomised runs give the same examples on every machine.
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, database=None, max_examples=50)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _the_same_process_for_every_test() -> Iterator[None]:
    """Nothing that one test leaves behind decides another, in whatever order they run."""
    import torch

    # Not torch.manual_seed, which formats the stack for each kind of accelerator that it has yet to seed.
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(0)
    environment, folder, threads = dict(os.environ), Path.cwd(), torch.get_num_threads()
    logs = [(log, log.level, log.handlers[:]) for log in (logging.getLogger(), logging.getLogger("flwr"))]
    yield
    for log, level, handlers in logs:
        log.setLevel(level)
        log.handlers[:] = handlers
    torch.set_num_threads(threads)
    os.chdir(folder)
    # Variables with a prefix of pytest's own say which test is under way.
    for key in {*os.environ} ^ {*environment} | {key for key in environment if os.environ.get(key) != environment[key]}:
        if not key.startswith("PYTEST_"):
            os.environ.pop(key, None)
            os.environ.update({key: environment[key]} if key in environment else {})


def of_all_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The session's folder, which its workers share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def built_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of the docs, built once for all workers of a session."""
    from filelock import FileLock
    from test_docs import ROOT, build

    folder = (of_all_workers(tmp_path_factory) / "site").resolve()
    with FileLock(f"{folder}.lock"):
        if not (folder / "index.html").is_file():
            done = build(ROOT, folder.with_name("site-new"))
            assert done.returncode == 0, done.stderr
            folder.with_name("site-new").rename(folder)
    return folder


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> "FinishedRuns":
    """Runs for tests of what one does with a finished run."""
    from small import FinishedRuns

    return FinishedRuns(of_all_workers(tmp_path_factory) / "finished")


def pytest_xdist_auto_num_workers() -> int:
    """One worker more than cores: tests of servers, nodes and kills wait for other processes a fifth of their time."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores + 1


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Libraries and tests are a million objects that stay: looking through them for garbage takes a fifth of this."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    import torch

    wanted = config.getoption("-m") or ""
    for item in items:
        if item.get_closest_marker("hub") and "hub" not in wanted:
            item.add_marker(pytest.mark.skip(reason="downloads; ask for it with -m hub"))
        if item.get_closest_marker("deployment") and "deployment" not in wanted:
            item.add_marker(pytest.mark.skip(reason="minutes of real processes; ask for it with -m deployment"))
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="no accelerator"))
    # Workers take whole files, in this order: the long ones first, so that no worker ends with one alone.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
