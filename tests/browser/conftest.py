"""One browser for all tests of pages."""

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from browser.chromium import started  # not above: without a browser it skips who imports it

    driver = started(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()
