"""A safetensors file laid out for writing."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Mapping

from gsvckpt.errors import UnsupportedError
from gsvckpt.formats.layout import Layout
from gsvckpt.formats.safetensors import METADATA
from gsvckpt.model import DType, Storage, Tensor

ALIGNMENT = 8  # the header is padded with spaces so that the data begin at a multiple of this


def lay_out(root: object, dtype_of: Callable[[Storage], DType], metadata: Mapping[str, str]) -> Layout:
    """Plan the safetensors file of a flat {name: tensor}, in the order of `root`. Pure.

    Raises UnsupportedError for a tensor that is no whole contiguous storage: only a checkpoint that came from safetensors is written as one.
    """
    header: dict[str, object] = {METADATA: dict(metadata)} if metadata else {}
    storages: list[tuple[Storage, int]] = []
    end = 0
    for name, tensor in root.items() if isinstance(root, dict) else ():
        if not isinstance(tensor, Tensor) or not tensor.contiguous or tensor.start or tensor.numel != tensor.storage.numel:
            raise UnsupportedError("is no plain tensor", where=str(name))
        dtype = dtype_of(tensor.storage)
        size = dtype.itemsize * tensor.numel
        header[str(name)] = {"dtype": dtype.code, "shape": list(tensor.shape), "data_offsets": [end, end + size]}
        storages.append((tensor.storage, end))
        end += size
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    base = 8 + len(text)
    opening = struct.pack("<Q", len(text)) + text
    return Layout(base + end, ((0, opening),), tuple((storage, base + offset) for storage, offset in storages), lambda _: ())
