"""Read compressed records of a zip as if they were stored: forward, through one small window, whatever their size."""

from __future__ import annotations

import threading
import zlib

from gsvckpt.errors import DamagedError
from gsvckpt.files.local import read_bytes
from gsvckpt.model import Record, Source

DEFLATED = 8
_WINDOW = 1 << 18  # compressed bytes read at a time


class Inflated:
    """The contents of one deflated record. Reading forward is cheap; reading backward starts again from the beginning."""

    def __init__(self, source: Source, record: Record) -> None:
        self.path = source.path
        self.size = record.size
        self._source = source
        self._record = record
        self._lock = threading.Lock()
        self._inflater: zlib._Decompress | None = None
        self._position = -1  # nothing was read yet

    def _begin(self) -> None:
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self._consumed = self._record.offset
        self._position = 0

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer from `offset`. Raises DamagedError where the record holds less, or no deflated data."""
        with self._lock:
            if offset < self._position or self._position < 0:
                self._begin()
            while self._position < offset:
                self._take(min(offset - self._position, _WINDOW))
            done = 0
            while done < len(buffer):
                part = self._take(len(buffer) - done)
                buffer[done : done + len(part)] = part
                done += len(part)

    def _take(self, most: int) -> bytes:
        """The next bytes, at least one and at most so many."""
        while self._inflater is not None:
            pending = self._inflater.unconsumed_tail
            if not pending:
                pending = read_bytes(self._source, self._consumed, min(_WINDOW, self._source.size - self._consumed))
                self._consumed += len(pending)
            try:
                part = self._inflater.decompress(pending, most)
            except zlib.error as error:
                raise DamagedError(f"holds no valid compressed data ({error})", where=self._record.name, check="record.crc") from error
            if self._inflater.eof or not pending:
                self._inflater = None  # it would keep what stands behind the record, for as long as the plan lives
            if part:
                self._position += len(part)
                return part
        raise DamagedError(f"ends after {self._position:,} of {self.size:,} bytes", where=self._record.name, check="record.crc")

    def check_unchanged(self) -> None:
        """Check the file that it is read from."""
        check = getattr(self._source, "check_unchanged", None)
        if check is not None:
            check()
