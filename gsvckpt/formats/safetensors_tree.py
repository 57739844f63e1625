"""A whole torch checkpoint in a safetensors file: tensors under their own names, all else in the header's metadata, so that the way back is exact.

`gsvckpt.tree` holds the tree (see tree_json), `gsvckpt.storages` what a header cannot say of storages, `gsvckpt.head` the first two bytes of the zip.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import NamedTuple

from gsvckpt.dtypes import DTYPES, UNTYPED, DType
from gsvckpt.errors import DamagedError, UnsupportedError
from gsvckpt.files.memory import MemorySource
from gsvckpt.formats.heads import PLAIN
from gsvckpt.formats.json_values import Json, read_json, write_json
from gsvckpt.formats.pickle.mentions import globals_of
from gsvckpt.formats.torch_objects import REBUILD_V2, REBUILD_V3, rebuild
from gsvckpt.model import Global, Opaque, OriginalView, Path, Storage, Tensor, contiguous_stride, format_key, storages_of, walk

TREE, STORAGES, HEAD = "gsvckpt.tree", "gsvckpt.storages", "gsvckpt.head"
OWN = (TREE, STORAGES, HEAD)
_HOST = "cpu"


_NOWHERE = Storage("", UNTYPED, 0, _HOST, MemorySource(b"", "nothing"), 0)  # stands for a tensor that is not there any more


class NamedStorage(NamedTuple):
    """A storage under the name and the shape that it has in a safetensors header."""

    name: str
    shape: tuple[int, ...]
    dtype: DType
    storage: Storage


def name_storages(root: object, state_path: Path | None, dtype_of: Callable[[Storage], DType]) -> dict[Storage, NamedStorage]:
    """Every storage under the name of the first tensor that is all of it, else as a row of numbers beside the name of the first that looks into it.

    Names are those of the state dict at `state_path`, as its users know them, and whole paths elsewhere. None stands twice.
    """
    first: dict[Storage, str] = {}
    owners: dict[Storage, tuple[str, Tensor]] = {}
    for path, leaf in walk(root):
        if isinstance(leaf, Opaque):
            continue
        storage = leaf if isinstance(leaf, Storage) else leaf.storage
        name = _dotted(path, state_path)
        first.setdefault(storage, name)
        if isinstance(leaf, Tensor) and storage not in owners and _fills_storage(leaf):
            owners[storage] = name, leaf
    for storage in storages_of(root) - set(first):  # in keys, where no walk leads
        first[storage] = f"storage.{storage.key}"
    taken: set[str] = {"__metadata__"}
    named: dict[Storage, NamedStorage] = {}
    for storage, name in first.items():
        found = owners.get(storage)
        dtype = dtype_of(storage)
        if found is not None:
            dtype = found[1].dtype if storage.dtype is UNTYPED else dtype
            named[storage] = NamedStorage(_free(found[0], taken), found[1].shape, dtype, storage)
        else:
            raw = DTYPES["uint8"] if dtype is UNTYPED else dtype
            named[storage] = NamedStorage(_free(f"{name}.storage", taken), (storage.numel,), raw, storage)
    return named


def describe_tree(root: object, named: Mapping[Storage, NamedStorage], head: str, views: Mapping[Tensor, OriginalView]) -> dict[str, str]:
    """The metadata from which `restore` makes the tree again; none of it where the tree is a dict of tensors and the header says everything."""
    from gsvckpt.formats.tree_json import encode

    facts = _facts(named)
    plain = type(root) is dict and all(isinstance(value, Tensor) and _is_entry(key, value, named) for key, value in root.items())
    if plain and not facts and not views and len({id(value) for value in root.values()} if isinstance(root, dict) else ()) == len(named):
        return {} if head == PLAIN else {HEAD: head}

    def describe(leaf: Tensor | Storage) -> Json:
        if isinstance(leaf, Storage):
            return {"storage": named[leaf].name}
        entry = named[leaf.storage]
        view = views.get(leaf)
        if leaf.shape == entry.shape and _fills_storage(leaf):
            lay: dict[str, Json] = {"lay": [view.group, list(view.stride), view.start]} if view is not None else {}
            lay |= {"requires_grad": True} if leaf.requires_grad else {}
            return {"of": entry.name, **lay} if lay else entry.name
        told: dict[str, Json] = {"of": entry.name, "shape": list(leaf.shape), "stride": list(leaf.stride), "start": leaf.start}
        if leaf.storage.dtype is UNTYPED:
            told["dtype"] = leaf.dtype.name
        return told | {"requires_grad": True} if leaf.requires_grad else told

    found = {TREE: encode(root, describe)}
    found |= {STORAGES: write_json(facts)} if facts else {}
    return found | ({HEAD: head} if head != PLAIN else {})


class RestoredTree(NamedTuple):
    """The tree, every class that it names, and how its tensors lay. `stale` says in what the tree and the tensors differ; then there is no tree."""

    root: object
    names: tuple[Global, ...] = ()
    views: Mapping[Tensor, OriginalView] = {}
    stale: str = ""


def restore(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> RestoredTree:
    """The tree in the metadata, unless another program added, removed or renamed tensors since. Raises DamagedError for a tree that is damaged."""
    from gsvckpt.formats.tree_json import decode

    storages = _restore_storages(tensors, metadata)
    used: set[str] = set()
    lost: list[str] = []
    views: dict[Tensor, OriginalView] = {}

    def resolve(json: Json) -> Tensor | Storage:
        told = json if isinstance(json, dict) else {"of": json}
        name = told.get("of", told.get("storage"))
        if not isinstance(name, str):
            raise _damaged("names a tensor by something that is no text")
        if name not in storages:
            lost.append(name)
            return _NOWHERE if "storage" in told else Tensor(_NOWHERE, UNTYPED, (0,), (1,))
        used.add(name)
        if "storage" in told:
            return storages[name]
        if isinstance(json, dict) and "shape" in json:
            return _view(json, storages[name], tensors[name])
        shape, grad = tensors[name].shape, isinstance(json, dict) and json.get("requires_grad") is True
        made = Tensor(storages[name], tensors[name].dtype, shape, contiguous_stride(shape), requires_grad=grad)
        view = _original(told.get("lay"), shape)
        if view is not None:
            views[made] = view
        return made

    root = decode(metadata[TREE], resolve)
    extra = [name for name in tensors if name not in used]
    if lost or extra:
        told = [f"{what} {_first(names)}" for what, names in (("added were", extra), ("removed were", lost)) if names]
        return RestoredTree(None, stale="; ".join(told))
    return RestoredTree(root, globals_of(root), views)


def _first(names: list[str]) -> str:
    return names[0][:80] + (f" and {len(names) - 1:,} more" if len(names) > 1 else "")


def _original(lay: Json, shape: tuple[int, ...]) -> OriginalView | None:
    """How a tensor lay: [group, steps, start]; None where that is not told, or not of a tensor of this shape any more."""
    if not isinstance(lay, list) or len(lay) != 3 or not isinstance(lay[1], list) or len(lay[1]) != len(shape):
        return None
    numbers = [number for number in (lay[0], lay[2], *lay[1]) if type(number) is int and 0 <= number < 1 << 53]
    return OriginalView(numbers[0], tuple(numbers[2:]), numbers[1]) if len(numbers) == len(shape) + 2 else None


def _restore_storages(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, Storage]:
    facts = read_json(metadata[STORAGES]) if STORAGES in metadata else {}
    if not isinstance(facts, dict) or not all(isinstance(told, dict) for told in facts.values()) or not set(facts) <= {*tensors, "*"}:
        raise _damaged("its description of the storages does not match the tensors")
    storages: dict[str, Storage] = {}
    for name, tensor in tensors.items():
        told = facts.get(name, facts.get("*", {}))
        location, untyped = (told.get("location", _HOST), told.get("untyped", False)) if isinstance(told, dict) else (_HOST, False)
        if not isinstance(location, str) or not isinstance(untyped, bool):
            raise _damaged("its description of the storages has wrong types")
        own = tensor.storage
        dtype, numel = (UNTYPED, own.nbytes) if untyped else (own.dtype, own.numel)
        storages[name] = Storage(own.key, dtype, numel, location, own.source, own.offset)
    return storages


def _view(json: Mapping[str, Json], storage: Storage, entry: Tensor) -> Tensor:
    """A view, checked as one in a pickle is."""
    shape, stride, start, grad = json.get("shape"), json.get("stride"), json.get("start"), json.get("requires_grad", False)
    if not isinstance(shape, list) or not isinstance(stride, list):
        raise _damaged("has a tensor without sizes")
    args: tuple[object, ...] = (storage, start, tuple(shape), tuple(stride), grad, OrderedDict())
    if storage.dtype is UNTYPED:
        made = rebuild(REBUILD_V3, (*args, Global("torch", str(json.get("dtype", entry.dtype.name)))))
    else:
        made = rebuild(REBUILD_V2, args)
    if made is None:
        raise _damaged("has a tensor of an unknown form")
    return made


def _facts(named: Mapping[Storage, NamedStorage]) -> dict[str, Json]:
    """What is to be told of storages: where they were loaded to, and which had no type. The most frequent goes without names, under `*`."""
    told: dict[str, dict[str, Json]] = {}
    for storage, entry in named.items():
        facts: dict[str, Json] = {} if storage.location == _HOST else {"location": storage.location}
        told[entry.name] = facts | ({"untyped": True} if storage.dtype is UNTYPED else {})
    kinds = Counter(map(str, told.values()))
    usual = next((facts for facts in told.values() if 2 * kinds[str(facts)] > len(told)), {}) if len(told) > 1 else {}
    others: dict[str, Json] = {name: facts for name, facts in told.items() if facts != usual}
    return {"*": usual, **others} if usual else others


def _fills_storage(tensor: Tensor) -> bool:
    storage = tensor.storage
    return tensor.stride == contiguous_stride(tensor.shape) and not tensor.start and tensor.nbytes == storage.nbytes


def _is_entry(key: object, tensor: Tensor, named: Mapping[Storage, NamedStorage]) -> bool:
    entry = named[tensor.storage]
    return entry.name == key and entry.shape == tensor.shape and _fills_storage(tensor) and not tensor.requires_grad


def _dotted(path: Path, state_path: Path | None) -> str:
    if state_path and len(path) > len(state_path) and path[: len(state_path)] == state_path:
        path = path[len(state_path) :]
    return ".".join(map(format_key, path)) or "tensor"


def _free(name: str, taken: set[str]) -> str:
    """The name, or one like it that is still free and can be written as text."""
    wanted = name.encode("utf-8", "replace").decode()
    free, number = wanted, 2
    while free in taken:
        free, number = f"{wanted}.{number}", number + 1
    taken.add(free)
    return free


def _damaged(why: str, where: str = "metadata") -> DamagedError:
    return DamagedError(f"the tree in it {why}", where=where, check="container.header")


def require_code(entry: NamedStorage) -> str:
    """The dtype's name in a header. Raises UnsupportedError where safetensors has none."""
    if not entry.dtype.code:
        raise UnsupportedError(
            f"safetensors has no {entry.dtype.name}", where=entry.name, hint="leave it out with --exclude, or keep torch's container"
        )
    return entry.dtype.code
