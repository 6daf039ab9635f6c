"""Processes that begin at once: copies of one that has loaded all libraries, which takes longer than what is tested."""

import multiprocessing
import os
import runpy
import sys
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

COPIES = multiprocessing.get_context("forkserver")
COPIES.set_forkserver_preload(["fedlease.cli.main", "fedlease.runs.runner", "fedlease.use.serving.serve", "uvicorn"])


@dataclass(frozen=True)
class Running:
    """A process, and the files that its streams are written to."""

    process: BaseProcess
    out: Path
    err: Path

    def line(self, seconds: float = 60) -> str:
        """The first line on standard error."""
        until = time.monotonic() + seconds
        while "\n" not in (text := self.err.read_text()):
            assert self.process.is_alive() and time.monotonic() < until, text
            time.sleep(0.02)
        return text.splitlines()[0]

    def ended(self, seconds: float = 60) -> int:
        """Its exit code; minus the number of the signal that ended it."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"still running:\n{self.err.read_text()}"
        return self.process.exitcode


def begin(*words: str | Path, streams: Path, files: int | None = None, script: Path | None = None) -> Running:
    """Starts the command line with these words, or a script.

    Args:
        words: after the program's name.
        streams: folder for what it prints.
        files: that it may open; None leaves the limit as it is.
        script: what runs in place of the command line.
    """
    out, err = streams / "stdout", streams / "stderr"
    for path in (out, err):
        path.write_bytes(b"")
    process = COPIES.Process(target=_main, args=([*map(str, words)], out, err, files, script))
    process.start()
    return Running(process, out, err)


def _main(words: list[str], out: Path, err: Path, files: int | None, script: Path | None) -> None:
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), stream)
    if files is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    sys.argv = [str(script or "fedlease"), *words]
    if script is not None:
        runpy.run_path(str(script), run_name="__main__")
    else:
        from fedlease.cli.main import main

        main()
