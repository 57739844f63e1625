"""Write a torch zip over a copy of another: the same bytes except for some tensors' data and their checksums.

GPT-SoVITS knows its bases by the MD5 of their first 8 KiB, which hold names and layout but no weights (process_ckpt.py:100-126). So a file that is an
official base in all but its tensor data is read as that base; for full v4 weights there is no other way (a v4 file and a v3 file are alike).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from gsvckpt.dtypes import DType
from gsvckpt.errors import UnsupportedError
from gsvckpt.files.local import read_bytes
from gsvckpt.formats.layout import Layout, Piece
from gsvckpt.formats.zip.directory import CENTRAL, LOCAL, find_tail, read_entries
from gsvckpt.model import Checkpoint, Record, Storage

_DESCRIPTOR = b"PK\x07\x08"
_LARGEST_FRAME = 1 << 26  # bytes that are no tensor data: the pickle, headers, the directory; a base has under 1 MB
_CRC_IN_LOCAL, _CRC_IN_CENTRAL = 14, 16


def lay_out(base: Checkpoint, contents: Mapping[str, Storage], dtype_of: Callable[[Storage], DType]) -> Layout:
    """Plan a copy of `base` in which the record `data/KEY` holds `contents[KEY]`; all of its storages are to be given.

    Raises UnsupportedError where one would not have the size of the base's.
    """
    records = {record.name.rpartition("data/")[2]: record for record in base.records if "/data/" in record.name or record.name.startswith("data/")}
    placed: list[tuple[Storage, Record]] = []
    for key, storage in contents.items():
        record = records[key]
        if record.size != storage.numel * dtype_of(storage).itemsize:
            raise UnsupportedError(
                f"would need {storage.numel * dtype_of(storage).itemsize:,} bytes where the base has {record.size:,}", where=record.name
            )
        placed.append((storage, record))
    data = sorted((record.offset, record.offset + record.size) for _, record in placed)
    frame = tuple(_frame(base, data))

    def close(checksums: Mapping[Storage, int]) -> tuple[Piece, ...]:
        return tuple(_patches(base, [(record, checksums[storage]) for storage, record in placed]))

    return Layout(base.source.size, frame, tuple((storage, record.offset) for storage, record in placed), close)


def _frame(base: Checkpoint, data: list[tuple[int, int]]) -> list[Piece]:
    """Everything between the tensors' data."""
    pieces: list[Piece] = []
    position = total = 0
    for begin, end in [*data, (base.source.size, base.source.size)]:
        if begin > position:
            total += begin - position
            if total > _LARGEST_FRAME:
                raise UnsupportedError("holds too much besides its tensors to be written over", path=base.source.path)
            piece = read_bytes(base.source, position, begin - position)
            pieces.append((position, bytes(piece)))
        position = max(position, end)
    return pieces


def _patches(base: Checkpoint, crcs: list[tuple[Record, int]]) -> list[Piece]:
    """The new checksums, wherever the base states one: in the local header or behind the data, and in the directory."""
    wanted = {record.name: crc for record, crc in crcs if record.crc}  # 0: torch wrote it with checksums switched off
    pieces: list[Piece] = []
    for record, crc in crcs:
        if record.name not in wanted:
            continue
        header = read_bytes(base.source, record.header, LOCAL.size)
        if struct.unpack_from("<I", header, _CRC_IN_LOCAL)[0]:
            pieces.append((record.header + _CRC_IN_LOCAL, struct.pack("<I", crc)))
        end = record.offset + record.size
        descriptor = read_bytes(base.source, end, min(8, base.source.size - end))
        if descriptor[:4] == _DESCRIPTOR:
            pieces.append((end + 4, struct.pack("<I", crc)))
    tail = find_tail(base.source)
    if tail is None:  # it was opened, so it has one
        raise UnsupportedError("has no zip directory", path=base.source.path)
    position = tail.offset
    for entry, fields in read_entries(base.source, tail):
        if entry.name in wanted:
            pieces.append((position + _CRC_IN_CENTRAL, struct.pack("<I", wanted[entry.name])))
        position += CENTRAL.size + fields[10] + fields[11] + fields[12]  # its name, extra field and comment
    return pieces
