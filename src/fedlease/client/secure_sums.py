"""A client's half of a secure sum, which protects it from revealing too much to the server.

The server sees masked updates and their sum. About every other client, a client reveals either a share of the seed of
that client's own mask or a share of the secret of its masks with others, never both. It does so once per sum, and in
each step only for one set of clients, since two sums that differ by one client would reveal that client's update.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

from fedlease.client.messages import Masked, Refused, Reply, Request, Train, Trained
from fedlease.client.sum_messages import (
    LEAST,
    SHARE,
    AskKeys,
    AskSeeds,
    AskShares,
    Masking,
    SumAsk,
    SumKeys,
    SumSeeds,
    SumShares,
    is_summed,
)
from fedlease.core.serialisable import serialisable
from fedlease.core.sketch import Sketch
from fedlease.core.types import ClientId
from fedlease.privacy.masking import (
    SumError,
    agreed,
    as_bytes,
    fixed,
    new_secret,
    noise,
    public_of,
    seal,
    shares_of,
    unseal,
)

__all__ = ["Member", "Membership", "Notary"]

Stage = Literal["none", "keys", "shares", "masked"]


@serialisable
@dataclass(frozen=True)
class Membership:
    """A client's memory of the current sum, and of the last one that it helped to unmask.

    Attributes:
        asked: first message of the current sum.
        stage: last message that the client has sent in it.
        secret: of its masks with others; hexadecimal, like all keys and shares.
        sealing: secret for unsealing the shares sent to it.
        seed: of its own mask.
        keys: client -> its public keys, for the clients that exchange shares.
        shares: client -> shares of its seed and secret, for the clients whose masks are in the update, itself included.
        step: of the last sum that it helped to unmask.
        survivors: clients whose updates were in that sum.
        summed: whether it has sent a masked update with this method.
        sketch: rule by which it has sketched its warm-up, or None.
    """

    asked: AskKeys | None = None
    stage: Stage = "none"
    secret: str = ""
    sealing: str = ""
    seed: str = ""
    keys: Mapping[ClientId, SumKeys] = field(default_factory=dict)
    shares: Mapping[ClientId, tuple[str, str]] = field(default_factory=dict)
    step: int = 0
    survivors: tuple[ClientId, ...] = ()
    summed: bool = False
    sketch: Sketch | None = None


class Notary(Protocol):
    """Signs and verifies keys, so that a server cannot replace them by its own."""

    def sign(self, statement: bytes) -> str:
        """The client's signature, hexadecimal; empty if it has no key."""

    def fault(self, client: ClientId, statement: bytes, signature: str) -> str:
        """The reason why a statement is not that of a client; empty if it is, or if that cannot be known."""


@dataclass
class Member:
    """A client's part in secure sums; its requests are handled elsewhere.

    Attributes:
        client: its id.
        memory: of this method, replaced by every message.
        notary: signs and verifies keys; None, as in one process, accepts all keys.
    """

    client: ClientId
    memory: Membership = field(default_factory=Membership)
    notary: Notary | None = None

    def tell(self, ask: SumAsk) -> SumKeys | SumShares | SumSeeds | Refused:
        """Replies to a message of a sum; a refusal ends the sum for this client."""
        try:
            match ask:
                case AskKeys():
                    return self._keys(ask)
                case AskShares():
                    return self._shares(ask)
                case AskSeeds():
                    return self._seeds(ask)
        except SumError as error:
            self._end()
            return Refused(f"it takes no part in the secure sum: {error}")

    def accepts(self, request: Request) -> Refused | None:
        """Returns a refusal if a request must not be fulfilled; otherwise unseals the shares that it has, if any."""
        if not isinstance(request, Train) or not request.task.upload:
            return None
        masking = request.masking
        try:
            if masking is not None:
                self._open(request, masking)
            elif is_summed(request.task):
                raise SumError("an update after the warm-up is not sent without masks (privacy.secure_sums)")
            elif self.memory.summed:
                raise SumError("it sends no warm-up after it has sent masked updates (privacy.secure_sums)")
            else:
                self._sketches(request.task.sketch)
        except SumError as error:
            self._end()
            return Refused(str(error))
        return None

    def masked(self, request: Train, reply: Reply) -> Reply:
        """Masks the update in a reply.

        Args:
            request: a request with masking that :meth:`accepts` has accepted.
            reply: the reply without masking.
        """
        memory, asked = self.memory, self.memory.asked
        assert asked is not None and request.masking is not None
        if not isinstance(reply, Trained):
            self._end()
            return reply
        try:
            weight = reply.update.num_examples if asked.weighted else 1
            total = fixed(reply.update.tensors, weight, asked.resolution)
        except SumError as error:
            self._end()
            return Refused(str(error))
        total += noise(bytes.fromhex(memory.seed), asked.session, len(total))
        for other in memory.shares.keys() - {self.client}:
            pair = noise(self._agreed(other), asked.session, len(total))
            total += pair if other > self.client else -pair
        self.memory = replace(memory, stage="masked", summed=True)
        return Masked(replace(reply, update=replace(reply.update, tensors={})), as_bytes(total, asked.width))

    def _sketches(self, sketch: Sketch | None) -> None:
        if self.memory.sketch is not None and sketch != self.memory.sketch:
            # Enough sketches by different random draws would reveal the warm-up itself.
            raise SumError("it has sketched its warm-up in another way (privacy.sketch)")
        self.memory = replace(self.memory, sketch=sketch)

    def _keys(self, ask: AskKeys) -> SumKeys:
        members = ask.members
        if len(members) < LEAST or [*members] != sorted({*members}) or self.client not in members:
            raise SumError(f"it needs {LEAST} clients or more, each once, this one among them")
        if not len(members) < 2 * ask.threshold <= 2 * len(members):
            raise SumError(f"more than half of {len(members)} clients must be left, not {ask.threshold}")
        if not (0 < ask.resolution <= 1 and 1 <= ask.width <= 8 and len(ask.session) == 32):
            raise SumError("its numbers or its session are out of range")
        last = max(self.memory.step, self.memory.asked.step if self.memory.asked else 0)
        if ask.step < last or (self.memory.asked is not None and ask.session == self.memory.asked.session):
            raise SumError("this sum, or a later one, has already begun")
        secret, sealing = new_secret(), new_secret()
        own = SumKeys(public_of(secret).hex(), public_of(sealing).hex())
        if self.notary is not None:
            own = replace(own, signature=self.notary.sign(own.statement(ask, self.client)))
        self._end()
        self.memory = replace(
            self.memory,
            asked=ask,
            stage="keys",
            secret=secret.hex(),
            sealing=sealing.hex(),
            keys={self.client: own},
        )
        return own

    def _shares(self, ask: AskShares) -> SumShares:
        asked, memory = self._expected("keys", ask.session, ask.step), self.memory
        public = [key for keys in ask.keys.values() for key in (keys.mask, keys.seal)]
        if (
            ask.keys.get(self.client) != memory.keys[self.client]
            or not {*ask.keys} <= {*asked.members}
            or len({*public}) < len(public)
        ):
            raise SumError("the keys are not those of its members, each with its own")
        if len(ask.keys) < asked.threshold:
            raise SumError(f"{len(ask.keys)} clients have sent keys, {asked.threshold} are needed")
        for client, keys in ask.keys.items():
            if self.notary and (why := self.notary.fault(client, keys.statement(asked, client), keys.signature)):
                raise SumError(why)
        members, seed, sealed = sorted(ask.keys), new_secret(), {}
        both = (shares_of(one, asked.threshold, len(members)) for one in (seed, bytes.fromhex(memory.secret)))
        shares = {member: (one.hex(), other.hex()) for member, one, other in zip(members, *both, strict=True)}
        self.memory = replace(
            memory, stage="shares", seed=seed.hex(), keys=dict(ask.keys), shares={self.client: shares[self.client]}
        )
        for member in members:
            if member != self.client:
                key, text = self._agreed(member, sealing=True), bytes.fromhex("".join(shares[member]))
                sealed[member] = seal(key, text, _context(asked.session, self.client, member)).hex()
        return SumShares(sealed)

    def _open(self, request: Train, masking: Masking) -> None:
        asked, memory = self._expected("shares", masking.session, request.step), self.memory
        if not {*masking.sealed} <= memory.keys.keys() - {self.client} or request.method != asked.method:
            raise SumError("shares come from clients that are not in the secure sum")
        if len(masking.sealed) + 1 < asked.threshold:
            raise SumError(f"{len(masking.sealed) + 1} clients have shared, {asked.threshold} are needed")
        shares = {self.client: memory.shares[self.client]}
        for member, sealed in masking.sealed.items():
            context = _context(asked.session, member, self.client)
            text = unseal(self._agreed(member, sealing=True), _bytes(sealed), context)
            if len(text) != 2 * SHARE:
                raise SumError("a share has another length")
            shares[member] = text[:SHARE].hex(), text[SHARE:].hex()
        self.memory = replace(memory, shares=shares)

    def _seeds(self, ask: AskSeeds) -> SumSeeds:
        asked, memory, survivors = self._expected("masked", ask.session, ask.step), self.memory, {*ask.survivors}
        if not {self.client} <= survivors <= memory.shares.keys():
            raise SumError("the survivors are not those who have shared, this one among them")
        if len(survivors) < asked.threshold:
            raise SumError(f"{len(survivors)} masked updates have come, {asked.threshold} are needed")
        if memory.step == asked.step and survivors != {*memory.survivors}:
            raise SumError("it has helped to unmask another sum of this step, and the difference would show an update")
        self.memory = replace(memory, step=asked.step, survivors=tuple(sorted(survivors)))
        self._end()
        vanished = memory.shares.keys() - survivors
        return SumSeeds(
            {member: memory.shares[member][0] for member in sorted(survivors)},
            {member: memory.shares[member][1] for member in sorted(vanished)},
        )

    def _expected(self, stage: Stage, session: str, step: int) -> AskKeys:
        asked = self.memory.asked
        if asked is None or self.memory.stage != stage or (asked.session, asked.step) != (session, step):
            raise SumError("a message of another secure sum, or out of order")
        return asked

    def _agreed(self, other: ClientId, *, sealing: bool = False) -> bytes:
        keys, memory = self.memory.keys[other], self.memory
        if sealing:
            return agreed(bytes.fromhex(memory.sealing), _bytes(keys.seal))
        return agreed(bytes.fromhex(memory.secret), _bytes(keys.mask))

    def _end(self) -> None:
        """Forgets the secrets of the sum, but not that it took place."""
        self.memory = replace(self.memory, stage="none", secret="", sealing="", seed="", keys={}, shares={})


def _context(session: str, sender: ClientId, receiver: ClientId) -> str:
    return f"{session} {sender!r} {receiver!r}"


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise SumError("its bytes are not hexadecimal digits") from error
