"""A safetensors file laid out for writing."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping

from gsvckpt.errors import UnsupportedError
from gsvckpt.formats.layout import Layout
from gsvckpt.formats.safetensors import MAX_HEADER, METADATA
from gsvckpt.formats.safetensors_tree import OWN, describe_tree, name_storages, require_code
from gsvckpt.model import DType, Path, Storage

ALIGNMENT = 8  # the header is padded with spaces so that the data begin at a multiple of this


def lay_out(
    root: object, dtype_of: Callable[[Storage], DType], metadata: Mapping[str, str], head: str = "PK", state_path: Path | None = ()
) -> Layout:
    """Plan the safetensors file of a tree: every storage once, in the order of the tree, those of large elements first, so that all are aligned.

    What is no tensor goes into the metadata, beside those that are given. Pure. Raises UnsupportedError for what cannot be written back exactly.
    """
    named = name_storages(root, state_path, dtype_of)
    extra = {key: value for key, value in metadata.items() if key not in OWN} | describe_tree(root, named, head)
    header: dict[str, object] = {METADATA: extra} if extra else {}
    storages: list[tuple[Storage, int]] = []
    end = 0
    for storage in sorted(named, key=lambda storage: -named[storage].dtype.itemsize):
        places = end, end + storage.numel * dtype_of(storage).itemsize
        storages.append((storage, end))
        end = places[1]
    offsets = dict(storages)
    for storage, entry in named.items():
        begin = offsets[storage]
        stop = begin + storage.numel * dtype_of(storage).itemsize
        header[entry.name] = {"dtype": require_code(entry), "shape": list(entry.shape), "data_offsets": [begin, stop]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    text += b" " * (-len(text) % ALIGNMENT)
    if len(text) > MAX_HEADER:
        raise UnsupportedError(f"needs a header of {len(text):,} bytes, where safetensors allows {MAX_HEADER:,}", where="header")
    base = 8 + len(text)
    opening = struct.pack("<Q", len(text)) + text
    return Layout(base + end, ((0, opening),), tuple((storage, base + offset) for storage, offset in storages), lambda _: ())
