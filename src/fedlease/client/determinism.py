"""The switches of torch by which a GPU gives the same bits for the same work, set in one place."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fedlease.errors import ConfigError

__all__ = ["same_bits"]


@contextmanager
def same_bits(device: torch.device) -> Iterator[None]:
    """While it is open, a GPU uses only operations that repeat bit for bit, and full float32; then all is as before.

    That is: torch's deterministic algorithms, a fixed workspace of cuBLAS, no choice of kernels by speed, no TF32. A
    processor needs none of it: there the same number of threads is enough.

    Args:
        device: where the work is done.

    Raises:
        ConfigError: an operation has no such form; the message says how to go on without.
    """
    if device.type != "cuda":
        yield
        return
    # Read when the first product is computed.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    precision = ("fp32_precision", "ieee") if hasattr(products, "fp32_precision") else ("allow_tf32", False)
    wanted = [
        (cudnn, "benchmark", False),
        (cudnn, "deterministic", True),
        (products, *precision),
        # Filling memory that is written next anyway takes time and changes nothing.
        (torch.utils.deterministic, "fill_uninitialized_memory", False),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in wanted]
    enabled, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        for owner, name, value in wanted:
            setattr(owner, name, value)
        # Warnings alone would let attention take kernels that sum in any order.
        torch.use_deterministic_algorithms(True)
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        reason = str(error).split(". ")[0].split(", but ")[0]
        raise ConfigError(
            f"deterministic: {reason}; with deterministic=false the model runs, and repeats up to rounding"
        ) from error
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warns)
        for owner, name, value in before:
            setattr(owner, name, value)
