from __future__ import annotations

import pytest

from .samples import Program


@pytest.fixture
def gsvckpt(capsys):
    """Runs the program in this process."""
    return Program(capsys)


@pytest.fixture(scope="module")
def server():
    """A store of objects for the tests of one module."""
    from tests.support import cloud as clouds  # few tests need it, and what it brings

    with clouds.serve() as server:
        yield server


@pytest.fixture
def cloud(server, monkeypatch):
    """The store, empty, with its address and credentials in the environment."""
    server.clear()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server
