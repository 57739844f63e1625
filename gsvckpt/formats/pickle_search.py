"""Every pickle in a file, also where the container is damaged or lies about itself: somebody's reader may run it all the same.

Readers disagree about which record counts, whether flags and checksums matter, and where a zip begins. So none of that is asked here: a record is
looked at wherever any of the zip's own headers says that one is, and so are the first bytes of the file.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from gsvckpt.errors import GsvError
from gsvckpt.formats.zip_directory import LOCAL, find_tail, read_entries
from gsvckpt.model import Global, Source
from gsvckpt.pickles.machine import Machine
from gsvckpt.pickles.state import EndOfPickle

_WINDOWS = (1 << 13, 1 << 19, 1 << 25)  # bytes read of one pickle; most that look like one end at once
_BUDGET = 1 << 27  # bytes read of all: a crafted file may have many places
_MOST_OPCODES = 500_000  # four times a large training file's; these bytes may be anything
_MOST_PICKLES = 64  # one behind the other; torch's old format has five
_MOST_PLACES = 10_000
_STEP = 1 << 22  # bytes looked through at a time
_STORAGE = re.compile(r"(?:^|/)data/[0-9]+$")  # tensor bytes, which nobody unpickles
_LOCAL = b"PK\x03\x04"
_DEFLATED = 8


class _Place(NamedTuple):
    """Where a pickle may begin: in the file, or in a record whose bytes are compressed."""

    offset: int
    name: str
    method: int = 0


def search(source: Source, *, everywhere: bool, front: bool = False, without: Iterable[str] = ()) -> tuple[Global, ...]:
    """The names in all pickles that can be found, in order of first use.

    `everywhere` does not believe the zip's directory but looks for records throughout the file; `front` also takes the first bytes for a pickle.
    Records called as in `without` were read before.
    """
    names: dict[Global, Global] = {}
    places = {place.offset: place for place in _places(source, everywhere=everywhere, front=front or everywhere) if place.name not in set(without)}
    budget = _BUDGET
    for place in places.values():
        for window in _WINDOWS:
            data = _read(source, place, min(window, max(budget, 0)))
            budget -= len(data)
            found, cut = _names(data)
            if not cut or len(data) < window:
                break
        for name in found:
            if place.name.endswith(".pkl") or all(part.isidentifier() for part in str(name).split(".")):
                names.setdefault(name, name)
    return tuple(names)


def is_storage(name: str) -> bool:
    """Whether a record holds tensor bytes, by its name."""
    return _STORAGE.search(name) is not None


def _places(source: Source, *, everywhere: bool, front: bool) -> Iterator[_Place]:
    if front:
        yield _Place(0, "")  # a bare pickle, or several
    if everywhere:
        yield from _local_headers(source)
    with suppress(GsvError):
        tail = find_tail(source)
        for entry, _ in read_entries(source, tail) if tail is not None else ():
            place = _behind_header(source, entry.header)
            if place is not None and not _STORAGE.search(entry.name):
                yield place._replace(name=entry.name if entry.name.endswith(".pkl") else place.name)


def _local_headers(source: Source) -> Iterator[_Place]:
    """Records wherever a local header stands; the first one may have lost its `PK`, as GPT-SoVITS writes a version there."""
    found = 0
    for begin in range(0, source.size, _STEP):
        window = bytearray(min(_STEP + 3, source.size - begin))
        source.read_into(begin, memoryview(window))
        at = 0 if not begin else window.find(_LOCAL)
        while at >= 0 and found < _MOST_PLACES:
            place = _behind_header(source, begin + at)
            if place is not None:
                found += 1
                if not _STORAGE.search(place.name):
                    yield place
            at = window.find(_LOCAL, at + 1)


def _behind_header(source: Source, header: int) -> _Place | None:
    """The data behind a local header; None where none fits there."""
    if header < 0 or header + LOCAL.size > source.size:
        return None
    raw = bytearray(LOCAL.size)
    source.read_into(header, memoryview(raw))
    magic, _, _, method, *_, name_length, extra_length = LOCAL.unpack(raw)
    begin = header + LOCAL.size
    if magic[2:] != b"\x03\x04" or begin + name_length + extra_length >= source.size:
        return None
    name = bytearray(name_length)
    source.read_into(begin, memoryview(name))
    return _Place(begin + name_length + extra_length, name.decode("utf-8", "replace"), method)


def _read(source: Source, place: _Place, size: int) -> bytes:
    """Up to `size` bytes from there on: where a pickle ends is known only once it was read."""
    try:
        buffer = bytearray(min(source.size - place.offset, size))
        source.read_into(place.offset, memoryview(buffer))
        return zlib.decompressobj(-15).decompress(buffer, size) if place.method == _DEFLATED and size else bytes(buffer)
    except (GsvError, zlib.error):
        return b""


def _names(data: bytes) -> tuple[list[Global], bool]:
    """The names in the pickles that stand one behind the other, also in one that is damaged; and whether one goes on where the data end."""
    names: list[Global] = []
    position = 0
    for _ in range(_MOST_PICKLES):
        machine = Machine(data, reduce=_ignore, persist=_accept, position=position, max_opcodes=_MOST_OPCODES)
        try:
            machine.run()
        except EndOfPickle:
            return [*names, *machine.globals], True
        except GsvError:
            return [*names, *machine.globals], False
        names += machine.globals
        position = machine.position
    return names, False


def _ignore(_name: Global, _args: object) -> None:
    """Every call stays a recipe."""


def _accept(_pid: object) -> None:
    """Every object outside the pickle is nothing."""
