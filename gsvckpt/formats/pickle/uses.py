"""Track values that readers copy or hash, at the moment they do, because the value may change afterwards.

A call copies its arguments, and NumPy and torch keep addresses that they took from them. So an honest pickle never changes what it has given to a
call or set as a state; if one does, readers see other values than those at the end. Hashing recurses in C without a guard, so what is hashed must be
small: a tuple 400,000 levels deep ends the process, and one that shares its halves 60 times never finishes.
"""

from __future__ import annotations

from gsvckpt.errors import UnsupportedError
from gsvckpt.files import budget
from gsvckpt.formats.pickle.state import State
from gsvckpt.model import Doubt, Global, Opaque, Storage, Tensor

MAX_KEY = (1 << 61) - 1  # larger ints can be made to collide in a dict, which makes filling it quadratic
_FEW, _LONG = 64, 1 << 12  # items and characters from which on a copy is charged
_MOST_PARTS, _DEEPEST = 1_000, 32  # of an object that is hashed; those shared count each time
_KEEP_ADDRESSES = ("torch._utils", "torch._tensor", "torch.storage")
_SCALARS = (str, int, float, bytes)
_CHANGED = Doubt("pickle", "changes a value after something was made from it; readers may keep the earlier value")


def take(m: State, name: Global, value: object) -> None:
    """`value` are the arguments of a call, or a state. Raises UnsupportedError where copies come to more than the pickle holds."""
    deep = name.module in _KEEP_ADDRESSES or name.module.partition(".")[0] == "numpy"
    pending: list[tuple[object, int]] = [(value, 0)]
    while pending:
        node, depth = pending.pop()
        if isinstance(node, (str, bytes)):
            if len(node) > _LONG:
                m.charge(len(node))
            continue
        if isinstance(node, (list, dict)):
            if len(node) > _FEW:
                m.charge(len(node))
            if id(node) in m.taken:
                continue
            m.taken[id(node)] = node
            if deep:
                pending += [(part, depth + 1) for part in (node.values() if isinstance(node, dict) else node)]
        elif isinstance(node, tuple) and (deep or not depth):
            if len(node) > _FEW:
                m.charge(len(node))
            if depth and id(node) in m.taken:
                continue
            if deep and depth:
                m.taken[id(node)] = node
            pending += [(part, depth + 1) for part in node]
        elif isinstance(node, Opaque) and deep and id(node) not in m.taken:
            m.taken[id(node)] = node
            pending += [(node.args, depth + 1), *((payload, depth + 1) for _, payload in node.steps)]


def change(m: State, target: object) -> None:
    """`target` is changed: a doubt where something was made from it."""
    if id(target) in m.taken and _CHANGED not in m.doubts:
        m.doubts.append(_CHANGED)


def hash_key(m: State, key: object, owner: object) -> None:
    """`key` is set in the dict or set `owner`. Raises UnsupportedError for one that readers cannot hash at a small cost."""
    if type(key) is str and len(key) <= budget.LONG_TEXT:
        return
    for part in key if isinstance(key, tuple) and len(key) <= _FEW else (key,):
        if isinstance(part, int) and abs(part) > MAX_KEY:
            raise UnsupportedError("an integer key beyond 61 bits")
        if isinstance(part, Opaque):
            _require_small(part)
        elif part is not None and not isinstance(part, (*_SCALARS, Global, Tensor, Storage)):
            raise UnsupportedError(f"a {type(part).__name__} as a key")
    if type(key) is not int:  # two of those never have the same hash
        m.comparisons.count(key, owner)


def _require_small(made: Opaque) -> None:
    pending: list[tuple[object, int]] = [(made, 0)]
    parts = 0
    while pending:
        node, depth = pending.pop()
        parts += 1
        if parts > _MOST_PARTS or depth > _DEEPEST:
            raise UnsupportedError(f"a {made.name} of more than {_MOST_PARTS:,} parts as a key", check="pickle.bomb")
        if isinstance(node, Opaque):
            pending += [(node.args, depth + 1), *((payload, depth + 1) for _, payload in node.steps)]
        elif isinstance(node, dict):
            pending += [(part, depth + 1) for pair in node.items() for part in pair]
        elif isinstance(node, (list, tuple)):
            pending += [(part, depth + 1) for part in node]
