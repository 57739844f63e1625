"""Pickles that Python 2 wrote: byte strings, old classes, long integers. CPython's own unpickler is the judge."""

from __future__ import annotations

import pickle
import struct

import pytest
import torch
from cli.samples import Program
from support.builders import torch_stream, torch_zip

from gsvckpt.formats.pickle.machine import Machine
from gsvckpt.model import Opaque


def string(raw: bytes, form: str) -> bytes:
    """An opcode that pushes a byte string of Python 2."""
    if form == "STRING":
        return b"S" + repr(raw)[1:].encode() + b"\n"
    return b"U" + bytes([len(raw)]) + raw if form == "SHORT_BINSTRING" else b"T" + struct.pack("<i", len(raw)) + raw


FORMS = ("STRING", "SHORT_BINSTRING", "BINSTRING")


def run(data: bytes) -> Machine:
    machine = Machine(data, reduce=lambda _name, _args: None)
    machine.value = machine.run()  # type: ignore[attr-defined]
    return machine


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("raw", [b"plain", b"", "Zoé".encode("latin-1"), bytes(range(256))[:250], "声音".encode("gbk"), b"\xff\xfe", b"it's \xe9"])
def test_texts_that_are_no_utf8_are_latin1(form, raw):
    data = b"\x80\x02" + string(raw, form) + b"."
    machine = run(data)
    try:
        expected, count = pickle.loads(data, encoding="utf-8"), 0
    except UnicodeDecodeError:
        expected, count = pickle.loads(data, encoding="latin-1"), 1
    assert (machine.value, machine.latin1) == (expected, count)


@pytest.mark.parametrize("form", FORMS)
def test_one_text_that_is_no_utf8_decides_for_all(form):
    """People pass `encoding="latin1"` for a whole file, and numbers of NumPy stand in texts that may be UTF-8 by chance."""
    both = ["é".encode(), b"\xe9", b"ascii"]
    data = b"\x80\x02(" + b"".join(string(raw, form) for raw in both) + b"t."
    machine = run(data)
    assert machine.value == pickle.loads(data, encoding="latin-1")
    assert machine.latin1 == 2
    data = b"\x80\x02(" + b"".join(string(raw, form) for raw in (both[0], both[2])) + b"t."
    assert (run(data).value, run(data).latin1) == (("é", "ascii"), 0)


def test_integers_and_classes_of_its_time():
    data = b"(L12345678901234567890L\nI01\nI-7\nV\\u58f0\nt."
    assert run(data).value == pickle.loads(data) == (12345678901234567890, True, -7, "声")
    for code in (
        b"(i__main__\nOld\n(dS'a'\nI1\nsb.",
        b"(c__main__\nOld\no}U\x01aK\x01sb.",
        b"ccopy_reg\n_reconstructor\n(c__main__\nNew\nc__builtin__\nobject\nNtR.",
    ):
        value = run(code).value
        assert isinstance(value, Opaque)


@pytest.fixture
def gsvckpt(capsys):
    return Program(capsys)


@pytest.mark.parametrize("raw", [b"Zo\xe9", "声音".encode("gbk")])
def test_migrate_makes_a_file_that_torch_opens(gsvckpt, tmp_path, raw):
    text = b"\x80\x02}(" + string(b"author", "SHORT_BINSTRING") + string(raw, "SHORT_BINSTRING") + string(raw, "STRING") + b"K\x01u."
    path = tmp_path / "x.pth"
    path.write_bytes(torch_stream(text))
    with pytest.raises(UnicodeDecodeError):
        torch.load(path, weights_only=False)
    expected = torch.load(path, weights_only=False, encoding="latin1")
    file = gsvckpt.json("verify", path, exit_code=1).file
    (finding,) = file["findings"]
    assert finding["check"] == "container.torch"
    assert "2 texts of Python 2 that are no UTF-8, read here as Latin-1" in finding["why"]
    assert finding["hint"]["command"] == f"gsvckpt migrate {path}"
    assert "read here as Latin-1" in gsvckpt.json("inspect", path).file["warnings"][0]
    output = gsvckpt.json("migrate", path).file["output"]
    assert torch.load(output) == expected == {"author": raw.decode("latin-1"), raw.decode("latin-1"): 1}
    assert gsvckpt.json("verify", output).file["status"] == "sound"


def test_a_zip_with_such_texts_as_well(gsvckpt, tmp_path):

    path = tmp_path / "x.pth"
    path.write_bytes(torch_zip(b"\x80\x02}" + string(b"\xe9", "SHORT_BINSTRING") + b"K\x01s."))
    assert "read here as Latin-1" in gsvckpt.json("inspect", path).file["warnings"][0]
    assert torch.load(gsvckpt.json("migrate", path).file["output"]) == {"é": 1}
