"""Check every byte of a zip that is not data: readers skip these, so damage there shows nowhere else.

`zip_directory` refuses what readers could understand in different ways. What is found here misleads no reader, but shows that bytes were altered,
added or lost: torch fills these places with constants (caffe2/serialize/inline_container.cc, miniz), other zip programs with consistent values.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from gsvckpt.commands.verify.findings import Finding
from gsvckpt.errors import FLAWS
from gsvckpt.files.local import read_bytes
from gsvckpt.formats.zip.directory import END, END64, LOCAL, LOCATOR, MAX32, Tail, find_tail, read_entries
from gsvckpt.hints import Hint
from gsvckpt.model import Distant, Record, Source

_ZIP64, _PADDING = 0x0001, 0x4246  # extra fields: 64-bit sizes, and `FB`, with which torch aligns its data
# APPNOTE 4.5 and 4.6: zip64, NTFS times, Info-ZIP's times, owners and names, Android's alignment; and torch's padding
_KNOWN_EXTRAS = frozenset({_ZIP64, _PADDING, 0x000A, 0x5455, 0x5855, 0x7855, 0x7875, 0x7075, 0xD935})
_MINIZ = 0x031E  # what miniz, and so torch, states in zip64 end records, while it leaves the place empty everywhere else
_INFO_ZIP = (0x031E, 0x032D, 0x033F)
_NEEDS_ZIP64 = 45
_FEW = 3  # records from which on one that differs from all others is remarkable
_TOGETHER = 4_096  # records whose headers are got at once
_AGAIN = Hint("no reader looks there, but bytes were altered: get the file again, or compare its digest")

Fields = tuple[int, ...]  # of CENTRAL
_PACKED, _SIZE, _COMMENT = 8, 9, 12
# Places of the directory that mean nothing to torch: all records of a zip have the same there.
_IDLE = {1: "version made by", 2: "version needed", 13: "disk", 14: "internal attributes", 15: "external attributes"}


def look(source: Source, records: Sequence[Record]) -> list[Finding]:
    """All oddities of a zip whose records were located; where it cannot be read, one finding that says why."""
    try:
        tail = find_tail(source)
        return audit(source, records, tail) if tail is not None else []
    except FLAWS as error:
        return [Finding(error.check, "error", error.where or "file", error.why, error.hint)]


def audit(source: Source, records: Sequence[Record], tail: Tail) -> list[Finding]:
    """All oddities of a zip whose records were located. Raises DamagedError where the file cannot be read."""
    central = {entry.header: fields for entry, fields in read_entries(source, tail)}
    found = [*_end_records(source, tail, central.values())]
    needed: list[tuple[int, str]] = []
    end = unread = 0
    limits = [*(record.header for record in records[1:]), tail.offset]
    for at, (record, limit) in enumerate(zip(records, limits, strict=True)):
        if isinstance(source, Distant):
            if at % _TOGETHER == 0:
                source.fetch(list(_between(records[at : at + _TOGETHER], limits[at : at + _TOGETHER])))
            if source.structure_only and not source.at_hand(record.header, record.offset - record.header):
                unread += 1
                end = limit
                continue
        if record.header != end:
            found.append(_gap(end, record.header, record.name))
        raw = read_bytes(source, record.header, record.offset - record.header)
        needed.append((LOCAL.unpack_from(raw)[1], record.name))
        fields = central[record.header]
        found += _local_header(record, raw, fields)
        end = record.offset + (record.size if record.method == 0 else fields[_PACKED])
        if record.flags & 8:
            length = _descriptor(source, record, end, limit)
            end += length
            if not length:
                found.append(_oddity("container.headers", record.name, "the descriptor after its data does not repeat its checksum and size"))
                end = limit
    if unread:
        why = f"{unread:,} of {len(records):,} local headers lie between tensors of a remote file and were not read"
        found.append(Finding("container.headers", "info", "local headers", why, Hint("without --quick they are read, too")))
    if tail.offset != end:
        found.append(_gap(end, tail.offset, "zip directory"))
    found += _idle_places(records, central, needed)
    if tail.trailing:
        found.append(
            Finding(
                "container.trailing",
                "warning",
                "end of file",
                f"{tail.trailing:,} bytes follow the end of the zip; torch.load ignores them",
                Hint("harmless where a download or copy appended zeros; otherwise get the file again"),
            )
        )
    return found


def _between(records: Sequence[Record], limits: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The (offset, size) of what is no data: local headers, and what stands behind the data."""
    for record, limit in zip(records, limits, strict=True):
        yield record.header, record.offset - record.header
        if record.flags & 8:
            end = record.offset + record.size
            yield end, max(min(24, limit - end), 0)


def _odd_one_out(values: Sequence[tuple[int, str]]) -> tuple[str, str, str] | None:
    """(name, its value, the others' value) where one record of several differs from all others, as only damage does."""
    counts = Counter(value for value, _ in values)
    if len(values) <= _FEW or len(counts) != 2 or min(counts.values()) != 1:
        return None
    (usual, _), (rare, _) = counts.most_common()
    return next(name for value, name in values if value == rare), str(rare), str(usual)


def _idle_places(records: Sequence[Record], central: Mapping[int, Fields], needed: Sequence[tuple[int, str]]) -> Iterator[Finding]:
    files = [record for record in records if not record.name.endswith("/")]  # folders have attributes of their own
    odd = [(what, found) for place, what in _IDLE.items() if (found := _odd_one_out([(central[r.header][place], r.name) for r in files]))]
    local = _odd_one_out(needed)
    odd += [("version needed by its local header", local)] if local else []
    for what, found in odd:
        if sum(found[0] == other[0] for _, other in odd) == 1:  # a record that another program added differs in several places at once
            yield _oddity("container.directory", found[0], f"its {what} differs from that of all other records", *found[1:])
    for record in records:
        if central[record.header][_COMMENT]:
            yield _oddity("container.directory", record.name, "has a comment, which torch never writes")


def _local_header(record: Record, raw: bytes, central: Fields) -> Iterator[Finding]:
    """What a record's local header says otherwise than the directory."""
    _, _, flags, method, time, date, crc, packed, size, name_length, _ = LOCAL.unpack_from(raw)
    expected = (record.crc, central[_PACKED], central[_SIZE])
    known = {expected, (record.crc, MAX32, MAX32)} if not record.flags & 8 else {expected, (0, 0, 0), (0, MAX32, MAX32), (record.crc, MAX32, MAX32)}
    if (flags, method, (time, date)) != (record.flags, record.method, central[5:7]) or (crc, packed, size) not in known:
        told = (_describe(flags, crc, packed, size), _describe(record.flags, *expected))
        yield _oddity("container.headers", record.name, "its local header differs from the directory", *told)
    problem = _extra_problem(raw[LOCAL.size + name_length :], record, wide=MAX32 in (packed, size))
    if problem:
        yield _oddity("container.headers", record.name, problem)


def _describe(flags: int, crc: int, packed: int, size: int) -> str:
    return f"flags {flags:#06x}, checksum {crc:08x}, sizes {packed:,} and {size:,}"


def _extra_problem(extra: bytes, record: Record, *, wide: bool) -> str:
    """What is wrong with the extra field of a local header; empty where nothing is."""
    position = 0
    while position < len(extra):
        if position + 4 > len(extra):
            return "its extra field ends inside an entry"
        tag, length = struct.unpack_from("<2H", extra, position)
        data = extra[position + 4 : position + 4 + length]
        if len(data) != length:
            return "an entry of its extra field is longer than the field"
        if tag not in _KNOWN_EXTRAS:
            return f"an entry of its extra field has the unknown tag {tag:#06x}"
        if tag == _PADDING and data.strip(b"Z"):
            return "the padding before its data was altered"
        if tag == _ZIP64 and wide and data[:16] not in (struct.pack("<2Q", record.size, record.size), bytes(16)):
            return "its 64-bit sizes differ from the directory's"
        position += 4 + length
    return ""


def _descriptor(source: Source, record: Record, at: int, limit: int) -> int:
    """The length of the data descriptor at `at`, with or without its signature, of 32 or 64 bits; 0 where none of these repeats the directory."""
    raw = read_bytes(source, at, max(min(24, limit - at), 0))
    forms = [struct.pack("<I2Q", record.crc, record.size, record.size)]
    if record.size <= MAX32:
        forms.append(struct.pack("<I2I", record.crc, record.size, record.size))
    fitting = [signed for form in forms for signed in (b"PK\x07\x08" + form, form) if raw.startswith(signed)]
    return max((len(form) for form in fitting if at + len(form) == limit), default=max(map(len, fitting), default=0))


def _end_records(source: Source, tail: Tail, central: Iterable[Fields]) -> Iterator[Finding]:
    """The zip64 end record and its locator, which torch always writes; `zip_directory` has looked at what readers use of them."""
    at = source.size - tail.trailing - tail.comment - END.size - LOCATOR.size
    end = tail.offset + tail.size
    if at < end:
        return
    magic, disk, where, disks = LOCATOR.unpack(read_bytes(source, at, LOCATOR.size))
    if magic != b"PK\x06\x07" or where + END64.size > at:
        yield _gap(end, at + LOCATOR.size, "end of zip directory")
        return
    _, length, made_by, needed, *_ = END64.unpack(read_bytes(source, where, END64.size))
    usual = Counter(fields[1] for fields in central).most_common(1)
    known = {_MINIZ} if usual and not usual[0][0] else {_NEEDS_ZIP64, *(version for version, _ in usual), *_INFO_ZIP}
    if (disk, disks, length, where, needed) != (0, 1, END64.size - 12, at - END64.size, _NEEDS_ZIP64) or made_by not in known:
        yield _oddity("container.directory", "zip directory", "its zip64 end record or locator was altered")


def _gap(begin: int, end: int, before: str) -> Finding:
    why = f"{end - begin:,} bytes before it, from byte {begin:,}, belong to nothing"
    return Finding("container.gap", "warning", before, why, Hint("bytes may hide there; get the file again from where it came"))


def _oddity(check: str, where: str, why: str, found: str = "", expected: str = "") -> Finding:
    return Finding(check, "warning", where, why, _AGAIN, found, expected)
