"""A checkpoint: a tree of plain Python values whose leaves describe tensors. Nothing here holds tensor bytes or does I/O."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from gsvckpt.dtypes import DType
from gsvckpt.errors import UnsupportedError

MAX_DEPTH = 256  # CPython's own pickler gives up near 300 levels, so no honest checkpoint is deeper


MISSING = -1  # the offset of a storage whose bytes are not all there


class Source(Protocol):
    """Where bytes come from. `read_into` fills the whole buffer from `offset` or raises DamagedError; safe to call from several threads."""

    @property
    def path(self) -> str: ...
    @property
    def size(self) -> int: ...
    def read_into(self, offset: int, buffer: memoryview) -> None: ...


class OpenSource(Source, Protocol):
    """An open source, which its opener has to close. `mtime_ns` is 0 where its time is not known."""

    @property
    def mtime_ns(self) -> int: ...
    def check_unchanged(self) -> None:
        """Raise ChangedError unless the source is still what was opened."""

    def close(self) -> None: ...


@runtime_checkable
class Distant(Protocol):
    """A remote source: latency dominates, so small reads are batched. `structure_only` says that it was opened for its structure, so that
    nobody should ask for pieces between its tensors' bytes.
    """

    @property
    def structure_only(self) -> bool: ...
    def at_hand(self, offset: int, size: int) -> bool:
        """Whether these bytes are already in memory."""

    def fetch(self, ranges: Sequence[tuple[int, int]]) -> None:
        """Read these small (offset, size) pieces together, replacing those read before; not when only the structure is wanted."""


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function that a pickle names. Here it is only a name."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Call(NamedTuple):
    """A call in a pickle to a name, or makes an object of it: the arguments of the first time as text, where they are worth telling.

    `oddity` says what about its arguments or states is not as those who write it do it; `reached` are the names that a call of `getattr` leads to,
    itself among them where that is not known.
    """

    name: Global
    arguments: str = ""
    oddity: str = ""
    reached: tuple[Global, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """A run of `numel` elements at `offset` in `source`, compared by identity. `crc` is the CRC-32 that its container states, if any."""

    key: str
    dtype: DType
    numel: int
    location: str
    source: Source
    offset: int
    crc: int | None = None

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A strided view of a storage: `start`, `shape` and `stride` count elements of `dtype` and were checked to stay inside the storage."""

    storage: Storage
    dtype: DType
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    start: int = 0
    requires_grad: bool = False

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize

    @property
    def extent(self) -> int:
        """Elements from the first to the last one in memory, both counted; 0 for an empty tensor."""
        if not self.numel:
            return 0
        return 1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))

    @property
    def contiguous(self) -> bool:
        return self.stride == contiguous_stride(self.shape) or self.numel <= 1


def contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Row-major strides, in elements, as torch gives them (a dimension of 0 counts as 1)."""
    strides: list[int] = []
    step = 1
    for n in reversed(shape):
        strides.append(step)
        step *= max(n, 1)
    return tuple(reversed(strides))


@dataclass(frozen=True, slots=True, eq=False)
class Opaque:
    """An object of a class that is never imported, kept as its recipe, so that it can be written back exactly.

    `how` is how the pickle makes it: `reduce` calls `name` with `args`; `newobj` calls `name.__new__(*args)`; `newobj_ex` does so with args =
    (args, keywords). `steps` is what the pickle does to it afterwards, in order: ("build", state), ("append", [values]) or
    ("setitem", [(key, value), ...]).
    """

    name: Global
    how: Literal["reduce", "newobj", "newobj_ex"]
    args: object
    steps: list[tuple[Literal["build", "append", "setitem"], object]] = field(default_factory=list)

    @property
    def state(self) -> object:
        """What `__setstate__` or `__dict__.update` would get; None when there is none."""
        return next((value for step, value in self.steps if step == "build"), None)


@dataclass(frozen=True, slots=True)
class Container:
    """Facts of the outer file. `head`: the first two bytes of a zip as text, also of the one that a safetensors file came from; `prefix`: the folder
    inside it; `records`: how many entries it has. `metadata` is a safetensors header's `__metadata__`; `storages` counts the bytes of all tensor
    data, referred to or not; `trailing`, those that follow the end of what was read: of the pickle in its record, of the last storage in a stream;
    `compressed`, records that are not stored plainly; `shards` counts the files of a checkpoint that is in several.

    `refused` says why torch.load refuses the file though its tensors are there; `stale`, in what the tree in a safetensors header differs from the
    tensors, which another program changed since. `byteorder` is that of the file; tensors are read as little-endian numbers in any case.
    """

    format: Literal["torch-zip", "torch-stream", "torch-tar", "torch-distributed", "safetensors", "pickle"]
    records: int
    head: str | None = None
    prefix: str | None = None
    byteorder: str = "little"
    storages: int = 0
    trailing: int = 0
    compressed: int = 0
    shards: int = 0
    refused: str = ""
    stale: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


class OriginalView(NamedTuple):
    """How a tensor lay in torch's storage before it got one of its own: tensors of one `group` shared it; steps and start count elements."""

    group: int
    stride: tuple[int, ...]
    start: int


class Doubt(NamedTuple):
    """A place in a file that readers may read differently, or that is spelled as no known program writes it: such a file is never called safe.

    `check` is the id of verify's check that tells of it. `agreed` says that all known readers get the same values there all the same.
    """

    where: str
    why: str
    check: str = "pickle.encoding"
    agreed: bool = False


class Record(NamedTuple):
    """One entry of a zip: `offset` is where its data begin; `crc` 0 on data means "not computed" (torch with CRC switched off)."""

    name: str
    offset: int
    size: int
    crc: int
    method: int = 0
    flags: int = 0
    header: int = 0  # where its local header begins
    packed: int = -1  # bytes in the file where they are compressed

    @property
    def end(self) -> int:
        """Where its data end in the file."""
        return self.offset + (self.size if self.method == 0 else self.packed)


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """An opened checkpoint: where it is, what holds it, and its tree.

    `globals` are all names in every pickle that any reader may find in the file, in order of first use, and `calls` which of them are called;
    `records` what a zip holds, in file order; `doubts` where readers may part; `views` how tensors lay before they were separated.
    """

    source: Source
    container: Container
    root: object
    globals: tuple[Global, ...] = ()
    records: tuple[Record, ...] = ()
    doubts: tuple[Doubt, ...] = ()
    calls: tuple[Call, ...] = ()
    views: Mapping[Tensor, OriginalView] = field(default_factory=dict)


Path = tuple[object, ...]
Leaf = Tensor | Storage | Opaque
_WALKED = (dict, list, tuple, Opaque, Tensor, Storage)  # leaves, and what may hold them
_PARAMETERS = frozenset(Global("torch._utils", f"_rebuild_parameter{end}") for end in ("", "_with_state"))
_REBUILDERS = frozenset(("torch._utils", "torch._tensor", "torch.tensor"))


def is_parameter(value: object) -> bool:
    """An nn.Parameter, with or without attributes: an Opaque whose first argument is the tensor."""
    return (
        isinstance(value, Opaque)
        and value.name in _PARAMETERS
        and isinstance(value.args, tuple)
        and bool(value.args)
        and isinstance(value.args[0], Tensor)
    )


def is_tensor_recipe(value: object) -> bool:
    """Whether an object is what torch makes a tensor of, by the function that it calls."""
    return isinstance(value, Opaque) and value.name.module in _REBUILDERS and value.name.name.startswith("_rebuild_")


def tensor_of(value: object) -> Tensor | None:
    """The tensor that `value` is or, for an nn.Parameter, wraps."""
    if isinstance(value, Tensor):
        return value
    if is_parameter(value):
        assert isinstance(value, Opaque) and isinstance(value.args, tuple)  # noqa: S101 - is_parameter said so; for the type checker
        inner = value.args[0]
        return inner if isinstance(inner, Tensor) else None
    return None


def state_dict_metadata(value: object) -> object:
    """The `_metadata` that torch attaches to a state dict (an OrderedDict attribute); None where there is none."""
    return vars(value).get("_metadata") if isinstance(value, OrderedDict) else None


def children(value: object) -> Iterator[tuple[object, object]]:
    """The (key, child) pairs of one node, in order. An Opaque's own parts have keys in angle brackets; a Parameter shows its tensor alone."""
    if isinstance(value, dict):
        yield from value.items()
        metadata = state_dict_metadata(value)
        if metadata is not None:
            yield "<metadata>", metadata
    elif isinstance(value, (list, tuple)):
        yield from enumerate(value)
    elif isinstance(value, Opaque):
        yield "<args>", value.args
        for step, payload in value.steps:
            yield f"<{step}>", payload


def walk(root: object, path: Path = ()) -> Iterator[tuple[Path, Leaf]]:
    """Yield (path, leaf) for every Tensor, bare Storage and Opaque, in order. A container reached twice is walked once, at its first place.

    An nn.Parameter is yielded as its Tensor. Raises UnsupportedError below MAX_DEPTH levels. Needs no recursion, so a crafted tree of any depth or
    with cycles ends: each list, dict and tuple is entered once.
    """
    seen: set[int] = set()
    above: list[object] = []  # the keys that lead to the innermost level; paths are made only for what is yielded
    levels: list[Iterator[tuple[object, object]]] = [iter([(None, root)])]
    while levels:
        for key, value in levels[-1]:
            if not isinstance(value, _WALKED):
                continue
            step = (key,) if len(levels) > 1 else ()
            leaf = value if isinstance(value, (Tensor, Storage)) else tensor_of(value)
            if leaf is not None:
                yield (*path, *above, *step), leaf
                continue
            if id(value) in seen:
                continue
            seen.add(id(value))
            if len(path) + len(levels) - 1 > MAX_DEPTH:
                raise UnsupportedError(f"nested deeper than {MAX_DEPTH} levels", where=format_path((*path, *above)[:4]) + "/...")
            if isinstance(value, Opaque):
                yield (*path, *above, *step), value
            above.extend(step)
            levels.append(children(value))
            break
        else:
            levels.pop()
            del above[-1:]


def format_path(path: Path) -> str:
    """A path as text for people: `optimizer/state/3/exp_avg`. Keys that are objects show their names alone, as a crafted one may be endless."""
    return "/".join(map(format_key, path))


def format_key(key: object) -> str:
    """One part of a path as text."""
    if isinstance(key, tuple):
        return f"({', '.join(map(format_key, key))})"
    if isinstance(key, Opaque):
        return f"<{key.name}>"
    return f"<{type(key).__name__}>" if isinstance(key, (Tensor, Storage)) else str(key)


def storages_of(root: object) -> set[Storage]:
    """All storages that a tree refers to."""
    return {leaf if isinstance(leaf, Storage) else leaf.storage for _, leaf in walk(root) if isinstance(leaf, (Storage, Tensor))}


class _Removed:
    def __repr__(self) -> str:
        return "REMOVED"


REMOVED = _Removed()  # stands where None, itself a value, cannot say that an entry is to go
