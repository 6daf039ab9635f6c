"""Random generators, each derived from the root seed for one purpose, so that no result depends on their order."""

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["derive", "generator", "seed_torch"]


def derive(seed: int, *purpose: str | int) -> int:
    """A 63-bit seed for one purpose, for example ``derive(0, "batches", client, round)``."""
    text = "\x1f".join([str(seed), *(f"{type(part).__name__}:{part}" for part in purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: str | int) -> "torch.Generator":
    """A new CPU generator for one purpose, seeded by :func:`derive`."""
    import torch  # here, so that rows can be read without torch

    return torch.Generator().manual_seed(derive(seed, *purpose))


def seed_torch(seed: int, device: "torch.device") -> None:
    """Seeds torch's default generator of a device, which dropout draws from."""
    import torch

    if device.type == "cpu":
        # torch.manual_seed formats a stack trace for every kind of unused accelerator, which takes 3 ms.
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
