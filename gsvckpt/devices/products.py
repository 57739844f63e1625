"""Add the product of two matrices to a third, as peft does when it merges an adapter (peft/tuners/lora/layer.py, `get_delta_weight` and `merge`)."""

from __future__ import annotations

import threading

import torch

from gsvckpt.devices.device import Matrix
from gsvckpt.files.streams import buffer

_DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_ONE_AT_A_TIME = threading.Lock()
_results = threading.local()
_deltas: dict[tuple[int, int, torch.device], torch.Tensor] = {}  # the last product's memory: malloc would keep tens of MB of what comes and goes


def add_product(base: Matrix, up: Matrix, down: Matrix, device: str | torch.device) -> memoryview:
    """`base + up @ down` as little-endian float32, in memory that is this thread's until it asks for the next.

    TF32 stays off, as torch has it by default, whatever the process has set. One at a time: torch's product takes all cores itself.
    """
    with _ONE_AT_A_TIME:
        precision = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = False
        try:
            delta = torch.matmul(_upload(up, device), _upload(down, device), out=_delta(base, torch.device(device)))
            out = _result(base.rows * base.columns * 4)
            total = torch.frombuffer(out, dtype=torch.float32).view(base.rows, base.columns)
            if delta.device.type == "cpu":
                total.copy_(_view(base)).add_(delta)
            else:
                total.copy_(_upload(base, device).add_(delta))
        finally:
            torch.backends.cuda.matmul.allow_tf32 = precision
    return out


def _result(size: int) -> memoryview:
    """This thread's memory for results: the system takes longer to give fresh pages than torch to add."""
    known: memoryview = getattr(_results, "memory", memoryview(b""))
    if len(known) < size:
        known = _results.memory = buffer(size)
    return known[:size]


def _delta(base: Matrix, device: torch.device) -> torch.Tensor:
    key = base.rows, base.columns, device
    if key not in _deltas:
        _deltas.clear()
        _deltas[key] = torch.empty(base.rows, base.columns, dtype=torch.float32, device=device)
    return _deltas[key]


def _view(matrix: Matrix) -> torch.Tensor:
    return torch.frombuffer(matrix.data, dtype=_DTYPES[matrix.dtype.name]).view(matrix.rows, matrix.columns)


def _upload(matrix: Matrix, device: str | torch.device) -> torch.Tensor:
    return _view(matrix).to(device, torch.float32, copy=True)  # a copy lies in memory aligned as torch's own
