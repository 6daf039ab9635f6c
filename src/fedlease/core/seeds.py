"""One root seed; every use derives its own generator, so results do not depend on the order of execution."""

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
    """A CPU generator of its own for one purpose."""
    import torch  # here, so that rows can be read without it

    return torch.Generator().manual_seed(derive(seed, *purpose))


def seed_torch(seed: int, device: "torch.device") -> None:
    """Seeds what torch draws from on a device where nothing else is named, such as for dropout."""
    import torch

    if device.type == "cpu":
        # torch.manual_seed formats the stack for every kind of accelerator that is not in use, at 3 ms a call.
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
