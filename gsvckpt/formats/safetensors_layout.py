"""Safetensors files laid out for writing: one, or several with an index."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from gsvckpt.characters import escape_json
from gsvckpt.dtypes import DType
from gsvckpt.errors import UnsupportedError
from gsvckpt.formats.layout import Layout
from gsvckpt.formats.safetensors import MAX_HEADER, METADATA
from gsvckpt.formats.safetensors_tree import OWN, Named, describe_tree, name_storages, require_code
from gsvckpt.model import Path, Storage

ALIGNMENT = 8  # the header is padded with spaces so that the data begin at a multiple of this


class Shard(NamedTuple):
    """One file of several: its name and its layout."""

    name: str
    layout: Layout


def lay_out(
    root: object, dtype_of: Callable[[Storage], DType], metadata: Mapping[str, str], head: str = "PK", state_path: Path | None = ()
) -> Layout:
    """Plan the safetensors file of a tree: every storage once, in the order of the tree, those of large elements first, so that all are aligned.

    What is no tensor goes into the metadata, beside those that are given. Pure. Raises UnsupportedError for what cannot be written back exactly.
    """
    named = name_storages(root, state_path, dtype_of)
    return _file(list(named.values()), dtype_of, _metadata(root, named, metadata, head))


def lay_out_shards(
    root: object, dtype_of: Callable[[Storage], DType], metadata: Mapping[str, str], head: str, state_path: Path | None, limit: int
) -> tuple[tuple[Shard, ...], bytes]:
    """Plan several files of at most `limit` bytes of tensors each (one tensor may be larger), named and indexed as transformers does.

    The second part is the text of `model.safetensors.index.json`, which holds the metadata.
    """
    named = name_storages(root, state_path, dtype_of)
    groups: list[list[Named]] = [[]]
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
    index = {"metadata": {"total_size": total, **_metadata(root, named, metadata, head)}, "weight_map": weight_map}
    text = json.dumps(index, indent=2, ensure_ascii=False).encode("utf-8", "replace").decode()
    return shards, escape_json(text).encode() + b"\n"


def _metadata(root: object, named: Mapping[Storage, Named], metadata: Mapping[str, str], head: str) -> dict[str, str]:
    return {key: value for key, value in metadata.items() if key not in OWN} | describe_tree(root, named, head)


def _file(entries: Sequence[Named], dtype_of: Callable[[Storage], DType], metadata: Mapping[str, str]) -> Layout:
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
