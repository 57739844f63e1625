"""Checkpoints from literals, written without torch and without gsvckpt's own writers, so that what is read has a second, independent origin.

`torch_zip({"weight": tensor("float32", (2, 3), range(6))})` is the file as bytes; `read(...)` opens bytes as gsvckpt would a file.
"""

from __future__ import annotations

import json
import struct
import sys
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from zlib import crc32

from gsvckpt.engine import open as opening
from gsvckpt.errors import DamagedError
from gsvckpt.model import Checkpoint, Storage, Tensor

# torch's dtype -> (its storage class, struct code); a dtype without a storage class is pickled as untyped bytes
_TYPES = {
    "float64": ("DoubleStorage", "d"),
    "float32": ("FloatStorage", "f"),
    "float16": ("HalfStorage", "e"),
    "bfloat16": ("BFloat16Storage", ""),
    "int64": ("LongStorage", "q"),
    "int32": ("IntStorage", "i"),
    "int16": ("ShortStorage", "h"),
    "int8": ("CharStorage", "b"),
    "uint8": ("ByteStorage", "B"),
    "bool": ("BoolStorage", "?"),
    "uint16": ("", "H"),
    "float8_e5m2": ("", "B"),
}
_SIZES = {"bfloat16": 2}


@dataclass(frozen=True, eq=False)
class Store:
    """The bytes of one storage."""

    dtype: str
    data: bytes
    location: str = "cpu"

    @property
    def numel(self) -> int:
        return len(self.data) // itemsize(self.dtype)


@dataclass(frozen=True, eq=False)
class View:
    """A tensor over a Store."""

    store: Store
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    start: int = 0
    grad: bool = False


@dataclass(frozen=True)
class Name:
    """A class or function, by name."""

    module: str
    name: str


@dataclass(frozen=True, eq=False)
class Make:
    """`name(*args)`, then BUILD with `state` unless that is None; with `new`, `name.__new__(*args)`."""

    name: Name
    args: tuple[object, ...] = ()
    state: object = None
    new: bool = False


@dataclass(frozen=True, eq=False)
class Pid:
    """A persistent id, whatever it says."""

    value: object


@dataclass(frozen=True, eq=False)
class Raw:
    """Opcodes as they are."""

    code: bytes


def hparams(values: Mapping[str, object]) -> Make:
    """GPT-SoVITS's config object."""
    return Make(Name("utils", "HParams"), new=True, state=dict(values))


def itemsize(dtype: str) -> int:
    return _SIZES.get(dtype) or struct.calcsize("<" + _TYPES[dtype][1])


def packed(dtype: str, values: Iterable[object]) -> bytes:
    if dtype == "bfloat16":
        return b"".join(struct.pack("<f", value)[2:] for value in values)
    return b"".join(struct.pack("<" + _TYPES[dtype][1], value) for value in values)


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(prod(max(n, 1) for n in shape[index + 1 :]) for index in range(len(shape)))


def tensor(dtype: str, shape: tuple[int, ...], values: Iterable[object] | bytes = b"", **more: object) -> View:
    """A contiguous tensor with a storage of its own; without values, all zero."""
    data = values if isinstance(values, bytes) else packed(dtype, values)
    return View(Store(dtype, data or bytes(prod(shape) * itemsize(dtype))), shape, row_major(shape), **more)


class _Writer:
    """Protocol 2, the plainest way: no memo at all."""

    def __init__(self, *, legacy: bool = False) -> None:
        self.stores: dict[Store, str] = {}
        self.legacy = legacy

    def write(self, value: object) -> bytes:
        if value is None or isinstance(value, bool):
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        if isinstance(value, int):
            raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(raw)]) + raw
        if isinstance(value, float):
            return b"G" + struct.pack(">d", value)
        if isinstance(value, str):
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        if isinstance(value, Raw):
            return value.code
        if isinstance(value, (list, tuple, dict)):
            return self._container(value)
        return self._object(value)

    def _container(self, value: list[object] | tuple[object, ...] | dict[object, object]) -> bytes:
        if isinstance(value, dict):
            pairs = b"(" + b"".join(self.write(key) + self.write(item) for key, item in value.items()) + b"u"
            if not isinstance(value, OrderedDict):
                return b"}" + pairs
            metadata = vars(value).get("_metadata")
            return b"ccollections\nOrderedDict\n)R" + pairs + (self.write({"_metadata": metadata}) + b"b" if metadata else b"")
        items = b"".join(self.write(item) for item in value)
        return b"](" + items + b"e" if isinstance(value, list) else b"(" + items + b"t"

    def _object(self, value: object) -> bytes:
        if isinstance(value, Name):
            return f"c{value.module}\n{value.name}\n".encode()
        if isinstance(value, Make):
            built = b"" if value.state is None else self.write(value.state) + b"b"
            return self.write(value.name) + self.write(value.args) + (b"\x81" if value.new else b"R") + built
        if isinstance(value, Pid):
            return self.write(value.value) + b"Q"
        if isinstance(value, Store):
            return self.write(Pid(self._pid(value)))
        assert isinstance(value, View), value
        args: tuple[object, ...] = (value.store, value.start, value.shape, value.stride, value.grad, OrderedDict())
        if _TYPES[value.store.dtype][0]:
            return self.write(Make(Name("torch._utils", "_rebuild_tensor_v2"), args))
        return self.write(Make(Name("torch._utils", "_rebuild_tensor_v3"), (*args, Name("torch", value.store.dtype))))

    def _pid(self, store: Store) -> tuple[object, ...]:
        key = self.stores.setdefault(store, str(len(self.stores)))
        kind = _TYPES[store.dtype][0]
        pid = ("storage", Name("torch", kind), key, store.location, store.numel)
        if not kind:
            pid = ("storage", Name("torch.storage", "UntypedStorage"), key, store.location, len(store.data))
        return (*pid, None) if self.legacy else pid


def pickled(tree: object) -> bytes:
    """A protocol 2 pickle of a tree without tensors."""
    return b"\x80\x02" + _Writer().write(tree) + b"."


@dataclass(frozen=True)
class Entry:
    """One zip entry, and every lie that its headers may tell."""

    name: str
    data: bytes
    method: int = 0
    flags: int = 0x0808  # UTF-8, sizes in a data descriptor: what torch writes
    crc: int | None = None
    local_name: str | None = None
    local_method: int | None = None
    local_sizes: tuple[int, int, int] | None = None  # crc, packed, size; zeros with a descriptor
    size: int | None = None  # what the directory announces
    header: int | None = None  # where the directory says its local header begins
    aligned: bool = True


def zipped(entries: Sequence[Entry], *, head: bytes = b"PK", comment: bytes = b"", count: int | None = None, zip64: bool = False) -> bytes:
    """A zip of these entries; `head` replaces the first two bytes, `count` is what the end record says."""
    out = bytearray()
    directory = bytearray()
    for entry in entries:
        name = entry.name.encode()
        crc = crc32(entry.data) if entry.crc is None else entry.crc
        size = len(entry.data) if entry.size is None else entry.size
        begin = len(out)
        local_name = name if entry.local_name is None else entry.local_name.encode()
        local = entry.local_sizes or ((0, 0, 0) if entry.flags & 8 else (crc, size, size))
        gap = -(begin + 30 + len(local_name) + 4) % 64 if entry.aligned else 0
        extra = struct.pack("<2H", 0x4246, gap) + b"Z" * gap if entry.aligned else b""
        method = entry.method if entry.local_method is None else entry.local_method
        out += (
            struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, entry.flags, method, 0, 0, *local, len(local_name), len(extra))
            + local_name
            + extra
            + entry.data
        )
        if entry.flags & 8:
            out += struct.pack("<4s3I", b"PK\x07\x08", crc, size, size)
        at = begin if entry.header is None else entry.header
        fields = (crc, size, size, len(name), 0, 0, 0, 0, 0, at)
        directory += struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, entry.flags, entry.method, 0, 0, *fields) + name
    start, total = len(out), len(entries) if count is None else count
    out += directory
    if zip64:
        end = len(out)
        out += struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, total, total, len(directory), start)
        out += struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
        out += struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, len(comment)) + comment
    else:
        out += struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, total, total, len(directory), start, len(comment)) + comment
    return bytes(head + out[2:])


def torch_entries(tree: object, *, prefix: str = "archive", extras: Mapping[str, bytes] | None = None, **entry: object) -> list[Entry]:
    """The records of a torch zip. `tree` may be bytes: then it is the pickle itself."""
    writer = _Writer()
    code = tree if isinstance(tree, bytes) else b"\x80\x02" + writer.write(tree) + b"."
    files = {"data.pkl": code, **({"byteorder": b"little"} if extras is None else extras)}
    files |= {f"data/{key}": store.data for store, key in writer.stores.items()}
    files |= {"version": b"3\n"} | ({".data/serialization_id": b"0" * 40} if extras is None else {})
    return [Entry(f"{prefix}/{name}", data, **entry) for name, data in files.items()]


def torch_zip(tree: object, *, head: bytes = b"PK", prefix: str = "archive", extras: Mapping[str, bytes] | None = None, **entry: object) -> bytes:
    return zipped(torch_entries(tree, prefix=prefix, extras=extras, **entry), head=head)


def torch_stream(tree: object, *, counts: Mapping[int, int] | None = None, keys: list[str] | None = None, little: bool = True) -> bytes:
    """Torch's container before 1.6. `counts` replaces what the n-th storage announces, `keys` the list of storages."""
    writer = _Writer(legacy=True)
    code = tree if isinstance(tree, bytes) else b"\x80\x02" + writer.write(tree) + b"."
    system = {"protocol_version": 1001, "little_endian": little, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    out = bytearray(pickled(0x1950A86A20F9469CFC6C) + pickled(1001) + pickled(system) + code)
    out += pickled(list(writer.stores.values()) if keys is None else keys)
    for index, store in enumerate(writer.stores):
        numel = store.numel if _TYPES[store.dtype][0] else len(store.data)
        out += struct.pack("<q", (counts or {}).get(index, numel)) + store.data
    return bytes(out)


def safetensors(tensors: Mapping[str, tuple[str, Sequence[int], bytes]], metadata: Mapping[str, str] | None = None) -> bytes:
    """{name: (dtype code, shape, bytes)} as a safetensors file."""
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, (code, shape, data) in tensors.items():
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [end, end + len(data)]}
        end += len(data)
    return safetensors_raw(json.dumps(header).encode(), b"".join(data for _, _, data in tensors.values()))


def safetensors_raw(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def under_safetensors(inner: bytes, length: int) -> bytes:
    """A zip as the one tensor of a safetensors file whose header has `length` bytes; the zip's directory says where its records stand there."""
    out, by = bytearray(inner), 8 + length
    end = out.rfind(b"PK\x05\x06")
    count, _, place = struct.unpack_from("<HII", out, end + 10)
    struct.pack_into("<I", out, end + 16, place + by)
    for _ in range(count):
        names = struct.unpack_from("<3H", out, place + 28)
        struct.pack_into("<I", out, place + 42, struct.unpack_from("<I", out, place + 42)[0] + by)
        place += 46 + sum(names)
    header = json.dumps({"w": {"dtype": "U8", "shape": [len(out)], "data_offsets": [0, len(out)]}}).encode()
    return safetensors_raw(header + b" " * (length - len(header)), bytes(out))


@dataclass
class Bytes:
    """A source in memory. `reads` records what was asked for."""

    data: bytes
    path: str = "memory.pth"
    reads: list[tuple[int, int]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return len(self.data)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.reads.append((offset, len(buffer)))
        part = self.data[offset : offset + len(buffer)] if offset >= 0 else b""
        if len(part) != len(buffer):
            raise DamagedError("the file ends early")
        buffer[:] = part


def read(data: bytes) -> Checkpoint:
    return opening.read(Bytes(data))


def storage_bytes(storage: Storage) -> bytes:
    buffer = bytearray(storage.nbytes)
    storage.source.read_into(storage.offset, memoryview(buffer))
    return bytes(buffer)


def elements(tensor: Tensor) -> list[bytes]:
    """The bytes of every element in row-major order, picked one by one by stride."""
    raw, size = storage_bytes(tensor.storage), tensor.dtype.itemsize
    places = [tensor.start]
    for n, step in zip(tensor.shape, tensor.stride, strict=True):
        places = [place + index * step for place in places for index in range(n)]
    return [raw[place * size : (place + 1) * size] for place in places]


assert sys.byteorder == "little", "the tests compare raw little-endian bytes"
