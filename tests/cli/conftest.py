from __future__ import annotations

import pytest

from .samples import Program


@pytest.fixture
def gsvckpt(capsys):
    """Runs the program in this process."""
    return Program(capsys)
