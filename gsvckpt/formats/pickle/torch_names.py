"""The names that torch itself allows with `weights_only=True` (`_get_allowed_globals` in torch/_weights_only_unpickler.py, torch 2.13)."""

from __future__ import annotations

from collections.abc import Mapping

from gsvckpt.dtypes import STORAGE_DTYPES

_DTYPES = (
    "bfloat16 bits16 bits1x8 bits2x4 bits4x2 bits8 bool complex128 complex32 complex64 float16 float32 float4_e2m1fn_x2 float64 float8_e4m3fn "
    "float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu int1 int16 int2 int3 int32 int4 int5 int6 int64 int7 int8 qint32 qint8 quint2x4 "
    "quint4x2 quint8 uint1 uint16 uint2 uint3 uint32 uint4 uint5 uint6 uint64 uint7 uint8"
).split()
_QUANTIZATION = "per_channel_affine per_channel_affine_float_qparams per_channel_symmetric per_tensor_affine per_tensor_symmetric".split()
_SPARSE = "BFloat16Tensor ByteTensor CharTensor DoubleTensor FloatTensor HalfTensor IntTensor LongTensor ShortTensor".split()
_TENSORS = [*_SPARSE, "BoolTensor"]
_CUDA_STORAGES = (
    "BFloat16Storage BoolStorage ByteStorage CharStorage ComplexDoubleStorage ComplexFloatStorage DoubleStorage FloatStorage HalfStorage IntStorage "
    "LongStorage ShortStorage"
).split()
REBUILDS = tuple(
    f"_rebuild_{what}"
    for what in (
        "parameter parameter_with_state qtensor tensor tensor_v2 tensor_v3 sparse_tensor meta_tensor_no_storage nested_tensor wrapper_subclass "
        "device_tensor_from_numpy device_tensor_from_cpu_tensor"
    ).split()
)

DTYPE_NAMES = frozenset(_DTYPES)
TENSOR_CLASSES: Mapping[str, frozenset[str]] = {
    "torch": frozenset([*_TENSORS, "Tensor"]),
    "torch.cuda": frozenset(_TENSORS),
    "torch.sparse": frozenset(_SPARSE),
    "torch.cuda.sparse": frozenset(_SPARSE),
}
STORAGE_CLASSES: Mapping[str, frozenset[str]] = {
    "torch": frozenset(STORAGE_DTYPES) - {"UntypedStorage"},
    "torch.cuda": frozenset(_CUDA_STORAGES),
    "torch.storage": frozenset(["UntypedStorage", "TypedStorage"]),
}
ALLOWED: Mapping[str, frozenset[str]] = {
    "builtins": frozenset("bytearray set complex".split()),
    "collections": frozenset("OrderedDict Counter".split()),
    "_codecs": frozenset(["encode"]),
    "torch": TENSOR_CLASSES["torch"] | STORAGE_CLASSES["torch"] | frozenset([*_DTYPES, *_QUANTIZATION, "Size", "device"]),
    "torch.cuda": TENSOR_CLASSES["torch.cuda"] | STORAGE_CLASSES["torch.cuda"],
    "torch.sparse": TENSOR_CLASSES["torch.sparse"],
    "torch.cuda.sparse": TENSOR_CLASSES["torch.cuda.sparse"],
    "torch.storage": STORAGE_CLASSES["torch.storage"],
    "torch.serialization": frozenset(["_get_layout"]),
    "torch.nn.parameter": frozenset(["Parameter"]),
    "torch._tensor": frozenset(["_rebuild_from_type_v2"]),
    "torch._utils": frozenset(REBUILDS),
}
