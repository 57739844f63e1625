"""What readers copy, keep or hash while they load: values that change behind a call, and keys that end or stop the process.

Each was seen in torch: a crash by SIGSEGV, a hang, or another value than the one that stands in the pickle at the end.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from support.builders import Raw, hparams, read, tensor, torch_stream, torch_zip
from support.verified import verify

from gsvckpt.cli.app import main
from gsvckpt.errors import GsvError

STEP = (1 << 61) - 1


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def name(module: str, called: str) -> bytes:
    return f"c{module}\n{called}\n".encode()


def number(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


DEEP = b"N" + b"\x85" * 400_000
SHARED = b"N" + b"2\x86" * 60
COLLIDING = [number(k * STEP) for k in range(2, 20_000)]
HASHED = {
    "a deep tuple as a key": b"}" + name("__builtin__", "tuple") + b"]" + DEEP + b"a\x85RK\x01s",
    "a shared tuple as a key": b"}" + name("__builtin__", "tuple") + b"]" + SHARED + b"a\x85RK\x01s",
    "a shared tuple in a set": name("__builtin__", "set") + b"]" + SHARED + b"a\x85R",
    "a shared tuple in a set of protocol 4": b"\x8f(" + SHARED + b"\x90",
    "a shared tuple in a frozenset": b"(" + SHARED + b"\x91",
    "colliding numbers in a set": name("__builtin__", "set") + b"](" + b"".join(COLLIDING) + b"e\x85R",
    "colliding keys of a Counter": name("collections", "Counter") + b")R(" + b"N".join(COLLIDING) + b"Nu",
    "a list that is copied again and again": (
        b"](" + b"N" * 100_000 + b"eq\x00" + name("__builtin__", "list") + b"q\x010](" + b"h\x01h\x00\x85R" * 200 + b"e\x86"
    ),
}  # fmt: skip
CHANGED = {
    "the list of a set": name("__builtin__", "set") + b"](K\x01K\x02eq\x05\x85Rh\x05K\x03a\x86",
    "a state": name("argparse", "Namespace") + b")\x81}q\x05" + text("lr") + b"K\x01sbh\x05" + text("lr") + b"K\x02s\x86",
    "the list of a deque": name("collections", "deque") + b"](K\x01eq\x05\x85Rh\x05K\x02a\x86",
    "a dict that a Counter was made from": name("collections", "Counter") + b"}q\x05\x85Rh\x05K\x01K\x02s\x86",
    "a dtype's fields": (
        name("numpy", "dtype") + b"(" + text("V8") + b"\x89\x88tR(K\x03" + text("|") + b"N(" + text("a") + b"t}q\x05K\x08K\x01K\x10tbh\x05"
        + text("a") + b"Ns\x86"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HASHED)
@pytest.mark.parametrize("container", [torch_zip, torch_stream])
def test_what_readers_hash_or_copy_is_small(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str, container) -> None:
    data = container({"w": tensor("float32", (2,)), "x": Raw(HASHED[case])})
    with pytest.raises(GsvError):
        read(data)
    assert verify(tmp_path / "x.pth", data).safety.verdict == "unknown"
    assert main(["convert-fp16", str(tmp_path / "x.pth"), "-o", str(tmp_path / "y.pth")]) == 3
    capsys.readouterr()


@pytest.mark.parametrize("case", CHANGED)
def test_what_was_used_does_not_change(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    data = torch_zip({"w": tensor("float32", (2,)), "x": Raw(CHANGED[case])})
    assert "changes a value after something was made from it" in read(data).doubts[0].why
    result = verify(tmp_path / "x.pth", data)
    assert (result.safety.verdict, result.status) == ("unknown", "suspect")
    assert main(["convert-fp16", str(tmp_path / "x.pth"), "-o", str(tmp_path / "y.pth")]) == 3
    capsys.readouterr()


def test_hooks_that_a_tensor_gets_later() -> None:
    hooks = b"ccollections\nOrderedDict\n)Rq\x07"
    code = torch_zip({"w": tensor("float32", (2,))})
    assert read(code).doubts == ()
    data = b"\x80\x02}" + text("w") + name("torch._utils", "_rebuild_tensor_v2") + b"((" + text("storage") + name("torch", "FloatStorage")
    data += text("0") + text("cpu") + b"K\x00tQK\x00(K\x00t(K\x01t\x89" + hooks + b"tRsh\x07K\x00" + name("collections", "deque") + b"s0."
    from support.builders import torch_entries, zipped

    entries = torch_entries(data)
    entries.insert(1, type(entries[0])("archive/data/0", b""))
    assert read(zipped(entries)).doubts != ()


@pytest.mark.parametrize(
    "honest",
    [
        b"}q\x05" + text("me") + name("utils", "HParams") + b")\x81}" + text("parent") + b"h\x05sbsh\x05" + text("more") + b"K\x01s0",  # a parent
        name("__builtin__", "set") + b"](K\x01K\x02e\x85R",
        name("collections", "OrderedDict") + b")R(" + text("a") + b"K\x01u",
        b"}" + name("pathlib", "PosixPath") + text("/a") + b"\x85RK\x01s",
    ],
)
def test_honest_uses_leave_no_doubt(tmp_path: Path, honest: bytes) -> None:
    assert read(torch_zip({"x": Raw(honest), "config": hparams({"a": 1})})).doubts == ()
