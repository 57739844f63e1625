"""Sources that give a tensor's numbers in another order than they lie in the file: row by row, or spread out as in the storage they came from."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gsvckpt.engine.strided_read import logical_bytes
from gsvckpt.errors import DamagedError
from gsvckpt.files.local import read_bytes
from gsvckpt.model import Source, Tensor

_TOGETHER = 1 << 20  # elements that are put in order at a time


class RowByRow:
    """The numbers of one tensor in row-major order. Reading forward is cheap; reading backward starts again from the beginning."""

    def __init__(self, tensor: Tensor) -> None:
        self.path = tensor.storage.source.path
        self.size = tensor.nbytes
        self._tensor = tensor
        self._lock = threading.Lock()
        self._position = 0
        self._rest = memoryview(b"")
        self._parts: Iterator[memoryview] = iter(())

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer from `offset`. Raises what reading the tensor raises."""
        if offset < 0 or offset + len(buffer) > self.size:
            raise DamagedError(f"ends at byte {self.size:,}", path=self.path)
        with self._lock:
            if not self._position <= offset:
                self._position, self._rest, self._parts = 0, memoryview(b""), iter(())
            if not self._position:
                self._parts = logical_bytes(self._tensor, _TOGETHER)
            done = 0
            while done < len(buffer):
                if not len(self._rest):
                    self._rest = next(self._parts)
                skipped = min(offset + done - self._position, len(self._rest))
                part = self._rest[skipped : skipped + len(buffer) - done]
                buffer[done : done + len(part)] = part
                self._rest = self._rest[skipped + len(part) :]
                self._position += skipped + len(part)
                done += len(part)

    def check_unchanged(self) -> None:
        """Check the file that it is read from."""
        _check(self._tensor.storage.source)


class Placed(NamedTuple):
    """A contiguous tensor, and where its numbers lay in a storage: steps and start count elements."""

    tensor: Tensor
    stride: tuple[int, ...]
    start: int


class SpreadOut:
    """A storage of `numel` elements in which tensors lie as they lay once; where none of them has anything, it is zero."""

    def __init__(self, placed: Sequence[Placed], numel: int) -> None:
        self._placed = tuple(placed)
        self._width = placed[0].tensor.dtype.itemsize
        self.path = placed[0].tensor.storage.source.path
        self.size = numel * self._width

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer from `offset`. Raises what reading the tensors raises."""
        width = self._width
        begin, end = offset // width, -(-(offset + len(buffer)) // width)
        window = bytearray((end - begin) * width)
        for placed in self._placed:
            for run in _runs(placed, begin, end):
                _copy(placed.tensor, run, window, begin)
        buffer[:] = memoryview(window)[offset - begin * width : offset - begin * width + len(buffer)]

    def check_unchanged(self) -> None:
        """Check the files that it is read from."""
        for placed in self._placed:
            _check(placed.tensor.storage.source)


class _Run(NamedTuple):
    """Elements at equal steps: the first one's place in the storage and in the tensor, how many, and the steps in both."""

    at: int
    element: int
    length: int
    step: int
    element_step: int


def _runs(placed: Placed, begin: int, end: int) -> Iterator[_Run]:
    """The runs of a tensor that lie between two places of the storage, in no order."""
    rows = _row_major(placed.tensor.shape)
    axes = sorted(
        ((stride, size, row) for stride, size, row in zip(placed.stride, placed.tensor.shape, rows, strict=True) if size > 1 and stride), reverse=True
    )
    pending = [(placed.start, 0, 0)] if placed.tensor.numel else []
    reach = [sum((size - 1) * stride for stride, size, _ in axes[depth:]) for depth in range(len(axes) + 1)]
    while pending:
        at, element, depth = pending.pop()
        if at >= end or at + reach[depth] < begin:
            continue
        if depth == len(axes):
            yield _Run(at, element, 1, 1, 1)
            continue
        stride, size, row = axes[depth]
        first = max(-(-(begin - at - reach[depth + 1]) // stride), 0)
        last = min((end - 1 - at) // stride, size - 1)
        if depth == len(axes) - 1:
            if last >= first:
                yield _Run(at + first * stride, element + first * row, last - first + 1, stride, row)
            continue
        pending.extend((at + index * stride, element + index * row, depth + 1) for index in range(first, last + 1))


def _copy(tensor: Tensor, run: _Run, window: bytearray, begin: int) -> None:
    width, storage = tensor.dtype.itemsize, tensor.storage
    span = (run.length - 1) * run.element_step + 1
    raw = read_bytes(storage.source, storage.offset + (tensor.start + run.element) * width, span * width)
    place = run.at - begin
    if run.step == run.element_step == 1:
        window[place * width : (place + run.length) * width] = raw
        return
    for byte in range(width):  # each byte of the elements is a row of its own
        taken = raw[byte : span * width : run.element_step * width]
        window[place * width + byte : (place + (run.length - 1) * run.step) * width + byte + 1 : run.step * width] = taken


def _row_major(shape: tuple[int, ...]) -> tuple[int, ...]:
    steps: list[int] = []
    step = 1
    for size in reversed(shape):
        steps.append(step)
        step *= size
    return tuple(reversed(steps))


def _check(source: Source) -> None:
    check = getattr(source, "check_unchanged", None)
    if check is not None:
        check()
