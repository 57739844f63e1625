"""Checks of tensors: what they claim, and the numbers in them."""

from __future__ import annotations

from collections.abc import Mapping

from gsvckpt.devices.measures import Extremes
from gsvckpt.findings import Finding
from gsvckpt.model import DTYPES, Tensor

_LISTED = 20  # tensors named one by one
_NAMED = 3  # in one line
_MOST_REPEATED = 1 << 30  # bytes that a tensor may show beyond those it has
_FLOAT32 = DTYPES["float32"]


def claims_too_much(tensor: Tensor) -> bool:
    """A shape bomb: a few bytes that are to be repeated until memory is full."""
    return tensor.nbytes - tensor.storage.nbytes > _MOST_REPEATED


def bounds(tensors: Mapping[str, Tensor]) -> list[Finding]:
    """Tensors that would need far more memory than the file has bytes. Opening it has made sure that none reaches outside its storage."""
    return [
        Finding(
            "tensor.bounds",
            "error",
            name,
            f"claims {tensor.nbytes:,} bytes that are {tensor.storage.nbytes:,} bytes repeated; whoever copies it runs out of memory",
            "do not load this file",
            f"shape {list(tensor.shape)[:8]}, stride {list(tensor.stride)[:8]}",
        )
        for name, tensor in tensors.items()
        if claims_too_much(tensor)
    ][:_LISTED]


def finite(weights: Mapping[str, Tensor], extremes: Mapping[str, Extremes]) -> list[Finding]:
    """NaN and infinity, tensor by tensor; then, for information, the weights that are all zero or all the same."""
    found: list[Finding] = []
    wild = [(name, numbers) for name, numbers in extremes.items() if numbers.nan or numbers.infinite]
    for name, numbers in wild[:_LISTED]:
        parts = [f"{count:,} {what}" for count, what in ((numbers.nan, "NaN"), (numbers.infinite, "infinite")) if count]
        hint = "training diverged or the file is damaged: use an earlier one" if name in weights else "resuming from it spreads to the weights"
        found.append(Finding("tensor.finite", "error", name, f"{' and '.join(parts)} of {numbers.count:,} values", hint, ", ".join(parts), "0"))
    if len(wild) > _LISTED:
        found.append(Finding("tensor.finite", "error", "tensors", f"and {len(wild) - _LISTED:,} more tensors with NaN or infinity"))
    constant = [name for name in weights if name in extremes and extremes[name].only and extremes[name].count > 1]
    zero = [name for name in constant if not any(extremes[name].only.rstrip(b"\x80"))]
    for names, what in ((zero, "all zero"), ([name for name in constant if name not in set(zero)], "all of one value")):
        if names:
            more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
            verb = "is" if len(names) == 1 else "are"
            found.append(Finding("tensor.finite", "info", names[0], f"{', '.join(names[:_NAMED])}{more} {verb} {what}", found=str(len(names))))
    return found


def ranges(tensors: Mapping[str, Tensor], extremes: Mapping[str, Extremes]) -> list[Finding]:
    """float32 weights with values that float16 cannot hold; GPT-SoVITS casts what it saves for inference (process_ckpt.py:48)."""
    return [
        Finding(
            "tensor.range",
            "info" if "_codebook." in name else "warning",
            name,
            f"{extremes[name].beyond:,} values are beyond float16: they become infinite when GPT-SoVITS saves weights for inference",
            "convert-fp16 keeps such a tensor as it is" if "_codebook." not in name else "sums of the quantizer, which inference does not use",
            f"{extremes[name].largest:.6g}",
            "at most 65,504",
        )
        for name, tensor in tensors.items()
        if tensor.dtype is _FLOAT32 and name in extremes and extremes[name].beyond
    ][:_LISTED]
