"""Files that are the same as one that was read, byte for byte, but for tensor data, checksums, and how far training had come.

Saves of one run are. To compare the bytes takes a twentieth of the time of reading them as a zip and a pickle, and is as sure: whatever the reader
looks at is equal, or is looked at again here. So a folder of thousands of saves is seen in seconds. (Retention asks for less, see likeness.)
"""

from __future__ import annotations

import struct
import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from dataclasses import replace
from itertools import accumulate
from operator import itemgetter
from typing import NamedTuple

from gsvckpt.accounting import Account, account
from gsvckpt.checksums import crc32
from gsvckpt.examination import Closed, Examination, examine
from gsvckpt.files import LocalSource
from gsvckpt.formats import zip_directory
from gsvckpt.model import Record, storages_of
from gsvckpt.pickles.places import Place, find_places
from gsvckpt.sovits.progress import PROGRESS_KEYS
from gsvckpt.sovits.sections import Sections, divide

_WHOLE = 1 << 22  # bytes: a smaller file is read at once, of a larger one what is no tensor data
_MOST_RECORDS = 16_000  # of all files that are remembered; 1 KB each
_MARKED = 1024  # bytes of the smallest storage that counts as a duplicate (see accounting)

_Span = tuple[int, int]
Pick = Callable[[bytearray], object]


class Twin(NamedTuple):
    """A file that was read, and what another must have in common with it.

    `gaps` are what of a file is read, `form` and `parts` how that is divided, and the parts that must be equal. In the gaps, `values` are where the
    progress stands, `pickle` and `pickle_crc` the pickle and its checksum, `stated` what local headers and the directory state as checksums,
    `marks` those of storages, with the sizes of these.
    """

    examination: Examination
    sections: Sections
    counted: Account
    size: int
    gaps: tuple[_Span, ...]
    form: struct.Struct
    parts: tuple[bytes, ...]
    values: tuple[tuple[str, Place], ...]
    pickle: _Span
    pickle_crc: int
    stated: tuple[Pick, Pick] | None
    marks: tuple[tuple[int, int], ...]


class Known(NamedTuple):
    """An examination, and where the bytes go."""

    examination: Examination
    counted: Account


class Twins:
    """Files that were read, the latest last. A size is learnt when it comes for the second time, as learning takes as long as reading."""

    def __init__(self) -> None:
        self._twins: list[Twin] = []
        self._sizes: set[int] = set()
        self._lock = threading.Lock()

    def recall(self, source: LocalSource) -> Known | None:
        """What a file is that has a twin among them."""
        with self._lock:
            alike = [twin for twin in reversed(self._twins) if twin.size == source.size]
        read: dict[tuple[_Span, ...], bytearray] = {}
        divided: dict[str, tuple[bytes, ...]] = {}  # nearly all of one size are divided in one way
        for twin in alike:
            if twin.gaps not in read:
                read[twin.gaps] = _gather(source, twin.gaps)
                divided.clear()
            form = twin.form.format
            if form not in divided:
                divided[form] = twin.form.unpack(read[twin.gaps])
            if divided[form] == twin.parts:
                known = _recognise(twin, source, read[twin.gaps])
                if known is not None:
                    return known
        return None

    def keep(self, examination: Examination, counted: Account) -> None:
        """Remember a file that was read, if others can be its twins."""
        source = examination.checkpoint.source
        with self._lock:
            if source.size not in self._sizes:
                self._sizes.add(source.size)
                return
        twin = learn(examination, counted)
        if twin is None:
            return
        with self._lock:
            self._twins.append(twin)
            while len(self._twins) > 1 and sum(len(one.examination.checkpoint.records) for one in self._twins) > _MOST_RECORDS:
                del self._twins[0]


def learn(examination: Examination, counted: Account) -> Twin | None:
    """What others have in common with a file that is still open; None where nothing can be said."""
    checkpoint = examination.checkpoint
    container, source, root = checkpoint.container, checkpoint.source, checkpoint.root
    if container.format != "torch-zip" or container.compressed or not isinstance(source, LocalSource) or not isinstance(root, dict):
        return None
    tail = zip_directory.find_tail(source)
    pickled = next((record for record in checkpoint.records if record.name == f"{container.prefix}/data.pkl"), None)
    if tail is None or pickled is None:
        return None
    text = bytes(_gather(source, ((pickled.offset, pickled.offset + pickled.size),)))
    places = find_places(text, PROGRESS_KEYS)
    if places is None or any(isinstance(root.get(key), float) for key in PROGRESS_KEYS):
        return None
    try:
        values = {key: place for key, place in places.values.items() if key in root and root[key] == place.read(text)}
    except UnicodeDecodeError:
        return None
    checksums = dict(_checksums(source, tail))
    read = {f"{container.prefix}/{name}" for name in ("data.pkl", "byteorder")}
    data = [(record.offset, record.offset + record.size) for record in checkpoint.records if record.name not in read]
    local = {record.name: record.header + 14 for record in checkpoint.records if not record.flags & 8}
    raw = _gather(source, tuple((at, at + 4) for at in local.values()))
    local = {name: at for n, (name, at) in enumerate(local.items()) if raw[4 * n : 4 * n + 4] != bytes(4)}  # zero: not computed
    free = sorted(
        (
            *data,
            *_behind(checkpoint.records, tail.offset),
            *((at, at + 4) for at in (*checksums.values(), *local.values())),
            *((pickled.offset + at, pickled.offset + at + 8) for at in places.floats),
            *((pickled.offset + place.begin, pickled.offset + place.end) for place in values.values()),
        )
    )
    gaps = ((0, source.size),) if source.size <= _WHOLE else tuple(_between(sorted(data), source.size))
    at = _Map(gaps)
    form = struct.Struct("<" + "".join(_format([(at(begin), at(begin) + end - begin) for begin, end in free if at.has(begin)], at.total)))
    marks = {f"{container.prefix}/data/{storage.key}": storage.nbytes for storage in storages_of(root) if storage.nbytes >= _MARKED}
    return Twin(
        examination._replace(checkpoint=replace(checkpoint, source=Closed(source.path, source.size))),
        divide(root),
        counted,
        source.size,
        gaps,
        form,
        form.unpack(_gather(source, gaps)),
        tuple((key, place.moved(at(pickled.offset))) for key, place in values.items()),
        (at(pickled.offset), at(pickled.offset) + pickled.size),
        at(checksums[pickled.name]),
        (_pick(map(at, local.values())), _pick(at(checksums[name]) for name in local)) if local else None,
        tuple((at(checksums[name]), size) for name, size in marks.items() if name in checksums),
    )


def _recognise(twin: Twin, source: LocalSource, data: bytearray) -> Known | None:
    """What a file is whose parts are the other's; None where reading it would find something wrong."""
    if twin.stated is not None and twin.stated[0](data) != twin.stated[1](data):
        return None
    stated = int.from_bytes(data[twin.pickle_crc : twin.pickle_crc + 4], "little")
    if stated not in (0, crc32(memoryview(data)[twin.pickle[0] : twin.pickle[1]])):
        return None
    root = copy(twin.examination.checkpoint.root)
    assert isinstance(root, dict)  # noqa: S101 - no other is learnt; for the type checker
    try:
        root.update((key, place.read(data)) for key, place in twin.values)
    except UnicodeDecodeError:
        return None
    found = examine(replace(twin.examination.checkpoint, source=source, root=root), twin.sections)
    counted = twin.counted if found.identity.kind == twin.examination.identity.kind else account(found)
    return Known(found, counted._replace(duplicates=_duplicates((size, bytes(data[at : at + 4])) for at, size in twin.marks)))


def _pick(places: Iterable[int]) -> Pick:
    """What takes four bytes at each of these places."""
    return itemgetter(*(slice(place, place + 4) for place in places))


def _duplicates(marks: Iterable[tuple[int, bytes]]) -> int:
    """The bytes of storages that have size and checksum of an earlier one, as accounting has it."""
    counts = Counter(mark for mark in marks if any(mark[1]))
    return sum(size * (count - 1) for (size, _), count in counts.items())


def _checksums(source: LocalSource, tail: zip_directory.Tail) -> Iterator[tuple[str, int]]:
    """By a record's name, where the directory states its checksum."""
    position = tail.offset
    for entry, fields in zip_directory.read_entries(source, tail):
        yield entry.name, position + 16
        position += zip_directory.CENTRAL.size + sum(fields[10:13])


def _behind(records: Sequence[Record], end: int) -> Iterator[_Span]:
    """What stands between a record's data and the next header, which no reader looks at."""
    for record, header in zip(records, (*(record.header for record in records[1:]), end), strict=True):
        yield record.offset + record.size, header


def _between(spans: Sequence[_Span], end: int) -> Iterator[_Span]:
    """What is not in any span."""
    place = 0
    for begin, stop in (*spans, (end, end)):
        if begin > place:
            yield place, begin
        place = max(place, stop)


def _gather(source: LocalSource, gaps: Sequence[_Span]) -> bytearray:
    data = bytearray(sum(end - begin for begin, end in gaps))
    view, at = memoryview(data), 0
    for begin, end in gaps:
        source.read_into(begin, view[at : at + end - begin])
        at += end - begin
    return data  # a copy would take as long as reading


def _format(free: Sequence[_Span], total: int) -> Iterator[str]:
    """What struct makes of the gaps: everything but what is free."""
    place = 0
    for begin, end in free:
        if begin > place:
            yield f"{begin - place}s"
        if end > begin:
            yield f"{end - begin}x"
        place = end
    if total > place:
        yield f"{total - place}s"


class _Map:
    """Where places of a file are in its gaps."""

    def __init__(self, gaps: Sequence[_Span]) -> None:
        self._begins = [begin for begin, _ in gaps]
        self._ends = [end for _, end in gaps]
        self._at = list(accumulate((end - begin for begin, end in gaps), initial=0))
        self.total = self._at[-1]

    def has(self, place: int) -> bool:
        return place < self._ends[max(bisect_right(self._begins, place) - 1, 0)]

    def __call__(self, place: int) -> int:
        number = bisect_right(self._begins, place) - 1
        return self._at[number] + place - self._begins[number]
