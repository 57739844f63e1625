"""Scalars as NumPy pickles them, against what NumPy says that they are."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from support.builders import read

from gsvckpt.model import Global, Opaque
from gsvckpt.sovits.numpy_scalars import scalar_value

CODES = ["b1", "f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]


def pickled(value: object) -> Opaque:
    file = io.BytesIO()
    torch.save({"value": value}, file)
    found = read(file.getvalue()).root["value"]
    assert isinstance(found, Opaque)
    return found


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("code", CODES)
def test_every_number_is_what_numpy_says(code: str, order: str) -> None:
    for number in (0, 1, -1 if code[0] in "fi" else 1, 1 / 3 if code[0] == "f" else 100, math.inf if code[0] == "f" else 7):
        scalar = np.array([number]).astype(order + code)[0]
        found = scalar_value(pickled(scalar))
        assert (type(found), found) == (type(scalar.item()), scalar.item())


@pytest.mark.parametrize("code", ["i2", "f4", "u8"])
def test_other_byte_orders(code: str) -> None:
    """NumPy itself turns scalars to the machine's order, so a foreign machine's pickle is made by hand."""
    dtype = Opaque(Global("numpy", "dtype"), "reduce", (code, False, True), [("build", (3, ">", None, None, None, -1, -1, 0))])
    value = Opaque(Global("numpy.core.multiarray", "scalar"), "reduce", (dtype, np.array([3], ">" + code).tobytes()))
    assert scalar_value(value) == 3


@pytest.mark.parametrize(
    "value", [np.str_("x"), np.datetime64("2020-01-01"), np.complex64(1), np.longdouble(1), np.bytes_(b"x"), np.zeros(2), np.dtype("f4")]
)
def test_what_is_no_number_stays(value: object) -> None:
    assert scalar_value(pickled(value)) is None


DTYPE = Opaque(Global("numpy", "dtype"), "reduce", ("f4", False, True), [("build", (3, "<", None, None, None, -1, -1, 0))])


@pytest.mark.parametrize(
    ("name", "args", "how"),
    [
        (Global("numpy.core.multiarray", "scalar"), (DTYPE, b"\0\0\0"), "reduce"),
        (Global("numpy.core.multiarray", "scalar"), (DTYPE, "0000"), "reduce"),
        (Global("numpy.core.multiarray", "scalar"), (DTYPE, b"0000"), "newobj"),
        (Global("numpy.core.multiarray", "scalar"), (DTYPE, b"0000", 1), "reduce"),
        (Global("numpy.core.multiarray", "scalar"), ("f4", b"0000"), "reduce"),
        (Global("numpy.core.multiarray", "scalar"), (Opaque(DTYPE.name, "reduce", ("f4",)), b"0000"), "reduce"),
        (Global("numpy.core.multiarray", "scalar"), (Opaque(DTYPE.name, "reduce", ("f4",), [("build", (3, "="))]), b"0000"), "reduce"),
        (Global("numpy.core.multiarray", "scalar"), (Opaque(DTYPE.name, "reduce", ([],), DTYPE.steps), b"0000"), "reduce"),
        (Global("somebody", "scalar"), (DTYPE, b"0000"), "reduce"),
    ],
)
def test_what_numpy_would_not_write_stays(name: Global, args: object, how: str) -> None:
    assert scalar_value(Opaque(name, how, args)) is None
