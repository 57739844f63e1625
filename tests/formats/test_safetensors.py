"""The safetensors library is the judge: it and gsvckpt accept and refuse the same headers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors
import torch
from safetensors.torch import load_file, save_file
from support.builders import Bytes, elements, read, safetensors_raw
from support.builders import safetensors as built
from support.oracle import DTYPES, filled, raw_elements

from gsvckpt.dtypes import DTYPES as OURS
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.engine.write import Engine
from gsvckpt.errors import DamagedError, GsvError, UnsupportedError
from gsvckpt.formats import safetensors as module
from gsvckpt.transforms.cast import cast, select
from gsvckpt.transforms.plan import begin

KNOWN = [dtype for dtype in DTYPES if dtype not in (torch.complex32, torch.complex128)]


def entry(dtype: object = "U8", shape: object = (2,), offsets: object = (0, 2), **more: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


def header(tree: object) -> bytes:
    return json.dumps(tree).encode()


def library_accepts(data: bytes) -> bool:
    try:
        safetensors.deserialize(data)
    except safetensors.SafetensorError:
        return False
    return True


def we_accept(data: bytes) -> bool:
    try:
        module.read(Bytes(data))
    except GsvError:
        return False
    return True


def test_every_dtype_both_ways(tmp_path: Path) -> None:
    tree = {str(dtype): filled(dtype, 3, 2) for dtype in KNOWN} | {"0d": torch.tensor(1.0), "none": torch.empty(0, 4)}
    save_file(tree, tmp_path / "in.safetensors", metadata={"author": "声音"})
    with open_checkpoint(tmp_path / "in.safetensors") as checkpoint:
        for name, value in tree.items():
            found = checkpoint.root[name]
            assert (found.shape, elements(found)) == (tuple(value.shape), raw_elements(value))
        assert checkpoint.container.metadata == {"author": "声音"}
        Engine().write(begin(checkpoint), str(tmp_path / "out.safetensors"), overwrite=False)
    loaded = load_file(tmp_path / "out.safetensors")
    assert {name: (value.dtype, raw_elements(value)) for name, value in loaded.items()} == {n: (v.dtype, raw_elements(v)) for n, v in tree.items()}
    with safetensors.safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata() == {"author": "声音"}


def test_the_library_opens_a_cast_file_whose_tensors_are_no_longer_aligned(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1), "b": torch.arange(2, dtype=torch.int32)}, tmp_path / "in.safetensors")
    from gsvckpt.devices.host import Host

    with open_checkpoint(tmp_path / "in.safetensors") as checkpoint:
        chosen = select(checkpoint.root, dict(checkpoint.root), OURS["float16"]).chosen
        plan = cast(begin(checkpoint), chosen, OURS["float16"])
        Engine(device=Host()).write(plan, str(tmp_path / "out.safetensors"), overwrite=False)
    loaded = load_file(tmp_path / "out.safetensors")
    assert torch.equal(loaded["a"], torch.ones(1, dtype=torch.float16))
    assert torch.equal(loaded["b"], torch.arange(2, dtype=torch.int32))


CASES = {
    "plain": safetensors_raw(header({"a": entry()}), b"12"),
    "nothing in it": safetensors_raw(b"{}"),
    "padded": safetensors_raw(header({"a": entry()}) + b"   ", b"12"),
    "metadata": safetensors_raw(header({"__metadata__": {"k": "v"}, "a": entry()}), b"12"),
    "metadata of numbers": safetensors_raw(header({"__metadata__": {"k": 1}})),
    "metadata in a list": safetensors_raw(header({"__metadata__": ["k"]})),
    "extra key in an entry": safetensors_raw(header({"a": entry(note="x")}), b"12"),
    "an empty tensor after a full one at the same place": safetensors_raw(header({"b": entry(), "a": entry(shape=(0,), offsets=(0, 0))}), b"12"),
    "empty tensors at the end": safetensors_raw(header({"z": entry(shape=(0, 9), offsets=(2, 2)), "b": entry()}), b"12"),
    "stored in another order": safetensors_raw(header({"b": entry(offsets=(2, 4)), "a": entry()}), b"1234"),
    "0-d": safetensors_raw(header({"a": entry(shape=(), offsets=(0, 1))}), b"1"),
    "gap": safetensors_raw(header({"a": entry(), "b": entry(offsets=(3, 5))}), b"12345"),
    "gap at the start": safetensors_raw(header({"a": entry(offsets=(1, 3))}), b"123"),
    "overlap": safetensors_raw(header({"a": entry(), "b": entry(offsets=(1, 3))}), b"123"),
    "same bytes twice": safetensors_raw(header({"a": entry(), "b": entry()}), b"12"),
    "bytes after": safetensors_raw(header({"a": entry()}), b"123"),
    "ends early": safetensors_raw(header({"a": entry()}), b"1"),
    "offsets backwards": safetensors_raw(header({"a": entry(offsets=(2, 0))}), b"12"),
    "shape and size disagree": safetensors_raw(header({"a": entry(shape=(3,))}), b"12"),
    "shape overflows": safetensors_raw(header({"a": entry(shape=(1 << 32, 1 << 32, 1 << 32), offsets=(0, 0))})),
    "shape overflows to zero": safetensors_raw(header({"a": entry(shape=(1 << 33, 1 << 31, 0), offsets=(0, 0))})),
    "negative shape": safetensors_raw(header({"a": entry(shape=(-1, -2))}), b"12"),
    "fraction": safetensors_raw(header({"a": entry(shape=(2.0,))}), b"12"),
    "true as a size": safetensors_raw(header({"a": entry(shape=(True, 2))}), b"12"),
    "three offsets": safetensors_raw(header({"a": entry(offsets=(0, 1, 2))}), b"12"),
    "unknown dtype": safetensors_raw(header({"a": entry(dtype="F33")}), b"12"),
    "dtype is a list": safetensors_raw(header({"a": entry(dtype=["U8"])}), b"12"),
    "no dtype": safetensors_raw(header({"a": {"shape": [2], "data_offsets": [0, 2]}}), b"12"),
    "entry is a list": safetensors_raw(header({"a": [1]}), b"12"),
    "header is a list": safetensors_raw(b"[]"),
    "header is empty": safetensors_raw(b""),
    "not JSON": safetensors_raw(b"{oops}"),
    "NaN": safetensors_raw(b'{"a":NaN}'),
    "not UTF-8": safetensors_raw(b'{"\xff":{}}'),
    "half a surrogate pair": safetensors_raw(header({"\ud800": entry()}), b"12"),
    "trailing comma": safetensors_raw(b'{"a":' + header(entry()) + b",}", b"12"),
    "two objects": safetensors_raw(b"{}{}"),
    "nested deeply": safetensors_raw(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "header past the end": safetensors_raw(b"{}", length=3),
    "header of 2**63": safetensors_raw(b"{}", length=1 << 63),
    "a digit too many": safetensors_raw(b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,' + b"9" * 5000 + b"]}}", b"12"),
    "seven bytes": b"\2\0\0\0\0\0\0",
}


@pytest.mark.parametrize("name", CASES)
def test_the_library_and_we_agree_on_headers(name: str) -> None:
    assert we_accept(CASES[name]) is library_accepts(CASES[name])


@pytest.mark.parametrize("case", ["duplicate", "leading space"])
def test_known_cases_where_the_library_is_laxer_than_its_format(case: str) -> None:
    double = b'{"a":' + header(entry()) + b',"a":' + header(entry()) + b"}"
    data = safetensors_raw(double if case == "duplicate" else b" " + header({"a": entry()}), b"12")
    assert library_accepts(data)
    with pytest.raises(GsvError):
        read(data)


def test_a_header_beyond_the_limit_is_refused_before_it_is_read() -> None:
    source = Bytes(safetensors_raw(b"{}", length=100_000_001))
    with pytest.raises(UnsupportedError, match="a header of 100,000,001 bytes"):
        module.read(source)
    assert source.reads == [(0, 8)]


@pytest.mark.parametrize("kept", [20, 60])
def test_a_file_that_was_cut_off_is_damaged(kept: int) -> None:
    data = built({"weight": ("F32", (64, 64), bytes(16_384))})
    with pytest.raises(DamagedError, match="ends early"):
        read(data[:kept])
