"""Compare two trees: values, types, order, float bits, and which nodes are shared."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from gsvckpt.files.budget import LONG_TEXT
from gsvckpt.model import Opaque, Path, Storage, Tensor, children, format_path

ComparedLeaf = Tensor | Storage
_Node = (dict, list, tuple, Opaque)


def first_difference(left: object, right: object, same_leaf: Callable[[ComparedLeaf, ComparedLeaf], bool]) -> str | None:
    """The first place where two trees differ, None when they are equal. `same_leaf` compares tensors and storages.

    A node met again must stand against the node it stood against before, so aliases are compared and each node is entered once.
    """
    twins: dict[int, int] = {}
    taken: set[int] = set()
    alike: set[tuple[int, int]] = set()  # long texts that were compared: one may be referred to a million times
    above: list[object] = []  # the keys that lead to the innermost level
    levels: list[Iterator[tuple[Path, object, object]]] = [iter([((), left, right)])]
    while levels:
        for step, one, two in levels[-1]:
            is_long = isinstance(one, (str, bytes)) and len(one) > LONG_TEXT
            if is_long and (id(one), id(two)) in alike:
                continue
            if not _same(one, two, same_leaf):
                return _place(above, step)
            if is_long:
                alike.add((id(one), id(two)))
            if not isinstance(one, _Node) or one == ():  # the empty tuple is one object everywhere
                continue
            if id(one) in twins:
                if twins[id(one)] != id(two):
                    return _place(above, step)
                continue
            if id(two) in taken or _size(one) != _size(two):  # two nodes became one, or there are parts that only one has
                return _place(above, step)
            twins[id(one)] = id(two)
            taken.add(id(two))
            above.extend(step)
            levels.append(_pairs(one, two))
            break
        else:
            levels.pop()
            del above[-1:]
    return None


def _pairs(one: object, two: object) -> Iterator[tuple[Path, object, object]]:
    """What stands against each other inside two nodes of one size: each key, then its value, with the step that leads there."""
    for (key, value), (other_key, other) in zip(children(one), children(two), strict=True):
        yield (key,), key, other_key
        yield (key,), value, other


def _size(node: object) -> int:
    return sum(1 for _ in children(node))


def _place(above: list[object], step: Path) -> str:
    return format_path((*above, *step)) or "the root"


def _same(one: object, two: object, same_leaf: Callable[[ComparedLeaf, ComparedLeaf], bool]) -> bool:
    if type(one) is not type(two):
        return False
    if isinstance(one, (Tensor, Storage)) and isinstance(two, (Tensor, Storage)):
        return same_leaf(one, two)
    if isinstance(one, float) and isinstance(two, float):
        return struct.pack("<d", one) == struct.pack("<d", two)
    if isinstance(one, Opaque) and isinstance(two, Opaque):
        return one.name == two.name and one.how == two.how
    return isinstance(one, _Node) or one == two
