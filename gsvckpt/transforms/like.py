"""Comparing a state dict with a reference: what has its name and shape there, and what does not."""

from __future__ import annotations

from collections.abc import Mapping

from gsvckpt.model import Tensor

Shape = tuple[int, ...]


def match(tensors: Mapping[str, Tensor], shapes: Mapping[str, Shape]) -> frozenset[str]:
    """The names under which both hold the same shape."""
    return frozenset(name for name, tensor in tensors.items() if shapes.get(name) == tensor.shape)


def conflicts(tensors: Mapping[str, Tensor], shapes: Mapping[str, Shape]) -> list[tuple[str, str]]:
    """(name, why) for tensors that stand in both with different shapes, in order."""
    return [
        (name, f"has shape {list(tensor.shape)}, where the reference has {list(shapes[name])}")
        for name, tensor in tensors.items()
        if name in shapes and shapes[name] != tensor.shape
    ]
