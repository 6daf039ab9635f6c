"""The server's half of a secure sum of the updates of one group in one step."""

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fedlease.client.messages import Masked, Refused, Train, Trained
from fedlease.client.sum_messages import (
    KEY,
    SEALED,
    SHARE,
    SIGNATURE,
    AskKeys,
    AskSeeds,
    AskShares,
    Masking,
    SumKeys,
    SumSeeds,
    SumShares,
)
from fedlease.core.types import ClientId
from fedlease.core.wording import counted
from fedlease.privacy.masking import (
    LARGEST,
    SumError,
    Words,
    agreed,
    combined,
    mean_of,
    noise,
    public_of,
    read_bytes,
    width_of,
)

__all__ = ["GroupSum", "Rules"]


@dataclass(frozen=True)
class Rules:
    """Settings of secure sums.

    Attributes:
        resolution: step of the fixed-point numbers.
        dropouts: share of a group that may drop out while its updates are summed.
        weighted: whether a client's weight is its number of train rows; otherwise it is 1.
    """

    resolution: float
    dropouts: float
    weighted: bool

    def threshold(self, count: int) -> int:
        """Fewest clients that must remain of ``count``."""
        # The small addend makes a third of three clients 1, although a third is not exact in floating point.
        return count - int(count * self.dropouts + 1e-9)


@dataclass
class GroupSum:
    """The state of one sum; a client with any other reply than the requested one counts as dropped out.

    Attributes:
        requests: client -> its request to train.
        rows: client -> number of its train rows.
        rules: settings of the sum.
        session: random id of the sum.
        refused: client -> the reason why its update is not in the sum.
        late: clients whose update came too late by the schedule.
    """

    requests: Mapping[ClientId, Train]
    rows: Mapping[ClientId, int]
    rules: Rules
    session: str = field(default_factory=lambda: secrets.token_hex(16))
    refused: dict[ClientId, str] = field(default_factory=dict)
    late: set[ClientId] = field(default_factory=set)
    _keys: dict[ClientId, SumKeys] = field(default_factory=dict)
    _sealed: dict[ClientId, Mapping[ClientId, str]] = field(default_factory=dict)
    _masked: dict[ClientId, Masked] = field(default_factory=dict)
    _seeds: dict[ClientId, SumSeeds] = field(default_factory=dict)

    @property
    def threshold(self) -> int:
        """Fewest clients that must remain after every message round."""
        return self.rules.threshold(len(self.requests))

    @property
    def width(self) -> int:
        """Bytes per masked number."""
        return width_of(sum(map(self._weight, self.requests)), self.rules.resolution)

    def key_asks(self) -> dict[ClientId, AskKeys]:
        """The first messages, which ask for public keys."""
        first, members = next(iter(self.requests.values())), tuple(sorted(self.requests))
        rules = self.rules
        ask = AskKeys(
            first.method,
            first.step,
            self.session,
            members,
            self.threshold,
            rules.weighted,
            rules.resolution,
            self.width,
        )
        return dict.fromkeys(members, ask)

    def take_keys(self, client: ClientId, reply: Any) -> None:
        """Takes a reply to the first message."""
        if (
            isinstance(reply, SumKeys)
            and _is_hex(reply.mask, KEY)
            and _is_hex(reply.seal, KEY)
            and _is_hex(reply.signature, min(len(reply.signature) // 2, SIGNATURE))
        ):
            self._keys[client] = reply
        else:
            self._refuse(client, reply)

    def share_asks(self) -> dict[ClientId, AskShares]:
        """The second messages, which ask for shares of secrets; {} if too few clients are left."""
        if not self._enough(self._keys):
            return {}
        first = next(iter(self.requests.values()))
        ask = AskShares(first.method, first.step, self.session, self._keys)
        return dict.fromkeys(self._keys, ask)

    def take_shares(self, client: ClientId, reply: Any) -> None:
        """Takes a reply to the second message."""
        others = self._keys.keys() - {client}
        if (
            isinstance(reply, SumShares)
            and reply.sealed.keys() == others
            and all(_is_hex(sealed, SEALED) for sealed in reply.sealed.values())
        ):
            self._sealed[client] = reply.sealed
        else:
            self._refuse(client, reply)

    def train_requests(self) -> dict[ClientId, Train]:
        """The third messages, which ask for training and a masked update; {} if too few clients are left."""
        if not self._enough(self._sealed):
            return {}
        found = {}
        for client in self._sealed:
            sealed = {other: own[client] for other, own in self._sealed.items() if other != client}
            found[client] = replace(self.requests[client], masking=Masking(self.session, sealed))
        return found

    def take_masked(self, client: ClientId, reply: Any) -> None:
        """Takes a reply to the third message."""
        limit, count = self.requests[client].seconds, 1 + sum(t.numel() for t in self._like(client).values())
        if not isinstance(reply, Masked):
            if isinstance(reply, Trained):
                reply = Refused("its update was not masked")
            self._refuse(client, reply)
        elif limit is not None and reply.trained.seconds > limit:
            self.late.add(client)
        elif (
            reply.values.shape != (count * self.width,)
            or str(reply.values.dtype) != "torch.uint8"
            or reply.trained.update.tensors
            or reply.trained.summed
        ):
            self.refused[client] = f"its masked update is not {counted(count, 'number')} of {self.width} bytes alone"
        else:
            self._masked[client] = reply

    def seed_asks(self) -> dict[ClientId, AskSeeds]:
        """The last messages, which ask for the shares that unmask the sum; {} if too few clients are left."""
        if not self._enough(self._masked):
            return {}
        first, survivors = next(iter(self.requests.values())), tuple(sorted(self._masked))
        return dict.fromkeys(survivors, AskSeeds(first.method, first.step, self.session, survivors))

    def take_seeds(self, client: ClientId, reply: Any) -> None:
        """Takes a reply to the last message; a client that drops out now is in the sum anyway."""
        if (
            isinstance(reply, SumSeeds)
            and reply.seeds.keys() == self._masked.keys()
            and reply.keys.keys() == self._sealed.keys() - self._masked.keys()
            and all(_is_hex(share, SHARE) for share in (*reply.seeds.values(), *reply.keys.values()))
        ):
            self._seeds[client] = reply

    def replies(self) -> Iterator[tuple[ClientId, Trained | Refused]]:
        """Yields every client's reply with the mean of the group as its update, or with the reason for a refusal."""
        mean = None
        if self._masked and self._enough(self._seeds):
            try:
                mean = self._unmasked()
            except SumError as error:
                self._fail(f"the sum of its cluster cannot be unmasked: {error}")
        for client in self.requests:
            if client in self.refused:
                yield client, Refused(self.refused[client])
            elif mean is not None and client in self._masked:
                trained = self._masked[client].trained
                update = replace(trained.update, tensors=mean)
                yield client, replace(trained, update=update, summed=len(self._masked))

    def _unmasked(self) -> dict[str, Any]:
        """Unmasks the sum of the remaining clients' updates, and returns their mean."""
        any_client = next(iter(self._masked))
        count = 1 + sum(tensor.numel() for tensor in self._like(any_client).values())
        masks: list[Words] = []
        helpers = sorted(self._seeds)[: self.threshold]
        for client in sorted(self._masked):
            masks.append(noise(self._secret([self._seeds[h].seeds[client] for h in helpers]), self.session, count))
        for client in sorted(self._sealed.keys() - self._masked.keys()):
            secret = self._secret([self._seeds[h].keys[client] for h in helpers])
            if public_of(secret).hex() != self._keys[client].mask:
                raise SumError("the shares of a key do not fit together")
            for survivor in self._masked:
                pair = noise(agreed(secret, bytes.fromhex(self._keys[survivor].mask)), self.session, count)
                masks.append(pair if client > survivor else -pair)
        total = read_bytes([self._masked[client].values for client in sorted(self._masked)], self.width, masks)
        weight, mean = mean_of(total, self._like(any_client), self.rules.resolution)
        if weight != sum(map(self._weight, self._masked)):
            raise SumError("its weight is not that of its clients")
        if any(bool((tensor.abs() > LARGEST).any()) for tensor in mean.values()):
            raise SumError(f"it holds values beyond {LARGEST:g}, which no client may send")
        return mean

    def _secret(self, shares: list[str]) -> bytes:
        return combined([bytes.fromhex(share) for share in shares])

    def _like(self, client: ClientId) -> Mapping[str, Any]:
        return self.requests[client].task.expected

    def _weight(self, client: ClientId) -> int:
        return self.rows[client] if self.rules.weighted else 1

    def _enough(self, left: Mapping[ClientId, Any]) -> bool:
        """Whether enough clients are left; if not, the sum fails for all."""
        if len(left) >= self.threshold:
            return True
        many = counted(len(self.requests), "client")
        self._fail(f"{len(left)} of {many} of its cluster were left in its secure sum, {self.threshold} are needed")
        return False

    def _fail(self, why: str) -> None:
        self._masked.clear()
        for client in self.requests.keys() - self.late:
            self.refused.setdefault(client, why)

    def _refuse(self, client: ClientId, reply: Any) -> None:
        self.refused[client] = reply.reason if isinstance(reply, Refused) else f"its reply is a {type(reply).__name__}"


def _is_hex(text: str, size: int) -> bool:
    return len(text) == 2 * size and {*text} <= {*"0123456789abcdef"}
