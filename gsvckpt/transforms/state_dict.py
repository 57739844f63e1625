"""Edit a state dict inside a tree, and compare one with a reference. What is not a tensor stays where it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from gsvckpt.errors import RefusedError, UnsupportedError
from gsvckpt.model import MAX_DEPTH, Path, Tensor, format_key, tensor_of, walk
from gsvckpt.transforms.plan import Change, Plan
from gsvckpt.transforms.tree import at, edited, put

Shape = tuple[int, ...]


def keep_tensors(plan: Plan, path: Path, wanted: Callable[[str], bool], step: str) -> Plan:
    """Plan to leave out those tensors of the state dict at `path` that are not wanted, by their dotted names; each is a change.

    Raises UnsupportedError for one inside a list or an object, whose other items would move up.
    """
    gone: dict[str, int] = {}
    state = _filtered(at(plan.root, path), wanted, "", gone, 0)
    root = put(plan.root, path, state)
    for place, leaf in walk(state):
        name = ".".join(map(format_key, place))
        if isinstance(leaf, Tensor) and not wanted(name):
            raise UnsupportedError("is in a list or an object, from which single tensors cannot be removed", where=name)
    return plan.with_root(root, *(Change(step, name, "present", "removed", size) for name, size in gone.items())) if gone else plan


def rename_tensors(plan: Plan, path: Path, names: Mapping[str, str], step: str) -> Plan:
    """Plan to give tensors of a flat state dict other names, in their places.

    Raises RefusedError where one would have the name of another entry, and UnsupportedError for a nested state dict,
    in which dotted names are no keys.
    """
    state = at(plan.root, path)
    renamed = {old: new for old, new in names.items() if old != new}
    if not renamed:
        return plan
    entries: dict[object, object] = {}
    for key, value in state.items() if isinstance(state, dict) else ():
        new = renamed.pop(key, key) if isinstance(key, str) and tensor_of(value) is not None else key
        if new in entries:
            raise RefusedError(f"{key} would have the name of another entry", where=str(new))
        entries[new] = value
    if renamed or not isinstance(state, dict):
        raise UnsupportedError("names inside nested state dicts cannot be changed", where=next(iter(renamed), ""))
    changes = (Change(step, old, old, new) for old, new in names.items() if old != new)
    return plan.with_root(put(plan.root, path, edited(state, entries)), *changes)


def put_tensors(plan: Plan, path: Path, entries: Mapping[str, object], *changes: Change, order: Iterable[str] = ()) -> Plan:
    """Plan to put tensors into the state dict at `path`: in the place of those of the same name, new ones behind them.

    Names in `order` come first, in that order.
    """
    state = at(plan.root, path)
    if not isinstance(state, dict):
        raise UnsupportedError("is not a state dict", where=".".join(map(format_key, path)))
    if entries and any(isinstance(value, dict) for value in state.values()):
        raise UnsupportedError("tensors cannot be put into nested state dicts", where=next(iter(entries)))
    merged = state | dict[object, object](entries)
    first: dict[object, object] = {name: merged[name] for name in order if name in merged}
    return plan.with_root(put(plan.root, path, edited(state, first | merged)), *changes)


def match(tensors: Mapping[str, Tensor], shapes: Mapping[str, Shape]) -> frozenset[str]:
    """The names under which both hold the same shape."""
    return frozenset(name for name, tensor in tensors.items() if shapes.get(name) == tensor.shape)


def conflicts(tensors: Mapping[str, Tensor], shapes: Mapping[str, Shape]) -> list[tuple[str, str]]:
    """(name, why) for tensors that stand in both with different shapes, in order."""
    return [
        (name, f"has shape {list(tensor.shape)}, where the reference has {list(shapes[name])}")
        for name, tensor in tensors.items()
        if name in shapes and shapes[name] != tensor.shape
    ]


def _filtered(node: object, wanted: Callable[[str], bool], prefix: str, gone: dict[str, int], depth: int) -> object:
    if not isinstance(node, dict) or depth > MAX_DEPTH:
        return node
    kept: dict[object, object] = {}
    for key, value in node.items():
        name = f"{prefix}{format_key(key)}"
        tensor = tensor_of(value)
        if tensor is not None and not wanted(name):
            gone[name] = tensor.nbytes
        else:
            kept[key] = _filtered(value, wanted, f"{name}.", gone, depth + 1)
    return node if len(kept) == len(node) and all(kept[key] is node[key] for key in kept) else edited(node, kept)
