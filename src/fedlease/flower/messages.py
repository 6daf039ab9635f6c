"""What server and nodes say to each other; how it travels is in ``records.py``."""

from dataclasses import dataclass

from fedlease.core.codec import serialisable
from fedlease.core.types import ClientModel, ClientTask
from fedlease.data.federation import ClientCard

__all__ = ["Finish", "Hello", "Introduction", "Lacking", "Refusal", "Score", "Work"]


@serialisable
@dataclass(frozen=True)
class Hello:
    """The server's first question to a node.

    Attributes:
        run: identity of the run, the same when it is gone on with.
        version: of fedlease on the server.
        settings: of the run, as JSON.
        model: fingerprint of the base model.
    """

    run: str
    version: str
    settings: str
    model: str


@serialisable
@dataclass(frozen=True)
class Introduction:
    """A node's answer to :class:`Hello`."""

    card: ClientCard


@serialisable
@dataclass(frozen=True)
class Refusal:
    """A node cannot or will not do what it was asked.

    Attributes:
        reason: one sentence.
        unusable: what the node is known by, where its rows cannot be used; else empty.
    """

    reason: str
    unusable: str = ""


@serialisable
@dataclass(frozen=True)
class Lacking:
    """A node no longer has arrays that the server thinks it has.

    Attributes:
        names: SHA-256 of each.
    """

    names: tuple[str, ...]


@serialisable
@dataclass(frozen=True)
class Work:
    """A task for a client.

    Attributes:
        run: identity of the run, which what the client keeps belongs to.
        settings: of the run, as JSON: every message may start a process that knows nothing.
        base: fingerprint of the server's base model.
        method: name.
        step: of the run.
        task: what to do.
        accepted: the last step of this client whose update was used, or None.
        keeps: whether the client should have private tensors from before.
    """

    run: str
    settings: str
    base: str
    method: str
    step: int
    task: ClientTask
    accepted: int | None
    keeps: bool


@serialisable
@dataclass(frozen=True)
class Score:
    """A model to be scored on the client's test rows; fields as of :class:`Work`."""

    run: str
    settings: str
    base: str
    method: str
    model: ClientModel
    accepted: int | None
    keeps: bool


@serialisable
@dataclass(frozen=True)
class Finish:
    """The client's final model; fields as of :class:`Work`.

    Attributes:
        untrained: initial adapter and head.
        hand_over: whether the client gives its private tensors to the server; only where both are one machine.
    """

    run: str
    settings: str
    base: str
    method: str
    model: ClientModel
    untrained: ClientModel
    accepted: int | None
    keeps: bool
    hand_over: bool = False
