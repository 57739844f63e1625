"""Casting weights. Views and tied tensors survive, because offsets and strides count elements and only storages change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from gsvckpt.model import DType, Storage, Tensor
from gsvckpt.transforms.plan import Change, Plan


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
