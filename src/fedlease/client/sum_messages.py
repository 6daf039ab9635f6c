"""Messages of a secure sum between a server and its clients; bytes are sent as hexadecimal digits.

A sum has four message rounds: keys; shares; the masked updates (:class:`Masking` in the request to train,
:class:`~fedlease.client.messages.Masked` in the reply); and the shares that unmask their sum.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from fedlease.core.names import ClientId
from fedlease.core.serialisable import serialisable
from fedlease.core.types import ClientTask
from fedlease.methods.warmup import WARMUP

__all__ = [
    "KEY",
    "LEAST",
    "SEALED",
    "SHARE",
    "SIGNATURE",
    "AskKeys",
    "AskSeeds",
    "AskShares",
    "Masking",
    "SumAsk",
    "SumKeys",
    "SumSeeds",
    "SumShares",
    "is_summed",
]

KEY, SHARE, SEALED = 32, 20, 28 + 2 * 20
"""Bytes of a public key, of a share (its number and a block of 16), and of two sealed shares."""

SIGNATURE = 1000
"""Most bytes of a signature."""

LEAST = 3
"""Fewest clients of a sum: of two clients, each could compute the other's update from the sum."""


@serialisable
@dataclass(frozen=True)
class AskKeys:
    """Asks to take part in a sum, and for public keys.

    Attributes:
        method: name of the method.
        step: number of the step within the method.
        session: random id of the sum, 32 hexadecimal digits.
        members: all clients that are asked, sorted.
        threshold: fewest clients that must remain after every message round, and number of shares that restore a
            secret.
        weighted: whether a client's weight is its number of train rows; otherwise it is 1.
        resolution: step of the fixed-point numbers.
        width: bytes per number.
    """

    method: str
    step: int
    session: str
    members: tuple[ClientId, ...]
    threshold: int
    weighted: bool
    resolution: float
    width: int


@serialisable
@dataclass(frozen=True)
class SumKeys:
    """The reply to :class:`AskKeys`: public keys.

    Attributes:
        mask: key for agreeing on masks.
        seal: key for sealing shares.
        signature: by the key of the client's node; empty without one.
    """

    mask: str
    seal: str
    signature: str = ""

    def statement(self, ask: "AskKeys", client: ClientId) -> bytes:
        """The signed statement: the keys with their client and sum."""
        parts = ("fedlease sum", ask.session, ask.method, str(ask.step), client, self.mask, self.seal)
        return "\n".join(parts).encode()


@serialisable
@dataclass(frozen=True)
class AskShares:
    """Asks for shares of the client's secrets, for the clients that have sent keys.

    Attributes:
        method: as in :class:`AskKeys`.
        step: as in :class:`AskKeys`.
        session: as in :class:`AskKeys`.
        keys: client -> its public keys, including the asked client's.
    """

    method: str
    step: int
    session: str
    keys: Mapping[ClientId, SumKeys]


@serialisable
@dataclass(frozen=True)
class SumShares:
    """The reply to :class:`AskShares`: client -> the shares sealed for it."""

    sealed: Mapping[ClientId, str]


@serialisable
@dataclass(frozen=True)
class Masking:
    """Asks to mask the update of a task.

    Attributes:
        session: as in :class:`AskKeys`.
        sealed: client -> the shares that it has sealed for the asked client; clients that dropped out are absent.
    """

    session: str
    sealed: Mapping[ClientId, str]


@serialisable
@dataclass(frozen=True)
class AskSeeds:
    """Asks for the shares that unmask the sum of the masked updates that have arrived.

    Attributes:
        method: as in :class:`AskKeys`.
        step: as in :class:`AskKeys`.
        session: as in :class:`AskKeys`.
        survivors: clients whose masked updates have arrived, sorted.
    """

    method: str
    step: int
    session: str
    survivors: tuple[ClientId, ...]


@serialisable
@dataclass(frozen=True)
class SumSeeds:
    """The reply to :class:`AskSeeds`, with either kind of share for every client, never both.

    Attributes:
        seeds: survivor -> a share of the seed of its own mask.
        keys: client that has dropped out -> a share of the secret of its masks with others.
    """

    seeds: Mapping[ClientId, str]
    keys: Mapping[ClientId, str]


SumAsk = AskKeys | AskShares | AskSeeds


def is_summed(task: ClientTask) -> bool:
    """Whether a task's update is summed if the settings ask for secure sums: all uploads are, except warm-ups."""
    return task.phase != WARMUP and bool(task.upload)
