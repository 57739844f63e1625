"""Read NumPy scalars in a pickle as plain numbers, from their bytes, without NumPy."""

from __future__ import annotations

import struct

from gsvckpt.model import Global, Opaque

_SCALARS = frozenset(Global(f"numpy.{core}.multiarray", "scalar") for core in ("core", "_core"))
_DTYPE = Global("numpy", "dtype")
_CODES = {"b1": "?", "f2": "e", "f4": "f", "f8": "d", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"}
_ORDERS = ("<", "|", ">")  # as a dtype's state has it; "=" stands in none, as it would depend on the machine


def scalar_value(value: Opaque) -> bool | int | float | None:
    """The number of a `numpy.float32(...)` and its like; None for any other object."""
    if value.name not in _SCALARS or value.how != "reduce" or value.steps or not isinstance(value.args, tuple) or len(value.args) != 2:
        return None
    dtype, data = value.args
    if not isinstance(dtype, Opaque) or dtype.name != _DTYPE or not isinstance(dtype.args, tuple) or not dtype.args or len(dtype.steps) != 1:
        return None
    code, state = _CODES.get(dtype.args[0]) if isinstance(dtype.args[0], str) else None, dtype.state
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
    if code is None or order not in _ORDERS or not isinstance(data, bytes) or len(data) != struct.calcsize(code):
        return None
    number: bool | int | float = struct.unpack((">" if order == ">" else "<") + code, data)[0]
    return number
