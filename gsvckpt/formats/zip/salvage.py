"""Find the records of a damaged zip from its directory and its local headers; one can replace what the other has lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from typing import NamedTuple

from gsvckpt.errors import FLAWS
from gsvckpt.files.local import read_bytes
from gsvckpt.files.streams import crc32, read_chunks
from gsvckpt.formats.zip.directory import ENCRYPTED, LOCAL, ZipEntry, find_tail, read_entries
from gsvckpt.model import Source

_MAGIC = b"PK\x03\x04"
_DESCRIPTOR = b"PK\x07\x08"
_DESCRIPTOR_FOLLOWS = 8  # a flag of local headers
_DESCRIPTOR_SIZES = (16, 24, 0, 12, 20)  # with a signature as torch writes it, of 32 or 64 bits; none; without a signature
_STEP = 1 << 16  # bytes looked through at a time for the next record
_MOST_READ = 8  # times the file's size: a crafted file may claim the same bytes again and again


class Claim(NamedTuple):
    """Where a record's bytes are said to begin, how many there are, and their checksum; None where none is told."""

    name: str
    offset: int
    size: int
    crc: int | None


def read_directory(source: Source) -> tuple[Claim, ...]:
    """What the central directory says of its stored records; nothing where it cannot be read.

    It does not say where data begin, only where headers do: of a damaged header, all places are named that the next record leaves for the data.
    """
    with suppress(*FLAWS):
        tail = find_tail(source)
        if tail is None:
            return ()
        entries = sorted(entry for entry, _ in read_entries(source, tail))
        limits = [following.header for _, following in pairwise(entries)] + [tail.offset]
        stored = (pair for pair in zip(entries, limits, strict=True) if pair[0].method == 0 and not pair[0].flags & ENCRYPTED)
        return tuple(claim for entry, limit in stored for claim in _claims(source, entry, limit))
    return ()


def find_records(source: Source, directory: Iterable[Claim], sizes: Mapping[str, int]) -> dict[str, Claim]:
    """The records called as in `sizes` and of that many bytes, each where the directory and its local header say; where these differ, where the bytes
    have their checksum.
    """
    claims: dict[str, Counter[Claim]] = {}
    for claim in (*directory, *_walk(source, sizes)):
        if sizes.get(claim.name) == claim.size:
            claims.setdefault(claim.name, Counter())[claim] += 1
    left = _MOST_READ * source.size
    found: dict[str, Claim] = {}
    for name, told in claims.items():
        left -= sizes[name] * len(told) if len(told) > 1 else 0
        best = _settle(source, [claim for claim, _ in told.most_common()]) if left >= 0 else None
        if best is not None:
            found[name] = best
    return found


def has_checksum(source: Source, claim: Claim) -> bool:
    """Whether the bytes that a claim names are there and have the checksum that it states. Reads them."""
    if claim.crc is None or claim.offset + claim.size > source.size:
        return False
    crc = 0
    for _, chunk in read_chunks(source, claim.offset, claim.offset + claim.size):
        crc = crc32(chunk, crc)
    return crc == claim.crc


def read_header(source: Source, at: int) -> tuple[str, int] | None:
    """A record's name and where its data begin, as a local header says; None where none stands. The first two bytes may be any."""
    if at < 0 or at + LOCAL.size > source.size:
        return None
    magic, *_, name_length, extra_length = LOCAL.unpack(read_bytes(source, at, LOCAL.size))
    begin = at + LOCAL.size + name_length + extra_length
    if magic[2:] != _MAGIC[2:] or begin > source.size:
        return None
    return read_bytes(source, at + LOCAL.size, name_length).decode("utf-8", "replace"), begin


def read_checksum(source: Source, header: int, end: int) -> tuple[bool, int | None]:
    """Whether data ending there can belong to a local header, and the CRC-32 stated by it or by the descriptor after the data."""
    _, _, flags, method, _, _, crc, *_ = LOCAL.unpack(read_bytes(source, header, LOCAL.size))
    if not flags & _DESCRIPTOR_FOLLOWS:
        return method == 0 and end <= source.size, crc or None
    descriptor = read_bytes(source, end, max(min(8, source.size - end), 0))
    is_cut = len(descriptor) < 8
    fits = method == 0 and end <= source.size and descriptor[:4] == _DESCRIPTOR[: len(descriptor)]
    return fits, None if is_cut else int.from_bytes(descriptor[4:], "little") or None


def _claims(source: Source, entry: ZipEntry, limit: int) -> Iterator[Claim]:
    """`limit` is where the next record begins. A header that leads just there is believed without any reading."""
    first = entry.header + LOCAL.size + len(entry.name.encode())
    begins = [begin for size in _DESCRIPTOR_SIZES if first <= (begin := limit - size - entry.size)]
    header = read_header(source, entry.header)
    if header is not None:
        end = header[1] + entry.size
        fits, crc = read_checksum(source, entry.header, end)
        if fits and (end == limit or crc is not None) and header[1] in begins:
            yield Claim(entry.name, header[1], entry.size, entry.crc or None)
            return
        begins.insert(0, header[1])
    for begin in begins if entry.crc or not entry.size else ():  # else nothing could tell them apart
        yield Claim(entry.name, begin, entry.size, entry.crc or None)


def _walk(source: Source, sizes: Mapping[str, int]) -> Iterator[Claim]:
    """What local headers say, from the front to where the file ends. Records of other names have no known size, so the next header is looked for."""
    lengths = {len(name.encode("utf-8", "replace")) for name in sizes}
    start, window = 0, b""
    position = 0
    while position + LOCAL.size <= source.size:
        if not start <= position <= start + len(window) - LOCAL.size:
            start, window = position, read_bytes(source, position, min(_STEP, source.size - position))
        at = window.find(_MAGIC, position - start)
        if at < 0:
            position = start + len(window) - len(_MAGIC) + 1
            continue
        header = start + at
        position = header + len(_MAGIC)
        if header + LOCAL.size > source.size or int.from_bytes(read_bytes(source, header + 26, 2), "little") not in lengths:
            continue
        name, begin = read_header(source, header) or ("", 0)
        if name in sizes:
            fits, crc = read_checksum(source, header, begin + sizes[name])
            if fits:
                yield Claim(name, begin, sizes[name], crc)
                position = begin + sizes[name]


def _settle(source: Source, claims: list[Claim]) -> Claim | None:
    """The first claim that holds. One alone is believed, as whoever reads the bytes compares their checksum."""
    if len(claims) == 1:
        return claims[0]
    stated = [claim for claim in claims if claim.crc is not None]
    return next((claim for claim in stated if has_checksum(source, claim)), None) if stated else claims[0]
