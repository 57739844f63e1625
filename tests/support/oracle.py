"""torch as the judge: trees that it saves, and whether what gsvckpt sees or writes is what torch sees."""

from __future__ import annotations

import pathlib
import sys
import types
import warnings
from collections import OrderedDict, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import numpy as np
import torch

from gsvckpt.model import Global, Opaque, Tensor, is_parameter, tensor_of
from support.builders import elements

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex128, torch.complex64, torch.complex32),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz, torch.float8_e8m0fnu),
]


def filled(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    """Bytes that differ from each other, whatever they mean in `dtype` (0 and 1 for bool, as torch allows no others)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # complex32 is called experimental
        raw = torch.arange(prod(shape) * dtype.itemsize, dtype=torch.uint8) % (2 if dtype is torch.bool else 120)
        return raw.view(dtype).reshape(shape)


def views() -> dict[str, torch.Tensor]:
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    return {
        "base": base,
        "tied": base,
        "transposed": base.t(),
        "strided": base[::2, 1::3],
        "offset": base[2:],
        "expanded": torch.tensor([1.5]).expand(3, 4),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "element": base[3, 5],
        "parameter": torch.nn.Parameter(base.clone()),
        "grad": torch.ones(2, requires_grad=True),
    }


def state_dict() -> OrderedDict[str, torch.Tensor]:
    """A module's own: an OrderedDict with `_metadata`."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4)).state_dict()


def training() -> dict[str, object]:
    model = torch.nn.Linear(3, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "iteration": 8, "learning_rate": 1e-4}


def plain() -> dict[str, object]:
    shared = ["one", "list"]
    return {
        "ints": [0, -1, 255, 256, 65535, 65536, -129, 1 << 31, -(1 << 31), 1 << 62, -(1 << 63), 1 << 200, -(1 << 1000)],
        "floats": [0.0, -0.0, float("inf"), float("nan"), 5e-324, 0.1],
        "texts": ["", "a", "声音", "\ud800", "x" * 300, "x\ny"],
        "bytes": [b"", b"\xff", bytes(range(256)), b"x" * 5000],
        "flags": (True, False, None),
        "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ((),)),
        "shared": [shared, shared],
        (1, "key"): {2: {}},
        "long": list(range(2500)),
        "exact": [list(range(1000)), list(range(1001)), dict.fromkeys(range(1000)), dict.fromkeys(range(1001)), dict.fromkeys(range(2000))],
        "ordered": [OrderedDict.fromkeys(range(n)) for n in (0, 1, 2, 1000, 1001)],
    }


def objects() -> dict[str, object]:
    """What needs a class, and stays opaque."""
    return {
        "path": pathlib.PurePosixPath("logs") / "s1",
        "size": torch.Size([2, 3]),
        "dtype": torch.float16,
        "device": torch.device("cpu"),
        "numpy": [np.float32(1.5), np.int64(7)],
        "set": {"one"},
        "frozen": frozenset([1]),
        "bytearray": bytearray(b"xyz"),
        "complex": 1 + 2j,
        "default": defaultdict(list, a=[1], b=[2]),
        "sparse": torch.eye(3).to_sparse(),
        "generator": range(3),
    }


SAMPLES = {"views": views, "state_dict": state_dict, "training": training, "plain": plain, "objects": objects}


@contextmanager
def hparams_class() -> Iterator[type]:
    """GPT-SoVITS's `utils.HParams`, importable for as long as torch needs it."""
    module = types.ModuleType("utils")
    module.HParams = type("HParams", (), {"__module__": "utils"})
    assert "utils" not in sys.modules
    sys.modules["utils"] = module
    try:
        yield module.HParams
    finally:
        del sys.modules["utils"]


def raw_elements(tensor: torch.Tensor) -> list[bytes]:
    size = tensor.element_size()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw = bytes(tensor.detach().resolve_conj().contiguous().flatten().view(torch.uint8).numpy())
    return [raw[at : at + size] for at in range(0, len(raw), size)]


def assert_sees(ours: object, theirs: object) -> None:
    """`ours`, as gsvckpt reads it, is `theirs`, as torch has it; objects are compared by the name of their class alone."""
    if isinstance(theirs, torch.Tensor) and theirs.layout is torch.strided and not theirs.is_quantized:
        found = tensor_of(ours)
        assert isinstance(found, Tensor)
        assert is_parameter(ours) == isinstance(theirs, torch.nn.Parameter)
        assert (f"torch.{found.dtype.name}", found.shape, found.stride) == (str(theirs.dtype), tuple(theirs.shape), tuple(theirs.stride()))
        assert elements(found) == raw_elements(theirs)
    elif type(theirs) in (dict, OrderedDict):
        assert type(ours) is type(theirs)
        assert list(ours) == list(theirs)
        for key, value in theirs.items():
            assert_sees(ours[key], value)
        if hasattr(theirs, "_metadata"):
            assert_sees(ours._metadata, theirs._metadata)
    elif type(theirs) in (list, tuple):
        assert type(ours) is type(theirs)
        assert len(ours) == len(theirs)
        for one, two in zip(ours, theirs, strict=True):
            assert_sees(one, two)
    elif theirs is None or (isinstance(theirs, (str, bytes, int, float)) and type(theirs).__module__ == "builtins"):
        assert type(ours) is type(theirs)
        assert repr(ours) == repr(theirs)
    else:
        assert isinstance(ours, (Opaque, Global)), ours


def assert_same(one: object, two: object) -> None:
    """Two objects that torch loaded are the same, views and ties included."""
    assert type(one) is type(two)
    if isinstance(one, torch.Tensor) and one.layout is torch.strided:
        assert (one.dtype, one.shape, one.stride(), one.storage_offset(), one.requires_grad) == (
            two.dtype,
            two.shape,
            two.stride(),
            two.storage_offset(),
            two.requires_grad,
        )
        assert raw_elements(one) == raw_elements(two)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one.to_dense(), two.to_dense())
    elif isinstance(one, dict):
        assert list(one) == list(two)
        assert_same(list(one.values()), list(two.values()))
        assert getattr(one, "_metadata", None) == getattr(two, "_metadata", None)
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(two)
        for left, right in zip(one, two, strict=True):
            assert_same(left, right)
    elif type(one).__module__ == "utils":
        assert_same(vars(one), vars(two))
    else:
        assert repr(one) == repr(two)
