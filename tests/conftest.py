"""For all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import soak

from gsvckpt.files.secrets import forget


def pytest_report_header() -> str:
    return f"long tests: {'all' if soak.IS_WHOLE else 'a tenth'} of their cases, seed {soak.SEED} (SEED=N repeats one)"


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    """Secrets of one test's URLs would keep the next one's files in this process."""
    yield
    forget()
