"""What torch.distributed.checkpoint writes: a folder with `.metadata`, a pickle of names, shapes and places, and `__RANK_N.distcp` with the tensors.

The tensors themselves are not read here; whether all bytes are there that `.metadata` names, is. torch's own converter gathers them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import NamedTuple

from gsvckpt.dtypes import DTYPES, UNTYPED
from gsvckpt.errors import DamagedError, GsvError, MissingError, UnsupportedError
from gsvckpt.files.local import open_source, read_bytes
from gsvckpt.files.paths import is_url
from gsvckpt.formats.pickle.machine import Machine
from gsvckpt.hints import Hint, quote_word
from gsvckpt.model import Checkpoint, Container, Global, Opaque, Source, Storage, Tensor, contiguous_stride

METADATA = ".metadata"
PART = ".distcp"
# Plain records of names and numbers, which torch's own reader unpickles by name (metadata.py, filesystem.py).
_OWN_MODULES = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
_LARGEST = 1 << 28  # bytes of a `.metadata`: a model of 100,000 tensors on 64 ranks has about 60 MB


class Distributed(NamedTuple):
    """`shapes` and `dtypes` by name, of the tensors; `paths`, where each stands in the tree that was saved; `ends`, for each file, the byte at which
    the last thing in it ends; `names`, the classes that the pickle names.
    """

    shapes: Mapping[str, tuple[int, ...]]
    ends: Mapping[str, int]
    dtypes: Mapping[str, str] = {}
    paths: Mapping[str, tuple[object, ...]] = {}
    names: tuple[Global, ...] = ()


def read_metadata(folder: str) -> Distributed:
    """What `.metadata` in a folder says (torch/distributed/checkpoint/metadata.py, filesystem.py). Raises DamagedError for any other file."""
    path = os.path.join(folder, METADATA)
    with open_source(path) as source:
        data = read_bytes(source, 0, min(source.size, _LARGEST))
    machine = Machine(data, reduce=_reduce)
    try:
        root = machine.run()
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
    told = {name: _state(value).get("properties") for name, value in tensors.items() if isinstance(name, str)}
    planned = facts.get("planner_data")
    return Distributed(
        {name: shape for name, shape in shapes.items() if isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)},
        ends,
        {name: dtype for name, properties in told.items() if (dtype := _dtype(properties))},
        {name: path for name, path in planned.items() if isinstance(path, tuple) and path} if isinstance(planned, dict) else {},
        tuple(machine.globals),
    )


def is_metadata(path: str) -> bool:
    """Whether a path stands for a distributed checkpoint: it is called `.metadata`, and parts lie beside it or it is of that kind itself."""
    if os.path.basename(path) != METADATA or is_url(path):
        return False
    try:
        return any(name.endswith(PART) for name in os.listdir(os.path.dirname(path) or os.curdir)) or not isinstance(_glance(path), str)
    except OSError:
        return False


def _glance(path: str) -> Distributed | str:
    try:
        return read_metadata(os.path.dirname(path))
    except GsvError as error:
        return error.why


def parts_of(path: str) -> tuple[str, ...]:
    """The files of a distributed checkpoint besides its `.metadata`: those that are there."""
    folder = os.path.dirname(path)
    try:
        return tuple(sorted(os.path.join(folder, name) for name in os.listdir(folder or os.curdir) if name.endswith(PART)))
    except OSError:
        return ()


def read(path: str, join_files: Callable[[Sequence[str]], tuple[Source, Sequence[int]]]) -> Checkpoint:
    """A distributed checkpoint by its `.metadata`: names, shapes and types; its tensors cannot be read.

    Raises MissingError or DamagedError where a file is missing or ends early, with its name.
    """
    folder = os.path.dirname(path)
    found = read_metadata(folder)
    for name, end in sorted(found.ends.items()):
        part = os.path.join(folder, name)
        if os.path.dirname(name) or not os.path.isfile(part):
            why = "there is no such file, though .metadata names it: the checkpoint is incomplete"
            raise MissingError(why, path=part, hint="get it again, into the same folder", check="container.truncated")
        if os.path.getsize(part) < end:
            why = f"ends early: it has {os.path.getsize(part):,} of {end:,} bytes"
            raise DamagedError(why, path=part, hint="get it again, into the same folder", check="container.truncated")
    source, _ = join_files((path, *parts_of(path)))
    root: dict[object, object] = {}
    for name, shape in found.shapes.items():
        dtype = DTYPES.get(found.dtypes.get(name, ""))
        if dtype is None:
            continue
        place = root
        *above, last = found.paths.get(name, (name,))
        for key in above:
            inner = place.setdefault(key, {})
            if not isinstance(inner, dict):
                break
            place = inner
        kind = dtype if dtype.storage else UNTYPED
        storage = Storage(name, kind, prod(shape) * dtype.itemsize // kind.itemsize, "cpu", Scattered(path), 0)
        place[last] = Tensor(storage, dtype, shape, contiguous_stride(shape))
    total = sum(prod(shape) * DTYPES[found.dtypes[name]].itemsize for name, shape in found.shapes.items() if found.dtypes.get(name) in DTYPES)
    container = Container("torch-distributed", records=len(found.shapes), storages=total, shards=1 + len(parts_of(path)))
    return Checkpoint(source, container, root, tuple(name for name in found.names if name.module not in _OWN_MODULES))


class Scattered(NamedTuple):
    """The source of a tensor whose parts lie in several files: it cannot be read."""

    path: str
    size: int = 1 << 62

    def read_into(self, _: int, __: memoryview) -> None:
        raise UnsupportedError("its tensors lie in parts, which gsvckpt does not gather", path=self.path, hint=gather(self.path))


def gather(path: str) -> Hint:
    """The command of torch that makes one file of a distributed checkpoint."""
    folder = quote_word(os.path.dirname(path) or os.curdir)
    return Hint("makes one file of them", f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {folder} <OUT>.pth")


def _dtype(properties: object) -> str:
    """The dtype in a TensorProperties, whose state is a tuple that begins with it, or a dict."""
    state = next((payload for step, payload in properties.steps if step == "build"), None) if isinstance(properties, Opaque) else None
    dtype = state[0] if isinstance(state, tuple) and state else state.get("dtype") if isinstance(state, dict) else None
    return dtype.name if isinstance(dtype, Global) and dtype.module == "torch" else ""


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
