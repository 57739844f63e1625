"""List what `torch.load(weights_only=True)` refuses: every class and function not on torch's own list (torch/_weights_only_unpickler.py)."""

from __future__ import annotations

from collections import Counter

from gsvckpt.formats.pickle.python2 import readings
from gsvckpt.formats.pickle.torch_names import ALLOWED
from gsvckpt.hints import quote_word
from gsvckpt.model import Global, Opaque, children

_MAPPINGS = frozenset({Global("collections", "OrderedDict"), Global("collections", "Counter")})
_MOST_TOLD, _MOST_DROPPED = 5, 12  # classes, and root entries, in a warning
_EMPTY_BYTES = Global("builtins", "bytes")  # protocol 2 calls it for b""


def is_allowed(name: Global) -> bool:
    """Whether torch allows the name by default."""
    read = readings(name)[-1]
    return read.name in ALLOWED.get(read.module, ())


def refused(root: object) -> Counter[Global]:
    """The objects in a tree that torch refuses, by their names; keys count, too."""
    found: Counter[Global] = Counter()
    seen: set[int] = set()
    pending = [root]
    while pending:
        node = pending.pop()
        if isinstance(node, Global):
            found[node] += not is_allowed(node)
        elif isinstance(node, bytes):
            found[_EMPTY_BYTES] += not node
        if id(node) in seen or not isinstance(node, (dict, list, tuple, Opaque)):
            continue
        seen.add(id(node))
        if isinstance(node, Opaque):
            found[node.name] += not is_allowed(node.name) or any(
                step == "append" or (step == "setitem" and node.name not in _MAPPINGS) for step, _ in node.steps
            )
        for pair in children(node):
            pending.extend(pair)
    return +found


def tell_refused(root: object) -> list[str]:
    """A warning that names what torch refuses; none where it opens the tree."""
    found = refused(root)
    if not found:
        return []
    told = [f"{name} ({count:,})" for name, count in found.most_common(_MOST_TOLD)]
    rest = [f"{len(found) - _MOST_TOLD:,} more"] if len(found) > _MOST_TOLD else []
    keys = [key for key, value in root.items() if isinstance(key, str) and refused(value)] if isinstance(root, dict) else []
    drops = " ".join(f"--drop {quote_word(key)}" for key in keys)
    mend = f"; strip-optimizer {drops} removes what they are in" if 0 < len(keys) <= _MOST_DROPPED else ""
    return [f"torch.load(weights_only=True) refuses the remaining classes: {', '.join(told + rest)}{mend}"]
