"""Whole modules in a checkpoint (`torch.save(model)`): their tensors under the names that `model.state_dict()` would give, without making them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

from gsvckpt.files import budget
from gsvckpt.model import Opaque

_DEEPEST = 64  # modules inside others


def is_module(value: object) -> bool:
    """Whether an object is an nn.Module, by the state that every one has (torch/nn/modules/module.py)."""
    state = value.state if isinstance(value, Opaque) else None
    return isinstance(state, dict) and isinstance(state.get("_parameters"), dict) and isinstance(state.get("_modules"), dict)


def as_states(value: object) -> object:
    """The same tree, in which a module, alone or in dicts, stands as the dict of its parameters, its persistent buffers and its modules' own.

    The order is that of `state_dict()`, and a module that stands in two places has its names in both. A tree without modules is returned as it is.
    Raises UnsupportedError for modules without end.
    """
    return _expand(value, frozenset(), count())


def _expand(value: object, above: frozenset[int], spent: Iterator[int]) -> object:
    """`above` are the dicts and modules that `value` lies in; `spent` counts the modules that were looked into."""
    if id(value) in above or len(above) > _DEEPEST or not isinstance(value, (dict, Opaque)):
        return value
    if is_module(value):
        if next(spent) > budget.MOST_CONTAINERS:
            raise budget.too_much("modules", budget.MOST_CONTAINERS, check="pickle.bomb")
        return _state(value, above | {id(value)}, spent)
    if not isinstance(value, dict) or not any(isinstance(part, dict) or is_module(part) for part in value.values()):
        return value
    found = {key: _expand(part, above | {id(value)}, spent) if _holds_modules(part, spent) else part for key, part in value.items()}
    return found if any(found[key] is not part for key, part in value.items()) else value


def _holds_modules(value: object, spent: Iterator[int]) -> bool:
    """Whether it is worth to look into a value; dicts that reach each other without end are counted as modules are."""
    if is_module(value):
        return True
    return isinstance(value, dict) and next(spent) <= budget.MOST_CONTAINERS


def _state(module: object, above: frozenset[int], spent: Iterator[int]) -> dict[object, object]:
    state = module.state if isinstance(module, Opaque) else None
    if not isinstance(state, dict):
        return {}
    hidden = _names(state.get("_non_persistent_buffers_set"))
    found: dict[object, object] = {key: part for key, part in state["_parameters"].items() if part is not None}
    buffers = state.get("_buffers")
    if isinstance(buffers, dict):
        found |= {key: part for key, part in buffers.items() if part is not None and key not in hidden}
    for key, inner in state["_modules"].items():
        if is_module(inner):
            found[key] = _expand(inner, above, spent)
    return found


def _names(value: object) -> frozenset[object]:
    """The names in a pickled set."""
    args = value.args if isinstance(value, Opaque) else None
    names = args[0] if isinstance(args, tuple) and args else None
    return frozenset(name for name in names if isinstance(name, str)) if isinstance(names, (list, tuple)) else frozenset()
