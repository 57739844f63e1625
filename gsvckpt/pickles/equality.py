"""Are two trees the same? Values, types, order, float bits, and which nodes are shared."""

from __future__ import annotations

import struct
from collections.abc import Callable

from gsvckpt.model import Opaque, Path, Storage, Tensor, children, format_path

Leaf = Tensor | Storage
_Node = (dict, list, tuple, Opaque)


def first_difference(left: object, right: object, same_leaf: Callable[[Leaf, Leaf], bool]) -> str | None:
    """The first place where two trees differ, None when they are equal. `same_leaf` compares tensors and storages.

    A node met again must stand against the node it stood against before, so aliases are compared and each node is entered once.
    """
    twins: dict[int, int] = {}
    taken: set[int] = set()
    pending: list[tuple[Path, object, object]] = [((), left, right)]
    while pending:
        path, one, two = pending.pop()
        if not _same(one, two, same_leaf):
            return format_path(path) or "the root"
        if not isinstance(one, _Node) or one == ():  # the empty tuple is one object everywhere
            continue
        if id(one) in twins:
            if twins[id(one)] != id(two):
                return format_path(path)
            continue
        if id(two) in taken:  # two nodes became one
            return format_path(path)
        twins[id(one)] = id(two)
        taken.add(id(two))
        mine, theirs = list(children(one)), list(children(two))
        if len(mine) != len(theirs):
            return format_path(path) or "the root"
        for (key, value), (other_key, other) in zip(reversed(mine), reversed(theirs), strict=True):
            pending.append(((*path, key), value, other))
            pending.append(((*path, key), key, other_key))
    return None


def _same(one: object, two: object, same_leaf: Callable[[Leaf, Leaf], bool]) -> bool:
    if type(one) is not type(two):
        return False
    if isinstance(one, (Tensor, Storage)) and isinstance(two, (Tensor, Storage)):
        return same_leaf(one, two)
    if isinstance(one, float) and isinstance(two, float):
        return struct.pack("<d", one) == struct.pack("<d", two)
    if isinstance(one, Opaque) and isinstance(two, Opaque):
        return one.name == two.name and one.how == two.how
    return isinstance(one, _Node) or one == two
