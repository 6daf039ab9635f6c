"""The exceptions of fedlease, and the limits of a machine (disk, memory, open files) as one of them.

Each inherits from the one above it:

    FedLeaseError
    ├── InputError              the caller gave something wrong: exit code 2, one line per fault
    │   ├── ConfigError         settings: an unknown key, a value outside its range
    │   ├── RulesError          a node's own rules forbid what its server asks for; the server is told their names alone
    │   ├── DataError           rows: a missing file or column, an empty text, an unknown label
    │   ├── ModelError          the base model: not found, no such target module, rank too large
    │   ├── MissingPackageError an optional package is not installed; the message holds the command
    │   └── RunFolderError      not a run folder, damaged, or of another version
    ├── RunFailedError          a run that has started cannot continue: exit code 1
    │   └── TooFewUpdatesError  too many of a round's updates were refused
    └── UpdateRefusedError      one client's update is not used this round; caught by the engines
"""

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = [
    "ConfigError",
    "DataError",
    "FedLeaseError",
    "InputError",
    "MissingPackageError",
    "ModelError",
    "RulesError",
    "RunFailedError",
    "RunFolderError",
    "TooFewUpdatesError",
    "UpdateRefusedError",
    "limit_reached",
    "stops_everything",
    "within_limits",
]


class FedLeaseError(Exception):
    """Root of every exception that fedlease raises on purpose."""


class InputError(FedLeaseError):
    """Wrong input. Holds every fault that was found, not only the first.

    Args:
        faults: one sentence, or several; each names the parameter, the rule and the value received.
    """

    def __init__(self, faults: str | Sequence[str]) -> None:
        self.faults: tuple[str, ...] = (faults,) if isinstance(faults, str) else tuple(faults)
        super().__init__("\n".join(self.faults))


class ConfigError(InputError):
    """A setting is unknown or outside its range."""


class RulesError(InputError):
    """A node's own rules forbid what its server asks for.

    Args:
        broken: a rule, and what is asked for and allowed, for the node's log; of every rule that is broken.
    """

    def __init__(self, broken: Sequence[tuple[str, str]]) -> None:
        self.rules: tuple[str, ...] = tuple(dict.fromkeys(rule for rule, _ in broken))
        super().__init__([sentence for _, sentence in broken])


class DataError(InputError):
    """A row, file, column or label is not usable; the message names file, line and column."""


class ModelError(InputError):
    """The base model cannot be loaded, or the adapter does not fit it."""


class MissingPackageError(InputError):
    """An optional package is needed and not installed.

    Args:
        package: the distribution name.
        purpose: what it is needed for.
        command: the command that installs it.
    """

    def __init__(self, package: str, purpose: str, command: str) -> None:
        super().__init__(f"{purpose} needs the package {package}, which is not installed: run {command}")


class RunFolderError(InputError):
    """The folder is not a run folder, is damaged, or was written by another version."""


class RunFailedError(FedLeaseError):
    """A run that has started cannot continue; the last checkpoint stays usable."""


class TooFewUpdatesError(RunFailedError):
    """Too many of a round's updates were refused, as when training diverges."""


class UpdateRefusedError(FedLeaseError):
    """One client's update is refused for this round.

    Args:
        client: the client whose update it is.
        reason: why, in words that end up in ``rounds.jsonl``.
    """

    def __init__(self, client: str, reason: str) -> None:
        self.client = client
        self.reason = reason
        super().__init__(f"client {client!r}: {reason}")


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
"""Error number of the operating system -> what it means."""

_OS_ERROR = re.compile(r"\(os error (\d+)\)")
"""How libraries in Rust (safetensors, tokenizers) end the text of such an error."""

_NO_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|cannot allocate memory", re.IGNORECASE)
_NO_THREAD = "can't start new thread"


def limit_reached(error: BaseException) -> str | None:
    """The limit that an error reports, with its file; None for any other error."""
    found: BaseException | None = error
    seen: set[int] = set()
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        if (reason := _reason(found)) is not None:
            return reason
        found = found.__cause__ or found.__context__
    return None


def stops_everything(error: BaseException) -> bool:
    """Whether an error reports a limit that other work reaches as well: any but memory, of which it may need less."""
    reason = limit_reached(error)
    return reason is not None and not reason.startswith(LIMITS[errno.ENOMEM])


@contextmanager
def within_limits(what: str, remedy: str, folder: Path | None = None) -> Iterator[None]:
    """Turns a limit that is reached in the block into one sentence; other errors pass as they are.

    Args:
        what: what was being done.
        remedy: how to continue once there is room.
        folder: every error about a file in it is reported in the same way, such as a folder in place of a file.

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
    # When a file is moved, the second name is the one that could not be written.
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
