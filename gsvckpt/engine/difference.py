"""Compare two models tensor by tensor, in chunks, so that memory does not grow with the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import nan, prod

from gsvckpt.devices.device import Device
from gsvckpt.engine.strided_read import TOGETHER, find_region, logical_bytes
from gsvckpt.errors import UnsupportedError
from gsvckpt.files.progress import Progress
from gsvckpt.files.streams import CHUNK, Buffers, Stopped, check_unchanged, chunks, for_each
from gsvckpt.model import Tensor

_TOGETHER = TOGETHER // 4  # as there are two, and the next two are read while these are still there


@dataclass(frozen=True, slots=True)
class Difference:
    """How two sets of tensors differ. Values are compared as numbers, also across dtypes and layouts, and only between equal shapes."""

    only_left: tuple[str, ...]
    only_right: tuple[str, ...]
    changed_shape: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    changed_dtype: tuple[tuple[str, str, str], ...]
    values: tuple[tuple[str, float], ...]
    """Names with the largest absolute difference, unless it is zero. NaN: they are not known to be equal and cannot be compared."""

    @property
    def equal(self) -> bool:
        """Same names, shapes, dtypes and values."""
        return not (self.only_left or self.only_right or self.changed_shape or self.changed_dtype or self.values)


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """Two tensors of one shape; `dims` are (size, stride in one, stride in two), the longest stride first, without those that change nothing."""

    one: Tensor
    two: Tensor
    dims: tuple[tuple[int, int, int], ...]

    @property
    def nbytes(self) -> int:
        return find_region(self.one).nbytes + find_region(self.two).nbytes


def differences(one: Mapping[str, Tensor], two: Mapping[str, Tensor], device: Device, jobs: int, progress: Progress) -> Difference:
    """Compare tensors by name. Equal bytes are equal without arithmetic; NaN equals NaN, and differs from anything else by infinity.

    Raises DamagedError when a storage that a tensor fills does not have its checksum, where the two layouts are the same, and ChangedError when a
    file changed meanwhile.
    """
    both = [name for name in one if name in two]
    shapes = tuple((name, one[name].shape, two[name].shape) for name in both if one[name].shape != two[name].shape)
    dtypes = tuple((name, one[name].dtype.name, two[name].dtype.name) for name in both if one[name].dtype is not two[name].dtype)
    pairs = {name: _pair(one[name], two[name]) for name in both if one[name].shape == two[name].shape and one[name].numel}
    progress.expect(sum(pair.nbytes for pair in pairs.values()))
    found = for_each(pairs.values(), lambda pair, buffers: _compare(pair, device, buffers), jobs=jobs, progress=progress)
    check_unchanged(tensor.storage.source for pair in pairs.values() for tensor in (pair.one, pair.two))
    values = tuple((name, found[pair]) for name, pair in pairs.items() if found[pair] != 0.0)
    return Difference(tuple(n for n in one if n not in two), tuple(n for n in two if n not in one), shapes, dtypes, values)


def _pair(one: Tensor, two: Tensor) -> _Pair:
    dims = zip(one.shape, one.stride, two.stride, strict=True)
    return _Pair(one, two, tuple(sorted((dim for dim in dims if dim[0] > 1 and any(dim[1:])), key=lambda dim: (-dim[1], -dim[2]))))


def _compare(pair: _Pair, device: Device, buffers: Buffers) -> float:
    """The largest difference; NaN when it cannot be told."""
    alike = all(left == right for _, left, right in pair.dims)
    try:
        if alike:
            worst = _compare_in_place(pair, device, buffers)
            if worst == 0.0 or find_region(pair.one).dense:
                return worst
        spans = find_region(pair.one).extent, find_region(pair.two).extent
        if prod(size for size, _, _ in pair.dims) > max(spans):
            return nan  # both repeat their elements, perhaps without end
        worst = _compare_in_order(pair, device, buffers)
        if not alike:
            buffers.progress.advance(pair.nbytes)
    except UnsupportedError:
        return nan
    return worst


def _compare_in_place(pair: _Pair, device: Device, buffers: Buffers) -> float:
    """The largest difference of two regions of one layout, gaps and all."""
    left, right = find_region(pair.one), find_region(pair.two)
    count = CHUNK // max(left.dtype.itemsize, right.dtype.itemsize)
    streams = (
        chunks(left.storage, buffers, left.begin, left.begin + left.nbytes, step=count * left.dtype.itemsize),
        chunks(
            right.storage,
            buffers,
            right.begin,
            right.begin + right.nbytes,
            step=count * right.dtype.itemsize,
            into=lambda _, count: buffers.out[:count],
        ),
    )
    worst = 0.0
    for (_, one), (_, two) in zip(*streams, strict=True):
        if left.dtype is not right.dtype or bytearray(one) != two:  # memoryviews compare item by item
            worst = max(worst, device.max_difference(one, left.dtype, two, right.dtype))
    return worst


def _compare_in_order(pair: _Pair, device: Device, buffers: Buffers) -> float:
    """The largest difference of two tensors of different layout: piece by piece, each gathered from both into the same order."""
    sizes = tuple(size for size, _, _ in pair.dims)
    one = replace(pair.one, shape=sizes, stride=tuple(step for _, step, _ in pair.dims))
    two = replace(pair.two, shape=sizes, stride=tuple(step for _, _, step in pair.dims))
    worst = 0.0
    for left, right in zip(logical_bytes(one, _TOGETHER), logical_bytes(two, _TOGETHER), strict=True):
        if buffers.stop.is_set():
            raise Stopped
        worst = max(worst, device.max_difference(left, one.dtype, right, two.dtype))
    return worst


def count_differences(mine: Tensor, theirs: Tensor, nbytes: int, buffers: Buffers) -> int:
    """Values that are not the same, where NaN equals NaN."""
    import numpy as np

    from gsvckpt.devices.arrays import as_array, rounded

    comparable = mine.dtype is theirs.dtype or (mine.dtype.floating and theirs.dtype.floating)
    count = 0
    for one, two in zip(logical_bytes(mine, _TOGETHER), logical_bytes(theirs, _TOGETHER), strict=True):
        if buffers.stop.is_set():
            raise Stopped
        if mine.dtype is theirs.dtype and bytes(one) == bytes(two):
            continue
        if not comparable:
            return mine.numel
        if mine.dtype is theirs.dtype and not mine.dtype.floating:
            width = mine.dtype.itemsize
            count += int(np.any(np.frombuffer(one, np.uint8).reshape(-1, width) != np.frombuffer(two, np.uint8).reshape(-1, width), axis=1).sum())
            continue
        left, right = as_array(one, mine.dtype), rounded(two, theirs.dtype, mine.dtype)
        count += int(np.count_nonzero((left != right) & ~(np.isnan(left) & np.isnan(right))))
    buffers.progress.advance(nbytes)
    return count
