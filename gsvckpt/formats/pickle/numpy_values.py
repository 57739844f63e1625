"""The plain value of a pickled NumPy array or scalar: a tensor, a list of texts or objects, a number. NumPy is not needed for it."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import prod

from gsvckpt.dtypes import DTYPES, UNTYPED, DType
from gsvckpt.files.memory import MemorySource
from gsvckpt.formats.pickle.numpy_forms import array, buffer, is_array, scalar
from gsvckpt.model import Global, Opaque, Storage, Tensor, contiguous_stride

_TYPES = {
    "b1": "bool",
    "f2": "float16",
    "f4": "float32",
    "f8": "float64",
    "c8": "complex64",
    "c16": "complex128",
    **{f"{letter}{size}": f"{word}{8 * size}" for letter, word in (("i", "int"), ("u", "uint")) for size in (1, 2, 4, 8)},
}
_CODES = {
    "bool": "?",
    "float16": "e",
    "float32": "f",
    "float64": "d",
    **{f"int{8 * n}": code for n, code in ((1, "b"), (2, "h"), (4, "i"), (8, "q"))},
}
_COMPLEX = Global("__builtin__", "complex")  # as protocol 2 spells it
_CODES |= {f"uint{8 * n}": code for n, code in ((1, "B"), (2, "H"), (4, "I"), (8, "Q"))}


def plain_value(made: Opaque) -> object:
    """A tensor for an array of numbers, with its order in memory; nested lists for one of texts or objects; the number or text of a scalar.

    The object itself where there is nothing plain: for times, structures, numbers of more than eight bytes, and anything that is not of NumPy.
    """
    if made.name.name == "scalar" and scalar(made):
        assert isinstance(made.args, tuple)  # noqa: S101 - `scalar` looked at it; for the type checker
        found = _values(made.args[0], made.args[1], 1)
        return made if found is None else found[0]
    if not is_array(made) or not isinstance(made.args, tuple):
        return made
    if made.name.name == "_reconstruct" and array(made):
        if not made.steps:
            return made
        state = made.state
        assert isinstance(state, tuple)  # noqa: S101 - as above
        _, shape, dtype, fortran, data = state
    elif buffer(made):
        data, dtype, shape, order = made.args
        data = data.args[0] if isinstance(data, Opaque) and isinstance(data.args, tuple) and data.args else data  # a bytearray
        if not isinstance(data, bytes):
            return made
        fortran = order == "F"
    else:
        return made
    found_value = _array(shape, dtype, data, fortran=bool(fortran))
    return made if found_value is None else found_value


def _array(shape: tuple[int, ...], dtype: object, data: object, *, fortran: bool) -> object:
    """A tensor or nested lists; None where the elements are nothing plain."""
    number = _number(dtype)
    if number is not None and isinstance(data, (bytes, str)):
        raw = data.encode("latin-1") if isinstance(data, str) else data
        raw = _little(raw, number, dtype)
        kind = number if number.storage else UNTYPED  # torch has no storages of the younger types
        storage = Storage("", kind, len(raw) // kind.itemsize, "cpu", MemorySource(raw, "a NumPy array"), 0)
        stride = contiguous_stride(shape[::-1])[::-1] if fortran else contiguous_stride(shape)
        return Tensor(storage, number, shape, stride)
    values = data if isinstance(data, list) else _values(dtype, data, prod(shape))
    if values is None:
        return None
    if fortran and isinstance(data, (bytes, str)):  # objects stand in row-major order in any case
        step = contiguous_stride(shape[::-1])[::-1]
        values = [values[sum(place * width for place, width in zip(index, step, strict=True))] for index in _indexes(shape)]
    return _nest(values, shape)


def _indexes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """All indexes of an array in row-major order."""
    found: list[tuple[int, ...]] = [()]
    for size in shape:
        found = [(*index, place) for index in found for place in range(size)]
    return found


def _nest(values: Sequence[object], shape: tuple[int, ...]) -> object:
    if not shape:
        return values[0]
    step = prod(shape[1:])
    return [_nest(values[place * step : (place + 1) * step], shape[1:]) for place in range(shape[0])] if len(shape) > 1 else list(values)


def _code(dtype: object) -> str:
    return dtype.args[0] if isinstance(dtype, Opaque) and isinstance(dtype.args, tuple) and dtype.args and isinstance(dtype.args[0], str) else ""


def _number(dtype: object) -> DType | None:
    """Torch's type for a dtype of numbers; None for all others, and for structures and subarrays, which have one of bytes."""
    return DTYPES.get(_TYPES.get(_code(dtype), ""))


def _is_big(dtype: object) -> bool:
    state = dtype.state if isinstance(dtype, Opaque) else None
    return isinstance(state, tuple) and len(state) > 1 and state[1] == ">"


def _little(raw: bytes, number: DType, dtype: object) -> bytes:
    """The bytes with each number in little-endian order."""
    width = number.itemsize // 2 if number.name.startswith("complex") else number.itemsize
    if width == 1 or not _is_big(dtype):
        return raw
    turned = bytearray(raw)
    for place in range(width):
        turned[place::width] = raw[width - 1 - place :: width]
    return bytes(turned)


def _values(dtype: object, data: object, count: int) -> list[object] | None:
    """The elements of texts, or the numbers of scalars, as Python's own values; None where they are something else."""
    code = _code(dtype)
    raw = data.encode("latin-1") if isinstance(data, str) else data
    if not isinstance(raw, bytes) or not code:
        return None
    number = _number(dtype)
    if number is not None:
        little = _little(raw, number, dtype)
        if number.name.startswith("complex"):
            parts = struct.unpack(f"<{2 * count}{'f' if number.itemsize == 8 else 'd'}", little)
            return [Opaque(_COMPLEX, "reduce", parts[place : place + 2]) for place in range(0, 2 * count, 2)]
        return list(struct.unpack(f"<{count}{_CODES[number.name]}", little))
    size = len(raw) // count if count else 0
    pieces = [raw[place * size : (place + 1) * size] for place in range(count)]
    try:
        if code[0] == "U":
            return [piece.decode("utf-32-be" if _is_big(dtype) else "utf-32-le").rstrip("\0") for piece in pieces]
        return [piece.rstrip(b"\0").decode("ascii") for piece in pieces] if code[0] == "S" else None
    except UnicodeDecodeError:
        return None
