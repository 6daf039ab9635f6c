"""Files and folders that appear whole or not at all, are read within stated limits, and never lead elsewhere.

A run folder may be somebody else's. No link inside one is followed, temporary files are created under unpredictable
names, and only regular files of a stated size are read.
"""

import errno
import os
import re
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from fedlease.errors import RunFolderError

try:
    import fcntl
except ImportError:  # Windows has no such locks, so two processes are not kept from each other there
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "LOCK",
    "MOST_ENTRIES",
    "append",
    "check_walls",
    "locked",
    "new_folder",
    "read_file",
    "sweep",
    "write_atomically",
]

LOCK = ".lock"
"""Locked by the process that writes into a folder; the operating system frees it when that process ends."""

MOST_ENTRIES = 1_000_000
"""Files and folders that a run folder may hold."""

_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{16}\.tmp")
_SCRATCH = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")  # as tempfile names it
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


def write_atomically(path: Path, blob: bytes) -> None:
    """Writes ``path`` whole or not at all, and syncs it to the disk.

    A link at ``path`` is replaced, not followed.

    Raises:
        OSError: it cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | _NO_LINK
    descriptor = os.open(temporary, flags, 0o666)
    try:
        with open(descriptor, "wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync(path.parent)


def append(path: Path, blob: bytes, size: int) -> None:
    """Writes behind the first ``size`` bytes of a file, created when missing, and syncs it to the disk.

    Raises:
        OSError: it cannot be written, or is a link.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | getattr(os, "O_BINARY", 0) | _NO_LINK, 0o666)
    with open(descriptor, "wb") as file:
        # The other name may be in any folder; files that are replaced need no such care.
        if os.fstat(descriptor).st_nlink > 1:
            raise OSError(errno.EMLINK, "has another name elsewhere (a hard link)", str(path))
        file.truncate(size)
        file.seek(size)
        file.write(blob)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yields a folder to fill, which gets its name once it is complete and on the disk; a failed block leaves none.

    Args:
        path: the name; its parents are created.
        replace: whether a folder of that name is replaced; otherwise one that is not empty is an error.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    new, old = scratch / "new", scratch / "old"
    try:
        new.mkdir()
        yield new
        for written in (*new.rglob("*"), new):
            _sync(written)
        if replace and path.exists():
            os.replace(path, old)
        try:
            os.replace(new, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
        _sync(path.parent)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def read_file(path: Path, most: int) -> bytes:
    """The content of a regular file.

    Args:
        path: the file; a link, a folder, a pipe and a device are refused.
        most: bytes that it may have.

    Raises:
        FileNotFoundError: there is none.
        RunFolderError: no regular file, too large, or unreadable.
    """
    try:
        # Without O_NONBLOCK a named pipe without a writer would block.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | _NO_LINK)
        with open(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise RunFolderError(f"{path} is not a regular file")
            blob = file.read(found.st_size) if found.st_size <= most else b""
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name with NUL in it
        if isinstance(error, OSError) and error.errno == errno.ELOOP:
            raise RunFolderError(f"{path} is a link; links inside a run folder are not followed") from error
        if isinstance(error, IsADirectoryError):
            raise RunFolderError(f"{path} is not a regular file") from error
        raise RunFolderError(f"{path} cannot be read: {error}") from error
    if found.st_size > most:
        raise RunFolderError(f"{path} is damaged: it has more than {most:,} bytes, the most that such a file may have")
    return blob


def check_walls(folder: Path, skip: frozenset[str] = frozenset()) -> None:
    """Checks that a folder contains only regular files and folders: no links, pipes or devices.

    Args:
        folder: where to look; it may itself be reached by a link.
        skip: names of folders in it that are not looked into.

    Raises:
        RunFolderError: something else is in it, more than ``MOST_ENTRIES``, or it cannot be read.
    """
    waiting, seen = [folder], 0
    while waiting:
        here = waiting.pop()
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    seen += 1
                    if seen > MOST_ENTRIES:
                        raise RunFolderError(f"{folder} contains more than {MOST_ENTRIES:,} files")
                    if entry.is_symlink():
                        raise RunFolderError(f"{entry.path} is a link; a run folder contains only files and folders")
                    if entry.is_dir():
                        if here != folder or entry.name not in skip:
                            waiting.append(Path(entry.path))
                    elif not entry.is_file():
                        raise RunFolderError(f"{entry.path} is neither a file nor a folder")
        except FileNotFoundError as error:  # a process that writes the folder may have taken it away meanwhile
            if here == folder:
                raise RunFolderError(f"{folder} cannot be read: {error.strerror}") from error
        except OSError as error:
            raise RunFolderError(f"{here} cannot be read: {error.strerror}") from error


def sweep(folder: Path) -> None:
    """Deletes temporary files and folders that a process left in a folder when it was killed.

    Raises:
        OSError: one cannot be deleted.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_symlink():
            continue
        if path.is_file() and _TEMPORARY.fullmatch(path.name):
            path.unlink()
        elif path.is_dir() and _SCRATCH.fullmatch(path.name):
            shutil.rmtree(path)


@contextmanager
def locked(folder: Path, what: str, wait: float = 0.0, name: str = LOCK) -> Iterator[None]:
    """Keeps other processes from writing into a folder; those that read need no lock.

    The lock ends with the process, however it ends. A file system without locks protects nothing.

    Args:
        folder: created when missing, and removed again if nothing was written into it.
        what: what is written there, for the message.
        wait: seconds to wait for another process that has it.
        name: of the lock's file; locks of different names are independent.

    Raises:
        RunFolderError: another process has it, or the folder cannot be written.
    """
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    descriptor = _lock(folder, name, what, wait)
    try:
        yield
    finally:
        if missing:
            _leave_nothing(folder, name, missing)
        os.close(descriptor)


def _lock(folder: Path, name: str, what: str, wait: float) -> int:
    """The descriptor of a lock that this process has taken."""
    until = time.monotonic() + wait
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | getattr(os, "O_NONBLOCK", 0) | _NO_LINK, 0o666)
        except OSError as error:
            raise RunFolderError(f"{folder} cannot be written: {error}") from error
        taken = _taken(descriptor)
        if taken and os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)
        if not taken:  # otherwise the process that had it has deleted the lock's file too
            if time.monotonic() >= until:
                raise RunFolderError(
                    f"{folder} is in use: another process writes its {what} now; wait until it has ended, or choose "
                    "another folder"
                )
            time.sleep(0.05)


def _leave_nothing(folder: Path, name: str, missing: Sequence[Path]) -> None:
    """Deletes folders that were created for a lock if nothing else was written: a refused run leaves no trace."""
    with suppress(OSError):
        if [path.name for path in folder.iterdir()] == [name]:
            (folder / name).unlink()
            for made in missing:
                made.rmdir()


def _taken(descriptor: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def _sync(path: Path) -> None:
    if os.name != "posix" and path.is_dir():
        return  # there a folder cannot be opened to be synced
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
