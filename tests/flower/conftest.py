"""Nothing of Flower or Ray reports to its makers from a test, or writes to the user's Flower folder."""

import logging
import os
import tempfile
from collections.abc import Iterator

import pytest

for key, value in {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "FLWR_HOME": tempfile.mkdtemp(prefix="fedlease-flwr-"),
}.items():
    # Before flwr is imported: it reads them once.
    os.environ.setdefault(key, value)


@pytest.fixture(autouse=True)
def _node_log() -> Iterator[None]:
    """What nodes log is seen whatever ran before: a simulation quiets Flower's logger for its whole process."""
    log = logging.getLogger("flwr")
    level = log.level
    log.setLevel(logging.INFO)
    yield
    log.setLevel(level)
