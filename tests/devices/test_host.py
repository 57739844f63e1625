"""NumPy against torch, bit for bit."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gsvckpt.devices.arrays import BLOCK, as_array
from gsvckpt.devices.device import Audit
from gsvckpt.devices.host import Host
from gsvckpt.dtypes import DTYPES
from gsvckpt.errors import UnsupportedError

HOST = Host()
FLOATS = ["float64", "float32", "float16", "bfloat16"]


def raw_of(values):
    return memoryview(bytearray(values.contiguous().view(torch.uint8).numpy().tobytes()))


def cast(values, *, clamp=False):
    out = bytearray(values.numel() * 2)
    audit = HOST.cast(raw_of(values), DTYPES[str(values.dtype).removeprefix("torch.")], memoryview(out), DTYPES["float16"], clamp=clamp)
    return audit, torch.frombuffer(out, dtype=torch.float16)


def expected(values, half):
    exact, finite = values.double(), values.isfinite()
    kept = finite & half.isfinite()
    return Audit(
        int((finite & (values.float().abs() >= 65520)).sum()),
        int(((half == 0) & (values != 0)).sum()),
        float(torch.where(finite, exact.abs(), 0).max()),
        float(torch.where(kept, (half.double() - exact).abs(), 0).max()),
    )


@pytest.mark.parametrize("low", [0, 1, 0x7FF, 0xFFF, 0x1000, 0x1001, 0x1FFF])
@pytest.mark.parametrize("small", [True, False], ids=["fast way", "slow way"])
def test_cast_is_torchs_for_all_patterns_of_the_upper_bits(low, small):
    values = torch.from_numpy(((np.arange(1 << 19, dtype=np.uint32) << 13) | np.uint32(low)).view(np.float32))
    values = values[values.abs() < 65520] if small else values[~values.isnan()]
    audit, half = cast(values)
    assert torch.equal(half.view(torch.int16), values.half().view(torch.int16))
    assert audit == expected(values, half)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_cast_from_other_floats(dtype):
    values = torch.cat([torch.randn(BLOCK + 3) * 10**e for e in (-9, -7, -4, 0, 4)]).to(dtype)
    audit, half = cast(values)
    assert torch.equal(half.view(torch.int16), values.half().view(torch.int16))
    assert audit == expected(values, half)


def test_float64_rounds_by_way_of_float32_as_torch_does():
    values = torch.tensor([65519.9999999, 1 + 2**-11 + 2**-40, 1e300, -1e300, 2.0**-25 + 2.0**-60], dtype=torch.float64)
    audit, half = cast(values)
    assert torch.equal(half, values.half())
    assert audit.overflowed == 3


def test_cast_keeps_nan_and_infinity_and_counts_what_overflows():
    values = torch.tensor([math.nan, math.inf, -math.inf, 65519.0, 65520.0, -1e9, 1e-9, 0.0, -0.0])
    audit, half = cast(values)
    assert half.tolist()[1:] == [math.inf, -math.inf, 65504, math.inf, -math.inf, 0, 0, 0]
    assert half[0].isnan()
    assert half.signbit().tolist()[-2:] == [False, True]
    assert audit == Audit(2, 1, 1e9, 15.0)
    audit, half = cast(values, clamp=True)
    assert half.tolist()[1:6] == [math.inf, -math.inf, 65504, 65504, -65504]
    assert audit.overflowed == 2


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@pytest.mark.parametrize("name", [*FLOATS, "int64", "int32", "uint8", "int8", "bool", "uint16", "complex64", "complex32"])
def test_measure_and_histogram_follow_torch(name):
    kind = getattr(torch, name)
    values = (torch.randn(100_003) * 50).abs().to(kind) if name in {"bool", "uint8", "uint16"} else (torch.randn(100_003) * 50).to(kind)
    wide = values.to(torch.complex128).abs() if kind.is_complex else values.double()
    found = HOST.measure(raw_of(values), DTYPES[name])
    assert (found.count, found.nan, found.infinite, found.zero) == (100_003, 0, 0, int((wide == 0).sum()))
    assert (found.low, found.high) == (wide.min().item(), wide.max().item())
    assert found.mean == pytest.approx(wide.mean().item(), rel=1e-9, abs=1e-12)
    assert found.std == pytest.approx(wide.std(correction=0).item(), rel=1e-9)
    counts = HOST.histogram(raw_of(values), DTYPES[name], found.low, found.high, 16)
    assert sum(counts) == 100_003
    width = found.high - found.low
    places = ((wide - found.low) * (16 / width if width else 0)).long().clamp(0, 15)  # torch.histc puts values on an edge elsewhere
    assert counts == torch.bincount(places, minlength=16).tolist()


def test_measure_counts_what_is_not_finite():
    values = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 2.0, -3.0])
    found = HOST.measure(raw_of(values), DTYPES["float32"])
    assert (found.count, found.nan, found.infinite, found.zero, found.low, found.high, found.mean) == (7, 1, 2, 2, -3.0, 2.0, -0.25)
    assert HOST.histogram(raw_of(values), DTYPES["float32"], -3.0, 2.0, 5) == [1, 0, 0, 2, 1]
    nothing = HOST.measure(raw_of(values[:3]), DTYPES["float32"])
    assert (nothing.finite, nothing.low, nothing.high) == (0, math.inf, -math.inf)


def test_the_ends_of_float64_pass_without_warnings():
    values = torch.tensor([1.7e308, -1.7e308, 1.7e308, 5e-324], dtype=torch.float64)
    found = HOST.measure(raw_of(values), DTYPES["float64"])
    assert (found.low, found.high, found.infinite) == (-1.7e308, 1.7e308, 0)
    assert HOST.histogram(raw_of(values), DTYPES["float64"], found.low, found.high, 2) == [1, 3]
    tiny = torch.tensor([0, 5e-324], dtype=torch.float64)
    assert HOST.histogram(raw_of(tiny), DTYPES["float64"], 0.0, 5e-324, 2) == [1, 1]


@pytest.mark.parametrize("name", [n for n in DTYPES if n.startswith("float8") and hasattr(torch, n)])
def test_float8_values_are_torchs(name):
    patterns = torch.arange(256, dtype=torch.uint8)
    oracle = patterns.view(getattr(torch, name)).float()
    found = torch.from_numpy(as_array(raw_of(patterns), DTYPES[name]).copy())
    assert torch.equal(found.isnan(), oracle.isnan())
    assert torch.equal(found[~found.isnan()], oracle[~oracle.isnan()])


def test_types_without_numbers_are_refused():
    with pytest.raises(UnsupportedError):
        as_array(memoryview(bytearray(4)), DTYPES["quint8"])


def difference(one, two):
    kinds = [DTYPES[str(values.dtype).removeprefix("torch.")] for values in (one, two)]
    return HOST.max_difference(raw_of(one), kinds[0], raw_of(two), kinds[1])


def test_difference_of_special_values():
    one = torch.tensor([math.nan, math.inf, 1.0, -0.0])
    assert difference(one, one.clone()) == 0.0
    assert difference(one, torch.tensor([math.nan, math.inf, 1.5, 0.0])) == 0.5
    assert difference(one, torch.tensor([0.0, math.inf, 1.0, 0.0])) == math.inf
    assert difference(one, torch.tensor([math.nan, -math.inf, 1.0, 0.0])) == math.inf
    assert difference(torch.tensor([3 + 4j]), torch.tensor([0j])) == 5.0
    assert difference(torch.tensor([True]), torch.tensor([False])) == 1.0


def test_difference_of_large_integers_is_exact():
    assert difference(torch.tensor([2**62 + 1]), torch.tensor([2**62])) == 1.0
    assert difference(torch.tensor([-(2**63)]), torch.tensor([2**63 - 1])) == float(2**64 - 1)
    top = memoryview(bytearray(struct.pack("<Q", 2**64 - 1)))
    assert HOST.max_difference(top, DTYPES["uint64"], memoryview(bytearray(struct.pack("<Q", 2**64 - 2))), DTYPES["uint64"]) == 1.0


@settings(deadline=None)
@given(st.lists(st.floats(width=32), min_size=1, max_size=40), st.sampled_from(FLOATS), st.sampled_from(FLOATS), st.randoms())
def test_difference_follows_torch(numbers, one_name, two_name, random):
    one = torch.tensor(numbers).to(getattr(torch, one_name))
    random.shuffle(numbers)
    two = torch.tensor(numbers).to(getattr(torch, two_name))
    left, right = one.double(), two.double()
    gap = (left - right).abs()
    gap[(left == right) | (left.isnan() & right.isnan())] = 0.0
    gap[gap.isnan()] = math.inf
    assert difference(one, two) == gap.max().item()
