"""Rebuild trees: new values where something changes, with the same sharing of nodes everywhere else."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

from gsvckpt.errors import UnsupportedError
from gsvckpt.model import MAX_DEPTH, Opaque, Path, format_path, state_dict_metadata

NodeChange = Callable[[object], object]


def rebuild(root: object, change: NodeChange) -> object:
    """The tree in which every node and leaf `x` is `change(x)`, asked before its parts, which are then rebuilt in turn.

    A node reached twice becomes one node again, and a tree with cycles keeps them. `change` returns its argument for what stays. Raises
    UnsupportedError below MAX_DEPTH levels.
    """
    return _Rebuilder(change).run(root)


class _Rebuilder:
    """Lists, dicts and objects are made empty and filled later, so whatever contains itself finds itself there."""

    def __init__(self, change: NodeChange) -> None:
        self._change = change
        self._done: dict[int, tuple[object, object]] = {}  # with the original, whose id must stay its own
        self._unfilled: list[tuple[object, object, int]] = []

    def run(self, root: object) -> object:
        made = self._make(root, 0)
        while self._unfilled:
            self._fill(*self._unfilled.pop())
        return made

    def _make(self, value: object, depth: int) -> object:
        if id(value) in self._done:
            return self._done[id(value)][1]
        if depth > MAX_DEPTH:
            raise UnsupportedError(f"nested deeper than {MAX_DEPTH} levels")
        new = self._change(value)
        made: object = new
        if isinstance(new, (dict, list, Opaque)):
            made = new_like(new) if isinstance(new, dict) else [] if isinstance(new, list) else self._begin(new, depth)
            self._unfilled.append((new, made, depth + 1))
        elif type(new) is tuple:
            items = [self._make(part, depth + 1) for part in new]
            made = new if all(one is two for one, two in zip(items, new, strict=True)) else tuple(items)
        self._done[id(value)] = value, made
        return made

    def _begin(self, value: Opaque, depth: int) -> Opaque:
        """An object without its steps; what it is made with has to be there before it is."""
        return Opaque(value.name, value.how, self._make(value.args, depth + 1), [])

    def _fill(self, new: object, made: object, depth: int) -> None:
        if isinstance(new, dict) and isinstance(made, dict):
            for key, part in new.items():
                made_key, made_part = self._make(key, depth), self._make(part, depth)
                try:
                    made[made_key] = made_part
                except TypeError as error:
                    raise UnsupportedError(f"the key {format_path((key,))} would become something that cannot be a key", where="a dict") from error
            if len(made) != len(new):
                raise UnsupportedError(f"two of its {len(new):,} keys would become one", where="a dict")
            metadata = state_dict_metadata(new)
            if metadata is not None:
                made._metadata = self._make(metadata, depth)  # type: ignore[attr-defined]  # noqa: SLF001 - torch's own attribute
        elif isinstance(new, list) and isinstance(made, list):
            made.extend(self._make(part, depth) for part in new)
        elif isinstance(new, Opaque) and isinstance(made, Opaque):
            made.steps.extend((step, self._make(payload, depth)) for step, payload in new.steps)


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
