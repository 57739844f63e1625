"""Statistics of the values in tensors, computed in chunks, so that memory does not grow with the tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from gsvckpt.devices.device import Device, Moments
from gsvckpt.dtypes import DType
from gsvckpt.engine.strided_read import Region, find_region
from gsvckpt.files.progress import Progress
from gsvckpt.files.streams import Buffers, check_unchanged, chunks, for_each
from gsvckpt.model import Tensor


@dataclass(frozen=True, slots=True)
class Stats:
    """The values of one tensor; `histogram` counts the finite ones in equal steps from `moments.low` to `moments.high`."""

    moments: Moments
    histogram: tuple[int, ...]


def measure_tensors(tensors: Mapping[str, Tensor], device: Device, jobs: int, progress: Progress, bins: int = 16) -> dict[str, Stats | None]:
    """Statistics by name; None for a tensor without elements, with overlapping ones, or of a dtype that holds no plain numbers.

    An expanded tensor counts each element as often as it shows it, without reading it more than once. Raises DamagedError when a storage that a
    tensor fills does not have its checksum, and ChangedError when the file changed meanwhile.
    """
    regions = {name: find_region(tensor) for name, tensor in tensors.items() if tensor.numel and _numeric(tensor.dtype)}
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


def _measure(region: Region, device: Device, bins: int, buffers: Buffers) -> Stats:
    moments = sum((device.measure(values, region.dtype) for values in _values(region, buffers)), Moments())
    if not moments.low < moments.high:
        buffers.progress.advance(region.nbytes)
        return Stats(moments, (moments.finite, *[0] * (bins - 1)))
    counts = [device.histogram(values, region.dtype, moments.low, moments.high, bins) for values in _values(region, buffers)]
    return Stats(moments, tuple(map(sum, zip(*counts, strict=True))))


def _values(region: Region, buffers: Buffers) -> Iterator[memoryview]:
    """The region's elements, chunk by chunk, without those in its gaps."""
    size = region.dtype.itemsize
    for at, chunk in chunks(region.storage, buffers, region.begin, region.begin + region.nbytes):
        yield chunk if region.dense else _without_gaps(region, chunk, at // size - region.start)


def _without_gaps(region: Region, chunk: memoryview, first: int) -> memoryview:
    import numpy as np

    rest = np.arange(first, first + len(chunk) // region.dtype.itemsize, dtype=np.int64)
    inside = np.ones(rest.size, np.bool_)
    for size, stride in region.dims:
        index = rest // stride
        inside &= index < size
        rest -= index * stride
    inside &= rest == 0
    return np.frombuffer(chunk, np.uint8).reshape(rest.size, -1)[inside].reshape(-1).data
