"""View bytes as NumPy arrays of any dtype."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gsvckpt.dtypes import DType
from gsvckpt.errors import UnsupportedError

BLOCK = 1 << 18  # values at a time: with half as many, two threads lose a third of their time to the interpreter lock, which each step lets go
F32 = NDArray[np.float32]


class Scratch:
    """One thread's arrays for a block, used again for each: fresh ones cost more than the arithmetic, as the system has to clear their pages."""

    def __init__(self) -> None:
        self.one, self.two = both = np.empty((2, BLOCK), np.uint32)
        self.wide = both.reshape(-1).view(np.float64)  # the same memory; nobody needs both
        self.flags = np.empty(BLOCK, np.bool_)
        self.places = np.empty(BLOCK, np.uint8)


def quiet() -> np.errstate:
    """Silence warnings about infinities and NaN, which are what is looked for. (A fresh one for each use, as threads must not share it.)"""
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
    raise UnsupportedError(f"{dtype.name} values are not plain numbers")


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


def largest_bits(bits: NDArray[np.signedinteger[Any]]) -> int:
    """The bits of the largest magnitude of floats, given as integers: those of equal sign are in the order of their bits."""
    positive, negative = int(bits.max()), int(bits.view(bits.dtype.str.replace("i", "u")).max())  # the largest of each sign
    return max(positive, negative - (1 << (bits.itemsize * 8 - 1)), 0)
