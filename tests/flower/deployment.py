"""A deployment on this machine: the blocks of an app's README, run as they stand."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fedlease.flower.new_app import write_app

PATIENCE = 120.0
"""Seconds for anything to start; the run itself has its own."""


def free_ports(count: int) -> int:
    """The first of so many neighbours that nothing listens on."""
    for first in range(21000, 30000, count):
        held = []
        try:
            for port in range(first, first + count):
                held.append(socket.socket())
                held[-1].bind(("127.0.0.1", port))
        except OSError:
            continue
        finally:
            for taken in held:
                taken.close()
        return first
    raise RuntimeError("no free ports")


class Deployment:
    """An app in a folder; every process that it starts has its own session and ends with it."""

    def __init__(self, folder: Path, sites: tuple[str, ...]) -> None:
        self.folder = folder
        write_app(folder, sites, port=free_ports(len(sites) + 2))
        self.sites = sites
        text = (folder / "README.md").read_text()
        self.blocks = dict(re.findall(r"<!-- (.+?) -->\n```bash\n(.*?)```", text, re.DOTALL))
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self.begun: dict[str, int] = {}
        binaries = str(Path(sys.executable).parent)
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("FLWR_", "RAY_", "PYTEST_"))},
            "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }

    def log(self, name: str) -> str:
        """What a process has printed since it was started last."""
        path = self._path(name)
        return path.read_bytes()[self.begun.get(name, 0) :].decode(errors="replace") if path.exists() else ""

    def _path(self, name: str) -> Path:
        return self.folder / f"{name.replace(' ', '-')}.log"

    def do(self, name: str, seconds: float = PATIENCE) -> None:
        """Runs a block to its end."""
        assert self.begin(name).wait(seconds) == 0, self.log(name)

    def begin(self, name: str, block: str | None = None) -> "subprocess.Popen[bytes]":
        """Starts a block."""
        path = self._path(name)
        self.begun[name] = path.stat().st_size if path.exists() else 0
        with path.open("ab") as log:
            process = subprocess.Popen(
                ["bash", "-e", "-c", block or self.blocks[name]],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running[name] = process
        return process

    def until(self, name: str, wording: str, seconds: float = PATIENCE) -> None:
        """Waits for a process to say something."""
        until = time.monotonic() + seconds
        while wording not in self.log(name):
            assert time.monotonic() < until, f"{name} did not say {wording!r}:\n{self.log(name)}"
            assert self.running[name].poll() is None or wording in self.log(name), self.log(name)
            time.sleep(0.2)

    def kill(self, name: str) -> None:
        """Ends a process and all it started, at once."""
        process = self.running.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)

    def end(self, name: str) -> None:
        """Asks a process to end, so that a SuperNode takes its leave."""
        with suppress(ProcessLookupError):
            os.killpg(self.running[name].pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.running[name].wait(30)
        self.kill(name)

    def join(self, name: str, block: str) -> None:
        """Starts a SuperNode; one that was killed is taken back when its server has given up the old one."""
        until = time.monotonic() + 2 * PATIENCE
        while True:
            process = self.begin(name, block)
            while process.poll() is None and "SuperNode ID" not in self.log(name):
                time.sleep(0.2)
            if process.poll() is None:
                return
            assert time.monotonic() < until, self.log(name)
            time.sleep(5)

    def up(self) -> None:
        """Keys, server, registration, nodes."""
        self.do("certificate")
        for site in self.sites:
            self.do(f"key {site}")
        self.do("peers")
        for step in ("signer", "sign", "trust"):
            self.do(step)
        self.begin("server")
        self.listening("server")
        self.do("register")
        self.begin("gate")
        self.listening("gate")
        for site in self.sites:
            self.join(f"node {site}", self.blocks[f"node {site}"])

    def port(self, name: str) -> int:
        """That a block's program listens on."""
        return int(re.findall(r"--port (\d+)", self.blocks[name])[0])

    def listening(self, name: str) -> None:
        """Waits for a program's port."""
        port = self.port(name)
        until = time.monotonic() + PATIENCE
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            assert time.monotonic() < until, self.log(name)
            assert self.running[name].poll() is None, self.log(name)
            time.sleep(0.2)


@contextmanager
def deployment(folder: Path, sites: tuple[str, ...]) -> Iterator[Deployment]:
    """An app whose processes are gone at the end."""
    app = Deployment(folder, sites)
    try:
        yield app
    finally:
        for name in list(app.running):
            app.kill(name)
