"""What torch refuses, against torch."""

from __future__ import annotations

import argparse
import datetime as dt
import io
import pickle
import types
from collections import Counter, OrderedDict, defaultdict, deque
from decimal import Decimal
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from support.builders import Make, Name, hparams, read, tensor, torch_zip
from torch._weights_only_unpickler import _get_allowed_globals

from gsvckpt.formats.pickle.torch_names import ALLOWED
from gsvckpt.formats.pickle.weights_only import is_allowed, refused, tell_refused
from gsvckpt.model import Global


def test_nothing_is_allowed_that_torch_does_not_know() -> None:
    ours = {f"{module}.{name}" for module, names in ALLOWED.items() for name in names}
    known = set(_get_allowed_globals())
    assert {name for name in ours - known if hasattr(torch, name.removeprefix("torch."))} == set()
    assert known - ours == set()
    assert is_allowed(Global("__builtin__", "set")) and not is_allowed(Global("__builtin__", "list"))


VALUES = [
    torch.float16,
    torch.Size([2]),
    torch.device("cuda:1"),
    torch.nn.Parameter(torch.zeros(2)),
    torch.zeros(2).to_sparse(),
    torch.zeros(2, dtype=torch.uint16),
    torch.strided,
    OrderedDict(a=1),
    Counter("ab"),
    {1, 2},  # of numbers alone, as the order of others changes from process to process, and with it the name of the test
    bytearray(b"a"),
    complex(1, 2),
    b"a",
    b"",
    1 << 80,
    frozenset([1]),
    argparse.Namespace(a=1),
    types.SimpleNamespace(a=1),
    defaultdict(list, {1: [2]}),
    deque([1]),
    Decimal(1),
    dt.date(2026, 1, 1),
    PurePosixPath("/a"),
    np.float32(1),
    np.zeros(2),
    int,
    pickle.dumps,
    (1, [None, {"a": 1.5, PurePosixPath("b"): 2}]),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_refused_is_what_torch_refuses(value: object) -> None:
    file = io.BytesIO()
    torch.save({"value": value}, file)
    try:
        torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    except pickle.UnpicklingError:
        opens = False
    else:
        opens = True
    assert (not refused(read(file.getvalue()).root)) == opens


def test_each_object_counts_once_and_the_warning_names_the_most() -> None:
    thing = Make(Name("somebody", "Thing"), new=True, state={"x": hparams({"y": 1})})
    root = read(
        torch_zip({"w": tensor("float32", (1,), [1]), "a": [thing, thing], "b": hparams({}), **{f"c{n}": Make(Name("m", f"C{n}")) for n in range(5)}})
    ).root
    root["again"] = root["b"]
    assert refused(root)[Global("utils", "HParams")] == 3
    (told,) = tell_refused(root)
    assert "utils.HParams (3), somebody.Thing (2), " in told
    assert "2 more; strip-optimizer --drop a --drop b " in told
    assert tell_refused({"w": root["w"]}) == []
