"""How torch pickles the objects that gsvckpt keeps as recipes: special tensors, devices, sizes, generators."""

from __future__ import annotations

from collections import OrderedDict
from math import prod
from typing import TypeGuard

from gsvckpt.formats.pickle.numpy_forms import is_array
from gsvckpt.formats.pickle.torch_names import DTYPE_NAMES, REBUILDS
from gsvckpt.model import Global, Opaque, Storage, Tensor

_MOST_DIMS, _MOST_ELEMENTS = 64, 1 << 62
_UTILS = "torch._utils"
_V2, _V3 = Global(_UTILS, "_rebuild_tensor_v2"), Global(_UTILS, "_rebuild_tensor_v3")
_OPAQUE_TENSORS = frozenset(
    [
        *(Global(_UTILS, name) for name in (*REBUILDS, "_rebuild_sparse_csr_tensor")),
        *(Global(f"torch.{module}", name) for module in ("_tensor", "tensor") for name in ("_rebuild_from_type_v2", "_rebuild_from_type")),
    ]
)
_DEVICE, _SIZE, _LAYOUT = Global("torch", "device"), Global("torch", "Size"), Global("torch.serialization", "_get_layout")
_PER_TENSOR = frozenset(["per_tensor_affine", "per_tensor_symmetric"])
# Setting one of these on a tensor is more than keeping a value: they are torch's own attributes.
_TENSORS_OWN = frozenset(
    (
        "data grad _grad grad_dtype grad_fn _grad_fn names requires_grad real imag T H mT mH is_leaf volatile "
        "_backward_hooks _post_accumulate_grad_hooks _base _cdata"
    ).split()
)


def view(made: Opaque) -> bool:
    """`_rebuild_tensor`, `_v2`, `_v3`: sizes inside the storage, and no more than conjugate or negative bits."""
    args = made.args
    if made.how != "reduce" or made.steps or not isinstance(args, tuple) or len(args) < 4 or not _fits(args, made.name == _V3):
        return False
    if made.name not in (_V2, _V3):
        return len(args) == 4
    dtypes = 1 if made.name == _V3 else 0
    if len(args) not in (6 + dtypes, 7 + dtypes) or not isinstance(args[4], bool) or not isinstance(args[5], OrderedDict):
        return False
    bits = args[6 + dtypes] if len(args) == 7 + dtypes else None
    return bits is None or (isinstance(bits, dict) and all(key in ("conj", "neg") and isinstance(bit, bool) for key, bit in bits.items()))


def quantized(made: Opaque) -> bool:
    """`_rebuild_qtensor`: per tensor with a scale and a zero point, or per channel with as many as the axis has."""
    args = _args(made, 7)
    if args is None or not _fits(args, False) or not isinstance(args[4], tuple) or not isinstance(args[5], bool):
        return False
    scheme, *rest = args[4]
    if not isinstance(scheme, Global) or scheme.module != "torch":
        return False
    if scheme.name in _PER_TENSOR:
        return len(rest) == 2 and isinstance(rest[0], (int, float)) and isinstance(rest[1], int)
    size = args[2]
    if len(rest) != 3 or type(rest[2]) is not int or not isinstance(size, tuple) or not 0 <= rest[2] < len(size):
        return False  # older torch looks at neither the axis nor the lengths
    return all(_length(value) == size[rest[2]] for value in rest[:2])


def sparse(made: Opaque) -> bool:
    """`_rebuild_sparse_tensor`: a layout, and indices, values and a size."""
    args = _args(made, 2)
    return args is not None and _is_layout(args[0]) and isinstance(args[1], tuple) and _is_sparse_data(args[1])


def sparse_csr(made: Opaque) -> bool:
    """What torch 1.9 and 1.10 wrote for a compressed sparse tensor."""
    args = _args(made, 1)
    return args is not None and isinstance(args[0], tuple) and _is_sparse_data(args[0])


def nested(made: Opaque) -> bool:
    """`_rebuild_nested_tensor`: a buffer, sizes, strides and offsets, all of them tensors."""
    args = _args(made, 4)
    return args is not None and all(map(_is_tensor, args))


def without_memory(made: Opaque) -> bool:
    """A meta tensor: a dtype, a shape and strides."""
    args = _args(made, 4)
    return args is not None and _is_dtype(args[0]) and _are_sizes(args[1]) and _are_sizes(args[2]) and isinstance(args[3], bool)


def moved(made: Opaque) -> bool:
    """A tensor of a device that has no storages: its values on the host, a dtype and the device."""
    args = _args(made, 4)
    if args is None or not _is_dtype(args[1]) or not isinstance(args[2], (str, Opaque)) or not isinstance(args[3], bool):
        return False
    if made.name.name == "_rebuild_device_tensor_from_numpy":
        return is_array(args[0])
    return _is_tensor(args[0])  # whose `to` is called, so that nothing else will do


def parameter(made: Opaque) -> bool:
    """`_rebuild_parameter`, with or without attributes."""
    args = made.args
    if made.how != "reduce" or made.steps or not isinstance(args, tuple) or len(args) not in (3, 4):
        return False
    if not _is_tensor(args[0]) or not isinstance(args[1], bool) or not isinstance(args[2], OrderedDict):
        return False
    return len(args) == 3 or _are_attributes(args[3])


def bare_parameter(made: Opaque) -> bool:
    """`Parameter(tensor, requires_grad)`, as the first torch wrote it."""
    args = made.args
    if made.how == "newobj_ex" or made.steps or not isinstance(args, tuple) or len(args) not in (1, 2):
        return False
    return _is_tensor(args[0]) and all(isinstance(flag, bool) for flag in args[1:])


def typed(made: Opaque) -> bool:
    """`_rebuild_from_type(_v2)`: it calls what it is given, which has to be one of torch's own functions with its own arguments."""
    args = _args(made, 4)
    if args is None or not isinstance(args[0], Global) or not isinstance(args[1], Global) or not isinstance(args[2], tuple):
        return False
    inner = _INSIDE.get(args[0])
    return inner is not None and inner(Opaque(args[0], "reduce", args[2])) and _are_attributes(args[3])


_INSIDE = {
    Global(_UTILS, "_rebuild_tensor"): view,
    _V2: view,
    _V3: view,
    Global(_UTILS, "_rebuild_qtensor"): quantized,
    Global(_UTILS, "_rebuild_sparse_tensor"): sparse,
    Global(_UTILS, "_rebuild_nested_tensor"): nested,
    Global(_UTILS, "_rebuild_meta_tensor_no_storage"): without_memory,
    Global(_UTILS, "_rebuild_parameter"): parameter,
    Global(_UTILS, "_rebuild_parameter_with_state"): parameter,
}


def size(made: Opaque) -> bool:
    """`torch.Size((1, 2))`."""
    args = made.args
    return made.how != "newobj_ex" and not made.steps and isinstance(args, tuple) and len(args) == 1 and _are_numbers(args[0])


def device(made: Opaque) -> bool:
    """`torch.device("cuda", 0)`."""
    args = made.args
    if made.how != "reduce" or made.steps or not isinstance(args, tuple) or len(args) not in (1, 2):
        return False
    return isinstance(args[0], str) and all(type(number) is int for number in args[1:])


def layout(made: Opaque) -> bool:
    """`_get_layout("torch.strided")`."""
    args = _args(made, 1)
    return args is not None and isinstance(args[0], str)


def generator(made: Opaque) -> bool:
    """`Generator(device)`, then its seed, offset and state, which torch checks."""
    args = made.args
    if made.how != "reduce" or not isinstance(args, tuple) or len(args) != 1 or not (isinstance(args[0], Opaque) and args[0].name == _DEVICE):
        return False
    return all(
        step == "build"
        and isinstance(state, tuple)
        and len(state) == 3
        and isinstance(state[0], int)
        and (state[1] is None or isinstance(state[1], int))
        and _is_tensor(state[2])
        for step, state in made.steps
    )


def version(made: Opaque) -> bool:
    """`TorchVersion("2.1.0")`, a str."""
    args = made.args
    return made.how != "newobj_ex" and not made.steps and isinstance(args, tuple) and len(args) == 1 and isinstance(args[0], str)


def _fits(args: tuple[object, ...], has_dtype: bool) -> bool:
    """Whether (storage, start, shape, strides, ...) stays inside the storage. The element size of raw bytes is known only to a list of dtypes."""
    storage, start, shape, stride = args[:4]
    if not isinstance(storage, Storage) or type(start) is not int or start < 0 or not _are_sizes(shape) or not _are_sizes(stride):
        return False
    if len(shape) != len(stride) or (has_dtype and (len(args) < 7 or not _is_dtype(args[6]))):
        return False
    if 0 in shape:
        return True
    last = start + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    return last < _MOST_ELEMENTS and (last + 1) * storage.dtype.itemsize <= storage.nbytes


def _is_sparse_data(data: tuple[object, ...]) -> bool:
    tensors = [part for part in data if _is_tensor(part)]
    others = [part for part in data if not _is_tensor(part)]
    return len(tensors) in (2, 3) and all(isinstance(part, bool) or _are_sizes(part) or _is_size(part) for part in others)


def _is_size(value: object) -> bool:
    return isinstance(value, Opaque) and value.name == _SIZE


def _are_attributes(value: object) -> bool:
    """Attributes that somebody hung on a tensor, with `None` or slots beside them, without torch's own."""
    if isinstance(value, tuple):
        return len(value) == 2 and all(map(_are_attributes, value))
    if value is None:
        return True
    return isinstance(value, dict) and all(isinstance(key, str) and not key.startswith("__") and key not in _TENSORS_OWN for key in value)


def _length(value: object) -> int | None:
    if isinstance(value, Tensor):
        return value.numel
    if isinstance(value, Opaque) and value.name in (_V2, _V3) and view(value):
        assert isinstance(value.args, tuple)  # noqa: S101 - view said so; for the type checker
        return prod(value.args[2])
    return len(value) if isinstance(value, list) else None


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, Opaque) and value.name in _OPAQUE_TENSORS)


def _is_layout(value: object) -> bool:
    return isinstance(value, Opaque) and value.name == _LAYOUT


def _is_dtype(value: object) -> bool:
    return isinstance(value, Global) and value.module == "torch" and value.name in DTYPE_NAMES


def _are_numbers(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(type(n) is int for n in value)


def _are_sizes(value: object) -> TypeGuard[tuple[int, ...]]:
    return isinstance(value, tuple) and len(value) <= _MOST_DIMS and all(type(n) is int and 0 <= n < _MOST_ELEMENTS for n in value)


def _args(made: Opaque, count: int) -> tuple[object, ...] | None:
    """The arguments of a plain call with so many of them and nothing behind it."""
    if made.how == "reduce" and not made.steps and isinstance(made.args, tuple) and len(made.args) == count:
        return made.args
    return None
