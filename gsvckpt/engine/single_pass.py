"""One ordered pass over a file that computes all its checksums, digests and number checks.

Threads read chunks in any order. Work that depends on the order (checksums, digests) is done chunk by chunk by whichever thread completes the next
one due; work that does not (the numbers) is done at once. Each byte is read once, and memory is two chunks for each thread, whatever the size of the
file. (If threads waited for their turn with each chunk, they would take longer than one thread alone.)
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Swept:
    """What was learnt, span by span; `file` is the xxh3_128 of the whole file, where that was asked for."""

    crcs: Mapping[SweepSpan, int]
    digests: Mapping[SweepSpan, bytes]
    extremes: Mapping[SweepSpan, Extremes]
    file: str | None


class _Lane(NamedTuple):
    """One thread's share, of a size that makes it a batch of its own."""

    number: int
    nbytes: int = BATCH


class _Part(NamedTuple):
    """What a chunk holds of a span: where in the span it begins, and the bytes."""

    span: SweepSpan
    at: int
    data: memoryview


class _Chunk(NamedTuple):
    """A chunk that was read, its parts, and the buffer that is free again once it is digested."""

    data: memoryview
    parts: list[_Part]
    space: memoryview


def sweep(source: Source, spans: Sequence[SweepSpan], device: Device | None, *, entire_file: bool, jobs: int, progress: Progress) -> Swept:
    """Read the spans, with `entire_file` all of it, once. Raises DamagedError where the file ends early or cannot be read."""
    ordered = sorted((span for span in spans if span.size), key=lambda span: span.offset)
    ends = [span.offset + span.size for span in ordered]
    if ends and ends[-1] > source.size:
        raise DamagedError(f"the file ends at byte {source.size:,}, {ends[-1] - source.size:,} bytes too early", path=source.path)
    runs = [(0, source.size)] if entire_file else _runs(ordered)
    chunks = [chunk for begin, end in runs for chunk in _cut(begin, end, ordered, ends)]
    progress.expect(sum(count for _, count in chunks))
    digests = _Digests(entire_file=entire_file)
    numbers, turns = iter(range(len(chunks))), _Turns()
    free: SimpleQueue[memoryview] = SimpleQueue()

    def run(_: _Lane, buffers: Buffers) -> dict[SweepSpan, Extremes]:
        """Read chunks until none is left. A lane waits only when all buffers hold chunks that wait for one before them."""
        extremes: dict[SweepSpan, Extremes] = {}
        free.put(buffers.raw)
        free.put(buffers.out)
        while True:
            space = _take(free, buffers)
            number = next(numbers, None)  # one step of the interpreter, so no two lanes get the same
            if number is None:
                free.put(space)  # the other lanes may wait for it, only to see that nothing is left
                return extremes
            offset, count = chunks[number]
            source.read_into(offset, space[:count])
            parts = list(_parts(ordered, ends, offset, space[:count]))
            _measure(extremes, parts, device)
            buffers.progress.advance(count)
            for chunk in turns.hand_in(number, _Chunk(space[:count], parts, space)):
                digests.update(chunk)
                free.put(chunk.space)

    lanes = min(jobs, len(chunks)) or 1
    measured = for_each([_Lane(number) for number in range(lanes)], run, jobs=lanes, progress=progress)
    return _result(spans, digests, measured.values())


def _result(spans: Sequence[SweepSpan], digests: _Digests, measured: Iterable[Mapping[SweepSpan, Extremes]]) -> Swept:
    """All that was learnt; a span without bytes has the digests of nothing."""
    extremes: dict[SweepSpan, Extremes] = {}
    for found in measured:
        for span, some in found.items():
            extremes[span] = extremes.get(span, Extremes()) + some
    empty = [span for span in spans if not span.size]
    return Swept(
        {**digests.crcs, **dict.fromkeys(empty, 0)},
        {**digests.spans, **dict.fromkeys(empty, xxhash.xxh3_128_digest(b""))},
        {**extremes, **dict.fromkeys(empty, Extremes())},
        digests.file.hexdigest() if digests.file is not None else None,
    )


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


def _parts(spans: Sequence[SweepSpan], ends: Sequence[int], offset: int, chunk: memoryview) -> Iterator[_Part]:
    """The spans that a chunk holds something of."""
    index = bisect_right(ends, offset)
    end = offset + len(chunk)
    while index < len(spans) and spans[index].offset < end:
        span = spans[index]
        begin, stop = max(span.offset, offset), min(span.offset + span.size, end)
        yield _Part(span, begin - span.offset, chunk[begin - offset : stop - offset])
        index += 1


def _measure(extremes: dict[SweepSpan, Extremes], parts: Sequence[_Part], device: Device | None) -> None:
    """Add the numbers of a chunk to those of a lane."""
    for span, _, data in parts:
        if span.dtype is not None and device is not None:
            extremes[span] = extremes.get(span, Extremes()) + device.extremes(data, span.dtype)


def _take(free: SimpleQueue[memoryview], buffers: Buffers) -> memoryview:
    """A free buffer. Raises Stopped where another thread failed."""
    while not buffers.stop.is_set():
        with suppress(Empty):
            return free.get(timeout=_IMPATIENCE)
    raise Stopped


class _Turns:
    """Chunks that come in any order and go out in file order, to one thread at a time: a buffer for reordering."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[int, _Chunk] = {}
        self._due = 0
        self._is_taken = False

    def hand_in(self, number: int, chunk: _Chunk) -> Iterator[_Chunk]:
        """Leave a chunk to the thread that takes them now; where none does, take all chunks that are due."""
        with self._lock:
            self._waiting[number] = chunk
            if self._is_taken:
                return
            self._is_taken = True
        while True:
            with self._lock:
                due = self._waiting.pop(self._due, None)
                if due is None:
                    self._is_taken = False
                    return
                self._due += 1
            yield due


class _Digests:
    """Checksums and digests of the spans, and with `entire_file` of the file; `update` takes its chunks in order."""

    def __init__(self, *, entire_file: bool) -> None:
        self.crcs: dict[SweepSpan, int] = {}
        self.spans: dict[SweepSpan, bytes] = {}
        self.file = xxhash.xxh3_128() if entire_file else None
        self._crc = 0  # of the span that the last chunk ended in, and so is the digest
        self._digest = xxhash.xxh3_128()

    def update(self, chunk: _Chunk) -> None:
        """Add the next chunk."""
        if self.file is not None:
            self.file.update(chunk.data)
        for span, at, data in chunk.parts:
            is_last = at + len(data) == span.size
            if span.crc:
                self._crc = crc32(data, self._crc if at else 0)
                if is_last:
                    self.crcs[span] = self._crc
            if span.digest and is_last and not at:
                self.spans[span] = xxhash.xxh3_128_digest(data)
            elif span.digest:
                if not at:
                    self._digest.reset()
                self._digest.update(data)
                if is_last:
                    self.spans[span] = self._digest.digest()
