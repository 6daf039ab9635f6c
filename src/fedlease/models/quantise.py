"""Frozen base models in 8 or 4 bits; adapters and routers stay in float32."""

import importlib.util
from typing import Any

import torch

from fedlease.config.choices import QUANTISATION_DEVICES, Quantisation
from fedlease.errors import ConfigError, MissingPackageError

__all__ = ["quantisation_config"]


def quantisation_config(quantisation: Quantisation, dtype: str, device: str) -> Any:
    """The ``quantization_config`` for transformers' ``from_pretrained``, which quantises weights while it loads them.

    Args:
        quantisation: ``int8`` (LLM.int8) or ``nf4`` (4-bit normal floats).
        dtype: of products with 4-bit weights.
        device: of the computation.

    Raises:
        MissingPackageError: bitsandbytes is not installed.
        ConfigError: the device does not support it.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        what, command = f"base.quantisation {quantisation!r}", "pip install 'fedlease[quantised]'"
        raise MissingPackageError("bitsandbytes", what, command)
    if device.split(":")[0] not in QUANTISATION_DEVICES[quantisation]:
        known = " and ".join(QUANTISATION_DEVICES[quantisation])
        raise ConfigError(f"base.quantisation: {quantisation!r} works on {known}, the device is {device!r}")
    from transformers import BitsAndBytesConfig

    if quantisation == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, dtype)
    )
