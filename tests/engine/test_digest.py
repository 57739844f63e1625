"""Digests of tensors: the same for the same values, whatever the container, the order and the strides."""

from __future__ import annotations

import hashlib
import subprocess
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from support import oracle
from support.builders import read, safetensors, tensor, torch_stream, torch_zip
from support.verified import verify

from gsvckpt.commands.verify.phases import named_tensors
from gsvckpt.commands.verify.result import Options
from gsvckpt.engine.digest import digest_file
from gsvckpt.engine.examine import examine
from gsvckpt.engine.strided_read import logical_bytes
from gsvckpt.files.local import open_source
from gsvckpt.files.progress import Silent

STATE = {"dec.a": tensor("float16", (3, 2), range(6)), "dec.b": tensor("float32", (4,), range(4)), "enc_p.c": tensor("int64", (), [7])}
FLAT = {name: ({"float16": "F16", "float32": "F32", "int64": "I64"}[t.store.dtype], t.shape, t.store.data) for name, t in STATE.items()}


def content(path: Path, data: bytes | None = None) -> str:
    return verify(path, data).digests["content"]


def test_containers_folder_names_and_order_leave_no_trace(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    wanted = content(path, torch_zip({"weight": STATE, "info": "x"}))
    assert content(path, torch_zip({"weight": STATE}, prefix="1712345678.12", head=b"05")) == wanted
    assert (
        content(path, torch_zip({"model": OrderedDict(reversed(STATE.items())), "iteration": 3, "optimizer": None, "learning_rate": 0.1})) == wanted
    )
    assert content(path, torch_zip(STATE)) == wanted
    assert content(path, torch_stream({"weight": STATE})) == wanted
    assert content(tmp_path / "x.safetensors", safetensors(FLAT)) == wanted
    assert content(tmp_path / "x.safetensors", safetensors(dict(reversed(FLAT.items())), {"format": "pt"})) == wanted


@pytest.mark.parametrize(
    "other",
    [
        {**STATE, "dec.b": tensor("float32", (4,), [0, 1, 2, 4])},
        {**STATE, "dec.b": tensor("float32", (2, 2), range(4))},
        {**STATE, "dec.b": tensor("float64", (4,), range(4))},
        {"dec.a": STATE["dec.a"], "dec.B": STATE["dec.b"], "enc_p.c": STATE["enc_p.c"]},
        {name: STATE[name] for name in ("dec.a", "dec.b")},
    ],
    ids=["value", "shape", "dtype", "name", "missing"],
)
def test_whatever_differs_shows(tmp_path: Path, other: dict) -> None:
    path = tmp_path / "x.pth"
    assert content(path, torch_zip({"weight": other})) != content(path, torch_zip({"weight": STATE}))


def test_optimizer_state_counts(tmp_path: Path) -> None:
    def tree(moment: float) -> dict[str, object]:
        return {
            "model": STATE,
            "iteration": 1,
            "learning_rate": 0.1,
            "optimizer": {"state": {0: {"m": tensor("float32", (1,), [moment])}}, "param_groups": []},
        }

    path = tmp_path / "G_1.pth"
    assert content(path, torch_zip(tree(1.0))) != content(path, torch_zip(tree(2.0)))


def test_torch_and_safetensors_write_the_same_content(tmp_path: Path) -> None:
    state = {"a": torch.randn(5, 7), "b": torch.arange(9).reshape(3, 3), "c": torch.ones(3, dtype=torch.bfloat16)}
    save_file(state, tmp_path / "x.safetensors")
    torch.save(state, tmp_path / "x.pth")
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert len({content(path) for path in tmp_path.iterdir()}) == 1


def test_views_count_by_their_values(tmp_path: Path) -> None:
    views = {name: value.detach() for name, value in oracle.views().items()}
    torch.save(views, tmp_path / "views.pth")
    torch.save({name: value.contiguous().clone() for name, value in views.items()}, tmp_path / "plain.pth")
    assert content(tmp_path / "views.pth") == content(tmp_path / "plain.pth")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_logical_bytes_are_those_of_numpy(data: st.DataObject) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 6), max_size=4)))
    base = torch.arange(max(int(np.prod(shape)), 1) * 2, dtype=torch.int32)
    view = base[: int(np.prod(shape))].reshape(shape)
    if shape:
        view = view.permute(*data.draw(st.permutations(range(len(shape)))))
        view = view[tuple(slice(None, None, data.draw(st.integers(1, 3))) for _ in shape)]
    buffer = oracle_bytes({"x": view})
    (tensor_,) = named_tensors(*opened(buffer)).values()
    together = data.draw(st.integers(1, 40))
    pieces = list(map(bytes, logical_bytes(tensor_, together)))
    assert b"".join(pieces) == view.contiguous().numpy().tobytes()
    assert all(len(piece) <= 4 * together for piece in pieces)


def oracle_bytes(tree: object) -> bytes:
    import io

    buffer = io.BytesIO()
    torch.save(tree, buffer)
    return buffer.getvalue()


def opened(data: bytes):
    checkpoint = read(data)
    return checkpoint, examine(checkpoint).state


@pytest.mark.parametrize("jobs", [1, 4])
def test_digests_of_a_file_are_those_of_the_libraries(tmp_path: Path, jobs: int) -> None:
    data = bytes(range(256)) * 20_001
    (tmp_path / "x").write_bytes(data)
    names = frozenset({"md5", "sha256", "xxh3_128", "xxh64"})
    with open_source(tmp_path / "x") as source:
        found = digest_file(source, names, jobs, Silent())
    wanted = {name: getattr(hashlib, name)(data).hexdigest() for name in ("md5", "sha256")}
    wanted |= {name: getattr(xxhash, f"{name}_hexdigest")(data) for name in ("xxh3_128", "xxh64")}
    assert found == wanted


def test_the_digests_of_a_verification_are_those_of_the_tools(tmp_path: Path) -> None:
    result = verify(tmp_path / "x.pth", torch_zip(STATE), Options(digests=frozenset({"xxh3_128", "sha256", "md5", "content"})))
    for tool, name in (("md5sum", "md5"), ("sha256sum", "sha256")):
        told = subprocess.run([tool, tmp_path / "x.pth"], check=True, capture_output=True, text=True).stdout
        assert told.split()[0] == result.digests[name]


def test_digests_of_each_tensor(tmp_path: Path) -> None:
    result = verify(tmp_path / "x.pth", torch_zip(STATE), Options(tensors=True))
    assert result.tensors == {name: xxhash.xxh3_128_hexdigest(t.store.data) for name, t in STATE.items()}
