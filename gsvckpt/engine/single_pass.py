"""One ordered pass over a file that computes all its checksums, digests and number checks.

Threads read chunks in any order. Work that depends on the order (checksums, digests) is done chunk by chunk by whichever thread completes the next
one due; work that does not (the numbers) is done at once. Each byte is read once, and memory is one chunk for each thread, whatever the size of the
file.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import NamedTuple

import xxhash

from gsvckpt.devices.device import Device, Extremes
from gsvckpt.dtypes import DType
from gsvckpt.errors import DamagedError
from gsvckpt.files.progress import Progress
from gsvckpt.files.streams import BATCH, CHUNK, Buffers, Stopped, crc32, for_each
from gsvckpt.model import Source

_NEAR = 4096  # bytes between two spans that are read along
_LARGEST_VALUE = 16  # bytes of the largest element, a multiple of all others
_IMPATIENCE = 0.2  # seconds between two looks whether the others still run


class SweepSpan(NamedTuple):
    """A run of bytes to learn something of: its checksum, its digest, and with `dtype` its numbers. Spans of a file do not overlap."""

    offset: int
    size: int
    crc: bool = False
    digest: bool = False
    dtype: DType | None = None


@dataclass(slots=True)
class Swept:
    """What was learnt, span by span; `file` is the xxh3_128 of the whole file, where that was asked for."""

    crcs: dict[SweepSpan, int] = field(default_factory=dict)
    digests: dict[SweepSpan, bytes] = field(default_factory=dict)
    extremes: dict[SweepSpan, Extremes] = field(default_factory=dict)
    file: str | None = None


class _Lane(NamedTuple):
    """One thread's share, of a size that makes it a batch of its own."""

    number: int
    nbytes: int = BATCH


def sweep(source: Source, spans: Sequence[SweepSpan], device: Device | None, *, entire_file: bool, jobs: int, progress: Progress) -> Swept:
    """Read the spans, with `entire_file` all of it, once. Raises DamagedError where the file ends early or cannot be read."""
    ordered = sorted((span for span in spans if span.size), key=lambda span: span.offset)
    ends = [span.offset + span.size for span in ordered]
    if ends and ends[-1] > source.size:
        raise DamagedError(f"the file ends at byte {source.size:,}, {ends[-1] - source.size:,} bytes too early", path=source.path)
    runs = [(0, source.size)] if entire_file else _runs(ordered)
    chunks = [chunk for begin, end in runs for chunk in _cut(begin, end, ordered, ends)]
    progress.expect(sum(count for _, count in chunks))
    pass_ = _Pass(source, ordered, chunks, device, entire_file=entire_file)
    lanes = min(jobs, len(chunks)) or 1
    for_each([_Lane(number) for number in range(lanes)], pass_.run, jobs=lanes, progress=progress)
    found = pass_.found
    for span in spans:
        if not span.size:
            found.crcs[span], found.digests[span], found.extremes[span] = 0, xxhash.xxh3_128_digest(b""), Extremes()
    if entire_file:
        found.file = pass_.file_digest.hexdigest()
    return found


def _cut(begin: int, end: int, spans: Sequence[SweepSpan], ends: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Chunks from `begin` to `end`, never cut inside a value: a span may begin anywhere, and its values stand at multiples from there."""
    while begin < end:
        stop = min(begin + CHUNK, end)
        index = bisect_right(ends, stop)
        if index < len(spans) and spans[index].offset < stop:
            stop -= (stop - spans[index].offset) % _LARGEST_VALUE
        yield begin, stop - begin
        begin = stop


def _runs(ordered: Sequence[SweepSpan]) -> Iterator[tuple[int, int]]:
    """Spans that stand close together, read as one: most are tiny."""
    begin = end = -1
    for span in ordered:
        if begin >= 0 and span.offset - end <= _NEAR:
            end = span.offset + span.size
            continue
        if begin >= 0:
            yield begin, end
        begin, end = span.offset, span.offset + span.size
    if begin >= 0:
        yield begin, end


_Part = tuple[SweepSpan, int, memoryview]  # of a chunk: to which span it belongs, where in it it begins, and its bytes


class _Pass:
    """The state that the lanes share."""

    def __init__(
        self, source: Source, spans: Sequence[SweepSpan], chunks: Sequence[tuple[int, int]], device: Device | None, *, entire_file: bool
    ) -> None:
        self.found = Swept()
        self.file_digest = xxhash.xxh3_128()
        self._source, self._spans, self._chunks, self._device = source, spans, chunks, device
        self._ends = [span.offset + span.size for span in spans]
        self._hashes_file = entire_file
        self._lock = threading.Lock()
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        self._read: dict[int, tuple[memoryview, memoryview, list[_Part]]] = {}  # chunks that wait for those before them
        self._claimed = self._turn = 0
        self._is_summing = False
        self._crc = 0
        self._digest = xxhash.xxh3_128()

    def run(self, _: _Lane, buffers: Buffers) -> None:
        """Read chunks until none is left. Chunks are measured in any order and digested in file order: whichever lane completes the next chunk due
        digests it and all that follow. So a lane waits only when all buffers hold chunks that wait. (If lanes waited for their turn with each chunk,
        they would take longer than one lane alone.)
        """
        self._free.put(buffers.raw)
        self._free.put(buffers.out)
        while True:
            space = self._take(buffers)
            with self._lock:
                number, self._claimed = self._claimed, self._claimed + 1
            if number >= len(self._chunks):
                self._free.put(space)  # the other lanes may wait for it, only to see that nothing is left
                return
            offset, count = self._chunks[number]
            chunk = space[:count]
            self._source.read_into(offset, chunk)
            parts = list(self._parts(offset, chunk))
            self._measure(parts)
            buffers.progress.advance(count)
            self._sum_up(number, space, chunk, parts)

    def _take(self, buffers: Buffers) -> memoryview:
        while not buffers.stop.is_set():
            with suppress(Empty):
                return self._free.get(timeout=_IMPATIENCE)
        raise Stopped

    def _sum_up(self, number: int, space: memoryview, chunk: memoryview, parts: list[_Part]) -> None:
        """Leave a chunk to the lane that sums up, or be that lane as long as there is one whose turn it is."""
        with self._lock:
            self._read[number] = space, chunk, parts
            if self._is_summing:
                return
            self._is_summing = True
        while True:
            with self._lock:
                due = self._read.pop(self._turn, None)
                if due is None:
                    self._is_summing = False
                    return
                self._turn += 1
            space, chunk, parts = due
            self._summarise(chunk, parts)
            self._free.put(space)

    def _parts(self, offset: int, chunk: memoryview) -> Iterator[_Part]:
        """The spans that a chunk holds something of, where in the span that begins, and the bytes."""
        index = bisect_right(self._ends, offset)
        end = offset + len(chunk)
        while index < len(self._spans) and self._spans[index].offset < end:
            span = self._spans[index]
            begin, stop = max(span.offset, offset), min(span.offset + span.size, end)
            yield span, begin - span.offset, chunk[begin - offset : stop - offset]
            index += 1

    def _summarise(self, chunk: memoryview, parts: Sequence[_Part]) -> None:
        if self._hashes_file:
            self.file_digest.update(chunk)
        for span, at, data in parts:
            is_last = at + len(data) == span.size
            if span.crc:
                self._crc = crc32(data, self._crc if at else 0)
                if is_last:
                    self.found.crcs[span] = self._crc
            if span.digest and is_last and not at:
                self.found.digests[span] = xxhash.xxh3_128_digest(data)
            elif span.digest:
                if not at:
                    self._digest.reset()
                self._digest.update(data)
                if is_last:
                    self.found.digests[span] = self._digest.digest()

    def _measure(self, parts: Sequence[_Part]) -> None:
        for span, _, data in parts:
            if span.dtype is not None and self._device is not None:
                found = self._device.extremes(data, span.dtype)
                with self._lock:
                    self.found.extremes[span] = self.found.extremes.get(span, Extremes()) + found
