"""The process that stays between messages: the same answers, one start, an end."""

import os
import socket
import subprocess
import sys
import threading
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any

import pytest
from small import small_run, small_settings, tensors_of

pytest.importorskip("flwr", reason="flwr is not installed: pip install 'fedlease[flower]'")
if sys.platform == "win32":
    pytest.skip("needs sockets of the file system", allow_module_level=True)

import psutil
from flower.nodes import comparable, over_memory
from flwr.app import Context, RecordDict

from fedlease.client.messages import Refused
from fedlease.errors import ConfigError
from fedlease.flower import worker_process
from fedlease.flower.messages import Envelope
from fedlease.flower.wire import pack, unpack
from fedlease.flower.worker_process import READY, Worker, ask, worker_of

IDLE = 60.0
SOON = 6.0
"""Longer than any pause of a run of four clients, on a busy machine too."""


def processes() -> list[psutil.Process]:
    """Those that stay, of this process."""
    return [
        child
        for child in psutil.Process().children()
        if child.status() != psutil.STATUS_ZOMBIE and "fedlease.flower.worker_process" in child.cmdline()
    ]


@pytest.fixture(autouse=True)
def _none_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    # Their parent here is this process: it is what they end with.
    monkeypatch.setattr(os, "getppid", os.getpid)
    yield
    for child in processes():
        child.kill()
    for process in worker_process._started:
        process.wait(10)


@pytest.mark.slow
def test_a_run_gives_the_same_from_one_process_which_ends_when_idle(tmp_path: Path) -> None:
    few: dict[str, Any] = {"baselines": [], "rounds": 1, "data__clients_per_task": 1}
    here = small_run(tmp_path / "here", **few)
    config = {"keep-loaded": SOON, "state-dir": str(tmp_path / "state")}
    there, _ = over_memory(small_settings(**few), tmp_path / "there", hand_over=False, **config)
    (child,) = processes()
    assert tensors_of(tmp_path / "there")["state"] == tensors_of(tmp_path / "here")["state"]
    assert comparable(there["fedlease"]) == comparable(here.summary)
    worker = worker_of(None, None, SOON)
    assert worker is not None and worker.place().exists()
    child.wait(30)
    assert not worker.place().exists(), "the next message would not start another"


def hello(worker: Worker) -> RecordDict:
    """An answer to a message that holds nothing."""
    return ask(worker, RecordDict(), Context(1, 2, {}, RecordDict(), {}))


def test_one_that_ends_before_it_replies_is_an_error() -> None:
    worker = Worker(IDLE, os.getpid(), None, None, tuple(sys.path))
    with Listener(str(worker.place()), "AF_UNIX") as server:

        def end() -> None:
            with server.accept() as connection:
                connection.send_bytes(READY)
                connection.recv_bytes()

        thread = threading.Thread(target=end)
        thread.start()
        with pytest.raises(RuntimeError, match=r"ended before it replied; was there enough memory"):
            hello(worker)
        thread.join()


@pytest.mark.slow
def test_it_takes_the_place_of_a_dead_one_survives_an_error_and_ends_with_the_process_it_belongs_to() -> None:
    node = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    worker = Worker(IDLE, node.pid, ("json", "loads"), None, tuple(sys.path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(worker.place()))
        server.listen()
    # Nobody listens any more, and the file is still there.
    assert hello(worker) is not None
    (child,) = processes()
    content = pack(Envelope("0" * 32, "0", small_settings().model_dump_json(), "model")).record
    reply, _, _ = unpack(ask(worker, content, Context(1, 2, {}, RecordDict(), {})), 2**20)
    assert reply == Refused("node 2: its app failed with TypeError; the log of its node says why")
    assert hello(worker) is not None
    assert [other.pid for other in processes()] == [child.pid]
    node.kill()
    # Not waited for: what is left of a process that was killed does not keep it alive.
    child.wait(20)
    assert not worker.place().exists()
    node.wait()


def test_one_that_cannot_start_is_an_error() -> None:
    worker = Worker(IDLE, os.getpid(), ("no_such_module_anywhere", "load"), None, tuple(sys.path))
    with pytest.raises(RuntimeError, match=r"ended with 1 before it listened"):
        hello(worker)


def test_a_function_that_no_other_process_can_find_is_not_handed_over() -> None:
    assert worker_of(lambda context, settings: None, None, IDLE) is None
    assert worker_of(hello, None, IDLE) is not None


def test_a_folder_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / f"fedlease-{os.getuid()}"
    folder.mkdir(mode=0o755)
    worker = Worker(IDLE, os.getpid(), None, None, ())
    with pytest.raises(PermissionError, match="belongs to this user and is closed to others"):
        worker.place()


@pytest.mark.parametrize("value", [-1, "soon", True, float("inf")])
def test_values_that_are_no_seconds_are_refused(value: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"node-config: keep-loaded: must .*, received"):
        over_memory(small_settings(baselines=[]), tmp_path / "r", **{"keep-loaded": value})
