"""Make a tree that opens anywhere: no classes, no path objects, no tags of devices that the reader may lack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gsvckpt.model import Opaque, Storage, Tensor, format_path, walk
from gsvckpt.transforms.plan import Change, Plan
from gsvckpt.transforms.tree import rebuild

HOST = "cpu"
_WORDS: dict[type, str] = {str: "text", dict: "dict", list: "list", Tensor: "tensor"}  # what an object became


def simplify(plan: Plan, simple: Callable[[Opaque], object]) -> Plan:
    """Plan to put plain values in the place of objects, and to load every storage on the host.

    `simple` gives the plain value of an object, or the object itself where there is none.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for path, leaf in walk(plan.root):
        if isinstance(leaf, Opaque):
            value = simple(leaf)
            if value is not leaf:
                found.setdefault((str(leaf.name), _form(value)), []).append(format_path(path))
    found_in_keys = _count_keys(plan.root, simple)
    storages = _Storages()

    def change(value: object) -> object:
        if isinstance(value, Opaque):
            return simple(value)
        if isinstance(value, Tensor):
            storage = storages.on_host(value.storage)
            return value if storage is value.storage else replace(value, storage=storage)
        return storages.on_host(value) if isinstance(value, Storage) else value

    root = rebuild(plan.root, change)
    changes = [Change("plain", _places(places), name, form) for (name, form), places in found.items()]
    changes += [Change("plain", "keys of dicts", f"{count} objects", form) for form, count in found_in_keys.items()]
    changes += [Change("plain", f"{count:,} storages", location, HOST) for location, count in storages.moved.items()]
    if not changes:
        return plan
    casts = {storages.on_host(storage): dtype for storage, dtype in plan.casts.items()}
    products = {storages.on_host(storage): product for storage, product in plan.products.items()}
    return replace(plan, casts=casts, products=products).with_root(root, *changes)


class _Storages:
    """The same storages with another tag. Each one becomes one other, however many tensors look at it."""

    def __init__(self) -> None:
        self._made: dict[Storage, Storage] = {}
        self.moved: dict[str, int] = {}

    def on_host(self, storage: Storage) -> Storage:
        if storage.location == HOST:
            return storage
        if storage not in self._made:
            self._made[storage] = replace(storage, location=HOST)
            self.moved[storage.location] = self.moved.get(storage.location, 0) + 1
        return self._made[storage]


def _count_keys(root: object, simple: Callable[[Opaque], object]) -> dict[str, int]:
    """Objects that are keys of dicts, which `walk` passes over, by what they become."""
    seen: set[int] = set()
    found: dict[str, int] = {}
    pending = [root]
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, dict):
            for key in value:
                form = _form(simple(key)) if isinstance(key, Opaque) and simple(key) is not key else None
                if form is not None:
                    found[form] = found.get(form, 0) + 1
            pending += value.values()
        elif isinstance(value, (list, tuple)):
            pending += value
        elif isinstance(value, Opaque):
            pending += [value.args, *(payload for _, payload in value.steps)]
    return found


def _form(value: object) -> str:
    return next((word for kind, word in _WORDS.items() if isinstance(value, kind)), "number")


def _places(places: list[str]) -> str:
    return places[0] if len(places) == 1 else f"{places[0]} and {len(places) - 1:,} more"
