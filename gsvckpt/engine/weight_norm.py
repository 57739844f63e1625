"""A source that gives the fused weight of a weight norm, in float32."""

from __future__ import annotations

import threading
from math import prod

from gsvckpt.dtypes import DTYPES
from gsvckpt.engine.rearranged import RowByRow
from gsvckpt.errors import DamagedError, RefusedError
from gsvckpt.files.streams import buffer as make_buffer
from gsvckpt.model import Source, Storage, Tensor, contiguous_stride

_FLOAT32 = DTYPES["float32"]


class FusedWeightNorm:
    """The bytes of one weight, computed when the first of them is asked for and kept until the last has been read: the memory of one tensor."""

    def __init__(self, gain: Tensor, values: Tensor) -> None:
        self.path = values.storage.source.path
        self.size = values.numel * _FLOAT32.itemsize
        self._gain, self._values = gain, values
        self._lock = threading.Lock()
        self._made: memoryview | None = None

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer from `offset`. Raises what reading the two tensors raises."""
        end = offset + len(buffer)
        if offset < 0 or end > self.size:
            raise DamagedError(f"ends at byte {self.size:,}", path=self.path)
        with self._lock:
            made = self._made or self._compute()
            buffer[:] = made[offset:end]
            self._made = made if end < self.size else None

    def _compute(self) -> memoryview:
        from gsvckpt.devices.weight_norm import fuse_weight_norm  # with it comes torch

        return fuse_weight_norm(_bytes(self._gain), self._gain.dtype, _bytes(self._values), self._values.dtype, self._values.shape)

    def check_unchanged(self) -> None:
        """Check the file that it is read from."""
        for tensor in (self._gain, self._values):
            RowByRow(tensor).check_unchanged()


def fuse(name: str, gain: Tensor, values: Tensor) -> Tensor:
    """The weight that a weight norm stands for. Raises RefusedError for tensors that are no weight norm over the first dimension."""
    rows = values.shape[:1]
    if not rows or prod(gain.shape) != rows[0] or gain.shape[:1] != rows or not (gain.dtype.floating and values.dtype.floating) or not values.numel:
        raise RefusedError(f"shapes {list(gain.shape)} and {list(values.shape)} are no weight norm over the first dimension", where=name)
    source: Source = FusedWeightNorm(gain, values)
    storage = Storage(f"fused {name}", _FLOAT32, values.numel, values.storage.location, source, 0)
    return Tensor(storage, _FLOAT32, values.shape, contiguous_stride(values.shape))


def _bytes(tensor: Tensor) -> memoryview:
    data = make_buffer(tensor.nbytes)
    RowByRow(tensor).read_into(0, data)
    return data
