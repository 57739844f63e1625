"""Bytes that are in memory already, read as a file is."""

from __future__ import annotations

from gsvckpt.errors import DamagedError


class MemorySource:
    """A source over bytes. It never changes."""

    def __init__(self, data: bytes, path: str) -> None:
        self.path = path
        self.size = len(data)
        self._data = memoryview(data)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer from `offset`. Raises DamagedError where there are fewer bytes."""
        if offset < 0 or offset + len(buffer) > self.size:
            raise DamagedError(f"ends at byte {self.size:,}", path=self.path)
        buffer[:] = self._data[offset : offset + len(buffer)]

    def check_unchanged(self) -> None:
        """Nothing else can write to these bytes."""
