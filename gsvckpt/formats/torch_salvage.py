"""Find which tensors of a damaged torch file still have all their bytes.

The pickle tells the size of every storage, which local headers do not. So once it is found, the records can be, too: by the zip's directory, and from
the front for as far as a cut file goes (caffe2/serialize/inline_container.cc writes `data.pkl` first, then `data/0`, `data/1`, ...).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gsvckpt.dtypes import DType
from gsvckpt.errors import FLAWS, DamagedError, UnsupportedError
from gsvckpt.files.local import read_bytes
from gsvckpt.files.streams import crc32
from gsvckpt.formats import torch_stream
from gsvckpt.formats.pickle.machine import Machine
from gsvckpt.formats.pickle.state import EndOfPickle
from gsvckpt.formats.torch_objects import StorageTable, rebuild
from gsvckpt.formats.zip.salvage import Claim, find_records, has_checksum, read_checksum, read_directory, read_header
from gsvckpt.model import MISSING, Checkpoint, Container, Source, Storage, Tensor, walk

_PICKLE = "data.pkl"
_BIG = b"big"  # what the record `byteorder` holds beside `little`
_WINDOWS = (1 << 16, 1 << 20, 1 << 27)  # bytes read of the pickle, which ends itself
_MOST_OPCODES = 2_000_000  # 50,000 tensors with optimizer state; a file is read twice


class Salvaged(NamedTuple):
    """A checkpoint with missing parts: storages at MISSING have no bytes. `complete` of its `tensors` tensors have all of theirs."""

    checkpoint: Checkpoint
    complete: int
    tensors: int


def find_salvaged(source: Source) -> Salvaged:
    """Read the pickle of a torch zip and find the records of its storages, or what a stream announces for as far as it goes.

    Storages have the checksums that are stated for their bytes. Raises DamagedError where the pickle is not found or not whole, and UnsupportedError
    as reading any pickle does.
    """
    head = read_bytes(source, 0, min(source.size, 64))
    checkpoint = torch_stream.read(source, partial=True) if torch_stream.looks_like(head) else _read_zip(source, head)
    return count_complete(checkpoint)


def count_complete(checkpoint: Checkpoint) -> Salvaged:
    """A checkpoint, with the number of its tensors that are not MISSING."""
    tensors = [leaf for _, leaf in walk(checkpoint.root) if isinstance(leaf, Tensor)]
    return Salvaged(checkpoint, sum(tensor.storage.offset != MISSING for tensor in tensors), len(tensors))


def _read_zip(source: Source, head: bytes) -> Checkpoint:
    directory = read_directory(source)
    pickled = _find_pickle(source, directory)
    table, *_ = _load(source, pickled.offset, {})  # its tree is gone again, as only the second reading knows the places
    prefix = pickled.name.removesuffix(_PICKLE)
    prefixes = dict.fromkeys([prefix, *(claim.name.removesuffix(_PICKLE) for claim in directory if _is_pickle(claim.name))])
    owners = {f"{folder}data/{key}": key for folder in prefixes for key in table.by_key}
    sizes = {name: table.by_key[key].nbytes for name, key in owners.items()}
    found = find_records(source, directory, {**sizes, **{f"{folder}byteorder": len(_BIG) for folder in prefixes}})
    order = found.get(f"{prefix}byteorder")
    if order is not None and read_bytes(source, order.offset, order.size) == _BIG:
        raise UnsupportedError("was saved on a big-endian machine", where=order.name)
    places = {owners[name]: claim for name, claim in found.items() if name in owners}
    _, root, _, known = _load(source, pickled.offset, places)
    told = head[:2].decode("latin-1")
    container = Container("torch-zip", len(places) + 1, told if told.isdigit() and told.isascii() else "PK", prefix.rstrip("/"))
    return Checkpoint(source, container, root, tuple(known.globals), doubts=known.doubts, calls=known.calls)


def _is_pickle(name: str) -> bool:
    return name == _PICKLE or name.endswith(f"/{_PICKLE}")


def _find_pickle(source: Source, directory: Sequence[Claim]) -> Claim:
    """The pickle at the front of the file, where all torch versions write it, else the one that the directory knows."""
    try:
        return _front_pickle(source)
    except FLAWS:
        for claim in directory:
            if _is_pickle(claim.name) and claim.size <= _WINDOWS[-1] and has_checksum(source, claim):
                return claim
        raise


def _front_pickle(source: Source) -> Claim:
    name, begin = read_header(source, 0) or ("", 0)
    if not _is_pickle(name):
        raise DamagedError("does not begin with its pickle", where=_PICKLE)
    _, _, end, *_ = _load(source, begin, {})
    fits, crc = read_checksum(source, 0, end)
    if not fits or crc not in (None, crc32(read_bytes(source, begin, end - begin))):
        why = "its pickle was altered, so its names, shapes and config cannot be trusted"
        raise DamagedError(why, where=_PICKLE, check="record.crc")
    return Claim(name, begin, end - begin, crc)


def _load(source: Source, begin: int, places: Mapping[str, Claim]) -> tuple[StorageTable, object, int, Machine]:
    """The storages and the tree, with storages at `places`, where the pickle ends, and the machine that ran it."""

    def locate(key: str, dtype: DType, location: str, numel: int) -> Storage:
        place = places.get(key)
        offset, crc = (place.offset, place.crc) if place is not None else (MISSING, None)
        return Storage(key, dtype, numel, location, source, offset, crc)

    for window in _WINDOWS:
        table = StorageTable(locate)
        data = read_bytes(source, begin, min(window, source.size - begin))
        machine = Machine(data, reduce=rebuild, persist=table.persist, max_opcodes=_MOST_OPCODES)
        try:
            root = machine.run()
            return table, root, begin + machine.position, machine
        except EndOfPickle:
            if len(data) < window:
                raise
    raise DamagedError(f"a pickle of more than {_WINDOWS[-1]:,} bytes", where=_PICKLE)
