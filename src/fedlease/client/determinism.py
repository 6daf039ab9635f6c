"""The switches of torch that make a GPU repeat its results bit for bit."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fedlease.errors import ConfigError

__all__ = ["same_bits"]


@contextmanager
def same_bits(device: torch.device) -> Iterator[None]:
    """Restricts a GPU, within the context, to operations that repeat bit for bit, and to full float32.

    It sets torch's deterministic algorithms and a fixed workspace of cuBLAS, and switches off the choice of kernels by
    speed and TF32. A CPU repeats results without these, with the same number of threads.

    Args:
        device: of the work.

    Raises:
        ConfigError: an operation has no deterministic form; the message says how to run without this.
    """
    if device.type != "cuda":
        yield
        return
    # cuBLAS reads this variable at its first product.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    precision = ("fp32_precision", "ieee") if hasattr(products, "fp32_precision") else ("allow_tf32", False)
    wanted = [
        (cudnn, "benchmark", False),
        (cudnn, "deterministic", True),
        (products, *precision),
        # Uninitialised memory is always written before it is read, so filling it only takes time.
        (torch.utils.deterministic, "fill_uninitialized_memory", False),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in wanted]
    enabled, warns = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        for owner, name, value in wanted:
            setattr(owner, name, value)
        # With warn_only, attention could use kernels that sum in any order.
        torch.use_deterministic_algorithms(True)
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        reason = str(error).split(". ")[0].split(", but ")[0]
        raise ConfigError(
            f"deterministic: {reason}; with deterministic=false the model runs, but results repeat only up to rounding"
        ) from error
    finally:
        torch.use_deterministic_algorithms(enabled, warn_only=warns)
        for owner, name, value in before:
            setattr(owner, name, value)
