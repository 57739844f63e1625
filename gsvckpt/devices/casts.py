"""Cast floats with NumPy, and measure what the cast did to the values.

NumPy's own float32 to float16 cast is scalar (1.5 ns a value where measured, 4.6 ns elsewhere), and measuring its error needs the cast back and two
more passes (1.6 ns). `_round_to_half` does it all in 18 passes of whole-array operations (1.0 ns), nearly as fast on each of two threads.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gsvckpt.devices.arrays import BLOCK, F32, Scratch, as_array, largest_bits, quiet, rounded
from gsvckpt.devices.device import LARGEST, Audit
from gsvckpt.dtypes import DTYPES, DType

_SIGN, _EXPONENT, _SMALLEST = np.uint32(0x80000000), np.uint32(0x7F800000), np.uint32(0x38800000)  # _SMALLEST: 2**-14, the smallest normal half
_TO_ANCHOR = np.uint32(13 << 23 | 1 << 22)  # added to the bits of 2**n, gives those of 1.5 * 2**(n + 13)
_TO_HALF_RANGE = np.float32(2.0**-112)  # makes float32's exponent field that of a half


def cast(raw: memoryview, dtype: DType, out: memoryview, to: DType, scratch: Scratch, *, clamp: bool) -> Audit:
    """See `Device.cast`."""
    audit = Audit()
    with quiet():
        for start in range(0, len(raw) // dtype.itemsize, BLOCK):
            block = raw[start * dtype.itemsize : (start + BLOCK) * dtype.itemsize]
            target = out[start * to.itemsize : start * to.itemsize + len(block) // dtype.itemsize * to.itemsize]
            if to.name in _ROUND:
                audit += _cast_to_small(block, dtype, target, to, scratch, clamp=clamp)
            elif dtype.itemsize <= to.itemsize:
                np.copyto(np.frombuffer(target, to.numpy), as_array(block, dtype), casting="same_kind")
            else:
                audit += _cast_slowly(block, dtype, target, to, clamp=clamp)
    return audit


@lru_cache(maxsize=1)
def _smallest(count: int) -> NDArray[np.uint32]:
    """An array, as NumPy's maximum with a single number is four times slower; one for all threads."""
    return np.full(count, _SMALLEST)


def _keeps_subnormals() -> bool:
    """Whether this thread's processor computes with subnormal float32; a library built with -ffast-math may have switched that off."""
    return bool(np.multiply(np.full(64, 2.0**-20, np.float32), _TO_HALF_RANGE).all())


def _cast_to_small(block: memoryview, dtype: DType, target: memoryview, to: DType, scratch: Scratch, *, clamp: bool) -> Audit:
    given = as_array(block, dtype)
    values: F32 = given.astype(np.float32, copy=False)  # torch's own way from float64, too
    largest = largest_bits(values.view(np.int32))
    if largest >= _FIRST_BEYOND[to.name] or not _keeps_subnormals():  # NaN is beyond, too
        return _cast_slowly(block, dtype, target, to, clamp=clamp)
    worst, zeros = _ROUND[to.name](values, np.frombuffer(target, "<u2"), scratch)
    underflowed = zeros - int(np.count_nonzero(np.equal(given, 0, out=scratch.flags[: given.size]))) if zeros else 0
    if dtype is DTYPES["float64"]:
        exact = given.astype(np.float64, copy=False)
        error = float(np.abs(as_array(target, to).astype(np.float64) - exact).max(initial=0.0))
        return Audit(0, underflowed, float(np.abs(exact).max(initial=0.0)), error)
    return Audit(0, underflowed, float(np.uint32(largest).view(np.float32)), worst)


def _round_to_half(values: F32, out: NDArray[np.uint16], scratch: Scratch) -> tuple[float, int]:
    """Round finite values below 65,520 to the nearest half, ties to even. Returns the largest absolute error and the number of zeros.

    Adding 1.5 times a power of two 13 binary places above a value (or above 2**-14, for subnormal halves) makes the float adder itself round it to a
    half's last bit. What is then a half's value needs no more rounding: times 2**-112 its bits are a half's, 13 places higher.
    """
    bits = values.view(np.uint32)
    anchor, halves = scratch.one[: values.size], scratch.two[: values.size]
    np.bitwise_and(bits, _EXPONENT, out=anchor)
    np.maximum(anchor, _smallest(BLOCK)[: values.size], out=anchor)
    np.add(anchor, _TO_ANCHOR, out=anchor)
    as_float, error = halves.view(np.float32), anchor.view(np.float32)
    np.add(values, error, out=as_float)
    np.subtract(as_float, error, out=as_float)
    np.subtract(as_float, values, out=error)
    worst = max(float(error.max()), -float(error.min()))
    np.multiply(as_float, _TO_HALF_RANGE, out=as_float)
    zeros = values.size - int(np.count_nonzero(halves))
    sign = np.bitwise_and(bits, _SIGN, out=anchor)  # of the value, as the adder loses that of zeros
    np.right_shift(sign, np.uint32(3), out=sign)
    np.bitwise_or(halves, sign, out=halves)
    np.right_shift(halves, np.uint32(13), out=halves)
    np.copyto(out, halves, casting="unsafe")
    return worst, zeros


def _round_to_bfloat16(values: F32, out: NDArray[np.uint16], scratch: Scratch) -> tuple[float, int]:
    """As `_round_to_half`, for the upper half of a float32: what is added carries into it where it is to be rounded up."""
    bits = values.view(np.uint32)
    upper, error = scratch.one[: values.size], scratch.two[: values.size].view(np.float32)
    np.right_shift(bits, np.uint32(16), out=upper)
    np.bitwise_and(upper, np.uint32(1), out=upper)
    np.add(upper, np.uint32(0x7FFF), out=upper)
    np.add(upper, bits, out=upper)
    np.bitwise_and(upper, np.uint32(0xFFFF0000), out=upper)
    np.subtract(upper.view(np.float32), values, out=error)
    worst = max(float(error.max()), -float(error.min()))
    zeros = int(np.count_nonzero(np.equal(upper.view(np.float32), 0, out=scratch.flags[: values.size])))
    np.right_shift(upper, np.uint32(16), out=upper)
    np.copyto(out, upper, casting="unsafe")
    return worst, zeros


_FIRST_BEYOND = {"float16": 0x477FF000, "bfloat16": 0x7F7F8000}  # the bits of the first float32 that becomes infinite
_ROUND = {"float16": _round_to_half, "bfloat16": _round_to_bfloat16}


def _cast_slowly(block: memoryview, dtype: DType, target: memoryview, to: DType, *, clamp: bool) -> Audit:
    """Any cast, of any values: for the rare block with NaN, infinity or values beyond the range of `to`."""
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
