"""A filter that sends differences: the server's from what the client has, the client's from what it received.

Server and client both know what the client has: they start from the same adapter, which each makes from the seed. The
server takes each difference from what the client decoded, so the next one corrects the rounding of the last. The client
keeps the rounding error of its update and adds it to its next update (error feedback: Seide et al., Interspeech 2014;
Karimireddy et al., ICML 2019). The server adds a client's difference to its own model, which is not rounded.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from fedlease.core.screening import start_of
from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate, TensorName, Tensors
from fedlease.privacy.packing import Bits, PackingError, is_packed, pack, unpack

__all__ = ["MOST_BYTES", "Differences", "flat"]

MOST_BYTES = 2**30
"""Default limit on the size of one message's unpacked tensors."""


@dataclass(frozen=True)
class Differences:
    """Sends differences with few bits per value; see :mod:`fedlease.privacy.packing`.

    Attributes:
        bits: per value, 4 or 8. With 32 nothing is rounded: the server sends the tensors that the client does not have,
            and the client sends whole updates.
        start: the adapter that all clients start from; the first difference of every tensor is taken from it.
        most: largest number of bytes that a model may unpack to.
        kept_alone: whether to pack only the tensors that the model lists as kept by clients.
    """

    bits: Bits
    start: Tensors = field(default_factory=dict)
    most: int = MOST_BYTES
    kept_alone: bool = False

    def broadcast(
        self,
        models: Mapping[ClientId, ClientModel],
        received: Mapping[ClientId, Tensors],
        aside: Mapping[ClientId, Collection[str]],
    ) -> tuple[dict[ClientId, ClientModel], dict[ClientId, Tensors]]:
        """The models as differences, and what each client has after decoding them."""
        # Many clients receive the same experts: a difference that several clients need is packed once.
        made: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}
        sent, have = dict[ClientId, ClientModel](), dict[ClientId, Tensors]()
        for client, model in models.items():
            has, travelling, left = received.get(client, {}), dict[str, Tensor](), dict[str, Tensor]()
            for key, tensor in flat(model).items():
                if self._passes(key, model, aside[client]) or not tensor.is_floating_point():
                    travelling[key] = tensor
                    continue
                base = self._base(key, tensor, has)
                pair = id(tensor), id(base)
                if pair not in made:
                    made[pair] = pack(tensor, self.bits, base)
                travelling[key], left[key] = made[pair]
            sent[client], have[client] = _with(model, travelling), left
        return sent, have

    def whole(self, model: ClientModel, received: Tensors) -> ClientModel:
        """The model for a client that has nothing yet: the values it would have decoded, not rounded again."""
        return _with(model, {key: received.get(key, tensor) for key, tensor in flat(model).items()})

    def received(self, model: ClientModel, received: Tensors, aside: Collection[str]) -> tuple[ClientModel, Tensors]:
        """The unpacked model, and what the client has now.

        Raises:
            LacksBaseError: a tensor is a difference from values that this client does not have.
            PackingError: a tensor is malformed, or larger than allowed.
        """
        left, values = self.most // 4, dict[str, Tensor]()
        for key, tensor in flat(model).items():
            values[key] = tensor
            if not is_packed(tensor):
                continue
            base = received.get(key, self.start.get(_common(key)))
            values[key] = _named(key, tensor, self.bits, base, left)
            left -= values[key].numel()
        left_here = {key: tensor for key, tensor in values.items() if not self._passes(key, model, aside)}
        return _with(model, values), left_here

    def upload(self, task: ClientTask, update: ClientUpdate, residual: Tensors) -> tuple[ClientUpdate, Tensors]:
        """The update as differences from the received model, and their rounding errors."""
        if self.bits == 32:
            return update, {}
        start, sent, left = start_of(task, update.choice), dict[str, Tensor](), dict[str, Tensor]()
        for name, tensor in update.tensors.items():
            difference, before = tensor.float() - start[name], residual.get(name)
            if before is not None and before.shape == difference.shape:
                difference = difference + before
            sent[name], decoded = pack(difference, self.bits)
            left[name] = difference - decoded
        return replace(update, tensors=sent), left

    def collected(self, task: ClientTask, update: ClientUpdate) -> ClientUpdate:
        """The update, unpacked and added to the server's model.

        Raises:
            PackingError: a tensor is malformed, or was not requested.
        """
        if self.bits == 32:
            return update
        start, tensors = start_of(task, update.choice), dict[str, Tensor]()
        for name, tensor in update.tensors.items():
            if name not in start:
                raise PackingError(f"{name!r} was not requested")
            difference = _named(name, tensor, self.bits, None, start[name].numel())
            if difference.shape != start[name].shape:
                raise PackingError(f"{name}: has shape {[*difference.shape]}, expected {[*start[name].shape]}")
            tensors[name] = start[name] + difference
        return replace(update, tensors=tensors)

    def _passes(self, key: str, model: ClientModel, aside: Collection[str]) -> bool:
        return key in aside or (self.kept_alone and key not in model.kept)

    def _base(self, key: str, tensor: Tensor, has: Tensors) -> Tensor | None:
        base = has.get(key, self.start.get(_common(key)))
        return base if base is not None and base.shape == tensor.shape else None


def flat(model: ClientModel) -> dict[str, Tensor]:
    """Every tensor of a model by name; names of candidates' tensors begin with the candidate's number."""
    candidates = {f"{place}:{name}": t for place, one in enumerate(model.candidates) for name, t in one.items()}
    return {**model.tensors, **candidates}


def _with(model: ClientModel, tensors: Tensors) -> ClientModel:
    """The model with other tensors, named as by :func:`flat`."""
    candidates = tuple({name: tensors[f"{place}:{name}"] for name in one} for place, one in enumerate(model.candidates))
    return replace(model, tensors={name: tensors[name] for name in model.tensors}, candidates=candidates)


def _common(key: str) -> str:
    """Name of the tensor of the common start from which the first difference of this one is taken."""
    try:
        name = TensorName.parse(key.rpartition(":")[2])
    except ValueError:
        return key
    return str(name if name.expert is None else name._replace(expert=0))


def _named(name: str, tensor: Tensor, bits: Bits, base: Tensor | None, most: int) -> Tensor:
    """Unpacks a tensor and adds its name to any error."""
    try:
        return unpack(tensor, bits, base, most=most)
    except PackingError as error:
        raise type(error)(f"{name}: {error}") from error
