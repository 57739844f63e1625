"""How results add up."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from gsvckpt.devices.device import Audit, Moments, bin_steps


def test_std_of_equal_values_is_exactly_zero():
    assert Moments(3, 0, 0, 0, 0.1, 0.1, 0.1 + 0.1 + 0.1, 0.03).std == 0.0


def test_empty_moments_have_no_mean():
    assert math.isnan(Moments().mean)
    assert math.isnan(Moments().std)


def test_times_counts_every_value_so_often():
    once = Moments(4, 1, 1, 1, -1.0, 2.0, 1.0, 5.0)
    assert once * 3 == once + once + once


def test_relative_error_is_relative_to_the_largest_value():
    assert (Audit(1, 2, 8.0, 0.5) + Audit(0, 1, 2.0, 1.0)) == Audit(1, 3, 8.0, 1.0)
    assert Audit(0, 0, 8.0, 0.5).max_rel_error == 0.0625
    assert Audit().max_rel_error == 0.0


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False), st.integers(1, 64))
def test_every_range_has_bins(one, two, bins):
    low, high = min(one, two), max(one, two)
    if low == high:
        return
    unit, origin, scale = bin_steps(low, high, bins)
    assert int((low * unit - origin) * scale) == 0
    assert bins - 1 <= int((high * unit - origin) * scale) <= bins
