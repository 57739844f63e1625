"""The safetensors container, read and laid out: a JSON header, then contiguous tensor data (github.com/huggingface/safetensors, Format)."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, NamedTuple

from gsvckpt.characters import escape_json
from gsvckpt.dtypes import SAFETENSORS_DTYPES, DType
from gsvckpt.errors import DamagedError, GsvError, UnsupportedError
from gsvckpt.files import budget
from gsvckpt.files.local import read_bytes
from gsvckpt.formats.heads import HEADS, PLAIN
from gsvckpt.formats.known import Known
from gsvckpt.formats.pickle.calls import calls_of
from gsvckpt.formats.safetensors_tree import HEAD, OWN, TREE, NamedStorage, describe_tree, name_storages, require_code, restore
from gsvckpt.formats.torch_objects import MAX_DIMS
from gsvckpt.hints import TRY_SALVAGE
from gsvckpt.model import MISSING, Checkpoint, Container, OriginalView, Path, Source, Storage, Tensor, contiguous_stride

if TYPE_CHECKING:
    from gsvckpt.formats.layout import Layout

MAX_HEADER = 100_000_000  # the format's own limit
METADATA = "__metadata__"
ALIGNMENT = 8  # the header is padded with spaces so that the data begin at a multiple of this


class Shard(NamedTuple):
    """One file of several: its name and its layout."""

    name: str
    layout: Layout


def looks_like(head: bytes, size: int) -> bool:
    """Eight bytes of header length that fit the file or, when it was cut off, the format; then an opening brace."""
    return len(head) >= 10 and head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= max(size - 8, MAX_HEADER)


def read(source: Source, *, partial: bool = False) -> Checkpoint:
    """Open a safetensors file without reading tensor bytes. With `partial`, tensors behind the end of a file that was cut off are at MISSING.

    Every rule of the format is checked first: sizes without overflow, offsets without gap or overlap, ending at the end of the file. Raises
    DamagedError and UnsupportedError with the tensor in `where`.
    """
    header, metadata, base = _read_header(source)
    if len(header) > budget.MOST_TENSORS:
        raise budget.too_much("tensors", budget.MOST_TENSORS, where="header")
    entries = sorted(((name, *_entry(name, entry)) for name, entry in header.items()), key=lambda entry: entry[3:])
    end = 0
    tensors: dict[str, Tensor] = {}
    for name, dtype, shape, begin, stop in entries:
        if begin != end:
            raise DamagedError(f"begins at {begin:,} where {end:,} was expected", where=name, check="tensor.bounds")
        end = stop
        storage = Storage(name, dtype, prod(shape), "cpu", source, base + begin if base + stop <= source.size else MISSING)
        tensors[name] = Tensor(storage, dtype, shape, contiguous_stride(shape))
    if base + end != source.size and not partial:
        complete = sum(base + stop <= source.size for *_, stop in entries)
        word = f"ends early, {complete:,} of {len(entries):,} tensors are complete" if base + end > source.size else "has bytes after the last tensor"
        check = "container.truncated" if base + end > source.size else "container.trailing"
        raise DamagedError(f"the file {word}: {source.size:,} bytes, {base + end:,} announced", where="data", hint=TRY_SALVAGE, check=check)
    if metadata.get(HEAD, PLAIN) not in HEADS:
        raise DamagedError(f"names {metadata[HEAD][:8]!r} as the first bytes of a zip", where=HEAD, check="container.header")
    trailing = max(source.size - base - end, 0)
    container = Container("safetensors", records=len(tensors), head=metadata.get(HEAD), storages=end, metadata=metadata, trailing=trailing)
    flat = {name: tensors[name] for name in header}
    if TREE not in metadata:
        return Checkpoint(source, container, flat)
    try:
        found = restore(flat, metadata)
    except GsvError as error:
        error.known = Known(source.size, container)
        raise
    if found.stale:
        return Checkpoint(source, replace(container, stale=found.stale), flat)
    return Checkpoint(source, container, found.root, found.names, calls=calls_of(found.root), views=found.views)


def _read_header(source: Source) -> tuple[dict[str, object], dict[str, str], int]:
    """The entries of the header, its metadata, and where the data begin."""
    import json  # most runs open no safetensors file

    length = int.from_bytes(read_bytes(source, 0, 8), "little")
    if length > MAX_HEADER:
        raise UnsupportedError(f"a header of {length:,} bytes; the format allows {MAX_HEADER:,}", where="header")
    if length > source.size - 8:
        raise DamagedError(
            f"the file ends early: {source.size:,} bytes, a header of {length:,} announced", where="header", check="container.truncated"
        )
    try:
        text = read_bytes(source, 8, length)
        budget.require_small(text, "header")
        header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"is not valid JSON ({str(error)[:80]})", where="header", check="container.header") from error
    if not isinstance(header, dict):
        raise DamagedError("is not a JSON object", where="header", check="container.header")
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise DamagedError("its metadata must be text", where="header", check="container.header")
    return header, metadata, 8 + length


def _entry(name: str, entry: object) -> tuple[DType, tuple[int, ...], int, int]:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise DamagedError("its entry lacks dtype, shape or data_offsets", where=name, check="container.header")
    dtype = SAFETENSORS_DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise UnsupportedError(f"has the unknown dtype {str(entry['dtype'])[:40]!r}", where=name)
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _sizes(shape) or not _sizes(offsets) or len(offsets) != 2 or len(shape) > MAX_DIMS:
        raise DamagedError("its shape or offsets are not valid sizes", where=name, check="tensor.bounds")
    count = 1
    for n in shape:
        count *= n
        if count >= 1 << 64:  # as the library counts: a zero behind it does not help
            raise DamagedError("its shape is too large", where=name, check="tensor.bounds")
    begin, end = offsets
    if end - begin != count * dtype.itemsize:
        raise DamagedError(f"{end - begin:,} bytes stored where {count:,} x {dtype.name} are announced", where=name, check="tensor.bounds")
    return dtype, tuple(shape), begin, end


def _sizes(values: object) -> bool:
    return isinstance(values, list) and all(type(n) is int and 0 <= n < 1 << 62 for n in values)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name appears twice")
    "".join(entries).encode()  # half a surrogate pair (JSON \\ud800) is no text; the error is a ValueError
    return entries


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def list_with_library(path: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The type and shape of each tensor as the safetensors package itself reads them, by name. Raises DamagedError where it refuses the file."""
    from safetensors import SafetensorError, safe_open  # a few milliseconds, which only a check of what others see needs

    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
            return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
    except SafetensorError as error:
        raise DamagedError(f"the safetensors package refuses it: {error}", where="header", check="container.header") from error


def find_disagreement(source: Source) -> str:
    """In what the safetensors package reads a file of this machine otherwise than gsvckpt; empty where both list the same names, types and shapes."""
    theirs = list_with_library(source.path)
    header, _, _ = _read_header(source)
    ours = {name: (dtype.code, shape) for name, entry in header.items() for dtype, shape, *_ in [_entry(name, entry)]}
    name = next((name for name in (*ours, *theirs) if ours.get(name) != theirs.get(name)), None)
    return "" if name is None else f"the safetensors package reads {name[:80]} as {theirs.get(name)}, and gsvckpt as {ours.get(name)}"


def lay_out(
    root: object,
    dtype_of: Callable[[Storage], DType],
    metadata: Mapping[str, str],
    head: str = "PK",
    state_path: Path | None = (),
    views: Mapping[Tensor, OriginalView] | None = None,
) -> Layout:
    """Plan the safetensors file of a tree: every storage once, in the order of the tree, those of large elements first, so that all are aligned.

    What is no tensor goes into the metadata, beside those that are given, and so does how tensors lay before (`views`). Pure. Raises
    UnsupportedError for what cannot be written back exactly.
    """
    named = name_storages(root, state_path, dtype_of)
    return _file(list(named.values()), dtype_of, _metadata(root, named, metadata, head, views or {}))


def lay_out_shards(
    root: object,
    dtype_of: Callable[[Storage], DType],
    metadata: Mapping[str, str],
    head: str,
    state_path: Path | None,
    views: Mapping[Tensor, OriginalView],
    limit: int,
) -> tuple[tuple[Shard, ...], bytes]:
    """Plan several files of at most `limit` bytes of tensors each (one tensor may be larger), named and indexed as transformers does.

    The second part is the text of `model.safetensors.index.json`, which holds the metadata.
    """
    import json

    named = name_storages(root, state_path, dtype_of)
    groups: list[list[NamedStorage]] = [[]]
    size = 0
    for storage, entry in named.items():
        nbytes = storage.numel * dtype_of(storage).itemsize
        if groups[-1] and size + nbytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(entry)
        size += nbytes
    names = [f"model-{number:05}-of-{len(groups):05}.safetensors" for number in range(1, len(groups) + 1)]
    shards = tuple(Shard(name, _file(group, dtype_of, {"format": "pt"})) for name, group in zip(names, groups, strict=True))
    total = sum(storage.numel * dtype_of(storage).itemsize for storage in named)
    weight_map = {entry.name: name for name, group in zip(names, groups, strict=True) for entry in group}
    index = {"metadata": {"total_size": total, **_metadata(root, named, metadata, head, views)}, "weight_map": weight_map}
    text = json.dumps(index, indent=2, ensure_ascii=False).encode("utf-8", "replace").decode()
    return shards, escape_json(text).encode() + b"\n"


def _metadata(
    root: object, named: Mapping[Storage, NamedStorage], metadata: Mapping[str, str], head: str, views: Mapping[Tensor, OriginalView]
) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if key not in OWN} | describe_tree(root, named, head, views)


def _file(entries: Sequence[NamedStorage], dtype_of: Callable[[Storage], DType], metadata: Mapping[str, str]) -> Layout:
    import json

    from gsvckpt.formats.layout import Layout  # needed only to write

    header: dict[str, object] = {METADATA: dict(metadata)} if metadata else {}
    places: dict[str, tuple[int, int]] = {}
    end = 0
    for entry in sorted(entries, key=lambda entry: -entry.dtype.itemsize):
        begin, end = end, end + entry.storage.numel * dtype_of(entry.storage).itemsize
        places[entry.name] = begin, end
    for entry in entries:
        header[entry.name] = {"dtype": require_code(entry), "shape": list(entry.shape), "data_offsets": list(places[entry.name])}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    text += b" " * (-len(text) % ALIGNMENT)
    if len(text) > MAX_HEADER:
        raise UnsupportedError(f"needs a header of {len(text):,} bytes, where safetensors allows {MAX_HEADER:,}", where="header")
    base = 8 + len(text)
    opening = struct.pack("<Q", len(text)) + text
    storages = sorted(((entry.storage, base + places[entry.name][0]) for entry in entries), key=lambda pair: pair[1])
    return Layout(base + end, ((0, opening),), tuple(storages), lambda _: ())
