"""Compute on a torch device, block by block through page-locked buffers; each thread has its own buffers and its own queue.

A thread waits for its block while others read, copy and compute, so that with more threads than cores all of it goes on at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from math import isfinite
from typing import TypeVar

import numpy as np
import torch

from gsvckpt.devices.device import Audit, Extremes, Matrix, Moments, bin_steps
from gsvckpt.devices.host import Host
from gsvckpt.devices.memory import fitting_block, free_memory, is_full, staging
from gsvckpt.devices.products import add_product
from gsvckpt.dtypes import DType
from gsvckpt.errors import UsageError

BLOCK = 1 << 20  # values at a time, where the device has room for them
_SMALLEST_BLOCK = 1 << 14
_FLOATS = {"float64": torch.float64, "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

R = TypeVar("R")


class Accelerator:
    """A torch device. Integers, complex and float8 values are left to the host: there are few, and they need exactness more than speed.

    So are blocks to cast that hold NaN, whose spare bits devices set differently, or infinity, or overflow, and everything once the device's memory
    is full, which `warn` is told.
    """

    def __init__(self, device: torch.device, warn: Callable[[str], None]) -> None:
        """Raises UsageError for a device without float64, which exact measures need."""
        try:
            torch.ones(1, dtype=torch.float64, device=device).item()
        except (TypeError, RuntimeError) as error:
            if is_full(error):
                raise
            raise UsageError(f"{device} cannot compute in float64", where="device", hint="use cpu") from error
        self.name = str(device)
        self._device = device
        self._host = Host()
        self._warn = warn
        self._block = BLOCK
        self._lanes = 0
        self._lock = threading.Lock()
        self._local = threading.local()

    def cast(self, raw: memoryview, dtype: DType, out: memoryview, to: DType, *, clamp: bool) -> Audit:
        def on_device(begin: int, end: int, lane: _DeviceLane) -> Audit | None:
            small, numbers = _cast(lane.upload(0, raw, dtype, begin, end), to.name)
            values = lane.download(small)
            top, largest, worst, zeros, zeros_before = lane.fetch(numbers)  # waits for the device, so `values` have come too
            if not isfinite(top):
                return None
            np.copyto(np.frombuffer(out, np.uint16)[begin:end], values)
            return Audit(0, int(zeros - zeros_before), largest, worst)

        def on_host(begin: int, end: int) -> Audit:
            return self._host.cast(_cut(raw, dtype, begin, end), dtype, _cut(out, to, begin, end), to, clamp=clamp)

        if to.name == "float32":  # nothing is rounded but float64, which is rare
            return self._host.cast(raw, dtype, out, to, clamp=clamp)
        return sum(self._blocks(raw, dtype, on_device, on_host), Audit())

    def add_product(self, base: Matrix, up: Matrix, down: Matrix) -> memoryview:
        if self._block:
            try:
                return add_product(base, up, down, self._device)
            except RuntimeError as error:
                if not is_full(error):
                    raise
            self._give_up()  # not in parts, which torch would add up in another order
        return self._host.add_product(base, up, down)

    def measure(self, raw: memoryview, dtype: DType) -> Moments:
        def on_device(begin: int, end: int, lane: _DeviceLane) -> Moments:
            nan, infinite, zero, *rest = lane.fetch(_measure(lane.upload(0, raw, dtype, begin, end)))
            return Moments(end - begin, int(nan), int(infinite), int(zero), *rest)

        def on_host(begin: int, end: int) -> Moments:
            return self._host.measure(_cut(raw, dtype, begin, end), dtype)

        return sum(self._blocks(raw, dtype, on_device, on_host), Moments())

    def extremes(self, raw: memoryview, dtype: DType) -> Extremes:
        return self._host.extremes(raw, dtype)  # integer comparisons at the speed of memory: copying to the device would only take longer

    def histogram(self, raw: memoryview, dtype: DType, low: float, high: float, bins: int) -> list[int]:
        steps = bin_steps(low, high, bins) if high > low else (1.0, 0.0, 0.0)

        def on_device(begin: int, end: int, lane: _DeviceLane) -> list[int]:
            return [int(count) for count in lane.fetch(_histogram(lane.upload(0, raw, dtype, begin, end), steps, bins).double())]

        def on_host(begin: int, end: int) -> list[int]:
            return self._host.histogram(_cut(raw, dtype, begin, end), dtype, low, high, bins)

        return [sum(counts) for counts in zip([0] * bins, *self._blocks(raw, dtype, on_device, on_host), strict=True)]

    def max_difference(self, one: memoryview, one_dtype: DType, two: memoryview, two_dtype: DType) -> float:
        def on_device(begin: int, end: int, lane: _DeviceLane) -> float:
            left, right = lane.upload(0, one, one_dtype, begin, end), lane.upload(1, two, two_dtype, begin, end)
            return lane.fetch(_max_difference(left, right).view(1))[0]

        def on_host(begin: int, end: int) -> float:
            return self._host.max_difference(_cut(one, one_dtype, begin, end), one_dtype, _cut(two, two_dtype, begin, end), two_dtype)

        if two_dtype.name not in _FLOATS:
            return self._host.max_difference(one, one_dtype, two, two_dtype)
        return max(self._blocks(one, one_dtype, on_device, on_host), default=0.0)

    def _blocks(
        self, raw: memoryview, dtype: DType, on_device: Callable[[int, int, _DeviceLane], R | None], on_host: Callable[[int, int], R]
    ) -> Iterator[R]:
        """Results block by block; those that the device cannot give (None, or out of memory in the smallest of blocks) come from the host."""
        count = len(raw) // dtype.itemsize
        begin = 0
        while begin < count:
            end = min(begin + self._block, count) if self._block else count
            result = None
            if self._block and dtype.name in _FLOATS:
                full = False
                try:
                    lane = self._lane()
                    with lane.queue():
                        result = on_device(begin, end, lane)
                except RuntimeError as error:
                    full = is_full(error)
                    if not full:
                        raise
                if full:  # outside, where the error does not hold on to tensors any more
                    self._shrink(end - begin)
                    continue
            yield on_host(begin, end) if result is None else result
            begin = end

    def _shrink(self, tried: int) -> None:
        if tried <= _SMALLEST_BLOCK:
            self._give_up()
            return
        with self._lock:
            self._block = min(self._block, max(tried // 2, _SMALLEST_BLOCK))

    def _give_up(self) -> None:
        """Leave all that is to come to the host, and say so once."""
        with self._lock:
            first, self._block = self._block > 0, 0
        if first:
            self._warn(f"{self.name} has no memory left; computing on the cpu")

    def _lane(self) -> _DeviceLane:
        lane: _DeviceLane | None = getattr(self._local, "lane", None)
        if lane is None:
            lane = self._local.lane = _DeviceLane(self._device)
            with self._lock:
                self._lanes += 1
                fitting = fitting_block(free_memory(self._device), self._lanes, largest=BLOCK, smallest=_SMALLEST_BLOCK)
                self._block = min(self._block, fitting)
        return lane


class _DeviceLane:
    """One thread's way to the device and back."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        # A thread that waits for it sleeps; CUDA's usual way is to look all the time, which takes the core from those that read.
        self._done = torch.cuda.Event(blocking=True) if self._stream is not None else None  # type: ignore[no-untyped-call]
        self._staging: dict[int, torch.Tensor] = {}

    def queue(self) -> AbstractContextManager[object]:
        """What is done inside goes into this thread's own queue, beside those of other threads."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def upload(self, slot: int, raw: memoryview, dtype: DType, begin: int, end: int) -> torch.Tensor:
        """Values on the device. Their buffer, `slot`, is free again when a result of them has been fetched."""
        data = np.frombuffer(_cut(raw, dtype, begin, end), np.uint8)
        staged = self._stage(slot, data.size)
        np.copyto(staged.numpy(), data)
        return staged.to(self._device, non_blocking=True).view(_FLOATS[dtype.name])

    def download(self, small: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
        """The bits of 16-bit floats; there when something has been fetched after them."""
        return self._begin_copy(-1, small).numpy().view(np.uint16)

    def fetch(self, numbers: torch.Tensor) -> list[float]:
        """Numbers in float64. Waits for them, and so for all that was asked of the device before."""
        staged = self._begin_copy(-2, numbers).view(torch.float64)
        if self._stream is not None and self._done is not None:
            self._done.record(self._stream)
            self._done.synchronize()
        found: list[float] = staged.tolist()
        return found

    def _begin_copy(self, slot: int, values: torch.Tensor) -> torch.Tensor:
        """Bytes on the host that may come later, where there is a queue to wait for."""
        staged = self._stage(slot, values.numel() * values.itemsize)
        staged.copy_(values.view(torch.uint8), non_blocking=self._stream is not None)
        return staged

    def _stage(self, slot: int, count: int) -> torch.Tensor:
        if slot not in self._staging or self._staging[slot].numel() < count:
            self._staging[slot] = staging(count, self._device)
        return self._staging[slot][:count]


def _cut(raw: memoryview, dtype: DType, begin: int, end: int) -> memoryview:
    return raw[begin * dtype.itemsize : end * dtype.itemsize]


def _cast(given: torch.Tensor, to: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The small floats, and (largest after, largest before, worst error, zeros, zeros before) as one float64 tensor: one wait instead of five.

    The largest is not finite where any value is not, before or after; then the other numbers mean nothing.
    """
    wide = given.double() if given.dtype is torch.float64 else given.float()  # in which the errors are exact
    small = given.float().to(_FLOATS[to])
    largest = [values.abs().amax() for values in (small, wide, small.to(wide.dtype) - wide)]
    zeros = [values.numel() - torch.count_nonzero(values) for values in (small, given)]
    return small, torch.stack([number.double() for number in (*largest, *zeros)])


def _measure(given: torch.Tensor) -> torch.Tensor:
    """(NaN, infinite, zero, low, high, total, squares) as one float64 tensor."""
    wide, finite = given.double(), given.isfinite()
    known = torch.where(finite, wide, 0.0)
    low, high = torch.where(finite, wide, torch.inf).amin(), torch.where(finite, wide, -torch.inf).amax()
    counts = (flags.sum().double() for flags in (given.isnan(), given.isinf(), given == 0))
    return torch.stack([*counts, low, high, known.sum(), (known * known).sum()])


def _histogram(given: torch.Tensor, steps: tuple[float, float, float], bins: int) -> torch.Tensor:
    unit, origin, scale = steps
    wide = given.double()[given.isfinite()]
    places = (wide * unit - origin) * scale  # products, not quotients: CUDA divides by a number through its inverse
    return torch.bincount(places.clamp_(0, bins - 1).long(), minlength=bins)


def _max_difference(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    one, two = left.double(), right.double()
    same = (one == two) | (one.isnan() & two.isnan())
    difference = (one - two).abs()
    return torch.where(same, 0.0, torch.where(difference.isnan(), torch.inf, difference)).amax()
