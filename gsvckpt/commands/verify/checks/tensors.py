"""Checks of tensors: their declared sizes, and their values."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from gsvckpt.commands.verify.findings import Finding, Severity
from gsvckpt.devices.device import Extremes
from gsvckpt.dtypes import DTYPES
from gsvckpt.hints import NO_HINT, Hint
from gsvckpt.model import Storage, Tensor

_LISTED = 20  # tensors named one by one
_NAMED = 3  # in one line
_MOST_REPEATED = 1 << 30  # bytes that a tensor may show beyond those it has
_FLOAT32 = DTYPES["float32"]


def overclaiming(tensors: Mapping[str, Tensor], file_size: int) -> dict[str, Tensor]:
    """Shape bombs: a few bytes repeated until memory runs out.

    A tensor may show other tensors' bytes again, expanded or tied, but all of them together only so many times what the file has.
    """
    left = _MOST_REPEATED + 2 * file_size
    found: dict[str, Tensor] = {}
    seen: set[Storage] = set()
    for name, tensor in tensors.items():
        own = tensor.storage.nbytes if tensor.storage not in seen else 0
        seen.add(tensor.storage)
        left -= max(tensor.nbytes - own, 0)
        if left < 0:
            found[name] = tensor
    return found


def bounds(bombs: Mapping[str, Tensor]) -> list[Finding]:
    """Tensors that would need far more memory than the file has bytes. Opening it has made sure that none reaches outside its storage."""
    ruin = "copying it would exhaust memory (OutOfMemoryError)"
    if len(bombs) > 1:
        ruin = f"so do {len(bombs) - 1:,} more; copying them would exhaust memory (OutOfMemoryError)"
    return [
        Finding(
            "tensor.bounds",
            "error",
            name,
            f"needs {tensor.nbytes:,} bytes of memory, but its storage has {tensor.storage.nbytes:,}; {ruin}",
            Hint("do not load this file"),
            f"shape {list(tensor.shape)[:8]}, stride {list(tensor.stride)[:8]}",
        )
        for name, tensor in bombs.items()
    ][:_LISTED]


def finite(weights: Mapping[str, Tensor], numbers: Mapping[str, Extremes], kept: Collection[str], *, ours: bool) -> list[Finding]:
    """NaN and infinity, tensor by tensor; then, for information, the weights that are all zero or all the same.

    `kept` names what else matters: optimizer state. Other state (a callback's best score) may well be infinite, and so may a constant of another
    model than GPT-SoVITS's (`ours`), as the mask of an attention.
    """
    found: list[Finding] = []
    wild = {name: seen for name, seen in numbers.items() if seen.nan or seen.infinite}
    for name, seen in list(wild.items())[:_LISTED]:
        parts = [f"{count:,} {what}" for count, what in ((seen.nan, "NaN"), (seen.infinite, "infinite")) if count]
        severity: Severity = "info"
        hint = NO_HINT
        if name in weights:
            severity = "error" if seen.nan or ours else "warning"
            hint = Hint("training diverged or the file is damaged: use an earlier one")
        elif name in kept:
            severity = "error"
            hint = Hint("removes the state, as resuming spreads it to the weights; or use an earlier file", "gsvckpt strip-optimizer <SOURCE>")
        found.append(Finding("tensor.finite", severity, name, f"{' and '.join(parts)} of {seen.count:,} values", hint, ", ".join(parts), "0"))
    if len(wild) > _LISTED:
        severity = "error" if any(name in weights or name in kept for name in list(wild)[_LISTED:]) else "info"
        found.append(Finding("tensor.finite", severity, "tensors", f"and {len(wild) - _LISTED:,} more tensors with NaN or infinity"))
    constant = [name for name in weights if name in numbers and numbers[name].only and numbers[name].count > 1]
    zero = dict.fromkeys(name for name in constant if not any(numbers[name].only.rstrip(b"\x80")))
    for names, what in ((list(zero), "all zero"), ([name for name in constant if name not in zero], "all of one value")):
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
            Hint("convert-fp16 keeps such a tensor as it is" if "_codebook." not in name else "sums of the quantizer, which inference does not use"),
            f"{extremes[name].largest:.6g}",
            "at most 65,504",
        )
        for name, tensor in tensors.items()
        if tensor.dtype is _FLOAT32 and name in extremes and extremes[name].beyond
    ][:_LISTED]
