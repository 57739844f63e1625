"""Tensors that are more than numbers in a storage: conjugated, quantized, sparse, nested, on no device, of a class of their own.

They are kept as their recipes (torch/_utils.py, torch/_tensor.py), so that they are written back exactly; here their form, type and shape are told.
"""

from __future__ import annotations

from typing import NamedTuple

from gsvckpt.model import Global, Opaque, Storage, Tensor, is_tensor_recipe, tensor_of, walk

_UNKNOWN = -1  # a size that no number in the pickle tells


class SpecialTensor(NamedTuple):
    """One of them: its form in a few words, the name of its dtype, its logical shape (-1 where no number tells a size), and the bytes that it has."""

    form: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int

    def as_json(self) -> dict[str, object]:
        """An object of `special` in the JSON document."""
        return {"form": self.form, "dtype": self.dtype, "shape": [None if size == _UNKNOWN else size for size in self.shape], "bytes": self.nbytes}


def describe(made: Opaque) -> SpecialTensor:
    """What a recipe makes, as far as it tells."""
    form, dtype, shape = _read(made, 0)
    storages = {id(storage): storage for _, leaf in walk(made) for storage in [leaf.storage if isinstance(leaf, Tensor) else leaf]}
    return SpecialTensor(form, dtype, shape, sum(storage.nbytes for storage in storages.values() if isinstance(storage, Storage)))


def _read(made: object, depth: int) -> tuple[str, str, tuple[int, ...]]:
    tensor = tensor_of(made)
    if tensor is not None:
        return "", tensor.dtype.name, tensor.shape
    if not isinstance(made, Opaque) or not isinstance(made.args, tuple) or depth > 4:
        return "unknown", "", ()
    name, args = made.name.name, made.args
    if name in ("_rebuild_from_type_v2", "_rebuild_from_type") and len(args) >= 3 and isinstance(args[0], Global):
        form, dtype, shape = _read(Opaque(args[0], "reduce", args[2]), depth + 1)
        kind = args[1].name if isinstance(args[1], Global) else "unknown class"
        return kind if form in ("", kind) else f"{form}, {kind}", dtype, shape
    if name.startswith("_rebuild_parameter") and args:
        return _read(args[0], depth + 1)
    reader = {
        "_rebuild_tensor": _strided,
        "_rebuild_tensor_v2": _strided,
        "_rebuild_tensor_v3": _strided,
        "_rebuild_qtensor": _quantized,
        "_rebuild_sparse_tensor": _sparse,
        "_rebuild_sparse_csr_tensor": _sparse_csr,
        "_rebuild_nested_tensor": _nested,
        "_rebuild_meta_tensor_no_storage": _meta,
        "_rebuild_wrapper_subclass": _wrapped,
    }.get(name)
    return reader(args) if reader is not None else (name.removeprefix("_rebuild_").replace("_", " "), "", ())


def _strided(args: tuple[object, ...]) -> tuple[str, str, tuple[int, ...]]:
    storage = args[0]
    dtype = storage.dtype.name if isinstance(storage, Storage) else ""
    named = next((part.name for part in args[6:] if isinstance(part, Global)), dtype)
    bits = next((part for part in args[6:] if isinstance(part, dict)), {})
    words = [word for bit, word in (("conj", "conjugated"), ("neg", "negated")) if bits.get(bit)]
    return " and ".join(words), named, _sizes(args[2]) if len(args) > 2 else ()


def _quantized(args: tuple[object, ...]) -> tuple[str, str, tuple[int, ...]]:
    storage = args[0]
    scheme = args[4][0] if len(args) > 4 and isinstance(args[4], tuple) and args[4] else None
    how = "per channel" if isinstance(scheme, Global) and "per_channel" in scheme.name else "per tensor"
    return f"quantized {how}", storage.dtype.name if isinstance(storage, Storage) else "", _sizes(args[2]) if len(args) > 2 else ()


def _sparse(args: tuple[object, ...]) -> tuple[str, str, tuple[int, ...]]:
    layout = args[0].args if isinstance(args[0], Opaque) else (args[0].name,) if isinstance(args[0], Global) else ()
    word = str(layout[0]).removeprefix("torch.").removeprefix("sparse_").upper() if isinstance(layout, tuple) and layout else ""
    return _of_parts(args[1], f"sparse {word}".strip()) if len(args) > 1 else ("sparse", "", ())


def _sparse_csr(args: tuple[object, ...]) -> tuple[str, str, tuple[int, ...]]:
    return _of_parts(args[0], "sparse CSR")


def _of_parts(parts: object, form: str) -> tuple[str, str, tuple[int, ...]]:
    """COO: indices, values, size; the compressed forms: two tensors of indices, values, size."""
    if not isinstance(parts, tuple):
        return form, "", ()
    tensors = [tensor for part in parts if (tensor := tensor_of(part)) is not None]
    shape = next((_sizes(part) for part in parts if not isinstance(part, (Tensor, bool)) and _sizes(part)), ())
    return form, tensors[-1].dtype.name if tensors else "", shape


def _nested(args: tuple[object, ...]) -> tuple[str, str, tuple[int, ...]]:
    buffer, sizes = tensor_of(args[0]), tensor_of(args[1]) if len(args) > 1 else None
    shape = (sizes.shape[0], *(_UNKNOWN,) * sizes.shape[1]) if sizes is not None and len(sizes.shape) == 2 else ()
    return "nested", buffer.dtype.name if buffer is not None else "", shape


def _meta(args: tuple[object, ...]) -> tuple[str, str, tuple[int, ...]]:
    return "meta, without numbers", args[0].name if isinstance(args[0], Global) else "", _sizes(args[1]) if len(args) > 1 else ()


def _wrapped(args: tuple[object, ...]) -> tuple[str, str, tuple[int, ...]]:
    kind = args[0].name if isinstance(args[0], Global) else "subclass"
    dtype = args[1].name if len(args) > 1 and isinstance(args[1], Global) else ""
    return kind, dtype, _sizes(args[2]) if len(args) > 2 else ()


def _sizes(value: object) -> tuple[int, ...]:
    """A shape: a tuple of sizes, or torch.Size of one."""
    if isinstance(value, Opaque) and isinstance(value.args, tuple) and len(value.args) == 1:
        value = value.args[0]
    return tuple(value) if isinstance(value, (tuple, list)) and all(type(size) is int for size in value) else ()


def special_tensors(recipes: dict[str, Opaque]) -> dict[str, SpecialTensor]:
    """What each recipe of a state dict makes, by its name."""
    return {name: describe(made) for name, made in recipes.items() if is_tensor_recipe(made)}
