"""A process of a node that stays between messages, so that torch and the base model are loaded only once.

In a deployment Flower starts a process for every message. With ``keep-loaded`` in the node's configuration that process
only passes the message to this one, over a socket in a folder of the user's own, and starts it first if necessary. This
process ends after ``keep-loaded`` seconds without a message, or with the SuperNode. Results are the same.
"""

import fcntl
import hashlib
import importlib
import json
import logging
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

from flwr.app import Context, RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict

__all__ = ["Worker", "ask", "worker_of"]

START = 300.0
"""Seconds that the process has until it listens; importing torch on a busy machine takes ten."""

TICK = 0.5
READY = b"+"
log = logging.getLogger("flwr")
# references to processes that outlive this one, for which nobody waits
_started: list[subprocess.Popen[bytes]] = []


@dataclass(frozen=True)
class Worker:
    """Identifies the process; each app, SuperNode and way of reading rows has its own.

    Attributes:
        idle: seconds without a message after which it ends.
        watched: id of the process with which it ends.
        load: module and name of the function that returns the rows; None reads them as the node configuration says.
        state_dir: see :func:`~fedlease.flower.clientapp.client_app`.
        path: ``sys.path`` of the process.
    """

    idle: float
    watched: int
    load: tuple[str, str] | None
    state_dir: str | None
    path: tuple[str, ...]

    def place(self) -> Path:
        """The path of its socket, in a folder that only this user can enter.

        Raises:
            PermissionError: the folder is another user's, or open to others.
        """
        folder = Path(tempfile.gettempdir()) / f"fedlease-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise PermissionError(f"{folder} must be a folder that belongs to this user and is closed to others")
        # Paths of sockets are limited to about a hundred characters.
        return folder / hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:20]


def worker_of(load: Any, state_dir: Path | None, idle: float) -> Worker | None:
    """The process that replies in place of this one, or None if there can be none; see :class:`Worker`."""
    named = None
    if load is not None:
        named = (getattr(load, "__module__", ""), getattr(load, "__qualname__", ""))
        module = sys.modules.get(named[0])
        if named[0] == "__main__" or getattr(module, named[1], None) is not load:
            log.warning("fedlease: keep-loaded needs load to be a function of a module; every message loads anew")
            return None
    if not hasattr(socket, "AF_UNIX"):
        return None
    return Worker(idle, os.getppid(), named, str(state_dir) if state_dir else None, tuple(sys.path))


def ask(worker: Worker, content: RecordDict, context: Context) -> RecordDict:
    """Lets the process reply to a message, and updates ``context.state``.

    Raises:
        PermissionError: the folder of sockets belongs to another user or is open to others.
        RuntimeError: the process could not be started, ended before it replied, or raised an error.
    """
    place = worker.place()
    with place.with_suffix(".lock").open("w") as lock:
        # Two messages at once must not start two processes.
        fcntl.flock(lock, fcntl.LOCK_EX)
        connection = _connect(place) or _start(worker, place)
    with connection:
        node = {"run_id": context.run_id, "node_id": context.node_id, "node_config": dict(context.node_config)}
        try:
            _send(connection, node, content, context.state)
            header, records = _receive(connection)
        except (EOFError, OSError) as error:
            raise RuntimeError("the process of this node ended before it replied; was there enough memory?") from error
    if "error" in header:
        raise RuntimeError(header["error"])
    reply, context.state = records
    return reply


def _connect(place: Path) -> Connection | None:
    try:
        connection: Connection = Client(str(place), "AF_UNIX")
    except OSError:
        return None
    with suppress(EOFError, OSError):
        # A process that was about to end sends no such sign.
        if connection.recv_bytes() == READY:
            return connection
    connection.close()
    return None


def _start(worker: Worker, place: Path) -> Connection:
    place.unlink(missing_ok=True)
    command = [sys.executable, "-m", "fedlease.flower.worker_process", str(place), json.dumps(asdict(worker))]
    # The package may have been found on a path that this process added.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    # It stays in the session of the SuperNode, so that Ctrl-C reaches it, and logs to the same terminal.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment)
    _started.append(process)
    until = time.monotonic() + START
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"the process of this node ended with {process.returncode} before it listened")
        connection = _connect(place) if place.exists() else None
        if connection is not None:
            return connection
        time.sleep(0.05)
    process.kill()
    raise RuntimeError(f"the process of this node did not listen within {START:g} s")


def _send(connection: Connection, header: dict[str, Any], *records: RecordDict) -> None:
    connection.send_bytes(json.dumps({**header, "records": len(records)}).encode())
    for record in records:
        connection.send_bytes(recorddict_to_proto(record).SerializeToString())


def _receive(connection: Connection) -> tuple[dict[str, Any], list[RecordDict]]:
    header: dict[str, Any] = json.loads(connection.recv_bytes())
    parts = [connection.recv_bytes() for _ in range(header["records"])]
    return header, [recorddict_from_proto(ProtoRecordDict.FromString(part)) for part in parts]


def _serve(place: Path, worker: Worker) -> None:
    sys.path[:] = worker.path
    load = getattr(importlib.import_module(worker.load[0]), worker.load[1]) if worker.load else None
    # slow imports come before it listens
    from fedlease.flower.handler import handle

    state_dir = Path(worker.state_dir) if worker.state_dir else None
    threading.Thread(target=_end_with, args=(worker.watched, place), daemon=True).start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(place))
        server.listen()
        server.settimeout(worker.idle)
        try:
            while True:
                accepted, _ = server.accept()
                with Connection(accepted.detach()) as connection, suppress(EOFError, OSError):
                    connection.send_bytes(READY)
                    _reply(connection, handle, load, state_dir)
        except TimeoutError:
            pass
        finally:
            _tidy(place)


def _reply(connection: Connection, handle: Any, load: Any, state_dir: Path | None) -> None:
    node, (content, state) = _receive(connection)
    context = Context(node["run_id"], node["node_id"], node["node_config"], state, {})
    try:
        reply = handle(content, context, load, state_dir)
    except Exception as error:  # sent to the caller, which raises it
        traceback.print_exc()
        _send(connection, {"error": f"{type(error).__name__}: {error}"})
        return
    _send(connection, {}, reply, context.state)


def _end_with(watched: int, place: Path) -> None:
    import psutil

    try:
        process = psutil.Process(watched)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            time.sleep(TICK)
    except psutil.Error:
        pass
    _tidy(place)
    os._exit(0)


def _tidy(place: Path) -> None:
    place.unlink(missing_ok=True)
    # A process that has this lock may start a second worker, which is harmless and ends when idle.
    place.with_suffix(".lock").unlink(missing_ok=True)


if __name__ == "__main__":
    from fedlease.reporting.quiet import quiet_libraries

    quiet_libraries()
    given = json.loads(sys.argv[2])
    with suppress(KeyboardInterrupt):
        _serve(Path(sys.argv[1]), Worker(**{**given, "load": given["load"] and tuple(given["load"])}))
