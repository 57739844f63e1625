"""Compute on the CPU with NumPy."""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from gsvckpt.devices.arrays import BLOCK, Scratch, as_array, largest_bits, quiet
from gsvckpt.devices.casts import cast
from gsvckpt.devices.device import Audit, Extremes, Matrix, Moments, bin_steps
from gsvckpt.dtypes import DType

# Floats by their bits: the integer of the same width, the bits of infinity, and those from which a value is beyond float16 (0: never).
_BITS: dict[str, tuple[str, int, int]] = {
    "float64": ("<i8", 0x7FF << 52, 0x40EFFE << 40),
    "float32": ("<i4", 0xFF << 23, 0x477FF000),
    "float16": ("<i2", 0x1F << 10, 0),
    "bfloat16": ("<i2", 0xFF << 7, 0x4780),
}


class Host:
    """NumPy on the calling thread; NumPy releases the interpreter lock, so threads add up."""

    name = "cpu"

    def __init__(self) -> None:
        self._local = threading.local()  # each thread has its own arrays

    @property
    def _work(self) -> Scratch:
        scratch: Scratch | None = getattr(self._local, "scratch", None)
        if scratch is None:
            scratch = self._local.scratch = Scratch()
        return scratch

    def cast(self, raw: memoryview, dtype: DType, out: memoryview, to: DType, *, clamp: bool) -> Audit:
        return cast(raw, dtype, out, to, self._work, clamp=clamp)

    def add_product(self, base: Matrix, up: Matrix, down: Matrix) -> memoryview:
        from gsvckpt.devices.products import add_product  # with it comes torch, whose product NumPy's differs from in the last bits

        return add_product(base, up, down, "cpu")

    def measure(self, raw: memoryview, dtype: DType) -> Moments:
        moments = Moments()
        step = BLOCK * dtype.itemsize
        with quiet():
            for start in range(0, len(raw), step):
                moments += _measure_block(_real(as_array(raw[start : start + step], dtype)), self._work)
        return moments

    def extremes(self, raw: memoryview, dtype: DType) -> Extremes:
        """Two passes over the bits as integers are several times as fast as one over floats."""
        if dtype.name not in _BITS:
            return _extremes(as_array(raw, dtype), np.frombuffer(raw, f"<i{min(dtype.itemsize, 8)}"), 0.0) if raw else Extremes()
        code, infinity, half = _BITS[dtype.name]
        bits = np.frombuffer(raw, code)
        if not bits.size:
            return Extremes()
        largest = largest_bits(bits)
        if largest >= infinity or (half and largest >= half):
            with quiet():
                return _extremes(as_array(raw, dtype), bits, 65_520.0 if half else 0.0)
        magnitude = float(as_array(memoryview(largest.to_bytes(dtype.itemsize, "little")), dtype)[0])
        return Extremes(bits.size, 0, 0, 0, magnitude, _only(bits))

    def histogram(self, raw: memoryview, dtype: DType, low: float, high: float, bins: int) -> list[int]:
        counts = [0] * bins
        steps = bin_steps(low, high, bins) if high > low else (1.0, 0.0, 0.0)  # without a range all fall into the first
        step = BLOCK * dtype.itemsize
        with quiet():
            for start in range(0, len(raw), step):
                found = _count_block(_real(as_array(raw[start : start + step], dtype)), steps, bins, self._work)
                counts = [one + two for one, two in zip(counts, found, strict=True)]
        return counts

    def max_difference(self, one: memoryview, one_dtype: DType, two: memoryview, two_dtype: DType) -> float:
        count = len(one) // one_dtype.itemsize
        worst = 0.0
        with quiet():
            for start in range(0, count, BLOCK):
                stop = min(start + BLOCK, count)
                left = as_array(one[start * one_dtype.itemsize : stop * one_dtype.itemsize], one_dtype)
                right = as_array(two[start * two_dtype.itemsize : stop * two_dtype.itemsize], two_dtype)
                worst = max(worst, _max_difference(left, right))
        return worst


def _real(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Magnitudes of complex values, everything else as it is."""
    return np.abs(values.astype(np.complex128)) if values.dtype.kind == "c" else values


def _widen(real: NDArray[np.generic], scratch: Scratch) -> NDArray[np.float64]:
    wide = scratch.wide[: real.size]
    np.copyto(wide, real, casting="same_kind")
    return wide


def _measure_block(real: NDArray[np.generic], scratch: Scratch) -> Moments:
    wide = _widen(real, scratch)
    exact = wide if real.dtype == np.float16 else real  # NumPy compares all but those faster as they are
    zero = int(np.count_nonzero(np.equal(exact, 0, out=scratch.flags[: real.size])))
    total = float(wide.sum())
    nans = infinite = 0
    if not np.isfinite(total):  # one look at the sum spares looking at every value
        nans, infinite = int(np.count_nonzero(np.isnan(wide))), int(np.count_nonzero(np.isinf(wide)))
        exact = wide = wide[np.isfinite(wide)]
        total = float(wide.sum())
    if not wide.size:
        return Moments(real.size, nans, infinite, zero)
    low, high = float(exact.min()), float(exact.max())
    squares = np.multiply(wide, wide, out=wide).sum()  # not np.dot, whose own threads would fight with ours
    return Moments(real.size, nans, infinite, zero, low, high, total, float(squares))


def _count_block(real: NDArray[np.generic], steps: tuple[float, float, float], bins: int, scratch: Scratch) -> list[int]:
    unit, origin, scale = steps
    wide = _widen(real, scratch)
    finite = np.isfinite(wide, out=scratch.flags[: wide.size])
    if not finite.all():
        wide = wide[finite]
    if unit != 1.0:
        wide *= unit
    wide -= origin
    wide *= scale
    places, flags = scratch.places[: wide.size], scratch.flags[: wide.size]
    np.copyto(places, np.clip(wide, 0, bins - 1, out=wide), casting="unsafe")  # limited first: what is far outside has no integer
    return [int(np.count_nonzero(np.equal(places, place, out=flags))) for place in range(bins)]  # bincount looks at each value by itself


def _extremes(values: NDArray[np.generic], bits: NDArray[np.generic], limit: float) -> Extremes:
    """The slow way, for blocks that hold something remarkable, and for rare types."""
    wide = np.abs(values).astype(np.float64)
    finite = wide[np.isfinite(wide)]
    beyond = int(np.count_nonzero(finite >= limit)) if limit else 0
    nan = int(np.count_nonzero(np.isnan(wide)))
    return Extremes(values.size, nan, values.size - finite.size - nan, beyond, float(finite.max(initial=0.0)), _only(bits))


def _only(bits: NDArray[np.generic]) -> bytes:
    first = bits[0]
    return first.tobytes() if first == bits[-1] and first == bits[bits.size // 2] and bool((bits == first).all()) else b""


def _max_difference(left: NDArray[np.generic], right: NDArray[np.generic]) -> float:
    kinds = left.dtype.kind + right.dtype.kind
    if not set(kinds) & set("fc") and (left.dtype == right.dtype or np.dtype(np.uint64) not in (left.dtype, right.dtype)):
        integer = np.uint64 if left.dtype == np.uint64 else np.int64  # exact, as large ones would not be in float64; wraps around, rightly
        high, low = np.maximum(left.astype(integer), right.astype(integer)), np.minimum(left.astype(integer), right.astype(integer))
        return float((high.view(np.uint64) - low.view(np.uint64)).max(initial=np.uint64(0)))
    wide = np.complex128 if "c" in kinds else np.float64
    one, two = left.astype(wide), right.astype(wide)
    difference: NDArray[np.float64] = np.abs(one - two)
    worst = float(difference.max(initial=0.0))
    if np.isfinite(worst):
        return worst
    difference[(one == two) | (np.isnan(one) & np.isnan(two))] = 0.0
    difference[np.isnan(difference)] = np.inf
    return float(difference.max(initial=0.0))
