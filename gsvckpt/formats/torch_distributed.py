"""What torch.distributed.checkpoint writes: a folder with `.metadata`, a pickle of names, shapes and places, and `__RANK_N.distcp` with the tensors.

The tensors themselves are not read here; whether all bytes are there that `.metadata` names, is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from gsvckpt.errors import DamagedError, GsvError
from gsvckpt.files.local import open_source, read_bytes
from gsvckpt.formats.pickle.machine import Machine
from gsvckpt.model import Global, Opaque

METADATA = ".metadata"
PART = ".distcp"
_LARGEST = 1 << 28  # bytes of a `.metadata`: a model of 100,000 tensors on 64 ranks has about 60 MB


class Distributed(NamedTuple):
    """`shapes` by name, of the tensors; `ends`: for each file the byte at which the last thing in it ends."""

    shapes: Mapping[str, tuple[int, ...]]
    ends: Mapping[str, int]


def read_metadata(folder: str) -> Distributed:
    """What `.metadata` in a folder says (torch/distributed/checkpoint/metadata.py, filesystem.py). Raises DamagedError for any other file."""
    path = os.path.join(folder, METADATA)
    with open_source(path) as source:
        data = read_bytes(source, 0, min(source.size, _LARGEST))
    try:
        root = Machine(data, reduce=_reduce).run()
    except GsvError as error:
        raise DamagedError(f"its pickle cannot be read: {error.why}", path=path) from error
    facts = _state(root)
    tensors, places = facts.get("state_dict_metadata"), facts.get("storage_data")
    if not isinstance(tensors, dict) or not isinstance(places, dict):
        raise DamagedError("is not metadata of torch.distributed.checkpoint", path=path)
    shapes = {name: _state(value).get("size", ()) for name, value in tensors.items() if isinstance(name, str)}
    ends: dict[str, int] = {}
    for value in places.values():
        place = _state(value)
        name, offset, length = (place.get(key) for key in ("relative_path", "offset", "length"))
        if isinstance(name, str) and type(offset) is int and type(length) is int:
            ends[name] = max(ends.get(name, 0), offset + length)
    return Distributed({name: shape for name, shape in shapes.items() if isinstance(shape, tuple)}, ends)


def find_damage(folder: str) -> str:
    """What is missing of a folder, by what its `.metadata` says; empty where all bytes are there. No byte of a tensor is read."""
    try:
        found = read_metadata(folder)
    except GsvError as error:
        return f"{METADATA} {error.why}"
    for name, end in sorted(found.ends.items()):
        path = os.path.join(folder, name)
        if os.path.dirname(name) or not os.path.isfile(path):
            return f"its {name} is not there"
        if os.path.getsize(path) < end:
            return f"{name} ends early: it has {os.path.getsize(path):,} of {end:,} bytes"
    return ""


def _reduce(name: Global, args: object) -> object:
    """A torch.Size is its numbers."""
    if name == Global("torch", "Size") and isinstance(args, tuple) and len(args) == 1 and isinstance(args[0], tuple):
        return args[0]
    return None


def _state(value: object) -> Mapping[object, object]:
    """The attributes of an object."""
    if not isinstance(value, Opaque):
        return {}
    return next((payload for step, payload in value.steps if step == "build" and isinstance(payload, dict)), {})
