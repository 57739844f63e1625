"""Byte ranges of a file: read several of them, and cut them out of what was read."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

from gsvckpt.model import Source

Span = tuple[int, int]  # where it begins, and the first byte behind it


def between(spans: Sequence[Span], end: int) -> Iterator[Span]:
    """What is not in any of these, which are in order, up to `end`."""
    place = 0
    for begin, stop in (*spans, (end, end)):
        if begin > place:
            yield place, begin
        place = max(place, stop)


def gather(source: Source, spans: Sequence[Span]) -> bytearray:
    """Their bytes, one after the other. Raises DamagedError."""
    data = bytearray(sum(end - begin for begin, end in spans))
    view, at = memoryview(data), 0
    for begin, end in spans:
        source.read_into(begin, view[at : at + end - begin])
        at += end - begin
    view.release()
    return data


def make_picker(spans: Sequence[Span]) -> struct.Struct:
    """What takes these spans, which are in order and apart from each other, out of bytes by unpack_from."""
    form, place = ["<"], 0
    for begin, end in spans:
        form.append(f"{begin - place}x{end - begin}s")
        place = end
    return struct.Struct("".join(form))


class Map:
    """Where places of a file are in some of its spans that were gathered; `total` is the number of all bytes in these."""

    def __init__(self, spans: Sequence[Span]) -> None:
        self._begins = [begin for begin, _ in spans]
        self._ends = [end for _, end in spans]
        self._at = list(accumulate((end - begin for begin, end in spans), initial=0))
        self.total = self._at[-1]

    def has(self, place: int) -> bool:
        return place < self._ends[max(bisect_right(self._begins, place) - 1, 0)]

    def __call__(self, place: int) -> int:
        number = bisect_right(self._begins, place) - 1
        return self._at[number] + place - self._begins[number]

    def move(self, begin: int, size: int) -> Span:
        """Where these bytes are."""
        return self(begin), self(begin) + size
