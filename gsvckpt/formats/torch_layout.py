"""torch's zip container laid out for writing: records in torch's order, the pickle as torch would write it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from zlib import crc32

from gsvckpt.dtypes import UNTYPED, DType
from gsvckpt.formats.layout import Layout
from gsvckpt.formats.pickle.emitter import Call, Persistent, emit
from gsvckpt.formats.torch_objects import REBUILD_V2, REBUILD_V3
from gsvckpt.formats.zip import writer
from gsvckpt.model import Global, Record, Storage, Tensor

PREFIX = "archive"  # torch's name for a file without one; GPT-SoVITS's own folder is the time of saving, different each time
PADDING = ".data/padding"  # an extra record that no reader asks for; it moves the file into the size window that GPT-SoVITS expects
_STORAGE = "storage"  # one object, so that the pickle spells it once


def lay_out(root: object, dtype_of: Callable[[Storage], DType], head: str = "PK", padding: int | None = None) -> Layout:
    """Plan the zip of `root`: records in torch's order under PREFIX, storages numbered as the pickle meets them. Pure.

    `dtype_of` says what each storage becomes, `head` replaces the first two bytes, `padding` adds a record of that many zero bytes. Raises
    UnsupportedError for what cannot be written back exactly.
    """
    keys: dict[Storage, str] = {}

    def describe(leaf: Tensor | Storage) -> Call | Persistent:
        if isinstance(leaf, Tensor):
            return describe_tensor(leaf)
        return describe_storage(leaf, dtype_of(leaf), keys.setdefault(leaf, str(len(keys))))

    opening = {"data.pkl": emit(root, describe), ".format_version": b"1", ".storage_alignment": b"64", "byteorder": b"little"}
    closing = {"version": b"3\n"} | ({PADDING: bytes(padding)} if padding is not None else {})
    sizes = [(name, len(text)) for name, text in opening.items()]
    sizes += [(f"data/{key}", storage.numel * dtype_of(storage).itemsize) for storage, key in keys.items()]
    sizes += [(name, len(text)) for name, text in closing.items()]
    records = writer.lay_out((f"{PREFIX}/{name}", size) for name, size in sizes)
    texts = opening | closing
    places = {record.name.removeprefix(f"{PREFIX}/"): record for record in records}
    owners = {f"{PREFIX}/data/{key}": storage for storage, key in keys.items()}

    def close(checksums: Mapping[Storage, int]) -> tuple[tuple[int, bytes], ...]:
        final = [record._replace(crc=_checksum(record, owners, checksums, texts)) for record in records]
        headers = [(record.header, writer.local_header(record)) for record in final]
        headers[0] = (0, head.encode("latin-1") + headers[0][1][2:])
        end = final[-1].offset + final[-1].size
        return (*headers, (end, writer.directory(final)))

    end, text = close(dict.fromkeys(keys, 0))[-1]
    size = end + len(text)
    return Layout(
        size,
        tuple((places[name].offset, text) for name, text in texts.items()),
        tuple((storage, places[f"data/{key}"].offset) for storage, key in keys.items()),
        close,
    )


def _checksum(record: Record, owners: Mapping[str, Storage], checksums: Mapping[Storage, int], texts: Mapping[str, bytes]) -> int:
    storage = owners.get(record.name)
    return crc32(texts[record.name.removeprefix(f"{PREFIX}/")]) if storage is None else checksums[storage]


def describe_tensor(tensor: Tensor) -> Call:
    """The call that torch would pickle for `tensor`."""
    args = (tensor.storage, tensor.start, tensor.shape, tensor.stride, tensor.requires_grad, OrderedDict[object, object]())
    if tensor.storage.dtype is UNTYPED:
        return Call(REBUILD_V3, (*args, Global("torch", tensor.dtype.name)))
    return Call(REBUILD_V2, args)


def describe_storage(storage: Storage, dtype: DType, key: str) -> Persistent:
    """The persistent id that torch would pickle for `storage` as `dtype` under `key`."""
    module = "torch.storage" if dtype is UNTYPED else "torch"
    return Persistent((_STORAGE, Global(module, dtype.storage), key, storage.location, storage.numel))
