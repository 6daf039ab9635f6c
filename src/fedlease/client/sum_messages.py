"""What a server and its clients say to each other for a secure sum; bytes travel as hexadecimal digits.

A sum has four message rounds: keys, shares, the masked updates themselves (:class:`Masking` in the request to train,
:class:`~fedlease.client.messages.Masked` in the reply), and what takes the masks off their sum.
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
"""Bytes of a public key, of a share (its number and a block of 16), and of two shares that are sealed."""

SIGNATURE = 1000
"""Most bytes of a signature."""

LEAST = 3
"""Clients of a group whose updates are summed: of two, each knows the other's from the sum."""


@serialisable
@dataclass(frozen=True)
class AskKeys:
    """Take part in a sum, and make keys for it.

    Attributes:
        method: name of the method.
        step: number of the step within the method.
        session: 32 hexadecimal digits, never the same again.
        members: everyone who is asked, sorted.
        threshold: of them must be left in every message round; also the shares that give a secret back.
        weighted: whether a client weighs its train rows; else 1.
        resolution: of the fixed-point numbers.
        width: bytes of each.
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
    """The reply: public keys.

    Attributes:
        mask: to agree on masks.
        seal: to seal shares.
        signature: by the key that the client's node has; empty without one.
    """

    mask: str
    seal: str
    signature: str = ""

    def statement(self, ask: "AskKeys", client: ClientId) -> bytes:
        """What is signed: whose keys these are, and for which sum."""
        parts = ("fedlease sum", ask.session, ask.method, str(ask.step), client, self.mask, self.seal)
        return "\n".join(parts).encode()


@serialisable
@dataclass(frozen=True)
class AskShares:
    """Share your secrets among those who have sent keys.

    Attributes:
        method: as of :class:`AskKeys`.
        step: likewise.
        session: likewise.
        keys: client -> its public keys, the asked one's among them.
    """

    method: str
    step: int
    session: str
    keys: Mapping[ClientId, SumKeys]


@serialisable
@dataclass(frozen=True)
class SumShares:
    """The reply: client -> what is sealed for it."""

    sealed: Mapping[ClientId, str]


@serialisable
@dataclass(frozen=True)
class Masking:
    """How the update of a task is masked.

    Attributes:
        session: as of :class:`AskKeys`.
        sealed: client -> what it has sealed for the asked one; whoever is not there has vanished.
    """

    session: str
    sealed: Mapping[ClientId, str]


@serialisable
@dataclass(frozen=True)
class AskSeeds:
    """Give out what takes the masks off the sum of those whose masked updates have come.

    Attributes:
        method: as of :class:`AskKeys`.
        step: likewise.
        session: likewise.
        survivors: whose they are, sorted.
    """

    method: str
    step: int
    session: str
    survivors: tuple[ClientId, ...]


@serialisable
@dataclass(frozen=True)
class SumSeeds:
    """The reply, of each client one or the other and never both.

    Attributes:
        seeds: survivor -> a share of the seed of its own mask.
        keys: client that has vanished since -> a share of the secret of its masks with others.
    """

    seeds: Mapping[ClientId, str]
    keys: Mapping[ClientId, str]


SumAsk = AskKeys | AskShares | AskSeeds


def is_summed(task: ClientTask) -> bool:
    """Whether the update of a task is summed where the settings ask for secure sums: all but warm-ups are."""
    return task.phase != WARMUP and bool(task.upload)
