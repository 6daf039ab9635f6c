"""The finished run that tests of its use share."""

from pathlib import Path

import pytest
from small import WHOLE, FinishedRuns

from fedlease.use.open_run import OpenRun


@pytest.fixture(scope="module")
def out(finished: FinishedRuns) -> Path:
    return finished(**WHOLE).out


@pytest.fixture(scope="module")
def run(out: Path) -> OpenRun:
    return OpenRun(out)
