"""What is left of a damaged torch file: which of its tensors still have all their bytes.

A torch zip begins with its pickle, which tells the size of every storage; the local headers tell none. So the records can be walked from the front,
without the directory, for as far as the file goes (caffe2/serialize/inline_container.cc writes `data.pkl` first, then `data/0`, `data/1`, ...).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from gsvckpt.checksums import crc32
from gsvckpt.errors import DamagedError, UnsupportedError
from gsvckpt.formats import torch_stream
from gsvckpt.formats.torch_objects import StorageTable, rebuild
from gsvckpt.formats.zip_directory import LOCAL
from gsvckpt.model import Checkpoint, Container, DType, Global, Source, Storage, Tensor, walk
from gsvckpt.pickles.machine import Machine
from gsvckpt.pickles.state import EndOfPickle

LOST = torch_stream.LOST
_WINDOWS = (1 << 16, 1 << 20, 1 << 27)  # bytes read of the pickle, which ends itself
_MOST_OPCODES = 2_000_000  # 50,000 tensors with optimizer state; a file is read twice
_DESCRIPTOR_FOLLOWS = 8  # a flag of local headers
_STEP = 1 << 16  # bytes looked through at a time for the next record


class Remains(NamedTuple):
    """A checkpoint of which not all is there: storages at the offset LOST have no bytes. `whole` of its `tensors` tensors have all of theirs."""

    checkpoint: Checkpoint
    whole: int
    tensors: int


def find_remains(source: Source) -> Remains:
    """Read the pickle at the front of a torch zip and walk the records behind it, or what a stream announces for as far as it goes.

    Storages have the checksums that stand beside their bytes. Raises DamagedError where the pickle is not in front or not whole, and
    UnsupportedError as reading any pickle does.
    """
    head = _read(source, 0, min(source.size, 64))
    if torch_stream.looks_like(head):
        checkpoint = torch_stream.read(source, partial=True)
    else:
        prefix, begin = _first_record(source)
        sizes, end = _sizes(source, begin)
        stated = _checksum(source, 0, end)
        if stated is not None and stated != crc32(_read(source, begin, end - begin)):
            raise DamagedError(
                "its pickle was altered, so neither names nor shapes nor the config can be believed", where="data.pkl", check="record.crc"
            )
        places = _walk_records(source, prefix, end, sizes)
        _, root, _, names = _load(source, begin, places)
        container = Container("torch-zip", len(places) + 1, head[:2].decode("latin-1"), prefix.rstrip("/"))
        checkpoint = Checkpoint(source, container, root, names)
    tensors = [leaf for _, leaf in walk(checkpoint.root) if isinstance(leaf, Tensor)]
    return Remains(checkpoint, sum(tensor.storage.offset != LOST for tensor in tensors), len(tensors))


def _first_record(source: Source) -> tuple[str, int]:
    """The folder inside the zip, with its slash, and where the pickle begins."""
    found = _header(source, 0)
    if found is None or not found[0].endswith("data.pkl"):
        raise DamagedError("does not begin with its pickle", where="data.pkl")
    return found[0].removesuffix("data.pkl"), found[1]


def _sizes(source: Source, begin: int) -> tuple[dict[str, int], int]:
    """The bytes of each storage, and where the pickle ends; its tree is gone again, as only the second reading knows the places."""
    table, _, end, _ = _load(source, begin, {})
    return {key: storage.nbytes for key, storage in table.by_key.items()}, end


def _load(source: Source, begin: int, places: Mapping[str, _Place]) -> tuple[StorageTable, object, int, tuple[Global, ...]]:
    """The storages and the tree, with storages at `places`, where the pickle ends, and the names in it."""

    def locate(key: str, dtype: DType, location: str, numel: int) -> Storage:
        place = places.get(key, _Place(LOST, None))
        return Storage(key, dtype, numel, location, source, place.offset, place.crc)

    for window in _WINDOWS:
        table = StorageTable(locate)
        data = _read(source, begin, min(window, source.size - begin))
        machine = Machine(data, reduce=rebuild, persist=table.persist, max_opcodes=_MOST_OPCODES)
        try:
            root = machine.run()
            return table, root, begin + machine.position, tuple(machine.globals)
        except EndOfPickle:
            if len(data) < window:
                raise
    raise DamagedError(f"a pickle of more than {_WINDOWS[-1]:,} bytes", where="data.pkl")


class _Place(NamedTuple):
    """Where the bytes of a storage begin, and the checksum that stands in front of them or behind them."""

    offset: int
    crc: int | None


def _walk_records(source: Source, prefix: str, position: int, sizes: Mapping[str, int]) -> dict[str, _Place]:
    """Where the data of each whole storage are. Small records in between have no known size, so the next header is looked for."""
    places: dict[str, _Place] = {}
    while (header := _find_header(source, position)) is not None:
        name, begin = _header(source, header) or ("", header + LOCAL.size)
        key = name.removeprefix(f"{prefix}data/")
        if name == f"{prefix}byteorder" and _read(source, begin, min(3, source.size - begin)) == b"big":
            raise UnsupportedError("was saved on a big-endian machine", where=name)
        position = begin
        if name.startswith(f"{prefix}data/") and key in sizes and key not in places and begin + sizes[key] <= source.size:
            position = begin + sizes[key]
            places[key] = _Place(begin, _checksum(source, header, position))
    return places


def _checksum(source: Source, header: int, end: int) -> int | None:
    """The CRC-32 in a local header or, where it is to follow the data, in the descriptor there; None where neither tells one."""
    _, _, flags, _, _, _, crc, *_ = LOCAL.unpack(_read(source, header, LOCAL.size))
    if not flags & _DESCRIPTOR_FOLLOWS:
        return crc or None
    descriptor = _read(source, end, min(8, source.size - end))
    return int.from_bytes(descriptor[4:], "little") or None if len(descriptor) == 8 and descriptor[:4] == b"PK\x07\x08" else None


def _find_header(source: Source, position: int) -> int | None:
    while position + LOCAL.size <= source.size:
        window = _read(source, position, min(_STEP, source.size - position))
        at = window.find(b"PK\x03\x04")
        if at >= 0:
            return position + at
        position += max(len(window) - 3, 1)
    return None


def _header(source: Source, at: int) -> tuple[str, int] | None:
    """A record's name and where its data begin; None where no local header stands."""
    if at + LOCAL.size > source.size:
        return None
    magic, *_, name_length, extra_length = LOCAL.unpack(_read(source, at, LOCAL.size))
    begin = at + LOCAL.size + name_length + extra_length
    if magic[2:] != b"\x03\x04" or begin > source.size:
        return None
    return _read(source, at + LOCAL.size, name_length).decode("utf-8", "replace"), begin


def _read(source: Source, offset: int, size: int) -> bytes:
    buffer = bytearray(size)
    source.read_into(offset, memoryview(buffer))
    return bytes(buffer)
