"""Filters that send what has changed: down, the difference from what the client has; up, from what it was sent.

Both ends know what the client has: they begin with the same adapter, which both make from the seed. What rounding takes
away on the way down is part of the next difference, which is taken from what the client decoded. What it takes away on
the way up stays with the client, which adds it to its next update (error feedback: Seide et al., Interspeech 2014;
Karimireddy et al., ICML 2019). The server adds a client's difference to its own model, which was never rounded.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from fedlease.core.screening import start_of
from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate, TensorName, Tensors
from fedlease.privacy.packing import Bits, PackingError, is_packed, pack, unpack

__all__ = ["MOST_BYTES", "Differences", "flat"]

MOST_BYTES = 2**30
"""Default bound on the tensors of one message, unpacked."""


@dataclass(frozen=True)
class Differences:
    """Sends differences in few bits a value, see :mod:`fedlease.privacy.packing`.

    Attributes:
        bits: of a value, 4 or 8; 32 rounds nothing: down go tensors that the client does not have, up goes everything.
        start: the adapter that all clients start from; the first difference of every tensor is taken from it.
        most: bytes that a model may unpack to.
        kept_alone: whether only tensors that the model lists as kept by clients are handled; the others pass.
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
        # Experts go to everyone: what is the same difference for several clients is made once.
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
        """A model as a client reads it that has nothing: the same values, not rounded again."""
        return _with(model, {key: received.get(key, tensor) for key, tensor in flat(model).items()})

    def received(self, model: ClientModel, received: Tensors, aside: Collection[str]) -> tuple[ClientModel, Tensors]:
        """The model, and what the client has now.

        Raises:
            LacksBaseError: differences are to what this client has not.
            PackingError: something is malformed, or larger than it may be.
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
        """The update as differences to what was received, and what rounding has left of them."""
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
        """The update, from the model that the server has.

        Raises:
            PackingError: something is malformed, or was not asked for.
        """
        if self.bits == 32:
            return update
        start, tensors = start_of(task, update.choice), dict[str, Tensor]()
        for name, tensor in update.tensors.items():
            if name not in start:
                raise PackingError(f"{name!r} was not asked for")
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
    """The model with the tensors that :func:`flat` names."""
    candidates = tuple({name: tensors[f"{place}:{name}"] for name in one} for place, one in enumerate(model.candidates))
    return replace(model, tensors={name: tensors[name] for name in model.tensors}, candidates=candidates)


def _common(key: str) -> str:
    """The name, in the common start, of the tensor that an expert's or a candidate's is compared with."""
    try:
        name = TensorName.parse(key.rpartition(":")[2])
    except ValueError:
        return key
    return str(name if name.expert is None else name._replace(expert=0))


def _named(name: str, tensor: Tensor, bits: Bits, base: Tensor | None, most: int) -> Tensor:
    """Unpacks a tensor; an error names it."""
    try:
        return unpack(tensor, bits, base, most=most)
    except PackingError as error:
        raise type(error)(f"{name}: {error}") from error
