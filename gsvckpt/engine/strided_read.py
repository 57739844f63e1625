"""Read the elements of a strided tensor in any order, with as few calls and bytes as possible."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from gsvckpt.dtypes import DType
from gsvckpt.files.local import read_bytes
from gsvckpt.model import Storage, Tensor

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TOGETHER = 1 << 22  # elements of one tensor that are brought into row-major order at a time: the more, the less is read between them
_WINDOW = 1 << 18  # bytes read at once for that: twice what can be read in the time of one more call


@dataclass(frozen=True, slots=True)
class Region:
    """The distinct elements of a tensor: `dims` are (size, stride) the longest stride first, as few as can be.

    Equal for tied tensors, transposed and reshaped views, which so are looked at once.
    """

    storage: Storage
    dtype: DType
    start: int
    dims: tuple[tuple[int, int], ...]

    @property
    def extent(self) -> int:
        return 1 + sum((size - 1) * stride for size, stride in self.dims)

    @property
    def numel(self) -> int:
        return prod(size for size, _ in self.dims)

    @property
    def nbytes(self) -> int:
        return self.extent * self.dtype.itemsize

    @property
    def begin(self) -> int:
        return self.start * self.dtype.itemsize

    @property
    def distinct(self) -> bool:
        """Whether every index leads to a different element: each stride is larger than what the shorter ones span."""
        reach = 1
        for size, stride in reversed(self.dims):
            if stride < reach:
                return False
            reach += (size - 1) * stride
        return True

    @property
    def dense(self) -> bool:
        return self.distinct and self.numel == self.extent


def find_region(tensor: Tensor) -> Region:
    """The region that a tensor shows."""
    dims: list[tuple[int, int]] = []
    for stride, size in sorted(zip(tensor.stride, tensor.shape, strict=True), reverse=True):
        if size > 1 and stride:
            if dims and dims[-1][1] == size * stride:  # goes on where the shorter stride ends: the two are one
                size *= dims.pop()[0]  # noqa: PLW2901
            dims.append((size, stride))
    return Region(tensor.storage, tensor.dtype, tensor.start, tuple(dims))


def logical_bytes(tensor: Tensor, together: int = TOGETHER) -> Iterator[memoryview]:
    """A tensor's elements in row-major order, as contiguous bytes, whatever its strides.

    Some at a time, `together` at most, and as many as of any other tensor of that shape.
    """
    pending = [(tensor.start, list(zip(tensor.shape, tensor.stride, strict=True)))] if tensor.numel else []
    while pending:
        start, dims = pending.pop()
        if prod(size for size, _ in dims) <= together:
            yield _gather(tensor, start, dims)
            continue
        at = next(index for index, (size, _) in enumerate(dims) if size > 1)  # halves of the first axis follow each other in row-major order
        size, stride = dims[at]
        half = size // 2
        pending.append((start + half * stride, [*dims[:at], (size - half, stride), *dims[at + 1 :]]))
        pending.append((start, [*dims[:at], (half, stride), *dims[at + 1 :]]))


def _gather(tensor: Tensor, start: int, dims: list[tuple[int, int]]) -> memoryview:
    """The elements that `dims` lead to, in their order, as contiguous bytes."""
    import numpy as np

    out = np.empty([size for size, _ in dims], f"V{tensor.dtype.itemsize}")
    _gather_into(out, tensor, start, dims)
    return out.reshape(-1).view(np.uint8).data


def _gather_into(out: NDArray[np.void], tensor: Tensor, start: int, dims: list[tuple[int, int]]) -> None:
    """Read what lies between the first and the last element at once, where that is little; else half of the widest axis, and then the other."""
    import numpy as np

    itemsize = tensor.dtype.itemsize
    extent = 1 + sum((size - 1) * stride for size, stride in dims)
    if extent * itemsize <= _WINDOW:
        raw = read_bytes(tensor.storage.source, tensor.storage.offset + start * itemsize, extent * itemsize)
        out[...] = np.lib.stride_tricks.as_strided(np.frombuffer(raw, out.dtype), out.shape, [stride * itemsize for _, stride in dims])
        return
    at = max(range(len(dims)), key=lambda i: dims[i][1] if dims[i][0] > 1 else 0)
    size, stride = dims[at]
    for begin, end in ((0, size // 2), (size // 2, size)):
        part = out[(slice(None),) * at + (slice(begin, end),)]
        _gather_into(part, tensor, start + begin * stride, [*dims[:at], (end - begin, stride), *dims[at + 1 :]])
