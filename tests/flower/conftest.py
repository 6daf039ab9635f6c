"""Nothing of Flower or Ray reports to its makers from a test, or writes to the user's Flower folder."""

import os
import tempfile
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from flower.nodes import Pair

for key, value in {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "FLWR_HOME": tempfile.mkdtemp(prefix="fedlease-flwr-"),
}.items():
    # Before flwr is imported: it reads them once.
    os.environ.setdefault(key, value)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> "Callable[[str], Pair]":
    """Method -> the same small run in one process and over a grid, made when it is first asked for."""
    from flower.nodes import Pair, over_memory
    from small import small_run, small_settings

    @cache
    def pair_of(method: str) -> Pair:
        out = tmp_path_factory.mktemp(method)
        settings: dict[str, Any] = {"method": method, "rounds": 1}
        here = small_run(out / "here", **settings).summary
        there, _ = over_memory(small_settings(**settings), out / "there", **{"state-dir": str(out / "state")})
        return Pair(out / "here", out / "there", out / "state", here, there[method])

    return pair_of
