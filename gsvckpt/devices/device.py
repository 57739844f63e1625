"""The results of computing on one block of numbers, and how the results of blocks are added up. Plain numbers, no NumPy."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isinf, isnan, nan, sqrt
from typing import NamedTuple, Protocol

from gsvckpt.dtypes import DType

LARGEST = {"float16": 65_504.0, "bfloat16": 3.3895313892515355e38, "float32": 3.4028234663852886e38}  # the largest finite value of each target


class Matrix(NamedTuple):
    """A matrix in row-major order, in memory."""

    data: memoryview
    dtype: DType
    rows: int
    columns: int

    def rows_from(self, start: int, count: int) -> Matrix:
        """Some of its rows."""
        width = self.columns * self.dtype.itemsize
        return Matrix(self.data[start * width : (start + count) * width], self.dtype, count, self.columns)


@dataclass(frozen=True, slots=True)
class Audit:
    """What a cast to a smaller float did to some values.

    `overflowed`: finite values that became infinite or were clamped; `underflowed`: values that became zero; `largest`: the largest finite magnitude
    before; `max_abs_error`: the largest difference among finite results.
    """

    overflowed: int = 0
    underflowed: int = 0
    largest: float = 0.0
    max_abs_error: float = 0.0

    @property
    def max_rel_error(self) -> float:
        """The largest error relative to the largest value: single near-zero weights always round away, so a ratio per value would always say 1."""
        return self.max_abs_error / self.largest if self.largest else 0.0

    def __add__(self, other: Audit) -> Audit:
        return Audit(
            self.overflowed + other.overflowed,
            self.underflowed + other.underflowed,
            max(self.largest, other.largest),
            max(self.max_abs_error, other.max_abs_error),
        )


@dataclass(frozen=True, slots=True)
class Moments:
    """Counts and sums of some values; `low`, `high`, `total` and `squares` are over the finite ones."""

    count: int = 0
    nan: int = 0
    infinite: int = 0
    zero: int = 0
    low: float = inf
    high: float = -inf
    total: float = 0.0
    squares: float = 0.0

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count,
            self.nan + other.nan,
            self.infinite + other.infinite,
            self.zero + other.zero,
            min(self.low, other.low),
            max(self.high, other.high),
            self.total + other.total,
            self.squares + other.squares,
        )

    @property
    def finite(self) -> int:
        return self.count - self.nan - self.infinite

    @property
    def mean(self) -> float:
        return self.total / self.finite if self.finite else nan

    @property
    def std(self) -> float:
        """The population standard deviation of the finite values."""
        mean = self.mean
        if self.low == self.high:
            return 0.0  # rounding of the sums would leave a little
        return nan if isnan(mean) else sqrt(max(self.squares / self.finite - mean * mean, 0.0))

    def __mul__(self, times: int) -> Moments:
        """The same values, each `times` over."""
        counts = (self.count * times, self.nan * times, self.infinite * times, self.zero * times)
        return Moments(*counts, self.low, self.high, self.total * times, self.squares * times)


@dataclass(frozen=True, slots=True)
class Extremes:
    """What is wrong with some values, if anything.

    `beyond`: finite values that float16 would make infinite; `largest`: the largest finite magnitude; `only`: the bytes of the value that all of
    them have, empty where they differ.
    """

    count: int = 0
    nan: int = 0
    infinite: int = 0
    beyond: int = 0
    largest: float = 0.0
    only: bytes = b""

    def __add__(self, other: Extremes) -> Extremes:
        if not self.count or not other.count:
            return self if self.count else other
        return Extremes(
            self.count + other.count,
            self.nan + other.nan,
            self.infinite + other.infinite,
            self.beyond + other.beyond,
            max(self.largest, other.largest),
            self.only if self.only == other.only else b"",
        )


def bin_steps(low: float, high: float, bins: int) -> tuple[float, float, float]:
    """(unit, origin, scale), so that the bin of a value is int((value * unit - origin) * scale), in float64 and in this order on every device.

    The unit is 1 but where the range itself, or its inverse, would overflow.
    """
    unit = 0.25 if isinf(high - low) else 2.0**200 if high - low < 1e-250 else 1.0
    return unit, low * unit, bins / (high * unit - low * unit)


class Device(Protocol):
    """Something that computes on raw little-endian bytes; its methods may be called from several threads.

    Results are bit-identical on every device, but for products and the two sums of Moments. Complex values count by their magnitude, except in
    `max_difference`.
    All but `cast` raise UnsupportedError for types that hold no plain numbers.
    """

    @property
    def name(self) -> str: ...
    def cast(self, raw: memoryview, dtype: DType, out: memoryview, to: DType, *, clamp: bool) -> Audit:
        """Write `raw`, values of a floating `dtype`, to `out` as float16, bfloat16 or float32, rounded as torch rounds (to the small ones by way of
        float32). A cast that loses nothing is not audited.
        """
        ...

    def add_product(self, base: Matrix, up: Matrix, down: Matrix) -> memoryview:
        """`base + up @ down` as float32, computed by torch in float32, so that it is to the bit what peft's merge gives on the same device.

        Devices add up in different orders, so the last bits differ between them. The memory is used again for the thread's next product.
        """
        ...

    def measure(self, raw: memoryview, dtype: DType) -> Moments:
        """Counts, lowest and highest are exact; the two sums are added up in float64, in an order that the device chooses."""
        ...

    def extremes(self, raw: memoryview, dtype: DType) -> Extremes:
        """Counts of NaN, infinity and what float16 cannot hold, the largest magnitude, and whether all are one value. For dtypes of real numbers."""
        ...

    def histogram(self, raw: memoryview, dtype: DType, low: float, high: float, bins: int) -> list[int]:
        """Count the finite values in `bins` equal steps, at most 256, from `low` to `high`; all in the first where the two are the same."""
        ...

    def max_difference(self, one: memoryview, one_dtype: DType, two: memoryview, two_dtype: DType) -> float:
        """The largest absolute difference of two runs of equally many values; NaN against anything but NaN counts as infinite."""
        ...
