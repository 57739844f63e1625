"""A GPU's queue that does nothing before it must: what is copied is looked at only when somebody waits for it."""

from __future__ import annotations

import threading
from contextlib import contextmanager

_current = threading.local()


class LazyStream:
    """Stands for torch.cuda.Stream: nothing happens before it must."""

    def __init__(self, _device=None):
        self.copies = []

    def wait_stream(self, earlier):
        assert earlier == "the caller's"

    def run(self, copies):
        for copy in copies:
            if copy in self.copies:
                self.copies.remove(copy)
                copy()

    def synchronize(self):
        self.run(list(self.copies))


class LazyEvent:
    """Stands for torch.cuda.Event."""

    def __init__(self, *, blocking):
        assert blocking
        self.stream = None

    def record(self, stream):
        self.stream, self.copies = stream, list(stream.copies)

    def synchronize(self):
        if self.stream is not None:
            self.stream.run(self.copies)


@contextmanager
def chosen(stream):
    """Stands for torch.cuda.stream."""
    _current.stream = stream
    yield
    del _current.stream


def queue():
    """The stream that was chosen last on this thread."""
    return _current.stream
