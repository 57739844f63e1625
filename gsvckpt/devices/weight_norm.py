"""Weight norms as torch fuses them: `v * (g / norm(v))`, computed by torch itself, as its sums differ from NumPy's in the last bits."""

from __future__ import annotations

import torch

from gsvckpt.dtypes import DType
from gsvckpt.files.streams import buffer

_DTYPES = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def fuse_weight_norm(gain: memoryview, gain_dtype: DType, values: memoryview, dtype: DType, shape: tuple[int, ...]) -> memoryview:
    """The weight of the given shape as little-endian float32, normed over all dimensions but the first (torch/nn/utils/weight_norm.py, dim=0).

    `gain` has one number for each row, `values` all of them, both in row-major order.
    """
    wide = torch.frombuffer(values, dtype=_DTYPES[dtype.name]).view(shape).float()
    gains = torch.frombuffer(gain, dtype=_DTYPES[gain_dtype.name]).view(shape[0], *(1 for _ in shape[1:])).float()
    out = buffer(wide.numel() * 4)
    torch.frombuffer(out, dtype=torch.float32).view(shape).copy_(torch._weight_norm(wide, gains, 0))  # noqa: SLF001 - what its weight_norm calls
    return out
