"""List what a tree of values names, and which of its objects are kept as recipes."""

from __future__ import annotations

from collections.abc import Iterator

from gsvckpt.model import Global, Opaque, children


def globals_of(root: object) -> tuple[Global, ...]:
    """Every class and function that a tree names, in keys too, as `Checkpoint.globals` has those of a pickle."""
    return tuple(dict.fromkeys(node if isinstance(node, Global) else node.name for node in _named_in(root)))


def objects_of(root: object) -> Iterator[Opaque]:
    """Every object in a tree that is kept as its recipe, in keys too."""
    return (node for node in _named_in(root) if isinstance(node, Opaque))


def _named_in(root: object) -> Iterator[Global | Opaque]:
    seen: set[int] = set()
    pending: list[object] = [root]
    while pending:
        node = pending.pop()
        if isinstance(node, Global):
            yield node
        if id(node) in seen or not isinstance(node, (dict, list, tuple, Opaque)):
            continue
        seen.add(id(node))
        if isinstance(node, Opaque):
            yield node
        for pair in children(node):
            pending.extend(pair)
