"""What honest checkpoints hold, one kind of object each, from the real libraries; stand-ins only for classes of libraries that are missing here."""

from __future__ import annotations

import argparse
import collections
import datetime as dt
import enum
import io
import ipaddress
import pathlib
import random
import sys
import time
import types
import typing
import uuid
import warnings
import zoneinfo
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from itertools import accumulate

import numpy as np
import torch
from torch.torch_version import TorchVersion


def stand_in(module: str, name: str, bases: tuple[type, ...] = (object,)) -> type:
    """A class that pickle takes for one of that name in that module (see `saved`)."""
    made = type(name, bases, {"__module__": module, "__qualname__": name})
    _STAND_INS.append(made)
    return made


_STAND_INS: list[type] = []
_DICT_CONFIG, _METADATA = stand_in("omegaconf.dictconfig", "DictConfig"), stand_in("omegaconf.base", "ContainerMetadata")
_ATTRIBUTES = stand_in("lightning_fabric.utilities.data", "AttributeDict", (dict,))
_HPARAMS = stand_in("utils", "HParams")


class Colour(enum.Enum):
    """Some enum of somebody's."""

    RED = 1


class WindowsPath:
    """A WindowsPath as Windows pickles it, on any system."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return pathlib.WindowsPath, ("C:\\", "Users", "voice.ckpt")


def omegaconf() -> object:
    config, config._metadata = _DICT_CONFIG(), _METADATA()
    config._metadata.ref_type, config._metadata.object_type = typing.Any, dict
    config._metadata.resolver_cache = collections.defaultdict(dict)
    config._content = {"lr": 1e-4}
    return config


def hparams() -> object:
    made = _HPARAMS()
    made.model, made.version = {"p": 1}, "v2"
    return made


def trained(optimizer: Callable[..., torch.optim.Optimizer], **options: object) -> dict[str, object]:
    model = torch.nn.Linear(3, 4)
    made = optimizer(model.parameters(), **options)

    def closure() -> torch.Tensor:
        made.zero_grad()
        loss = model(torch.ones(2, 3)).square().sum()
        loss.backward()
        return loss

    made.step(closure)
    return made.state_dict()


def scheduler() -> dict[str, object]:
    return torch.optim.lr_scheduler.MultiStepLR(torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), 0.1), [3, 5]).state_dict()


def numpy_generator() -> np.random.Generator:
    made = np.random.default_rng(7)
    made.random()
    return made


def attributed() -> torch.Tensor:
    made = torch.ones(2)
    made.tensor_parallel = True
    return made


def per_channel() -> torch.Tensor:
    return torch.quantize_per_channel(torch.ones(2, 3), torch.ones(2), torch.zeros(2).long(), 0, torch.qint8)


def state_dict() -> collections.OrderedDict[str, torch.Tensor]:
    return torch.nn.BatchNorm1d(3).state_dict()


# What libraries make; each gives the object anew.
KINDS: dict[str, Callable[[], object]] = {
    "Namespace": lambda: argparse.Namespace(lr=1e-4, devices=[0]),
    "HParams": hparams,
    "PosixPath": lambda: pathlib.PurePosixPath("/data/voice"),
    "Path": lambda: pathlib.Path("logs/voice"),
    "WindowsPath": WindowsPath,
    "datetime": lambda: [dt.datetime(2026, 1, 2, 3, 4, 5, 6), dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc)],  # noqa: DTZ001 - without a zone it is pickled otherwise
    "date, time, timedelta": lambda: [dt.date(2026, 1, 2), dt.time(3, 4), dt.timedelta(days=1, seconds=2)],
    "timezone": lambda: dt.timezone(dt.timedelta(hours=8), "CST"),
    "defaultdict": lambda: collections.defaultdict(list, {"a": [1]}),
    "defaultdict of ints": lambda: collections.defaultdict(int, a=1),
    "Counter": lambda: collections.Counter("aab"),
    "deque": lambda: collections.deque([1, 2], maxlen=10),
    "set": lambda: {1, 2, 3},
    "frozenset": lambda: frozenset(["a"]),
    "enum": lambda: Colour.RED,
    "enum class": lambda: enum.Enum,
    "torch.Size": lambda: torch.Size([1, 2]),
    "device": lambda: [torch.device("cpu"), torch.device("cuda", 1)],
    "dtypes": lambda: [torch.float32, torch.uint16, torch.float8_e4m3fn, torch.quint8],
    "layout": lambda: [torch.strided, torch.sparse_coo],
    "torch.Generator": torch.Generator,
    "omegaconf": omegaconf,
    "Lightning": lambda: {"hyper_parameters": _ATTRIBUTES(lr=1.0), "pytorch-lightning_version": "2.1.0", "loops": {}},
    "random state": random.getstate,
    "numpy random state": lambda: np.random.RandomState(1).get_state(),
    "numpy RandomState": lambda: np.random.RandomState(1),
    "numpy Generator": numpy_generator,
    "numpy Philox": lambda: np.random.Generator(np.random.Philox(3)),
    "numpy SFC64": lambda: np.random.Generator(np.random.SFC64(3)),
    "torch random state": torch.get_rng_state,
    "numpy scalars": lambda: [np.float32(1), np.int64(2), np.bool_(True), np.complex64(1j), np.float16(2)],
    "numpy texts": lambda: [np.str_("a"), np.bytes_(b"b"), np.datetime64("2026-01-01"), np.timedelta64(3, "s")],
    "array": lambda: np.arange(6, dtype=np.float32).reshape(2, 3),
    "big-endian array": lambda: np.arange(6, dtype=">i2"),
    "array of objects": lambda: np.array([1, "a", None], dtype=object),
    "structured array": lambda: np.zeros(3, [("a", "f4"), ("b", "U3"), ("c", "i4", (2, 3))]),
    "structured array with objects": lambda: np.zeros(3, [("a", "f4"), ("b", "O")]),
    "aligned structured array": lambda: np.zeros(3, np.dtype([("a", "i1"), ("b", "f8")], align=True)),
    "array of booleans": lambda: np.array([True, False]),
    "array of texts": lambda: np.array(["a", "bcd"]),
    "array of bytes": lambda: np.array([b"a", b"bcd"]),
    "array of times": lambda: np.array(["2026-01-01T00:00:00"], dtype="datetime64[ns]"),
    "Fortran array": lambda: np.asfortranarray(np.ones((2, 3))),
    "empty array": lambda: np.zeros((0, 3)),
    "0-d array": lambda: np.array(1.5),
    "numpy dtype": lambda: [np.dtype("f4"), np.dtype("M8[ns]"), np.dtype("O"), np.float64],
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.quint8),
    "quantized per channel": per_channel,
    "sparse coo": lambda: torch.eye(3).to_sparse(),
    "sparse csr": lambda: torch.eye(3).to_sparse_csr(),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
    "conj": lambda: torch.ones(2, dtype=torch.complex64).conj(),
    "neg": lambda: torch.ones(2, dtype=torch.complex64).conj().imag,
    "meta": lambda: torch.ones(2, device="meta"),
    "parameter": lambda: torch.nn.Parameter(torch.ones(2)),
    "tensor with attributes": attributed,
    "state dict": state_dict,
    "Adam": lambda: trained(torch.optim.Adam, lr=1e-3),
    "SGD": lambda: trained(torch.optim.SGD, lr=1e-3, momentum=0.9),
    "LBFGS": lambda: trained(torch.optim.LBFGS),
    "scheduler": scheduler,
    "GradScaler": lambda: torch.amp.GradScaler("cpu").state_dict(),
    "OrderedDict": lambda: collections.OrderedDict(b=1, a=2),
    "bytes": lambda: [b"", b"abc\xff"],
    "bytearray": lambda: bytearray(b"abc\xff"),
    "complex": lambda: 1 + 2j,
    "Decimal": lambda: Decimal("1.50"),
    "Fraction": lambda: Fraction(1, 3),
    "UUID": lambda: uuid.UUID(int=7),
    "SimpleNamespace": lambda: types.SimpleNamespace(a=1),
    "typing": lambda: [typing.Any, typing.Optional],
    "typing with parameters": lambda: [typing.Sequence[int], list[int], typing.Optional[int]],  # noqa: UP045 - what configs hold
    "Ellipsis": lambda: [..., NotImplemented, type(None)],
    "slice": lambda: slice(1, None, 2),
    "range": lambda: range(3),
    "ipaddress": lambda: [ipaddress.ip_address("10.0.0.1"), ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_interface("::1/64")],
    "zoneinfo": lambda: zoneinfo.ZoneInfo("UTC"),
    "struct_time": lambda: time.gmtime(0),
    "BytesIO": lambda: io.BytesIO(b"extra state"),  # Transformer Engine's `_extra_state`
    "StringIO": lambda: io.StringIO("text"),
    "module": lambda: torch.nn.Linear(2, 2),
    "TorchVersion": lambda: TorchVersion("2.1.0"),
    "ints": lambda: [1 << 80, -(1 << 70), 0, True],
    "builtin types": lambda: [int, float, dict, list, object],
}
# Which of them nobody can call safe, and why.
UNKNOWN = {
    "enum": "somebody's class",
    "omegaconf": "classes of a library that could do anything",
    "Lightning": "a class of a library that could do anything",
    "typing with parameters": "operator.getitem, and types.GenericAlias, of which nobody knows what they are for",
    "zoneinfo": "reads a file of the system, and is called through getattr",
    "module": "code of whatever torch is installed",
}
SAVES: dict[str, dict[str, object]] = {
    "zip": {},
    "stream": {"_use_new_zipfile_serialization": False},
    "protocol 4": {"pickle_protocol": 4},
}


def saved(kind: str, how: str) -> bytes:
    """A file with that kind of object, beside a tensor."""
    file = io.BytesIO()
    modules = {module: types.ModuleType(module) for made in _STAND_INS for module in accumulate(made.__module__.split("."), "{}.{}".format)}
    for made in _STAND_INS:
        setattr(modules[made.__module__], made.__name__, made)
    before = {name: sys.modules.get(name) for name in modules}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of prototypes and of what torch will drop
        tree = {"weight": torch.ones(2), "value": KINDS[kind]()}
        sys.modules.update(modules)
        try:
            torch.save(tree, file, **SAVES[how])
        finally:
            for name, module in before.items():
                sys.modules.pop(name)
                if module is not None:
                    sys.modules[name] = module
    return file.getvalue()
