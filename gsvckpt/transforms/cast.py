"""Casting weights. Views and tied tensors survive, because offsets and strides count elements and only storages change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gsvckpt.dtypes import DType
from gsvckpt.model import Storage, Tensor
from gsvckpt.transforms.plan import Change, Plan


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
