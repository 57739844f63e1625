"""Numbers on the host, with NumPy.

NumPy's own float32 to float16 cast is scalar (1.5 ns a value where measured, 4.6 ns elsewhere), and measuring its error needs the cast back and two
more passes (1.6 ns). `_round_to_half` does it all in 18 passes of whole-array operations (1.0 ns), nearly as fast on each of two threads.
"""

from __future__ import annotations

import threading
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsvckpt.devices.measures import LARGEST, Audit, Extremes, Matrix, Moments, bin_steps
from gsvckpt.dtypes import DTYPES, DType
from gsvckpt.errors import UnsupportedError

BLOCK = 1 << 17  # values at a time, where float64 arrays are made of them
CAST_BLOCK = 1 << 18  # half as large, and two threads lose a third of their time to the interpreter lock, which each step releases and takes again
MAX_HALF = 65_504.0
_TOO_LARGE = np.float32(65_520.0)  # from here on rounding gives infinity
# Floats by their bits: the integer of the same width, the bits of infinity, and those from which a value is beyond float16 (0: never).
_BITS: dict[str, tuple[str, int, int]] = {
    "float64": ("<i8", 0x7FF << 52, 0x40EFFE << 40),
    "float32": ("<i4", 0xFF << 23, 0x477FF000),
    "float16": ("<i2", 0x1F << 10, 0),
    "bfloat16": ("<i2", 0xFF << 7, 0x4780),
}
_SIGN, _EXPONENT, _SMALLEST = np.uint32(0x80000000), np.uint32(0x7F800000), np.uint32(0x38800000)  # _SMALLEST: 2**-14, the smallest normal half
_TO_ANCHOR = np.uint32(13 << 23 | 1 << 22)  # added to the bits of 2**n, gives those of 1.5 * 2**(n + 13)
_TO_HALF_RANGE = np.float32(2.0**-112)  # makes float32's exponent field that of a half

F32 = NDArray[np.float32]


class Host:
    """NumPy on the calling thread; NumPy releases the interpreter lock, so threads add up."""

    name = "cpu"

    def __init__(self) -> None:
        self._local = threading.local()  # each thread has its own work arrays

    def cast(self, raw: memoryview, dtype: DType, out: memoryview, to: DType, *, clamp: bool) -> Audit:
        if to.name != "float16":
            return _cast_other(raw, dtype, out, to, clamp=clamp)
        half = np.frombuffer(out, "<u2")
        work = getattr(self._local, "work", None)
        if work is None:
            work = self._local.work = _Work()
        audit = Audit()
        step = CAST_BLOCK * dtype.itemsize
        with _quiet():
            for start in range(0, len(raw), step):
                block = raw[start : start + step]
                at = start // dtype.itemsize
                audit += _cast_block(block, dtype, half[at : at + len(block) // dtype.itemsize], work, clamp=clamp)
        return audit

    def add_product(self, base: Matrix, up: Matrix, down: Matrix) -> memoryview:
        from gsvckpt.devices.products import add_product  # with it comes torch, whose product NumPy's differs from in the last bits

        return add_product(base, up, down, "cpu")

    def measure(self, raw: memoryview, dtype: DType) -> Moments:
        moments = Moments()
        step = BLOCK * dtype.itemsize
        with _quiet():
            for start in range(0, len(raw), step):
                moments += _measure_block(_real(as_array(raw[start : start + step], dtype)))
        return moments

    def extremes(self, raw: memoryview, dtype: DType) -> Extremes:
        """Two passes over the bits as integers are several times as fast as one over floats."""
        if dtype.name not in _BITS:
            return _extremes(as_array(raw, dtype), np.frombuffer(raw, f"<i{min(dtype.itemsize, 8)}"), 0.0) if raw else Extremes()
        code, infinity, half = _BITS[dtype.name]
        bits = np.frombuffer(raw, code)
        if not bits.size:
            return Extremes()
        largest = _largest(bits)
        if largest >= infinity or (half and largest >= half):
            with _quiet():
                return _extremes(as_array(raw, dtype), bits, 65_520.0 if half else 0.0)
        magnitude = float(as_array(memoryview(largest.to_bytes(dtype.itemsize, "little")), dtype)[0])
        return Extremes(bits.size, 0, 0, 0, magnitude, _only(bits))

    def histogram(self, raw: memoryview, dtype: DType, low: float, high: float, bins: int) -> list[int]:
        counts = np.zeros(bins, np.int64)
        unit, origin, scale = bin_steps(low, high, bins) if high > low else (1.0, 0.0, 0.0)  # without a range all fall into the first
        step = BLOCK * dtype.itemsize
        with _quiet():
            for start in range(0, len(raw), step):
                values = _real(as_array(raw[start : start + step], dtype)).astype(np.float64)
                if not np.isfinite(values).all():
                    values = values[np.isfinite(values)]
                if unit != 1.0:
                    values *= unit
                values -= origin
                values *= scale
                places = np.clip(values, 0, bins - 1, out=values).astype(np.int64)  # limited first: what is far outside has no integer
                counts += np.bincount(places, minlength=bins)
        return [int(count) for count in counts]

    def max_difference(self, one: memoryview, one_dtype: DType, two: memoryview, two_dtype: DType) -> float:
        count = len(one) // one_dtype.itemsize
        worst = 0.0
        with _quiet():
            for start in range(0, count, BLOCK):
                stop = min(start + BLOCK, count)
                left = as_array(one[start * one_dtype.itemsize : stop * one_dtype.itemsize], one_dtype)
                right = as_array(two[start * two_dtype.itemsize : stop * two_dtype.itemsize], two_dtype)
                worst = max(worst, _max_difference(left, right))
        return worst


def _quiet() -> np.errstate:
    """No warnings about infinities and NaN: they are what is looked for. (A fresh one for each use, as threads must not share it.)"""
    return np.errstate(over="ignore", invalid="ignore")


def as_array(raw: memoryview, dtype: DType) -> NDArray[np.generic]:
    """The values in `raw`, without a copy where NumPy has the type; the small floats come as float32, complex32 as complex64.

    Raises UnsupportedError for types that hold no plain numbers.
    """
    if dtype.numpy:
        return np.frombuffer(raw, dtype.numpy)
    if dtype.name == "bfloat16":
        widened: F32 = (np.frombuffer(raw, "<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
        return widened
    if dtype.name == "complex32":
        pairs: NDArray[np.generic] = np.frombuffer(raw, "<f2").astype(np.float32).view(np.complex64)
        return pairs
    if dtype.name.startswith("float8"):
        return _float8_values(dtype.name)[np.frombuffer(raw, np.uint8)]
    raise UnsupportedError(f"{dtype.name} values are no plain numbers")


def rounded(raw: memoryview, dtype: DType, to: DType) -> NDArray[np.generic]:
    """The values of one floating type as another, rounded as torch rounds them (to the small ones by way of float32)."""
    values = as_array(raw, dtype)
    if to.name == "bfloat16":
        bits = values.astype(np.float32).view(np.uint32)
        kept = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
        narrowed: F32 = np.where(np.isnan(values), np.uint32(0x7FC00000), kept).astype(np.uint32).view(np.float32)
        return narrowed
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32).astype(np.float16) if to.name == "float16" else values.astype(to.numpy)


@lru_cache(maxsize=8)
def _float8_values(name: str) -> F32:
    """The values of all 256 patterns (arXiv 2209.05433 for fn, 2206.02915 for fnuz, OCP MX 1.0 for e8m0)."""
    patterns = np.arange(256)
    if name == "float8_e8m0fnu":
        return np.append(np.ldexp(np.float32(1), patterns[:255] - 127), np.float32(np.nan)).astype(np.float32)
    places = 3 if "e4m3" in name else 2
    bias = (1 << (6 - places)) - (0 if name.endswith("fnuz") else 1)
    exponent, fraction = (patterns & 0x7F) >> places, patterns & ((1 << places) - 1)
    significand = np.where(exponent > 0, fraction + (1 << places), fraction)
    values: F32 = np.ldexp(significand.astype(np.float32), np.maximum(exponent, 1) - bias - places)
    values[128:] *= -1
    if name.endswith("fnuz"):
        values[0x80] = np.nan  # where minus zero would be
    elif name == "float8_e4m3fn":
        values[[0x7F, 0xFF]] = np.nan  # no infinity
    else:
        values[[0x7C, 0xFC]] = np.inf, -np.inf
        values[[0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]] = np.nan
    return values


def _cast_other(raw: memoryview, dtype: DType, out: memoryview, to: DType, *, clamp: bool) -> Audit:
    """Casts to bfloat16 and float32, block by block."""
    audit = Audit()
    for start in range(0, len(raw) // dtype.itemsize, BLOCK):
        block = raw[start * dtype.itemsize : (start + BLOCK) * dtype.itemsize]
        count = len(block) // dtype.itemsize
        target = out[start * to.itemsize : (start + count) * to.itemsize]
        with _quiet():
            if to.name == "float32" and dtype.itemsize <= to.itemsize:
                np.copyto(np.frombuffer(target, "<f4"), as_array(block, dtype), casting="same_kind")
            else:
                audit += _cast_rarely(block, dtype, target, to, clamp=clamp)
    return audit


def _cast_rarely(block: memoryview, dtype: DType, target: memoryview, to: DType, *, clamp: bool) -> Audit:
    exact = as_array(block, dtype).astype(np.float64)
    result = rounded(block, dtype, to)
    finite = np.isfinite(exact)
    beyond = finite & np.isinf(result)
    if clamp and beyond.any():
        result = np.where(beyond, np.copysign(np.float32(LARGEST[to.name]), result), result)
    if to.name == "bfloat16":
        np.copyto(np.frombuffer(target, "<u2"), (result.view(np.uint32) >> np.uint32(16)).astype(np.uint16))
    else:
        np.copyto(np.frombuffer(target, to.numpy), result)
    error = np.abs(result.astype(np.float64) - exact)[finite & np.isfinite(result)]
    underflowed = int(np.count_nonzero((result == 0) & (exact != 0)))
    return Audit(int(np.count_nonzero(beyond)), underflowed, float(np.abs(exact[finite]).max(initial=0.0)), float(error.max(initial=0.0)))


class _Work:
    """Reused arrays for `_round_to_half`: fresh ones each block would cost more than the arithmetic."""

    def __init__(self) -> None:
        self.anchor, self.rounded = (np.empty(CAST_BLOCK, np.uint32) for _ in range(2))
        self.smallest = _smallest(CAST_BLOCK)


@lru_cache(maxsize=1)
def _smallest(count: int) -> NDArray[np.uint32]:
    """An array, as NumPy's maximum with a single number is four times slower; one for all threads."""
    return np.full(count, _SMALLEST)


def _keeps_subnormals() -> bool:
    """Whether this thread's processor computes with subnormal float32; a library built with -ffast-math may have switched that off."""
    return bool(np.multiply(np.full(64, 2.0**-20, np.float32), _TO_HALF_RANGE).all())


def _cast_block(block: memoryview, dtype: DType, out: NDArray[np.uint16], work: _Work, *, clamp: bool) -> Audit:
    given = as_array(block, dtype)
    values: F32 = given.astype(np.float32, copy=False)  # torch's own way from float64 to half, too
    largest = _largest(values.view(np.int32))
    if largest >= _BITS["float32"][2] or not _keeps_subnormals():
        return _cast_wild(given, values, out, clamp=clamp)
    worst, zeros = _round_to_half(values, out, work)
    underflowed = zeros - (given.size - int(np.count_nonzero(given))) if zeros else 0
    if dtype is DTYPES["float64"]:
        exact = given.astype(np.float64, copy=False)
        error = float(np.abs(out.view(np.float16).astype(np.float64) - exact).max(initial=0.0))
        return Audit(0, underflowed, float(np.abs(exact).max(initial=0.0)), error)
    return Audit(0, underflowed, float(np.uint32(largest).view(np.float32)), worst)


def _largest(bits: NDArray[np.signedinteger[Any]]) -> int:
    """The bits of the largest magnitude of floats, given as integers: those of equal sign are in the order of their bits."""
    positive, negative = int(bits.max()), int(bits.view(bits.dtype.str.replace("i", "u")).max())  # the largest of each sign
    return max(positive, negative - (1 << (bits.itemsize * 8 - 1)), 0)


def _round_to_half(values: F32, out: NDArray[np.uint16], work: _Work) -> tuple[float, int]:
    """Round finite values below 65,520 to the nearest half, ties to even. Returns the largest absolute error and the number of zeros.

    Adding 1.5 times a power of two 13 binary places above a value (or above 2**-14, for subnormal halves) makes the float adder itself round it to a
    half's last bit. What is then a half's value needs no more rounding: times 2**-112 its bits are a half's, 13 places higher.
    """
    bits = values.view(np.uint32)
    anchor, rounded = work.anchor[: values.size], work.rounded[: values.size]
    np.bitwise_and(bits, _EXPONENT, out=anchor)
    np.maximum(anchor, work.smallest[: values.size], out=anchor)
    np.add(anchor, _TO_ANCHOR, out=anchor)
    as_float, error = rounded.view(np.float32), anchor.view(np.float32)
    np.add(values, error, out=as_float)
    np.subtract(as_float, error, out=as_float)
    np.subtract(as_float, values, out=error)
    worst = max(float(error.max()), -float(error.min()))
    np.multiply(as_float, _TO_HALF_RANGE, out=as_float)
    zeros = values.size - int(np.count_nonzero(rounded))
    sign = np.bitwise_and(bits, _SIGN, out=anchor)  # of the value, as the adder loses that of zeros
    np.right_shift(sign, np.uint32(3), out=sign)
    np.bitwise_or(rounded, sign, out=rounded)
    np.right_shift(rounded, np.uint32(13), out=rounded)
    np.copyto(out, rounded, casting="unsafe")
    return worst, zeros


def _cast_wild(given: NDArray[np.generic], values: F32, out: NDArray[np.uint16], *, clamp: bool) -> Audit:
    """The slow way, for the rare block with NaN, infinity or values beyond half's range."""
    finite = np.isfinite(given)
    beyond = finite & (np.abs(values) >= _TOO_LARGE)
    if clamp:
        values = np.where(beyond, np.copysign(np.float32(MAX_HALF), values), values)
    half = values.astype(np.float16)
    np.copyto(out, half.view(np.uint16))
    exact = given.astype(np.float64)
    error = np.abs(half.astype(np.float64) - exact)
    kept = finite & np.isfinite(half)
    underflowed = int(np.count_nonzero((half == 0) & (given != 0)))
    largest = float(np.abs(exact[finite]).max(initial=0.0))
    return Audit(int(np.count_nonzero(beyond)), underflowed, largest, float(error[kept].max(initial=0.0)))


def _real(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Magnitudes of complex values, everything else as it is."""
    return np.abs(values.astype(np.complex128)) if values.dtype.kind == "c" else values


def _measure_block(real: NDArray[np.generic]) -> Moments:
    zero = real.size - int(np.count_nonzero(real))
    wide = real.astype(np.float64)
    total = float(wide.sum())
    nans = infinite = 0
    if not np.isfinite(total):  # one look at the sum spares looking at every value
        nans, infinite = int(np.count_nonzero(np.isnan(wide))), int(np.count_nonzero(np.isinf(wide)))
        wide = wide[np.isfinite(wide)]
        total = float(wide.sum())
    if not wide.size:
        return Moments(real.size, nans, infinite, zero)
    low, high = float(wide.min()), float(wide.max())
    squares = np.multiply(wide, wide, out=wide).sum()  # not np.dot, whose own threads would fight with ours
    return Moments(real.size, nans, infinite, zero, low, high, total, float(squares))


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
        whole = np.uint64 if left.dtype == np.uint64 else np.int64  # exact, as large ones would not be in float64; wraps around, rightly
        high, low = np.maximum(left.astype(whole), right.astype(whole)), np.minimum(left.astype(whole), right.astype(whole))
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
