"""The exceptions of fedlease.

Each inherits from the one it hangs on:

    FedLeaseError
    ├── InputError              the caller gave something wrong: exit code 2, one line per fault
    │   ├── ConfigError         settings: an unknown key, a value outside its range
    │   ├── DataError           rows: a missing file or column, an empty text, an unknown label
    │   ├── ModelError          the base model: not found, no such target module, rank too large
    │   ├── MissingPackageError an optional package is not installed; the message holds the command
    │   └── RunFolderError      not a run folder, damaged, or of another version
    ├── RunFailedError          a run that had started cannot go on: exit code 1
    │   └── TooFewUpdatesError  too many of a round's updates were refused
    └── UpdateRefusedError      one client's update is not used this round; caught by the engines
"""

from collections.abc import Sequence

__all__ = [
    "ConfigError",
    "DataError",
    "FedLeaseError",
    "InputError",
    "MissingPackageError",
    "ModelError",
    "RunFailedError",
    "RunFolderError",
    "TooFewUpdatesError",
    "UpdateRefusedError",
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


class DataError(InputError):
    """A row, file, column or label is not usable; the message names file, line and column."""


class ModelError(InputError):
    """The base model cannot be had, or the adapter does not fit it."""


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
    """A run that had started cannot go on; the last checkpoint stays usable."""


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
