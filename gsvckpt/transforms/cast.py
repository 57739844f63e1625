"""Cast weights. Views and tied tensors survive: offsets and strides count elements, and only storages change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import NamedTuple

from gsvckpt.dtypes import DType
from gsvckpt.model import Storage, Tensor, walk
from gsvckpt.transforms.plan import Change, Plan


class Selection(NamedTuple):
    """Which tensors a cast takes: `chosen`, and of the floating ones those `kept`, by wish or because something else shares their bytes."""

    chosen: Mapping[str, Tensor]
    kept: Mapping[str, Tensor]
    unchanged: Mapping[str, Tensor]


def select(
    root: object, weights: Mapping[str, Tensor], dtype: DType, keep: Sequence[str] = (), casts: Mapping[Storage, DType] = MappingProxyType({})
) -> Selection:
    """Sort `weights` (name -> tensor) by what a cast to `dtype` does. A storage is all or nothing: one kept view keeps it.

    `casts` are those that are planned already.
    Integers, booleans, float8 and values already of `dtype` are unchanged. A storage that anything besides `weights` refers to is kept, and so is an
    untyped one, whose size does not count elements.
    """
    wanted = {name: tensor for name, tensor in weights.items() if tensor.dtype.floating and casts.get(tensor.storage, tensor.dtype) is not dtype}
    if not wanted:
        return Selection({}, {}, weights)
    own = {id(tensor) for tensor in weights.values()}
    foreign = set(_foreign(root, own))
    foreign |= {tensor.storage for name, tensor in wanted.items() if any(fnmatchcase(name, glob) for glob in keep)}
    foreign |= {tensor.storage for tensor in wanted.values() if tensor.storage.dtype is not tensor.dtype}
    chosen = {name: tensor for name, tensor in wanted.items() if tensor.storage not in foreign}
    kept = {name: tensor for name, tensor in wanted.items() if tensor.storage in foreign}
    unchanged = {name: tensor for name, tensor in weights.items() if name not in wanted}
    return Selection(chosen, kept, unchanged)


def cast(plan: Plan, tensors: Mapping[str, Tensor], dtype: DType, *, clamp: bool = False) -> Plan:
    """Plan to write these tensors' storages as `dtype`, whatever was planned for them before."""
    storages = {tensor.storage: plan.dtype_of(tensor.storage) for tensor in tensors.values()}
    counts: dict[DType, list[Storage]] = {}
    for storage, before in storages.items():
        if before is not dtype:
            counts.setdefault(before, []).append(storage)
    changes = tuple(
        Change("cast", f"{len(group):,} storages", before.name, dtype.name, sum(s.numel * (before.itemsize - dtype.itemsize) for s in group))
        for before, group in counts.items()
    )
    casts = {**plan.casts, **dict.fromkeys(storages, dtype)}
    casts = {storage: to for storage, to in casts.items() if to is not storage.dtype}
    return replace(plan, casts=casts, clamp=clamp or plan.clamp, changes=(*plan.changes, *changes))


def _foreign(root: object, own: set[int]) -> Iterator[Storage]:
    for _, leaf in walk(root):
        if isinstance(leaf, Storage):
            yield leaf
        elif isinstance(leaf, Tensor) and id(leaf) not in own:
            yield leaf.storage
