"""A filter that halves what travels: tensors are rounded to bfloat16 on the way, in both directions.

bfloat16 keeps the range of float32 and 8 bits of its significand, so that a value changes by at most 1 part in 256.
Client and server compute with float32 before and after.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fedlease.core.types import ClientModel, ClientTask, ClientUpdate, Tensors

__all__ = ["Bfloat16"]


@dataclass(frozen=True)
class Bfloat16:
    """Sends float32 tensors as bfloat16."""

    def broadcast(self, model: ClientModel) -> ClientModel:
        """The model in bfloat16."""
        return _converted(model, torch.bfloat16)

    def received(self, model: ClientModel) -> ClientModel:
        """The model in float32."""
        return _converted(model, torch.float32)

    def upload(self, task: ClientTask, update: ClientUpdate) -> ClientUpdate:
        """The update in bfloat16."""
        return replace(update, tensors=_all_as(torch.bfloat16, update.tensors))

    def collected(self, task: ClientTask, update: ClientUpdate) -> ClientUpdate:
        """The update in float32."""
        return replace(update, tensors=_all_as(torch.float32, update.tensors))


def _converted(model: ClientModel, dtype: torch.dtype) -> ClientModel:
    candidates = tuple(_all_as(dtype, candidate) for candidate in model.candidates)
    return replace(model, tensors=_all_as(dtype, model.tensors), candidates=candidates)


def _all_as(dtype: torch.dtype, tensors: Tensors) -> dict[str, Tensor]:
    return {name: tensor.to(dtype) for name, tensor in tensors.items()}
