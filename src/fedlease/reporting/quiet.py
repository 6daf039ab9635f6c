"""Switches off telemetry, update checks and progress output of libraries."""

import logging
import os

__all__ = ["QUIET", "quiet_libraries"]

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    # Without a connection the hub's client logs every retry for every file; the outcome is reported once.
    "HF_HUB_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Environment variables and their values; those that are set already are not changed."""


def quiet_libraries() -> None:
    """Makes libraries quiet; must be called before they are imported."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    # bitsandbytes logs on every import which kernels it did not find.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
