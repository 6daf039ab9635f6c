"""Nothing of Flower or Ray reports to its makers from a test, or writes to the user's Flower folder."""

import os
import tempfile

for key, value in {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "FLWR_HOME": tempfile.mkdtemp(prefix="fedlease-flwr-"),
}.items():
    # Before flwr is imported: it reads them once.
    os.environ.setdefault(key, value)
