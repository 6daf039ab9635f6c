"""A filter that halves the bytes sent: tensors travel as bfloat16 in both directions.

bfloat16 keeps the range of float32 and 8 bits of its significand, so a value changes by at most 1 part in 256. Client
and server compute in float32.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedlease.core.types import ClientId, ClientModel, ClientTask, ClientUpdate, Tensors

__all__ = ["Bfloat16"]


@dataclass(frozen=True)
class Bfloat16:
    """Sends float32 tensors as bfloat16; tensors that another filter packed stay as they are."""

    def broadcast(
        self,
        models: Mapping[ClientId, ClientModel],
        received: Mapping[ClientId, Tensors],
        aside: Mapping[ClientId, Collection[str]],
    ) -> tuple[dict[ClientId, ClientModel], dict[ClientId, Tensors]]:
        """The models in bfloat16; nothing is remembered."""
        return {client: _converted(model, torch.float32, torch.bfloat16) for client, model in models.items()}, {}

    def whole(self, model: ClientModel, received: Tensors) -> ClientModel:
        """The model as it is."""
        return model

    def received(self, model: ClientModel, received: Tensors, aside: Collection[str]) -> tuple[ClientModel, Tensors]:
        """The model in float32."""
        return _converted(model, torch.bfloat16, torch.float32), {}

    def upload(self, task: ClientTask, update: ClientUpdate, residual: Tensors) -> tuple[ClientUpdate, Tensors]:
        """The update in bfloat16."""
        return replace(update, tensors=_all_as(torch.float32, torch.bfloat16, update.tensors)), {}

    def collected(self, task: ClientTask, update: ClientUpdate) -> ClientUpdate:
        """The update in float32."""
        return replace(update, tensors=_all_as(torch.bfloat16, torch.float32, update.tensors))


def _converted(model: ClientModel, old: torch.dtype, new: torch.dtype) -> ClientModel:
    candidates = tuple(_all_as(old, new, candidate) for candidate in model.candidates)
    return replace(model, tensors=_all_as(old, new, model.tensors), candidates=candidates)


def _all_as(old: torch.dtype, new: torch.dtype, tensors: Tensors) -> dict[str, Tensor]:
    return {name: tensor.to(new) if tensor.dtype == old else tensor for name, tensor in tensors.items()}
