"""Find every pickle in a file, even in a damaged or deceptive container: some reader may run it.

Readers disagree about which record counts, whether flags and checksums matter, and where a zip begins. So none of that is asked here: a record is
looked at wherever any of the zip's own headers says that one is, and so are the first bytes of the file, and zips inside it. What cannot be looked at
makes the search incomplete, and an incomplete search proves nothing safe.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import NamedTuple

from gsvckpt.errors import FLAWS, DamagedError, UnsupportedError
from gsvckpt.files.local import read_bytes
from gsvckpt.formats import torch_tar
from gsvckpt.formats.pickle.calls import merge_calls
from gsvckpt.formats.pickle.machine import Machine
from gsvckpt.formats.pickle.state import EndOfPickle
from gsvckpt.formats.torch_objects import storage_of
from gsvckpt.formats.zip.directory import ENCRYPTED, LOCAL, find_tail, is_storage, read_entries
from gsvckpt.model import MISSING, Call, Global, Record, Source, Storage

_WINDOWS = (1 << 13, 1 << 19, 1 << 25)  # bytes read of one pickle; most that look like one end at once
# What one file may cost: a crafted one has many places. A large training file takes 5 MB and 130,000 opcodes.
_MOST_BYTES = 1 << 27
_MOST_OPCODES = 2_000_000
_PER_PICKLE = 100  # opcodes that a pickle counts for at least
_MOST_PLACES = 20_000
_MOST_SCANNED = 1 << 26  # bytes that belong to nothing, looked through for local headers
_MOST_DEPTH = 2  # zips inside zips
_STEP = 1 << 22  # bytes looked through at a time
_LOCAL = b"PK\x03\x04"
_ARCHIVES = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!", b"\x28\xb5\x2f\xfd")  # what is inside is not looked at
_STORED, _DEFLATED = 0, 8
_UNKNOWN = -1  # a method of compression that nobody knows


class PickleStart(NamedTuple):
    """Where a pickle may begin: in the file, or in a record whose bytes are compressed. `size` is None where nothing states one."""

    offset: int
    name: str
    method: int = _STORED
    size: int | None = None
    encrypted: bool = False


class Searched(NamedTuple):
    """The names in all pickles that were found, in order of first use; whether there was nothing that could not be looked at; and the calls."""

    names: tuple[Global, ...]
    complete: bool
    calls: tuple[Call, ...] = ()


def search(source: Source, *, everywhere: bool, front: bool = False) -> Searched:
    """Look for pickles.

    `everywhere` does not believe the zip's directory but looks for records throughout the file; `front` also takes the first bytes for a pickle,
    and the members of a tar.
    """
    found = _Search()
    found.look_through(source, everywhere=everywhere, front=front or everywhere)
    return Searched(tuple(found.names), found.complete, merge_calls(found.calls))


def search_places(source: Source, places: Iterable[PickleStart], spans: Sequence[tuple[int, int]]) -> Searched:
    """Look for pickles at these places, and wherever a zip's local header stands in these (begin, end) parts of the file."""
    found = _Search()
    found.complete = sum(end - begin for begin, end in spans) <= _MOST_SCANNED
    cut = ((begin, min(end, begin + _MOST_SCANNED)) for begin, end in spans)
    found.look_at_all(source, chain(places, chain.from_iterable(_local_headers(source, begin, end) for begin, end in cut)))
    return Searched(tuple(found.names), found.complete, merge_calls(found.calls))


def place_of(record: Record) -> PickleStart:
    """Where a located record's pickle would begin."""
    return PickleStart(record.offset, record.name, record.method, record.size, bool(record.flags & ENCRYPTED))


def entries(source: Source) -> Iterator[PickleStart]:
    """The places of all records of the zip that a file ends as; storages' are not among them. Ends early where the directory is damaged."""
    with suppress(*FLAWS):
        tail = find_tail(source)
        for entry, _ in read_entries(source, tail) if tail is not None else ():
            place = None if is_storage(entry.name) else _behind_header(source, entry.header)
            if place is not None:
                name = entry.name if entry.name.endswith(".pkl") else place.name
                encrypted = bool(entry.flags & ENCRYPTED)
                yield place._replace(name=name, method=entry.method, size=entry.size, encrypted=encrypted)


def tar_places(source: Source) -> Iterator[PickleStart]:
    """The places of all members of a tar; one that cannot be looked at, where they are too many or do not follow one another."""
    for member in torch_tar.members(source, _MOST_PLACES):
        yield PickleStart(member.offset, f"{member.name}.pkl", size=member.size) if member is not None else PickleStart(0, "", _UNKNOWN)


class _Search:
    """One search, and what it may still cost."""

    def __init__(self) -> None:
        self.names: dict[Global, None] = {}
        self.calls: list[Call] = []
        self.complete = True
        self._bytes, self._opcodes, self._depth = _MOST_BYTES, _MOST_OPCODES, 0

    def look_through(self, source: Source, *, everywhere: bool, front: bool) -> None:
        self.look_at_all(source, _places(source, everywhere=everywhere, front=front))

    def look_at_all(self, source: Source, places: Iterable[PickleStart]) -> None:
        seen: set[int] = set()
        for place in places:
            if place.offset in seen and place.method != _UNKNOWN:
                continue
            seen.add(place.offset)
            if len(seen) > _MOST_PLACES or self._bytes <= 0 or self._opcodes <= 0:
                self.complete = False
                return
            self._look_at(source, place)

    def _look_at(self, source: Source, place: PickleStart) -> None:
        if place.encrypted:  # torch stops at the flag, others read on
            self.complete = False
        for window in _WINDOWS:
            data = self._read(source, place, window)
            if data is None:
                self.complete = False
                return
            if self._is_archive(source, place, data):
                return
            found, calls, cut = self._run(data)
            if not cut or len(data) < window:
                break
        else:
            self.complete = False
        trusted = place.name.endswith(".pkl")
        self.names |= {name: None for name in found if trusted or all(part.isidentifier() for part in str(name).split("."))}
        self.calls += [call for call in calls if call.name in self.names]

    def _read(self, source: Source, place: PickleStart, size: int) -> bytes | None:
        """Up to `size` bytes from there on: where a pickle ends is known only once it was read. None where they cannot be had."""
        if place.method not in (_STORED, _DEFLATED):
            return None
        limit = source.size - place.offset if place.size is None or place.method == _DEFLATED else min(place.size, source.size - place.offset)
        try:
            buffer = read_bytes(source, place.offset, max(min(limit, size), 0))
            self._bytes -= len(buffer)
            return zlib.decompressobj(-15).decompress(buffer, size) if place.method == _DEFLATED else buffer
        except (*FLAWS, zlib.error):
            return None

    def _is_archive(self, source: Source, place: PickleStart, data: bytes) -> bool:
        """Whether a record is an archive of its own; a zip is looked through."""
        if data.startswith(_ARCHIVES):
            self.complete = False
            return True
        if place.offset == 0 or not (data.startswith(_LOCAL) or (data[2:4] == _LOCAL[2:] and data[:2].isdigit())):
            return False
        inner: Source = _PartSource(source, place.offset, place.size if place.size is not None else source.size - place.offset)
        if place.method == _DEFLATED:
            record = self._read(source, place, _WINDOWS[-1])
            inner = _BytesSource(source.path, record or b"")
            self.complete = self.complete and record is not None and len(record) < _WINDOWS[-1]
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            self.complete = False
        else:
            self.look_through(inner, everywhere=True, front=False)
        self._depth -= 1
        return True

    def _run(self, data: bytes) -> tuple[list[Global], list[Call], bool]:
        """The names in the pickles that stand one behind the other, also in one that is damaged, and how they are called; and whether one goes on
        where the data end.
        """
        names: list[Global] = []
        calls: list[Call] = []
        position = 0
        while position < len(data):
            if self._opcodes <= 0:
                self.complete = False
                break
            machine = Machine(data, reduce=_ignore, persist=_accept, position=position, max_opcodes=self._opcodes)
            try:
                machine.run()
            except EndOfPickle:
                return names, calls, True
            except UnsupportedError:  # a limit, or an opcode whose operand is not followed: what comes behind is not known
                self.complete = False
                return names, calls, False
            except DamagedError:
                self.complete = self.complete and not machine.doubts and not calls  # a class that was changed instead of called
                return names, calls, False
            finally:
                self._opcodes -= machine.executed + _PER_PICKLE
                names += machine.globals
                calls += machine.calls
            position = machine.position
            if any(not doubt.agreed for doubt in machine.doubts):  # others may read other names there, or go on elsewhere
                self.complete = False
        return names, calls, False


class _PartSource:
    """A source inside another."""

    def __init__(self, source: Source, offset: int, size: int) -> None:
        self.path, self.size = source.path, size
        self._source, self._offset = source, offset

    def read_into(self, offset: int, buffer: memoryview) -> None:
        if offset < 0 or offset + len(buffer) > self.size:
            raise DamagedError("the record ends early", path=self.path)
        self._source.read_into(self._offset + offset, buffer)


class _BytesSource:
    """A source of bytes at hand."""

    def __init__(self, path: str, data: bytes) -> None:
        self.path, self.size = path, len(data)
        self._data = data

    def read_into(self, offset: int, buffer: memoryview) -> None:
        part = self._data[offset : offset + len(buffer)] if offset >= 0 else b""
        if len(part) != len(buffer):
            raise DamagedError("the record ends early", path=self.path)
        buffer[:] = part


def _places(source: Source, *, everywhere: bool, front: bool) -> Iterator[PickleStart]:
    if front:
        yield PickleStart(0, "")  # a bare pickle, or several
        head = read_bytes(source, 0, min(torch_tar.BLOCK, source.size))
        if torch_tar.is_tar(head):
            yield from tar_places(source)
    if everywhere:
        yield from _local_headers(source, 0, source.size)
    yield from entries(source)


def _local_headers(source: Source, first: int, last: int) -> Iterator[PickleStart]:
    """Records wherever a local header stands; the first one of the file may have lost its `PK`, as GPT-SoVITS writes a version there."""
    found = 0
    for begin in range(first, last, _STEP):
        window = read_bytes(source, begin, min(_STEP + 3, source.size - begin))
        at = 0 if not begin else window.find(_LOCAL)
        while at >= 0 and found < _MOST_PLACES:
            place = _behind_header(source, begin + at)
            if place is not None:
                found += 1
                if not is_storage(place.name):
                    yield place
            at = window.find(_LOCAL, at + 1)


def _behind_header(source: Source, header: int) -> PickleStart | None:
    """The data behind a local header; None where none fits there."""
    if header < 0 or header + LOCAL.size > source.size:
        return None
    raw = read_bytes(source, header, LOCAL.size)
    magic, _, _, method, *_, name_length, extra_length = LOCAL.unpack(raw)
    begin = header + LOCAL.size
    if magic[2:] != b"\x03\x04" or begin + name_length + extra_length >= source.size:
        return None
    name = read_bytes(source, begin, name_length)
    return PickleStart(begin + name_length + extra_length, name.decode("utf-8", "replace"), method)


def _ignore(_name: Global, _args: object) -> None:
    """Every call stays a recipe."""


def _accept(pid: object) -> Storage | None:
    """A storage without bytes, so that what is said of sizes can be looked at; every other object outside the pickle is nothing."""
    with suppress(DamagedError):
        key, dtype, location, numel, _ = storage_of(pid)
        return Storage(key, dtype, numel, location, _BytesSource("", b""), MISSING)
    return None
