"""Read an object on another machine with few large requests and bounded memory."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from gsvckpt.errors import DamagedError, UnreachableError
from gsvckpt.files.remote.filesystems import explained
from gsvckpt.files.remote.objects import HEAD, open_object
from gsvckpt.files.secrets import conceal

BLOCK = 1 << 22  # bytes of one request when everything is read; a block a thread is kept, and one besides
_END = 1 << 18  # bytes at the end that are got at once: most directories of zips
_LEAST = 1 << 16  # bytes that one request gets at least, for the structure alone
_REMEMBERED = 1 << 22  # bytes of pieces that are kept for the structure alone
_NEAR = 1 << 14  # bytes between two small pieces that are got along
_LARGEST = 1 << 20  # bytes of such pieces together
_AT_ONCE = 8  # requests for small pieces
_PATIENCE = (0.2, 0.5, 1.5)  # seconds before it is asked again

R = TypeVar("R")


class RemoteSource:
    """An object opened for reading from several threads. `structure_only` says that its structure is wanted, not its tensors.

    Bytes that do not come are asked for again, a few times; then UnreachableError is raised, and ChangedError for another object of that name.
    """

    def __init__(self, path: str, *, structure_only: bool = False) -> None:
        """Raises MissingError where there is no such object or it may not be read, and UnreachableError."""
        self.path = conceal(path)
        self.structure_only = structure_only
        self._object = _patiently(self.path, lambda: open_object(self.path))
        self.size, self.mtime_ns = self._object.size, self._object.mtime_ns
        self._lock, self._turns = threading.Lock(), threading.Lock()
        self._readers: set[int] = set()
        self._pieces: list[tuple[int, bytes]] = [(0, self._object.first)] if self._object.first else []
        self._fetched: list[tuple[int, bytes]] = []
        self._blocks: OrderedDict[int, Future[bytes]] = OrderedDict()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer from `offset`. Raises DamagedError when the object ends before, UnreachableError and ChangedError."""
        if offset < 0 or offset + len(buffer) > self.size:
            missing = len(buffer) if offset < 0 else offset + len(buffer) - self.size
            raise DamagedError(f"the file ends at byte {self.size:,}, {missing:,} bytes too early", path=self.path)
        if not buffer:
            return
        found = self._find(offset, len(buffer))
        if found is None and (self.structure_only or self._is_end(offset) or offset + len(buffer) <= HEAD):
            with self._turns:  # of two threads that want a piece the second finds it
                found = self._find(offset, len(buffer))
                if found is None and len(buffer) <= _REMEMBERED:
                    found = self._get_piece(offset, len(buffer))
        if found is not None:
            start, data = found
            buffer[:] = memoryview(data)[offset - start : offset - start + len(buffer)]
            return
        done = 0
        while done < len(buffer):
            start, data = self._block((offset + done) // BLOCK)
            part = memoryview(data)[offset + done - start :][: len(buffer) - done]
            buffer[done : done + len(part)] = part
            done += len(part)

    def at_hand(self, offset: int, size: int) -> bool:
        """Whether these bytes are already in memory."""
        return self._find(offset, max(min(size, self.size - offset), 0)) is not None

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Read these small (offset, size) pieces together, replacing those read before; not when only the structure is wanted."""
        if self.structure_only:
            return
        wanted = sorted((offset, min(offset + size, self.size)) for offset, size in ranges if not self.at_hand(offset, size))
        if not wanted:
            return
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            self._fetched = [piece for pieces in pool.map(self._get_pieces, _merge(wanted)) for piece in pieces]

    def check_unchanged(self) -> None:
        """Raise ChangedError unless the object is what was opened."""
        self._object.check()

    def close(self) -> None:
        """Forget what was read."""
        self._pieces, self._fetched, self._blocks = [], [], OrderedDict()

    def _is_end(self, offset: int) -> bool:
        return offset >= self.size - _END

    def _find(self, offset: int, size: int) -> tuple[int, bytes] | None:
        for start, data in self._pieces:
            if start <= offset and offset + size <= start + len(data):
                return start, data
        fetched = self._fetched
        at = bisect_right(fetched, offset, key=lambda piece: piece[0]) - 1
        if at >= 0 and offset + size <= fetched[at][0] + len(fetched[at][1]):
            return fetched[at]
        return None

    def _get_piece(self, offset: int, size: int) -> tuple[int, bytes]:
        """A piece with these bytes, which is kept: the beginning, the end, or for the structure alone whatever was asked for."""
        if self._is_end(offset):
            start, end = max(self.size - _END, 0), self.size
        elif offset + size <= HEAD:
            start, end = 0, min(HEAD, self.size)
        else:
            start, end = offset, min(offset + max(size, _LEAST), self.size)
        piece = (start, self._get(start, end))
        if sum(len(data) for _, data in self._pieces) + len(piece[1]) <= _REMEMBERED:
            self._pieces = [*self._pieces, piece]
        return piece

    def _get_pieces(self, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, bytes]]:
        """Pieces that stand close together, got at once; what lies between them is not kept."""
        first = ranges[0][0]
        data = self._get(first, max(end for _, end in ranges))
        return [(start, data[start - first : end - first]) for start, end in ranges]

    def _block(self, index: int) -> tuple[int, bytes]:
        """A block of everything, got by the first thread that wants it while the others wait."""
        start = index * BLOCK
        with self._lock:
            self._readers.add(threading.get_ident())
            found = self._blocks.get(index)
            future: Future[bytes] = found if found is not None else Future()
            self._blocks[index] = future
            self._blocks.move_to_end(index)
            while len(self._blocks) > 1 + len(self._readers):
                self._blocks.popitem(last=False)
        if found is None:
            try:
                future.set_result(self._get(start, min(start + BLOCK, self.size)))
            except BaseException as error:
                with self._lock:
                    self._blocks.pop(index, None)
                future.set_exception(error)
                raise
        return start, future.result()

    def _get(self, start: int, end: int) -> bytes:

        def fetch() -> bytes:
            data = self._object.fetch(start, end)
            if len(data) != end - start:
                raise OSError(f"{len(data):,} bytes came where {end - start:,} were asked for")
            return data

        return _patiently(self.path, fetch, f"bytes {start:,} to {end - 1:,}")


def _patiently(url: str, ask: Callable[[], R], where: str = "") -> R:
    """What `ask` gets, asked again where that may help. Raises GsvError, without secrets in its text."""
    for pause in (*_PATIENCE, None):
        try:
            with explained(url):
                return ask()
        except UnreachableError as error:  # noqa: PERF203 - that is the loop's purpose
            if pause is None:
                why = f"{error.why}; tried {len(_PATIENCE) + 1} times"
                raise UnreachableError(why, where=error.where or where, hint=error.hint, path=url) from None
            time.sleep(pause)
    raise AssertionError  # the last round returns or raises


def _merge(ranges: Sequence[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Sorted (start, end) ranges, by those that are got with one request."""
    together = [ranges[0]]
    for start, end in ranges[1:]:
        if start - together[-1][1] > _NEAR or end - together[0][0] > _LARGEST:
            yield together
            together = []
        together.append((start, end))
    yield together
