"""Keeps libraries from reporting to their makers, and from talking where a program's own lines are read."""

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
    # Without a connection it logs every try of every file; the outcome is reported once.
    "HF_HUB_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Variables of the environment, of which those that are set already stay."""


def quiet_libraries() -> None:
    """Quietens libraries; a program calls it before it imports them."""
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    # Says on every import which of its kernels it did not find.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
