"""The tensors of several clients as one matrix on the device, with a row per client and views by name."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from fedlease.core.types import Tensors

__all__ = ["Block"]

ALIGNED = 8
"""Alignment of tensors in a row, in numbers, so that matrix products can use wide loads."""


class Block:
    """A matrix with the tensors of one client in each row, which is copied in one piece.

    Attributes:
        values: (K, width) float32; gaps between tensors are 0.
    """

    def __init__(self, clients: Sequence[Tensors], names: Iterable[str], device: torch.device) -> None:
        """Copies tensors to the device.

        Args:
            clients: each client's tensors; [] makes an empty block. Tensors of one name may differ in their first
                dimension, as heads with unequal numbers of labels do, and are padded with zeros.
            names: of the tensors to copy.
            device: of the block.
        """
        ordered = sorted(names)
        self._own = [{name: tensors[name].shape for name in ordered} for tensors in clients]
        self._places: dict[str, tuple[int, torch.Size]] = {}
        width = 0
        for name in ordered if clients else ():
            shape = self._own[0][name]
            longest = max(own[name][0] for own in self._own)
            self._places[name] = width, torch.Size([longest, *shape[1:]])
            width += -(-self._places[name][1].numel() // ALIGNED) * ALIGNED
        on_gpu = device.type == "cuda"
        host = torch.zeros(len(clients), width, pin_memory=on_gpu)
        for row, tensors in zip(host, clients, strict=True):
            for name, (begin, _) in self._places.items():
                row[begin : begin + tensors[name].numel()] = tensors[name].flatten()
        self.values = host.to(device, non_blocking=on_gpu)

    def view(self, name: str, clients: int, values: Tensor | None = None) -> Tensor:
        """The first clients' tensors of one name, (clients, *shape), as a view of the block or of ``values``.

        Args:
            name: of the tensor.
            clients: number of clients.
            values: another matrix with the layout of the block; None: the block itself.
        """
        begin, shape = self._places[name]
        found = self.values if values is None else values
        return found[:clients, begin : begin + shape.numel()].view(clients, *shape)

    def joined(self, tensors: Mapping[str, Tensor | None]) -> Tensor:
        """Copies tensors (clients, *shape) of all names into the layout of the block, (clients, width); None is 0."""
        clients = next(len(tensor) for tensor in tensors.values() if tensor is not None)
        parts = []
        for name, (_, shape) in self._places.items():
            tensor, gap = tensors[name], -shape.numel() % ALIGNED
            parts.append(self._zeros(clients, shape.numel()) if tensor is None else tensor.flatten(1))
            parts += [self._zeros(clients, gap)] if gap else []
        return torch.cat(parts, 1)

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, device=self.values.device)

    @property
    def names(self) -> list[str]:
        """The names of all tensors, sorted."""
        return list(self._places)

    def read(self, values: Tensor | None = None) -> list[dict[str, Tensor]]:
        """Copies of every client's tensors on the CPU in their own shapes, from the block or from ``values``."""
        host = (self.values if values is None else values).cpu()
        return [
            {name: row[self._places[name][0] :][: shape.numel()].view(shape).clone() for name, shape in own.items()}
            for row, own in zip(host, self._own, strict=True)
        ]

    def mask(self, names: Mapping[str, float]) -> Tensor:
        """A row (width,) on the device with the given number at the places of a tensor, and 0 elsewhere."""
        mask = torch.zeros(self.values.shape[1])
        for name, value in names.items():
            begin, shape = self._places[name]
            mask[begin : begin + shape.numel()] = value
        return mask.to(self.values.device)
