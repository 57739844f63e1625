"""Casting weights. Views and tied tensors survive, because offsets and strides count elements and only storages change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from gsvckpt.model import DType, Storage, Tensor, format_path, walk
from gsvckpt.transforms.plan import Change, Plan


@dataclass(frozen=True, slots=True)
class Selection:
    """Which tensors a cast takes: `chosen` and, of the floating ones, those `kept` by the user's wish or because something else shares their bytes."""

    chosen: Mapping[str, Tensor]
    kept: Mapping[str, Tensor]
    unchanged: Mapping[str, Tensor]


def select(root: object, weights: Mapping[str, Tensor], dtype: DType, keep: Sequence[str] = ()) -> Selection:
    """Sort `weights` (name -> tensor) by what a cast to `dtype` does. A storage is all or nothing: one kept view keeps it.

    Integers, booleans, float8 and values already of `dtype` are unchanged. A storage that anything besides `weights` refers to is kept, and so is an
    untyped one, whose size does not count elements.
    """
    wanted = {name: tensor for name, tensor in weights.items() if tensor.dtype.floating and tensor.dtype is not dtype}
    own = {id(tensor) for tensor in weights.values()}
    foreign = {storage for path, storage in _foreign(root, own)}
    foreign |= {tensor.storage for name, tensor in wanted.items() if any(fnmatchcase(name, glob) for glob in keep)}
    foreign |= {tensor.storage for tensor in wanted.values() if tensor.storage.dtype is not tensor.dtype}
    chosen = {name: tensor for name, tensor in wanted.items() if tensor.storage not in foreign}
    kept = {name: tensor for name, tensor in wanted.items() if tensor.storage in foreign}
    unchanged = {name: tensor for name, tensor in weights.items() if name not in wanted}
    return Selection(chosen, kept, unchanged)


def _foreign(root: object, own: set[int]) -> Iterable[tuple[str, Storage]]:
    for path, leaf in walk(root):
        if isinstance(leaf, Storage):
            yield format_path(path), leaf
        elif isinstance(leaf, Tensor) and id(leaf) not in own:
            yield format_path(path), leaf.storage


def cast(plan: Plan, tensors: Mapping[str, Tensor], dtype: DType, *, clamp: bool = False) -> Plan:
    """Plan to write these tensors' storages as `dtype`."""
    storages = {tensor.storage: tensor.dtype for tensor in tensors.values()}
    counts: dict[DType, list[Storage]] = {}
    for storage, before in storages.items():
        counts.setdefault(before, []).append(storage)
    changes = tuple(
        Change("cast", f"{len(group):,} storages", before.name, dtype.name, sum(s.nbytes - s.numel * dtype.itemsize for s in group))
        for before, group in counts.items()
    )
    return replace(plan, casts={**plan.casts, **dict.fromkeys(storages, dtype)}, clamp=clamp, changes=(*plan.changes, *changes))
