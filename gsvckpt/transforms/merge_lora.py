"""Merge a LoRA into its base: W + B @ A for every adapted matrix, everything else from the LoRA file if it has it.

peft gives adapters the scaling alpha / rank, which is 1 in GPT-SoVITS, as it trains with alpha = rank (s2_train_v3_lora.py:145-179).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from gsvckpt.dtypes import DTYPES, DType
from gsvckpt.errors import RefusedError, UnsupportedError
from gsvckpt.model import Storage, Tensor
from gsvckpt.transforms.plan import Product
from gsvckpt.transforms.tree import rebuild

_WRAPPED = "cfm.base_model.model."  # peft's name for what it wraps, `cfm.` in the base
_ADAPTER = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])\.default\.weight")


class Merged(NamedTuple):
    """The full state dict, which of its storages are products, and how many tensors came from the base."""

    state: Mapping[str, Tensor]
    products: Mapping[Storage, Product]
    from_base: int


def merge(lora: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> Merged:
    """The base's tensors in its order, with every adapter of `lora` added and its other tensors put in.

    Raises RefusedError, naming the first conflict and their number, where an adapter has no other half, or something has no place in the base or
    another shape there.
    """
    adapters: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Tensor] = {}
    twice: list[tuple[str, str]] = []
    for name, tensor in lora.items():
        match = _ADAPTER.fullmatch(name)
        if match is not None:
            adapters.setdefault(base_name(match["layer"]) + ".weight", {})[match["side"]] = tensor
        elif ".base_layer." not in name:
            twice += [(name, f"takes the place of another in the base, {base_name(name)}")] if base_name(name) in others else []
            others[base_name(name)] = tensor
    twice += [(name, "is both adapted and replaced") for name in adapters if name in others]
    conflicts = [*twice, *_odd_adapters(adapters, base), *_odd_others(others, base)]
    if conflicts:
        where, why = conflicts[0]
        raise RefusedError(f"{why}; {len(conflicts):,} such conflict{'s'[: len(conflicts) != 1]} with the base", where=where)
    products: dict[Storage, Product] = {}
    state: dict[str, Tensor] = {}
    for name, tensor in base.items():
        pair = adapters.get(name)
        if pair is not None:
            product = Product(tensor, pair["B"], pair["A"])
            storage = Storage(name, DTYPES["float32"], tensor.numel, "cpu", tensor.storage.source, tensor.storage.offset)
            products[storage] = product
            state[name] = Tensor(storage, DTYPES["float32"], tensor.shape, tensor.stride)
        else:
            state[name] = others.get(name, tensor)
    return Merged(state, products, len(base) - len(others) - len(adapters))


def put_over(
    root: object, base: Mapping[str, Tensor], merged: Mapping[str, Tensor]
) -> tuple[object, Mapping[Storage, DType], Mapping[Storage, Storage]]:
    """The base's own tree with the merged tensors in it, in the dtypes and with the tags that the base has; which casts that takes, and which storage
    of the merge each new one stands for.
    """
    by_tensor = {id(tensor): merged[name] for name, tensor in base.items()}
    casts: dict[Storage, DType] = {}
    made: dict[Storage, Storage] = {}

    def change(value: object) -> object:
        if not isinstance(value, Tensor) or id(value) not in by_tensor:
            return value
        tensor = by_tensor[id(value)]
        new = tensor.storage
        if new is value.storage:
            return value
        if not all(part.contiguous and not part.start and part.numel == part.storage.numel for part in (tensor, value)):
            raise UnsupportedError("is a view, which cannot take the place of the base's own bytes", where="--over-base")
        storage = replace(new, location=value.storage.location)
        made[storage] = new
        if storage.dtype is not value.dtype:
            casts[storage] = value.dtype
        return replace(value, storage=storage)

    return rebuild(root, change), casts, made


def base_name(name: str) -> str:
    """The base's name for a tensor of a LoRA file."""
    return name.replace(_WRAPPED, "cfm.", 1) if name.startswith(_WRAPPED) else name


def _odd_adapters(adapters: Mapping[str, Mapping[str, Tensor]], base: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for name, pair in adapters.items():
        if len(pair) != 2:
            found.append((name, f"has no lora_{'A' if 'B' in pair else 'B'}"))
            continue
        target, up, down = base.get(name), pair["B"], pair["A"]
        if target is None:
            found.append((name, "is adapted, but the base has no such tensor"))
        elif not (len(up.shape) == len(down.shape) == 2 and target.shape == (up.shape[0], down.shape[1]) and up.shape[1] == down.shape[0]):
            found.append((name, f"shapes {list(up.shape)} and {list(down.shape)} do not make the base's {list(target.shape)}"))
        elif (
            not target.numel or not up.numel or not all(t.dtype.floating and t.contiguous and t.dtype is t.storage.dtype for t in (target, up, down))
        ):
            found.append((name, "is not a plain matrix of floating-point numbers"))
    return found


def _odd_others(others: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    found = [(name, "the base has no such tensor") for name in others if name not in base]
    for name, tensor in others.items():
        if name in base and base[name].shape != tensor.shape:
            found.append((name, f"has shape {list(tensor.shape)}, in the base {list(base[name].shape)}"))
    return found
