"""torch's container before 0.1.10, a tar of pickles and numbers (torch/serialization.py, `legacy_load`).

`torch.load` gives a file of its own that does not begin with a zip's first local header to `tarfile`, which asks for nothing but the checksum of the
first block. Nothing is ever unpacked to disk here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from gsvckpt.dtypes import STORAGE_DTYPES, DType
from gsvckpt.errors import FLAWS, DamagedError, GsvError, UnsupportedError
from gsvckpt.files import budget
from gsvckpt.files.local import read_bytes
from gsvckpt.formats.known import Known
from gsvckpt.formats.pickle.calls import merge_calls
from gsvckpt.formats.pickle.machine import Machine
from gsvckpt.formats.torch_objects import MAX_DIMS, REBUILD_V1, StorageView, rebuild
from gsvckpt.formats.torch_reader import refuse_texts
from gsvckpt.model import Call, Checkpoint, Container, Doubt, Global, Source, Storage, Tensor

BLOCK = 512
PARTS = ("storages", "tensors", "pickle")  # the members that torch reads
_SYSTEM = "sys_info"  # a pickle as well, which torch does not read any more
_MOST_MEMBERS = 16  # torch writes four
_REGULAR = (b"0", b"\0", b"7")  # kinds of members that are plain files (POSIX ustar)
_SHORT_PICKLE = 4_096  # bytes of the pickles between the numbers, which are a few dozen


class Member(NamedTuple):
    """One entry of a tar: where its data begin, how many bytes they are, and the kind of entry."""

    name: str
    offset: int
    size: int
    kind: bytes = b"0"


def is_tar(head: bytes) -> bool:
    """Whether a file with these first bytes is a tar archive by its checksum, all that `tarfile` asks for."""
    return _read_header(head[:BLOCK]) is not None


def members(source: Source, most: int) -> Iterator[Member | None]:
    """The entries of a tar, one after another; at last None where they are more than `most`, or one cannot be read."""
    offset = 0
    for _ in range(most):
        if offset + BLOCK > source.size:
            return
        block = read_bytes(source, offset, BLOCK)
        if not any(block):  # the end of an archive
            return
        found = _read_header(block)
        if found is None or found[1] < 0:
            break
        name, size = found
        yield Member(name, offset + BLOCK, size, block[156:157])
        offset += BLOCK + size + -size % BLOCK
    yield None


def _may_be_number(checksum: bytes) -> bool:
    """Whether `tarfile` could read this field: octal digits up to a zero byte, or a binary number. Spares the import for nearly every file."""
    return checksum[0] in (0x80, 0xFF) or not checksum.partition(b"\0")[0].translate(None, b"01234567_+-oO \t\n\r\x0b\x0c")


def _read_header(block: bytes) -> tuple[str, int] | None:
    if len(block) < BLOCK or not _may_be_number(block[148:156]):
        return None
    import tarfile  # most runs never come here

    try:
        found = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return None
    return found.name, found.size


def read(source: Source) -> Checkpoint | None:
    """Open a tar without reading tensor bytes; None where it is another tar.

    Raises DamagedError and UnsupportedError, with what is known in `known`.
    """
    parts = _find_parts(source)
    if parts is None:
        return None
    found = _Found({}, [], [], [])
    if _SYSTEM in parts:
        with suppress(*FLAWS):  # only for the names in it
            _run(source, parts[_SYSTEM], parts[_SYSTEM].offset, found, {})
    try:
        storages, total = _read_storages(source, parts["storages"], found)
        tensors = _read_tensors(source, parts["tensors"], storages, found)
        values: dict[str, object] = {**{key: view.storage for key, view in storages.items()}, **tensors}
        root = _run(source, parts["pickle"], parts["pickle"].offset, found, values)[0]
    except GsvError as error:
        error.known = Known(source.size, Container("torch-tar", records=len(parts)), tuple(found.names), merge_calls(found.calls))
        raise
    container = Container("torch-tar", records=len(parts), storages=total, refused=refuse_texts(sum(found.latin1)))
    return Checkpoint(source, container, root, tuple(found.names), doubts=tuple(found.doubts), calls=merge_calls(found.calls))


class _Found(NamedTuple):
    """What was met in the pickles so far; `latin1` counts texts that are no UTF-8."""

    names: dict[Global, Global]
    doubts: list[Doubt]
    calls: list[Call]
    latin1: list[int]


def _find_parts(source: Source) -> dict[str, Member] | None:
    """The members that torch reads; None where one is not there. Raises DamagedError where readers could take different ones."""
    found: dict[str, Member] = {}
    odd: list[str] = []
    for member in members(source, _MOST_MEMBERS):
        if member is None:
            break
        if member.name in PARTS:
            if member.kind not in _REGULAR:
                raise DamagedError("is a link or another special entry, not a file", where=member.name, check="container.unreadable")
            if member.name in found:
                raise DamagedError("appears twice in the tar; readers do not agree which one counts", where=member.name, check="container.duplicate")
            if member.offset + member.size > source.size:
                why = f"the file ends early: {member.size:,} bytes announced, {source.size - member.offset:,} left"
                raise DamagedError(why, where=member.name, check="container.truncated")
            found[member.name] = member
        elif member.kind not in _REGULAR:
            odd.append(member.name)
        elif member.name == _SYSTEM:
            found[_SYSTEM] = member
    if not set(PARTS) <= found.keys():
        return None
    if odd:  # as an extended header, it could rename or resize the member behind it
        raise UnsupportedError("has an entry of a kind that torch never writes", where=odd[0])
    return found


def _run(source: Source, part: Member, position: int, found: _Found, values: dict[str, object]) -> tuple[object, int]:
    """One pickle of a member, and where it ends in the file. `values` are what persistent ids stand for."""

    def persist(pid: object) -> object:
        if isinstance(pid, tuple) and len(pid) == 3 and isinstance(pid[0], Global):  # (class, file of its source, source)
            return pid[0]
        if str(pid) not in values:
            raise DamagedError(f"refers to {str(pid)[:40]}, which is neither among the storages nor among the tensors")
        return values[str(pid)]

    end = part.offset + part.size
    short = part.name != "pickle"
    most = min(end - position, _SHORT_PICKLE) if short else end - position
    if most > budget.MOST_PICKLE:
        raise budget.too_much("bytes in a pickle", budget.MOST_PICKLE, where=part.name, check="pickle.bomb")
    machine = Machine(read_bytes(source, position, most), reduce=rebuild, persist=persist)
    try:
        return machine.run(), position + machine.position
    except GsvError as error:
        error.where = f"{part.name}, {error.where}"
        raise
    finally:
        found.names.update(machine.globals)
        found.doubts.extend(doubt._replace(where=f"{part.name}, {doubt.where}") for doubt in machine.doubts)
        found.calls.extend(machine.calls)
        found.latin1.append(machine.latin1)


def _count(value: object, part: Member) -> int:
    if type(value) is not int or not 0 <= value <= budget.MOST_TENSORS:
        raise DamagedError("does not begin with a count", where=part.name, check="tensor.bounds")
    return value


def _read_storages(source: Source, part: Member, found: _Found) -> tuple[dict[str, StorageView], int]:
    """The storages by key, those that are parts of others as such, and the bytes of all: each is announced by a pickle and a count, and its data
    follow.
    """
    count, position = _run(source, part, part.offset, found, {})
    end = part.offset + part.size
    storages: dict[str, StorageView] = {}
    total = 0
    for _ in range(_count(count, part)):
        told, position = _run(source, part, position, found, {})
        key, location, dtype = _describe(told, part)
        (numel,) = struct.unpack("<q", read_bytes(source, position, 8)) if position + 8 <= end else (-1,)
        position += 8
        if not 0 <= numel <= (end - position) // dtype.itemsize:
            raise DamagedError(f"announces {numel:,} elements, more than the file holds", where=f"storage {key}", check="tensor.bounds")
        storages[key] = StorageView(Storage(key, dtype, numel, location, source, position), 0, numel)
        position += numel * dtype.itemsize
        total += numel * dtype.itemsize
    views, position = _run(source, part, position, found, {})
    for view in views if isinstance(views, list) else ():
        if not (isinstance(view, tuple) and len(view) == 4 and str(view[1]) in storages and type(view[2]) is type(view[3]) is int):
            raise DamagedError("describes a part of a storage that is not there", where=part.name, check="tensor.bounds")
        root = storages[str(view[1])]
        if view[2] < 0 or view[3] < 0 or view[2] + view[3] > root.numel:
            raise DamagedError("describes a part that reaches outside its storage", where=f"storage {root.storage.key}", check="tensor.bounds")
        storages[str(view[0])] = StorageView(root.storage, root.start + view[2], view[3])
    return storages, total


def _describe(told: object, part: Member) -> tuple[str, str, DType]:
    """The (key, location, type) of a storage."""
    key, location, kind = told if isinstance(told, tuple) and len(told) == 3 else (None, None, None)
    dtype = STORAGE_DTYPES.get(kind.name) if isinstance(kind, Global) and kind.module in ("torch", "torch.cuda", "torch.storage") else None
    if dtype is None or type(key) is not int or not isinstance(location, str):
        raise DamagedError("describes something that is no storage", where=part.name, check="tensor.bounds")
    return str(key), location, dtype


def _read_tensors(source: Source, part: Member, storages: dict[str, StorageView], found: _Found) -> dict[str, Tensor]:
    """The tensors by key: each is announced by a pickle (key, key of its storage, class), and its sizes, strides and start follow."""
    count, position = _run(source, part, part.offset, found, {})
    end = part.offset + part.size
    tensors: dict[str, Tensor] = {}
    for _ in range(_count(count, part)):
        told, position = _run(source, part, position, found, {})
        if not (isinstance(told, tuple) and len(told) == 3 and str(told[1]) in storages):
            raise DamagedError("describes a tensor whose storage is not there", where=part.name, check="tensor.bounds")
        (dims,) = struct.unpack("<i", read_bytes(source, position, 4)) if position + 8 <= end else (-1,)
        position += 8  # four bytes that torch skips
        size = 16 * dims + 8
        if not 0 <= dims <= MAX_DIMS or position + size > end:
            raise DamagedError(f"a tensor of {dims} dimensions", where=f"tensor {told[0]}", check="tensor.bounds")
        numbers = struct.unpack(f"<{2 * dims + 1}q", read_bytes(source, position, size))
        position += size
        shape, stride, start = numbers[:dims], numbers[dims:-1], numbers[-1]
        tensor = rebuild(REBUILD_V1, (storages[str(told[1])], start, shape, stride))
        if tensor is None:
            raise DamagedError("a tensor that torch could not make", where=f"tensor {told[0]}", check="tensor.bounds")
        tensors[str(told[0])] = tensor
    return tensors
