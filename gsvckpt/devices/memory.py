"""Page-locked memory for transfers to a device, and smaller blocks when the device is nearly full."""

from __future__ import annotations

import torch

_SHARE = 4  # all blocks together take at most one byte in so many of what a device has left: other processes work there, too
_PER_VALUE = 64  # bytes that a block takes on the device for each value


def is_full(error: BaseException) -> bool:
    """Whether an error says that a device's memory is used up: CUDA and its libraries have several ways to say so."""
    text = str(error).lower()
    full = isinstance(error, torch.cuda.OutOfMemoryError)
    return full or (isinstance(error, RuntimeError) and ("out of memory" in text or "alloc_failed" in text))


def free_memory(device: torch.device) -> int | None:
    """Bytes that a device has left for this process, whoever has the others; None where it does not tell."""
    if device.type != "cuda":
        return None
    index = torch.cuda.current_device() if device.index is None else device.index
    kept = torch.cuda.memory_reserved(index) - torch.cuda.memory_allocated(index)  # by torch, for what this process asks for next
    return torch.cuda.mem_get_info(index)[0] + kept


def fitting_block(free: int | None, lanes: int, *, largest: int, smallest: int) -> int:
    """How many values to work on at a time, on so many lanes, in the memory that is left: a power of two times `smallest`, `largest` at most."""
    block = largest
    while free is not None and block > smallest and block * _PER_VALUE * lanes * _SHARE > free:
        block //= 2
    return max(block, smallest)


def staging(count: int, device: torch.device) -> torch.Tensor:
    """Bytes on the host from where a device copies by itself while the host goes on. Where none can be page-locked, others do, only slower."""
    if device.type == "cuda":
        try:
            return torch.empty(count, dtype=torch.uint8, pin_memory=True)
        except RuntimeError as error:  # limits of the system, or of a container
            if not is_full(error):
                raise
    return torch.empty(count, dtype=torch.uint8)
