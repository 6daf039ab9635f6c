"""Limits of the machine that any step may reach: a full or read-only disk, memory, open files."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedlease.errors import FedLeaseError, RunFailedError

__all__ = ["limit_reached", "within_limits"]

LIMITS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "a file is larger than is allowed here",
    errno.EROFS: "the disk can only be read",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.EIO: "the disk cannot be read or written",
    errno.EMFILE: "too many files are open",
    errno.ENFILE: "too many files are open",
    errno.ENOMEM: "memory is used up",
}
"""Error of the operating system -> what it says."""

_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How libraries in Rust (safetensors, tokenizers) end the text of such an error."""

_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|cannot allocate memory", re.IGNORECASE)
_NO_THREAD = "can't start new thread"


def limit_reached(error: BaseException) -> str | None:
    """What limit an error is about, with the file it names; None where it is about something else."""
    found: BaseException | None = error
    seen: set[int] = set()
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        if (reason := _reason(found)) is not None:
            return reason
        found = found.__cause__ or found.__context__
    return None


@contextmanager
def within_limits(what: str, remedy: str, folder: Path | None = None) -> Iterator[None]:
    """Turns a limit that is reached in the block into one sentence; other errors pass as they are.

    Args:
        what: was going on.
        remedy: how to go on once there is room.
        folder: where every error of a file is told likewise, such as a folder in the place of the file.

    Raises:
        RunFailedError: a limit is reached.
    """
    try:
        yield
    except FedLeaseError:
        raise
    except Exception as error:
        reason = limit_reached(error) or _of_file_in(folder, error)
        if reason is None:
            raise
        raise RunFailedError(f"{what}: {reason}; {remedy}") from error


def _of_file_in(folder: Path | None, error: Exception) -> str | None:
    if folder is None or not isinstance(error, OSError) or not isinstance(error.filename, str | Path):
        return None
    # Of a move, it is the second that could not be written.
    named = error.filename2 if isinstance(error.filename2, str | Path) else error.filename
    return f"{named}: {error.strerror}" if folder in Path(named).parents else None


def _reason(error: BaseException) -> str | None:
    if isinstance(error, OSError):
        place = f": {error.filename}" if error.filename else ""
        return f"{LIMITS[error.errno]}{place}" if error.errno in LIMITS else None
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return LIMITS[errno.ENOMEM]
    text = str(error)
    if (number := _OS_ERROR.search(text)) is not None:
        return LIMITS.get(int(number[1]), os.strerror(int(number[1])))
    if isinstance(error, RuntimeError) and (_NO_MEMORY.search(text) or _NO_THREAD in text):
        return LIMITS[errno.ENOMEM] if _NO_THREAD not in text else "no further thread can be started"
    return None
