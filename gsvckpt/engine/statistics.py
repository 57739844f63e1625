"""The numbers in tensors: statistics of one checkpoint, differences between two. Bytes pass in chunks, so memory does not grow with the tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import nan, prod
from typing import TYPE_CHECKING

from gsvckpt.devices.device import Device, Moments
from gsvckpt.dtypes import DType
from gsvckpt.engine.strided_read import gather
from gsvckpt.errors import UnsupportedError
from gsvckpt.files.progress import Progress
from gsvckpt.files.streams import CHUNK, Buffers, Stopped, check_unchanged, chunks, for_each
from gsvckpt.model import Storage, Tensor

if TYPE_CHECKING:
    pass

_TILE = CHUNK // 16  # elements of two tensors of different layout that are brought side by side at a time


@dataclass(frozen=True, slots=True)
class Stats:
    """The values of one tensor; `histogram` counts the finite ones in equal steps from `moments.low` to `moments.high`."""

    moments: Moments
    histogram: tuple[int, ...]


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


# --- layout -------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Region:
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
        """No two indices lead to the same element: each stride steps over all that the shorter ones reach."""
        reach = 1
        for size, stride in reversed(self.dims):
            if stride < reach:
                return False
            reach += (size - 1) * stride
        return True

    @property
    def dense(self) -> bool:
        return self.distinct and self.numel == self.extent


def _region(tensor: Tensor) -> _Region:
    dims: list[tuple[int, int]] = []
    for stride, size in sorted(zip(tensor.stride, tensor.shape, strict=True), reverse=True):
        if size > 1 and stride:
            if dims and dims[-1][1] == size * stride:  # goes on where the shorter stride ends: the two are one
                size *= dims.pop()[0]  # noqa: PLW2901
            dims.append((size, stride))
    return _Region(tensor.storage, tensor.dtype, tensor.start, tuple(dims))


# --- statistics ---------------------------------------------------------------------------------------------------------------------------------


def measure_tensors(tensors: Mapping[str, Tensor], device: Device, jobs: int, progress: Progress, bins: int = 16) -> dict[str, Stats | None]:
    """Statistics by name; None for a tensor without elements, with overlapping ones, or of a dtype that holds no plain numbers.

    An expanded tensor counts each element as often as it shows it, without reading it more than once. Raises DamagedError when a storage that a
    tensor fills does not have its checksum, and ChangedError when the file changed meanwhile.
    """
    regions = {name: _region(tensor) for name, tensor in tensors.items() if tensor.numel and _numeric(tensor.dtype)}
    wanted = dict.fromkeys(region for region in regions.values() if region.distinct)
    progress.expect(2 * sum(region.nbytes for region in wanted))
    found = for_each(wanted, lambda region, buffers: _measure(region, device, bins, buffers), jobs=jobs, progress=progress)
    check_unchanged(region.storage.source for region in wanted)
    stats: dict[str, Stats | None] = {}
    for name, tensor in tensors.items():
        once = found.get(regions[name]) if name in regions else None
        times = tensor.numel // regions[name].numel if once else 1
        stats[name] = Stats(once.moments * times, tuple(count * times for count in once.histogram)) if once else None
    return stats


def _numeric(dtype: DType) -> bool:
    return bool(dtype.numpy) or dtype.name in {"bfloat16", "complex32"} or dtype.name.startswith("float8")


def _measure(region: _Region, device: Device, bins: int, buffers: Buffers) -> Stats:
    moments = sum((device.measure(values, region.dtype) for values in _values(region, buffers)), Moments())
    if not moments.low < moments.high:
        buffers.progress.advance(region.nbytes)
        return Stats(moments, (moments.finite, *[0] * (bins - 1)))
    counts = [device.histogram(values, region.dtype, moments.low, moments.high, bins) for values in _values(region, buffers)]
    return Stats(moments, tuple(map(sum, zip(*counts, strict=True))))


def _values(region: _Region, buffers: Buffers) -> Iterator[memoryview]:
    """The region's elements, chunk by chunk, without those in its gaps."""
    size = region.dtype.itemsize
    for at, chunk in chunks(region.storage, buffers, region.begin, region.begin + region.nbytes):
        yield chunk if region.dense else _without_gaps(region, chunk, at // size - region.start)


def _without_gaps(region: _Region, chunk: memoryview, first: int) -> memoryview:
    import numpy as np

    rest = np.arange(first, first + len(chunk) // region.dtype.itemsize, dtype=np.int64)
    inside = np.ones(rest.size, np.bool_)
    for size, stride in region.dims:
        index = rest // stride
        inside &= index < size
        rest -= index * stride
    inside &= rest == 0
    return np.frombuffer(chunk, np.uint8).reshape(rest.size, -1)[inside].reshape(-1).data


# --- differences --------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """Two tensors of one shape; `dims` are (size, stride in one, stride in two), the longest stride first, without those that change nothing."""

    one: Tensor
    two: Tensor
    dims: tuple[tuple[int, int, int], ...]

    @property
    def nbytes(self) -> int:
        return _region(self.one).nbytes + _region(self.two).nbytes


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
            if worst == 0.0 or _region(pair.one).dense:
                return worst
        spans = _region(pair.one).extent, _region(pair.two).extent
        if prod(size for size, _, _ in pair.dims) > max(spans):
            return nan  # both repeat their elements, perhaps without end
        worst = _compare_by_tiles(pair, device, buffers)
        if not alike:
            buffers.progress.advance(pair.nbytes)
    except UnsupportedError:
        return nan
    return worst


def _compare_in_place(pair: _Pair, device: Device, buffers: Buffers) -> float:
    """The largest difference of two regions of one layout, gaps and all."""
    left, right = _region(pair.one), _region(pair.two)
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


def _compare_by_tiles(pair: _Pair, device: Device, buffers: Buffers) -> float:
    """The largest difference of two tensors of different layout: tile by tile, each gathered from both into the same order."""
    worst = 0.0
    pending = [(pair.one.start, pair.two.start, pair.dims)]
    while pending:
        if buffers.stop.is_set():
            raise Stopped
        left, right, dims = pending.pop()
        if prod(size for size, _, _ in dims) <= _TILE:
            one = gather(pair.one, left, [(size, stride) for size, stride, _ in dims])
            two = gather(pair.two, right, [(size, stride) for size, _, stride in dims])
            worst = max(worst, device.max_difference(one, pair.one.dtype, two, pair.two.dtype))
            continue
        at = max(range(len(dims)), key=lambda i: (dims[i][0] - 1) * max(dims[i][1:]))  # so that tiles are compact in both
        size, step, other = dims[at]
        half = size // 2
        pending.append((left, right, (*dims[:at], (half, step, other), *dims[at + 1 :])))
        pending.append((left + half * step, right + half * other, (*dims[:at], (size - half, step, other), *dims[at + 1 :])))
    return worst
