"""Read a zip's directory from its end and cross-check it (PKWARE APPNOTE 4.3; torch stores, never compresses).

The two first bytes are never trusted: GPT-SoVITS overwrites `PK` with a version number (GPT_SoVITS/process_ckpt.py).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from gsvckpt.errors import DamagedError, UnsupportedError
from gsvckpt.files.budget import MOST_DIRECTORY, MOST_RECORDS, too_much
from gsvckpt.files.local import read_bytes
from gsvckpt.hints import Hint
from gsvckpt.model import Distant, Record, Source

# Bytes from the end in which torch's reader finds the end record: 17 windows of 4,096 bytes, each 4,093 before the one behind it, as it gives up only
# once it has looked 65,557 bytes back (miniz, mz_zip_reader_locate_header_sig). Python's zipfile gives up at 65,557 bytes.
_FURTHEST = 4_096 + 16 * 4_093
MAX16, MAX32 = 0xFFFF, 0xFFFFFFFF
LOCAL = struct.Struct("<4s5H3I2H")
CENTRAL = struct.Struct("<4s6H3I5H2I")
END = struct.Struct("<4s4H2IH")
END64 = struct.Struct("<4sQ2H2I4Q")
LOCATOR = struct.Struct("<4sIQI")
_DESCRIPTORS = (16, 24)  # bytes behind the data, with 32-bit and 64-bit sizes, as miniz writes them
_DESCRIPTOR = max(_DESCRIPTORS)
_ALIGNMENT = 64  # of data in torch's files
_TOGETHER = 4_096  # local headers that are got at once
_STORAGE = re.compile(r"(?:^|[/\\])data[/\\][0-9]+$")  # archivers on Windows may write backslashes
ENCRYPTED = 0x2041  # the three flags that mean so


def is_storage(name: str) -> bool:
    """Whether a record holds tensor bytes, by its name: no reader unpickles them."""
    return _STORAGE.search(name) is not None


class DistantSource(Source, Distant, Protocol):
    """A source on another machine."""


class Tail(NamedTuple):
    """The end of central directory: where the directory lies, how many entries it has, how many bytes its comment has, and how many follow it."""

    offset: int
    size: int
    entries: int
    trailing: int
    comment: int = 0


def find_tail(source: Source) -> Tail | None:
    """Find the end record as far from the end of the file as torch looks for it; None when there is none.

    The last one decides and the zip64 record counts wherever its locator stands, as in miniz, which torch reads with. Where a reader could choose
    otherwise, the file is refused: it could show us one directory and torch another. Raises DamagedError.
    """
    window = min(source.size, _FURTHEST)
    buffer = read_bytes(source, source.size - window, window)
    position = buffer.rfind(b"PK\x05\x06", 0, max(window - END.size + 4, 0))
    if position < 0:
        return None
    _, disk, first_disk, here, count, size, offset, comment = END.unpack_from(buffer, position)
    at = source.size - window + position
    trailing = source.size - at - END.size - comment
    wide = _read_end64(source, at)
    if wide is not None:
        for short, full, limit in zip((disk, first_disk, here, count, size, offset), wide[1:], (MAX16,) * 4 + (MAX32,) * 2, strict=True):
            if short not in (full, limit):
                raise DamagedError(
                    "its two end records disagree; readers do not agree which one counts", where="zip directory", check="container.directory"
                )
        at, disk, first_disk, here, count, size, offset = wide
    if trailing < 0 or disk or first_disk or here != count or offset + size != at:
        raise DamagedError(
            "its end record contradicts itself", where="zip directory", hint="get the file again; do not load it", check="container.directory"
        )
    return Tail(offset, size, count, trailing, comment)


def has_tail(source: Source) -> bool:
    """Whether the file ends as a zip does, sound or not."""
    try:
        return find_tail(source) is not None
    except DamagedError:
        return True


def _read_end64(source: Source, at: int) -> tuple[int, ...] | None:
    """Where the zip64 end record before `at` stands, its disks, counts, size and offset; None where no locator announces one."""
    if at < LOCATOR.size:
        return None
    locator = read_bytes(source, at - LOCATOR.size, LOCATOR.size)
    magic, _, where, _ = LOCATOR.unpack(locator)
    if magic != b"PK\x06\x07":
        return None
    end = read_bytes(source, where, END64.size) if where + END64.size <= at - LOCATOR.size else bytes(END64.size)
    magic, _, _, _, disk, first_disk, here, count, size, offset = END64.unpack(end)
    if magic != b"PK\x06\x06":
        raise DamagedError("its zip64 end record is missing", where="zip directory", check="container.directory")
    if where + END64.size != at - LOCATOR.size:  # as where one zip stands behind another: some readers take the first, some the last
        why = "its zip64 end record is not directly before its locator; readers do not agree which directory counts"
        raise DamagedError(why, where="zip directory", check="container.directory")
    return where, disk, first_disk, here, count, size, offset


def read_records(source: Source, tail: Tail) -> tuple[Record, ...]:
    """All entries in file order, checked: names unique and equal in both headers, data inside the file, nothing overlapping.

    Raises DamagedError or UnsupportedError with the entry's name. Compression and encryption are left to the caller, who may not need the entry.
    """
    entries = sorted(read_entries(source, tail))
    if isinstance(source, Distant):
        records = list(_locate_from_afar(source, entries, tail.offset))
    else:
        records = [_locate(source, entry, tail.offset) for entry, _ in entries]
    _check_layout(records, tail)
    return tuple(records)


def _locate_from_afar(source: DistantSource, entries: Sequence[tuple[ZipEntry, tuple[int, ...]]], limit: int) -> Iterator[Record]:
    """Records of a zip on another machine, their local headers read many at a time. For the structure alone, storages whose header is not at
    hand are placed where the headers around them and torch's alignment leave room for them. Of everything else, which somebody may unpickle, the
    header counts.
    """
    ends = [entry.header for entry, _ in entries[1:]] + [limit]
    for at, ((entry, fields), end) in enumerate(zip(entries, ends, strict=True)):
        if at % _TOGETHER == 0:
            source.fetch(
                [(max(entry.header - _DESCRIPTOR, 0), _DESCRIPTOR + LOCAL.size + 256 + fields[10]) for entry, fields in entries[at : at + _TOGETHER]]
            )
        is_known = not is_storage(entry.name) or source.at_hand(entry.header, LOCAL.size + 256 + fields[10])
        begin = None if is_known else _foresee(entry, fields, end)
        if begin is None:
            yield _locate(source, entry, limit)
        else:
            yield Record(entry.name, begin, entry.size, entry.crc, entry.method, entry.flags, entry.header, entry.packed)


def _foresee(entry: ZipEntry, fields: tuple[int, ...], end: int) -> int | None:
    """Where a stored record's data begin, told from where they end; None where that is not certain enough to go without its local header."""
    if entry.method != 0:
        return None
    least = entry.header + LOCAL.size + fields[10]
    for behind in _DESCRIPTORS if entry.flags & 8 else (0,):
        begin = end - behind - entry.size
        if begin == least or (begin % _ALIGNMENT == 0 and least < begin < least + 2 * _ALIGNMENT):
            return begin
    return None


def first_name(source: Source, tail: Tail) -> str:
    """The name of the first entry in the directory, which need not be the first in the file; empty where there is none."""
    if not tail.entries or tail.size < CENTRAL.size:
        return ""
    length = CENTRAL.unpack(read_bytes(source, tail.offset, CENTRAL.size))[10]
    return _decode(read_bytes(source, tail.offset + CENTRAL.size, min(length, tail.size - CENTRAL.size)))


def read_entries(source: Source, tail: Tail) -> list[tuple[ZipEntry, tuple[int, ...]]]:
    """The entries of the directory in its order, each with the raw fields of CENTRAL. Raises DamagedError with the entry's name."""
    if tail.entries > MOST_RECORDS:
        raise too_much("entries", MOST_RECORDS, where="zip directory")
    if tail.size > MOST_DIRECTORY:
        raise too_much("bytes", MOST_DIRECTORY, where="zip directory")
    directory = read_bytes(source, tail.offset, tail.size)
    entries: list[tuple[ZipEntry, tuple[int, ...]]] = []
    position = 0
    for _ in range(tail.entries):
        if position + CENTRAL.size > len(directory) or directory[position : position + 4] != b"PK\x01\x02":
            raise DamagedError(f"entry {len(entries) + 1} of {tail.entries} is damaged", where="zip directory", check="container.directory")
        fields = CENTRAL.unpack_from(directory, position)
        entry, position = _parse_central(directory, position, fields)
        entries.append((entry, fields))
    if position != len(directory):
        raise DamagedError(
            "holds more than the entries it counts; readers do not agree which ones count", where="zip directory", check="container.directory"
        )
    return entries


class ZipEntry(NamedTuple):
    """An entry as the central directory states it; sorts by its place in the file."""

    header: int
    name: str
    size: int
    crc: int
    method: int
    flags: int
    packed: int


def _parse_central(directory: bytes, position: int, fields: tuple[int, ...]) -> tuple[ZipEntry, int]:
    _, _, _, flags, method, _, _, crc, packed, size, name_len, extra_len, comment_len, _, _, _, header = fields
    start = position + CENTRAL.size
    end = start + name_len + extra_len + comment_len
    if end > len(directory):
        raise DamagedError("an entry reaches past the directory", where="zip directory", check="container.directory")
    name = _decode(directory[start : start + name_len])
    if MAX32 in (size, packed, header):
        size, packed, header = _widen(directory[start + name_len : start + name_len + extra_len], size, packed, header, name)
    if method == 0 and packed != size:
        raise DamagedError("a stored entry with two sizes", where=name, check="container.directory")
    return ZipEntry(header, name, size, crc, method, flags, packed), end


def _widen(extra: bytes, size: int, packed: int, header: int, name: str) -> tuple[int, int, int]:
    """Take the 64-bit values from the zip64 extra field: only those whose 32-bit place is full stand there, in this order."""
    position = 0
    while position + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, position)
        if tag == 1:
            values = iter(struct.unpack_from(f"<{min(length, len(extra) - position - 4) // 8}Q", extra, position + 4))
            try:
                return tuple(next(values) if value == MAX32 else value for value in (size, packed, header))  # type: ignore[return-value]  # three in, three out
            except (RuntimeError, StopIteration):
                break
        position += 4 + length
    raise DamagedError("its 64-bit sizes are missing", where=name, check="container.directory")


def _decode(name: bytes) -> str:
    try:
        return name.decode("utf-8")
    except UnicodeDecodeError:
        return name.decode("cp437")  # what zip means without the UTF-8 flag; it decodes any byte


def _locate(source: Source, entry: ZipEntry, limit: int) -> Record:
    """Fill in where the data begin. The local header alone knows: torch pads its extra field to align the data."""
    if entry.header + LOCAL.size > limit:
        raise DamagedError("begins outside the file", where=entry.name, check="container.range")
    raw = read_bytes(source, entry.header, LOCAL.size + min(len(entry.name.encode()) + 256, limit - entry.header - LOCAL.size))
    magic, _, flags, method, _, _, crc, packed, _, name_len, extra_len = LOCAL.unpack_from(raw)
    if magic[2:] != b"\x03\x04" or (magic[:2] != b"PK" and entry.header):
        raise DamagedError("has no local header where the directory says", where=entry.name, check="container.headers")
    name = raw[LOCAL.size : LOCAL.size + name_len]
    if name_len > 0xFFF or _decode(name) != entry.name:
        raise DamagedError(f"its local header names it {_decode(name)[:80]!r}", where=entry.name, check="container.headers")
    if method != entry.method or (flags ^ entry.flags) & ENCRYPTED or (packed not in (0, MAX32, entry.size) and entry.method == 0):
        raise DamagedError("its two headers disagree", where=entry.name, check="container.headers")
    if not flags & 8 and entry.method == 0 and crc not in (0, entry.crc):
        raise DamagedError("its two headers state different checksums", where=entry.name, check="container.headers")
    begin = entry.header + LOCAL.size + name_len + extra_len
    return Record(entry.name, begin, entry.size, entry.crc, entry.method, entry.flags, entry.header, entry.packed)


def _check_layout(records: Sequence[Record], tail: Tail) -> None:
    seen: set[str] = set()
    for record in records:
        name = record.name.lower()  # torch looks records up without regard to case (miniz, mz_zip_reader_locate_file)
        if name in seen:
            raise DamagedError("appears twice in the zip; readers do not agree which one counts", where=record.name, check="container.duplicate")
        seen.add(name)
    end = 0
    for record in records:
        if record.header < end:
            raise DamagedError("overlaps the record before it", where=record.name, check="container.overlap")
        end = record.offset + (record.size if record.method == 0 else 0)
        if end > tail.offset:
            raise DamagedError(
                f"its data end {end - tail.offset:,} bytes past the place where the directory begins", where=record.name, check="container.range"
            )


def require_plain(record: Record) -> Record:
    """Raise UnsupportedError unless the record's bytes stand in the file as they are."""
    if record.flags & ENCRYPTED:
        raise UnsupportedError("is marked as encrypted", where=record.name, check="container.encrypted")
    if record.method != 0:
        raise UnsupportedError(
            "is compressed; torch stores its records uncompressed",
            where=record.name,
            hint=Hint("stores its records plainly", "gsvckpt migrate <SOURCE>"),
            check="container.compressed",
        )
    return record
