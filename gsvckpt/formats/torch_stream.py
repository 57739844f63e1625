"""torch's container before 1.6: five pickles, then the storages one after another (torch/serialization.py, `_legacy_save`).

The storages are little-endian on every machine (torch/csrc/serialization.cpp), whatever `little_endian` in the third pickle says; torch ignores it.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from gsvckpt.dtypes import DType
from gsvckpt.errors import DamagedError, GsvError
from gsvckpt.files import budget
from gsvckpt.files.local import read_bytes
from gsvckpt.formats.known import Known
from gsvckpt.formats.pickle.calls import merge_calls
from gsvckpt.formats.pickle.machine import Machine
from gsvckpt.formats.pickle.state import EndOfPickle
from gsvckpt.formats.torch_objects import StorageTable, module_of, rebuild
from gsvckpt.formats.torch_reader import refuse_texts
from gsvckpt.hints import TRY_SALVAGE
from gsvckpt.model import MISSING, Call, Checkpoint, Container, Doubt, Global, Source, Storage

MAGIC = 0x1950A86A20F9469CFC6C
_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # MAGIC as every protocol from 2 on spells it
HEAD = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."  # the first pickle, MAGIC, in protocol 2
_FIRST_WINDOW = 1 << 18


def looks_like(head: bytes) -> bool:
    """Whether a file begins with MAGIC, pickled in protocol 2, which torch writes unless asked otherwise, or one up to 5."""
    return head[:1] == b"\x80" and _MAGIC in head[:24]


def read(source: Source, *, partial: bool = False) -> Checkpoint:
    """Open a stream file without reading tensor bytes. With `partial`, storages behind the end of a file that was cut off are at MISSING.

    The storages' places follow from the sizes in the pickle and the order of the fifth pickle, each announced again by eight bytes in front of it.
    Raises DamagedError and UnsupportedError; both carry in `known` what could be learnt.
    """
    window = min(source.size, _FIRST_WINDOW)
    while True:
        buffer = read_bytes(source, 0, window)
        try:
            return _parse(source, buffer, partial=partial)
        except EndOfPickle as error:
            if window == source.size:
                error.check = "container.truncated"
                raise
            if window >= budget.MOST_PICKLE:
                raise budget.too_much("bytes in a pickle", budget.MOST_PICKLE, check="pickle.bomb") from None
            window = min(source.size, window * 8)


def _parse(source: Source, data: bytes, *, partial: bool) -> Checkpoint:
    sizes: dict[str, tuple[DType, int]] = {}

    def announce(key: str, dtype: DType, location: str, numel: int) -> Storage:
        sizes[key] = (dtype, numel)
        return Storage(key, dtype, numel, location, source, -1)  # the place is known only behind the last pickle

    # Two passes over the object pickle: its tensors need the storages' places, which stand behind it.
    found = _PicklesRead({}, [], [])
    try:
        magic, position, _ = _load(data, 0, found, StorageTable(announce))
        protocol, position, _ = _load(data, position, found, StorageTable(announce))
        if magic != MAGIC or protocol != 1001:
            raise DamagedError("does not begin with torch's magic number and protocol 1001")
        _, start, _ = _load(data, position, found, StorageTable(announce))
        _, position, _ = _load(data, start, found, StorageTable(announce))
        keys, position, _ = _load(data, position, found, StorageTable(announce))
        doubts, calls = tuple(found.doubts), merge_calls(found.calls)  # the second pass finds the same
        places = _place(source, keys, sizes, position, partial=partial)
        table = StorageTable(lambda key, dtype, location, numel: Storage(key, dtype, numel, location, source, places[key]))
        root, _, latin1 = _load(data, start, found, table)
    except GsvError as error:
        error.known = Known(source.size, Container("torch-stream", records=5), tuple(found.names), merge_calls(found.calls))
        raise
    total = sum(dtype.itemsize * numel for dtype, numel in sizes.values())
    end = max((places[key] + dtype.itemsize * numel for key, (dtype, numel) in sizes.items()), default=position)
    container = Container("torch-stream", records=5 + len(sizes), storages=total, trailing=source.size - end, refused=refuse_texts(latin1))
    return Checkpoint(source, container, root, tuple(found.names), doubts=doubts, calls=calls)


class _PicklesRead(NamedTuple):
    """What was met in the pickles so far."""

    names: dict[Global, Global]
    doubts: list[Doubt]
    calls: list[Call]


def _load(data: bytes, position: int, found: _PicklesRead, table: StorageTable) -> tuple[object, int, int]:
    """One pickle, where it ends, and how many of its texts are no UTF-8. The id of a module's class stands for the class."""

    def persist(pid: object) -> object:
        module = module_of(pid)
        return table.persist(pid) if module is None else module

    machine = Machine(data, reduce=rebuild, persist=persist, position=position)
    try:
        return machine.run(), machine.position, machine.latin1
    finally:
        found.names.update(machine.globals)
        found.doubts.extend(machine.doubts)
        found.calls.extend(machine.calls)


def _place(source: Source, keys: object, sizes: dict[str, tuple[DType, int]], position: int, *, partial: bool) -> dict[str, int]:
    """Where each storage's data begin. Raises DamagedError where the announced counts contradict the pickle or the file ends early."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(sizes) or len(keys) != len(sizes):
        raise DamagedError("the list of storages does not match the tensors", check="tensor.bounds")
    places: dict[str, int] = {}
    for index, key in enumerate(keys):
        dtype, numel = sizes[key]
        if position + 8 + numel * dtype.itemsize > source.size:
            if partial:
                return places | dict.fromkeys(keys[index:], MISSING)
            short = position + 8 + numel * dtype.itemsize - source.size
            said = f"unexpected EOF, expected {short} more bytes. The file might be corrupted." if source.size > position + 8 else ""
            raise DamagedError(
                f"the file ends early: {index:,} of {len(keys):,} storages are complete",
                where=f"storage {key}",
                hint=TRY_SALVAGE,
                check="container.truncated",
                torch=said,
            )
        (announced,) = struct.unpack("<q", read_bytes(source, position, 8))
        if announced != numel:
            why = f"announced with {announced:,} elements, described with {numel:,}"
            raise DamagedError(why, where=f"storage {key}", check="tensor.bounds")
        places[key] = position + 8
        position += 8 + numel * dtype.itemsize
    return places
