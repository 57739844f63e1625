"""Rebuilding trees: new values where something changes, and the same sharing of nodes everywhere else."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

from gsvckpt.errors import UnsupportedError
from gsvckpt.model import MAX_DEPTH, Opaque, Path, format_path, state_dict_metadata

Change = Callable[[object], object]


def rebuild(root: object, change: Change) -> object:
    """The tree in which every node and leaf `x` is `change(x)`, asked before its parts, which are then rebuilt in turn.

    A node reached twice becomes one node again, and a tree with cycles keeps them. `change` returns its argument for what stays. Raises
    UnsupportedError below MAX_DEPTH levels.
    """
    return _Rebuilder(change).convert(root, 0)


class _Rebuilder:
    def __init__(self, change: Change) -> None:
        self._change = change
        self._done: dict[int, tuple[object, object]] = {}  # with the original, whose id must stay its own

    def convert(self, value: object, depth: int) -> object:
        if depth > MAX_DEPTH:
            raise UnsupportedError(f"nested deeper than {MAX_DEPTH} levels")
        if id(value) in self._done:
            return self._done[id(value)][1]
        new = self._change(value)
        if isinstance(new, dict):
            made = new_like(new)
            self._done[id(value)] = value, made
            for key, part in new.items():
                made[self.convert(key, depth + 1)] = self.convert(part, depth + 1)
            if len(made) != len(new):
                raise UnsupportedError(f"two of its {len(new):,} keys would become one", where="a dict")
            metadata = state_dict_metadata(new)
            if metadata is not None:
                made._metadata = self.convert(metadata, depth + 1)  # type: ignore[attr-defined]  # noqa: SLF001 - torch's own attribute
            return made
        if isinstance(new, list):
            parts: list[object] = []
            self._done[id(value)] = value, parts
            for part in new:
                parts.append(self.convert(part, depth + 1))  # noqa: PERF401 - a cycle must find the list that is being filled
            return parts
        if isinstance(new, Opaque):
            return self._opaque(value, new, depth)
        if type(new) is tuple:
            items = [self.convert(part, depth + 1) for part in new]
            new = new if all(one is two for one, two in zip(items, new, strict=True)) else tuple(items)
        self._done[id(value)] = value, new
        return new

    def _opaque(self, value: object, new: Opaque, depth: int) -> Opaque:
        args = self.convert(new.args, depth + 1)
        made = Opaque(new.name, new.how, args, [])
        self._done[id(value)] = value, made
        for step, payload in new.steps:
            made.steps.append((step, self._payload(payload, depth + 1)))
        return made

    def _payload(self, payload: object, depth: int) -> object:
        """The items of a step are a list that is nobody's value, so it is never shared."""
        return self.convert(payload, depth)


def new_like(value: dict[object, object]) -> dict[object, object]:
    """An empty dict of the same type."""
    return OrderedDict() if isinstance(value, OrderedDict) else {}


def edited(value: dict[object, object], entries: Mapping[object, object]) -> dict[object, object]:
    """`value` with other entries: the same type, and the `_metadata` that torch hangs on a state dict."""
    made = new_like(value)
    made.update(entries)
    metadata = state_dict_metadata(value)
    if metadata is not None and isinstance(made, OrderedDict):
        made._metadata = metadata  # type: ignore[attr-defined]  # noqa: SLF001 - torch's own attribute
    return made


def put(root: object, path: Path, value: object) -> object:
    """The tree in which `value` stands at `path`; the dicts that lead there are new, everything else is shared with `root`."""
    if not path:
        return value
    if not isinstance(root, dict) or path[0] not in root:
        raise KeyError(format_path(path))
    return edited(root, {key: put(part, path[1:], value) if key == path[0] else part for key, part in root.items()})


def at(root: object, path: Path) -> object:
    """What stands at `path` in nested dicts."""
    for key in path:
        if not isinstance(root, dict):
            raise KeyError(format_path(path))
        root = root[key]
    return root
