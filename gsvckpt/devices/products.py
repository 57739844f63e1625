"""Adding a product of two matrices to a third, as peft merges an adapter (peft/tuners/lora/layer.py, `get_delta_weight` and `merge`)."""

from __future__ import annotations

import torch

from gsvckpt.devices.measures import Matrix
from gsvckpt.model import DType

_DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def add_product(base: Matrix, up: Matrix, down: Matrix, device: str | torch.device) -> memoryview:
    """`base + up @ down` as little-endian float32. TF32 stays off, as torch has it by default, whatever the process has set."""
    precision = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        delta = _upload(up, device) @ _upload(down, device)
        total = _upload(base, device)
        total += delta
    finally:
        torch.backends.cuda.matmul.allow_tf32 = precision
    return total.cpu().reshape(-1).view(torch.uint8).numpy().data


def _upload(matrix: Matrix, device: str | torch.device) -> torch.Tensor:
    raw = torch.frombuffer(matrix.data, dtype=_dtype(matrix.dtype)).reshape(matrix.rows, matrix.columns)
    return raw.to(device, torch.float32, copy=True)  # a copy lies in memory aligned as torch's own


def _dtype(dtype: DType) -> torch.dtype:
    return _DTYPES[dtype.name]
