"""The interface through which work reports its progress."""

from __future__ import annotations

import threading
from typing import Protocol


class Progress(Protocol):
    """Told how many bytes there are to go through, and how many went; of many files also how many there are, and when one ended.

    Called from several threads.
    """

    def expect(self, count: int) -> None: ...
    def advance(self, count: int) -> None: ...
    def expect_files(self, count: int) -> None: ...
    def end_file(self) -> None: ...


class Silent:
    """No progress display."""

    def expect(self, count: int) -> None:
        """Do nothing."""

    def advance(self, count: int) -> None:
        """Do nothing."""

    def expect_files(self, count: int) -> None:
        """Do nothing."""

    def end_file(self) -> None:
        """Do nothing."""


class Share:
    """One file's part of a progress of many: `size` bytes in all, however many passes over it there are and whatever they read or write."""

    def __init__(self, of_all: Progress, size: int) -> None:
        self._of_all, self._size = of_all, size
        self._expected = self._done = self._told = 0
        self._lock = threading.Lock()

    def expect(self, count: int) -> None:
        with self._lock:
            self._expected += count

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            self._tell(self._size * self._done // max(self._expected, self._done, 1))

    def expect_files(self, count: int) -> None:
        """Do nothing: the files inside one file are not counted."""

    def end_file(self) -> None:
        """The file is done, however that went."""
        with self._lock:
            self._tell(self._size)
        self._of_all.end_file()

    def _tell(self, count: int) -> None:
        if count > self._told:
            self._of_all.advance(count - self._told)
            self._told = count
