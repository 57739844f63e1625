"""Element types under all their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class DType:
    """An element type: torch's name, bytes per element, and its names in the containers and in NumPy ("" where there is none)."""

    name: str
    itemsize: int
    storage: str = ""  # torch's typed storage class, the name that pickles carry
    code: str = ""  # the name in a safetensors header
    numpy: str = ""
    floating: bool = False  # a float that convert-fp16 understands

    def __reduce__(self) -> tuple[Callable[[str], DType], tuple[str]]:
        """Between processes a name goes: types are compared by identity."""
        return _named, (self.name,)


def _named(name: str) -> DType:
    return UNTYPED if name == UNTYPED.name else DTYPES[name]


UNTYPED = DType("untyped", 1, "UntypedStorage")  # raw bytes; the tensor, not the storage, knows the type

DTYPES: Mapping[str, DType] = {
    dtype.name: dtype
    for dtype in (
        DType("float64", 8, "DoubleStorage", "F64", "<f8", True),
        DType("float32", 4, "FloatStorage", "F32", "<f4", True),
        DType("float16", 2, "HalfStorage", "F16", "<f2", True),
        DType("bfloat16", 2, "BFloat16Storage", "BF16", "", True),
        DType("int64", 8, "LongStorage", "I64", "<i8"),
        DType("int32", 4, "IntStorage", "I32", "<i4"),
        DType("int16", 2, "ShortStorage", "I16", "<i2"),
        DType("int8", 1, "CharStorage", "I8", "|i1"),
        DType("uint8", 1, "ByteStorage", "U8", "|u1"),
        DType("bool", 1, "BoolStorage", "BOOL", "|b1"),
        DType("complex128", 16, "ComplexDoubleStorage", "", "<c16"),
        DType("complex64", 8, "ComplexFloatStorage", "C64", "<c8"),
        DType("complex32", 4),
        DType("uint64", 8, "", "U64", "<u8"),
        DType("uint32", 4, "", "U32", "<u4"),
        DType("uint16", 2, "", "U16", "<u2"),
        DType("float8_e4m3fn", 1, "", "F8_E4M3"),
        DType("float8_e5m2", 1, "", "F8_E5M2"),
        DType("float8_e4m3fnuz", 1, "", "F8_E4M3FNUZ"),
        DType("float8_e5m2fnuz", 1, "", "F8_E5M2FNUZ"),
        DType("float8_e8m0fnu", 1, "", "F8_E8M0"),
        DType("float4_e2m1fn_x2", 1),
        DType("quint8", 1, "QUInt8Storage"),
        DType("qint8", 1, "QInt8Storage"),
        DType("qint32", 4, "QInt32Storage"),
        DType("quint4x2", 1, "QUInt4x2Storage"),
        DType("quint2x4", 1, "QUInt2x4Storage"),
        *(DType(f"bits{n}", 1) for n in ("1x8", "2x4", "4x2", "8")),
        DType("bits16", 2),
        *(DType(f"{sign}int{n}", 1) for sign in ("", "u") for n in range(1, 8)),
    )
}
STORAGE_DTYPES: Mapping[str, DType] = {d.storage: d for d in (*DTYPES.values(), UNTYPED) if d.storage}
SAFETENSORS_DTYPES: Mapping[str, DType] = {d.code: d for d in DTYPES.values() if d.code}
