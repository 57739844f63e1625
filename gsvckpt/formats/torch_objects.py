"""How torch describes tensors and storages in a pickle, for reading and writing (torch/_utils.py, torch/serialization.py)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from gsvckpt.dtypes import DTYPES, STORAGE_DTYPES, UNTYPED, DType
from gsvckpt.errors import DamagedError
from gsvckpt.files import budget
from gsvckpt.model import Global, Storage, Tensor

MAX_DIMS = 64  # torch's own limit
MAX_ELEMENTS = 1 << 62  # beyond this torch's int64 arithmetic overflows
REBUILD_V2, REBUILD_V3 = Global("torch._utils", "_rebuild_tensor_v2"), Global("torch._utils", "_rebuild_tensor_v3")
REBUILD_V1 = Global("torch._utils", "_rebuild_tensor")
_NO_HOOKS: OrderedDict[object, object] = OrderedDict()
_MODULES = ("torch", "torch.storage")
_LENGTHS = {"_rebuild_tensor": (4,), "_rebuild_tensor_v2": (6, 7), "_rebuild_tensor_v3": (7, 8)}  # how many arguments each has


class StorageView(NamedTuple):
    """A part of a storage that stands for one by itself (torch before 0.4): `start` and `numel` count elements."""

    storage: Storage
    start: int
    numel: int


def rebuild(name: Global, args: object) -> Tensor | None:
    """The tensor that a call of `_rebuild_tensor`, `_v2` or `_v3` stands for; None for every other call, which then stays opaque.

    So do tensors with hooks or with conjugate or negative bits, whose bytes mean something else. Raises DamagedError for one that reaches
    outside its storage.
    """
    if name.module != "torch._utils" or name.name not in _LENGTHS or not isinstance(args, tuple) or not args or len(args) not in _LENGTHS[name.name]:
        return None
    has_dtype = name.name == "_rebuild_tensor_v3"
    requires_grad, hooks = args[4:6] if len(args) > 4 else (False, _NO_HOOKS)
    storage, start, shape, stride = args[:4]
    if not isinstance(storage, (Storage, StorageView)) or (len(args) > 6 + has_dtype and args[-1]):
        return None
    root, begin, size = (storage, 0, storage.numel) if isinstance(storage, Storage) else storage
    if type(hooks) is not OrderedDict or hooks or vars(hooks):
        return None
    dtype = _named_dtype(args[6]) if has_dtype else root.dtype
    if dtype is None or (root.dtype is not UNTYPED and dtype is not root.dtype) or not isinstance(requires_grad, bool):
        return None
    if not isinstance(shape, tuple) or not isinstance(stride, tuple) or len(shape) != len(stride) or len(shape) > MAX_DIMS or not _is_size(start):
        raise DamagedError("a tensor with impossible sizes", check="tensor.bounds")
    numel, last = 1, start
    for n, step in zip(shape, stride, strict=True):  # by hand: this runs for every tensor of a file
        if type(n) is not int or type(step) is not int or n < 0 or step < 0:
            raise DamagedError("a tensor with impossible sizes", check="tensor.bounds")
        numel *= n
        last += (n - 1) * step
    nbytes = size * root.dtype.itemsize
    if numel > MAX_ELEMENTS or (numel and (last + 1) * dtype.itemsize > nbytes):
        raise DamagedError(
            f"a tensor of shape {list(shape)[:8]} reaches outside its storage of {nbytes:,} bytes (storage {root.key})", check="tensor.bounds"
        )
    return Tensor(root, dtype, shape, stride, begin + start, requires_grad)


def _named_dtype(value: object) -> DType | None:
    return DTYPES.get(value.name) if isinstance(value, Global) and value.module == "torch" else None


def _is_size(n: object) -> bool:
    return type(n) is int and 0 <= n <= MAX_ELEMENTS


def storage_of(pid: object) -> tuple[str, DType, str, int, object]:
    """Take a persistent id apart into (key, dtype, location, numel, view). Raises DamagedError for anything else than a known storage."""
    if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage":
        raise DamagedError("refers to something that is not a storage")
    _, kind, key, location, numel = pid[:5]
    view = pid[5] if len(pid) == 6 else None
    dtype = STORAGE_DTYPES.get(kind.name) if isinstance(kind, Global) and kind.module in _MODULES else None
    if dtype is None:
        raise DamagedError(f"a storage of the unknown type {kind if isinstance(kind, Global) else '?'}")
    if not isinstance(key, str) or not isinstance(location, str) or not _is_size(numel):
        raise DamagedError("a storage with a key, location or size of the wrong type")
    return key, dtype, location, numel, view


def module_of(pid: object) -> Global | None:
    """The class in a persistent id `("module", class, file of its source, source)`, of which torch writes one for each class of a module that is
    saved whole outside a zip; None for every other id. The source is a text, which torch only compares with its own.
    """
    if not isinstance(pid, tuple) or len(pid) != 4 or pid[0] != "module" or not isinstance(pid[1], Global):
        return None
    return pid[1] if all(part is None or isinstance(part, str) for part in pid[2:]) else None


class StorageTable:
    """Storages by key, so that tensors that share one share it here too."""

    def __init__(self, locate: Callable[[str, DType, str, int], Storage]) -> None:
        self._locate = locate
        self.by_key: dict[str, Storage] = {}

    def persist(self, pid: object) -> Storage | StorageView:
        """Resolve a persistent id. Raises DamagedError when a key comes back as another type or size, which a cast could not keep consistent."""
        key, dtype, location, numel, view = storage_of(pid)
        storage = self.by_key.get(key)
        if storage is None:
            if len(self.by_key) >= budget.MOST_TENSORS:
                raise budget.too_much("storages", budget.MOST_TENSORS, check="pickle.bomb")
            storage = self.by_key[key] = self._locate(key, dtype, location, numel)
        elif (storage.dtype, storage.numel) != (dtype, numel):
            raise DamagedError(f"described twice, as {storage.numel:,} {storage.dtype.name} and as {numel:,} {dtype.name}", where=f"storage {key}")
        return storage if view is None else _view(storage, view)


def _view(storage: Storage, view: object) -> StorageView:
    """The part of a storage that its persistent id tells: (key of the part, its start, its elements)."""
    if not isinstance(view, tuple) or len(view) != 3 or not _is_size(view[1]) or not _is_size(view[2]) or view[1] + view[2] > storage.numel:
        raise DamagedError("is said to be a part of a storage that does not hold it", where=f"storage {storage.key}", check="tensor.bounds")
    return StorageView(storage, view[1], view[2])
