"""For all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from gsvckpt.locations import forget


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Secrets of one test's URLs would keep the next one's files in this process."""
    yield
    forget()
