"""Lay out a zip for writing: every position is known before the first byte. Stored records, aligned data, no timestamps."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

from gsvckpt.formats.zip.directory import CENTRAL, END, END64, LOCAL, LOCATOR, MAX16, MAX32
from gsvckpt.model import Record

ALIGNMENT = 64  # torch aligns tensor data for mmap (caffe2/serialize/inline_container.cc)
_UTF8 = 0x0800
_1980 = 0x21  # the date 1980-01-01, so that the clock leaves no trace


def lay_out(sizes: Iterable[tuple[str, int]]) -> tuple[Record, ...]:
    """Give (name, size) pairs their places: in order, data at multiples of ALIGNMENT. Checksums are filled in later with `replace`."""
    records: list[Record] = []
    end = 0
    for name, size in sizes:
        offset = end + LOCAL.size + len(name.encode()) + (20 if size >= MAX32 else 0)
        gap = -offset % ALIGNMENT
        if 0 < gap < 4:  # an extra field needs four bytes of its own
            gap += ALIGNMENT
        records.append(Record(name, offset + gap, size, 0, header=end))
        end = offset + gap + size
    return tuple(records)


def local_header(record: Record) -> bytes:
    """The bytes before a record's data, with its checksum and sizes, padded by an extra field as torch pads (tag `FB`)."""
    name = record.name.encode()
    wide = record.size >= MAX32
    extra = struct.pack("<2H2Q", 1, 16, record.size, record.size) if wide else b""
    gap = record.offset - record.header - LOCAL.size - len(name) - len(extra)
    if gap:
        extra += struct.pack("<2H", 0x4246, gap - 4) + b"Z" * (gap - 4)
    size = MAX32 if wide else record.size
    return LOCAL.pack(b"PK\x03\x04", 45 if wide else 20, _UTF8, 0, 0, _1980, record.crc, size, size, len(name), len(extra)) + name + extra


def directory(records: Sequence[Record]) -> bytes:
    """The central directory and end records that close a zip of these records."""
    out = bytearray()
    start = records[-1].offset + records[-1].size
    for record in records:
        name = record.name.encode()
        wide = struct.pack("<2Q", record.size, record.size) if record.size >= MAX32 else b""
        wide += struct.pack("<Q", record.header) if record.header >= MAX32 else b""
        extra = struct.pack("<2H", 1, len(wide)) + wide if wide else b""
        size, header = min(record.size, MAX32), min(record.header, MAX32)
        version = 45 if wide else 20
        fields = (record.crc, size, size, len(name), len(extra), 0, 0, 0, 0, header)
        out += CENTRAL.pack(b"PK\x01\x02", version, version, _UTF8, 0, 0, _1980, *fields) + name + extra
    size, count = len(out), len(records)
    if count >= MAX16 or start + size >= MAX32:
        out += END64.pack(b"PK\x06\x06", END64.size - 12, 45, 45, 0, 0, count, count, size, start)
        out += LOCATOR.pack(b"PK\x06\x07", 0, start + size, 1)
    short = min(count, MAX16)
    out += END.pack(b"PK\x05\x06", 0, 0, short, short, min(size, MAX32), min(start, MAX32), 0)
    return bytes(out)
