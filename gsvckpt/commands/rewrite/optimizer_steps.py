"""The number of training steps, as an optimizer counted them."""

from __future__ import annotations

import struct

from gsvckpt.files.local import read_bytes
from gsvckpt.model import tensor_of

_LOOKED_AT = 8  # parameters; all were stepped as often, but those that never had a gradient


def count_steps(root: object) -> int | None:
    """The largest `step` of an AdamW state (1.6: a float32 scalar for each parameter), read from the file."""
    optimizer = root.get("optimizer") if isinstance(root, dict) else None
    state = optimizer.get("state") if isinstance(optimizer, dict) else None
    counts: list[int] = []
    for entry in list(state.values())[:_LOOKED_AT] if isinstance(state, dict) else ():
        step = entry.get("step") if isinstance(entry, dict) else None
        tensor = tensor_of(step)
        if tensor is not None and tensor.dtype.name == "float32" and tensor.numel == 1 and tensor.storage.offset >= 0:
            (value,) = struct.unpack("<f", read_bytes(tensor.storage.source, tensor.storage.offset + tensor.start * 4, 4))
            counts += [int(value)] if 0 <= value < 1e12 else []
        elif type(step) is int:
            counts.append(step)
    return max(counts, default=None)
