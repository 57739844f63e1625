"""Damaged files through all commands: cut off anywhere, with any byte changed. There is an answer or one of our errors, never more than that."""

from __future__ import annotations

import random
import sys

import pytest
from support.builders import safetensors, tensor, torch_stream, torch_zip

from .samples import generator, gpt, s1_training, s2_training, small

SEED = 20260118
OPTIONS = {"inspect": ["--tensors", "--stats", "--config", "--globals", "--memory"], "convert-fp16": ["-o"], "strip-optimizer": ["-o"]}


def trees():
    voice = {name: tensor("float32", (2, 2), range(4)) for name in generator("v2Pro")}
    return {
        "voice.pth": torch_zip(small(voice, "v2Pro"), head=b"05"),
        "G_16.pth": torch_zip(s2_training(voice)),
        "epoch=1-step=12.ckpt": torch_zip(s1_training({name: tensor("float32", (2, 2), range(4)) for name in gpt()})),
        "old.pth": torch_stream(s2_training(voice)),
        "x.safetensors": safetensors({name: ("F32", (2, 2), bytes(16)) for name in voice}, {"format": "pt"}),
    }


@pytest.fixture
def try_all(gsvckpt, tmp_path, monkeypatch):
    """Runs every command on damaged bytes; the exit codes."""
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it would raise
    output = tmp_path / "out"
    output.mkdir()

    def run(name, data):
        source = tmp_path / name
        source.write_bytes(data)
        codes = []
        for command, options in OPTIONS.items():
            done = gsvckpt(command, source, *options, *([output / name] if "-o" in options else []))
            codes.append(done.code)
            assert done.code in (0, 3, 4), done
            assert (done.code == 0) or str(source) in done.err.splitlines()[0], done
            assert len(done.err.splitlines()) <= 4
            assert source.read_bytes() == data
            assert [path.name for path in output.iterdir()] == ([name] if "-o" in options and done.code == 0 else [])
            (output / name).unlink(missing_ok=True)
        return codes

    return run


@pytest.mark.parametrize("name", trees())
def test_whole(try_all, name):
    assert try_all(name, trees()[name]) == [0, 0, 0]


@pytest.mark.parametrize("name", trees())
def test_cut_off_anywhere(try_all, name):
    data = trees()[name]
    rng = random.Random(f"{SEED} {name}")
    for end in sorted(rng.sample(range(len(data)), 40)):
        assert try_all(name, data[:end]) == [3, 3, 3], end


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("name", trees())
def test_any_byte_changed(try_all, name, part):
    data = trees()[name]
    rng = random.Random(f"{SEED} {name} {part}")
    for _ in range(25):
        changed = bytearray(data)
        at = rng.randrange(len(data))
        changed[at] ^= rng.randrange(1, 256)
        try_all(name, bytes(changed))


@pytest.mark.parametrize("name", trees())
def test_a_byte_of_a_tensor_changed_is_never_written_on(try_all, name):
    if not name.endswith((".pth", ".ckpt")) or name == "old.pth":
        pytest.skip("this container has no checksums")
    data = bytearray(trees()[name])
    at = data.find(b"\0\0\x80\x3f\0\0\0\x40")  # 1.0, 2.0
    data[at] ^= 1
    assert try_all(name, bytes(data)) == [3, 3, 3]


def test_bytes_from_nowhere(try_all):
    rng = random.Random(SEED)
    for head in (
        b"",
        b"PK\3\4",
        b"05\3\4",
        b"\x80\x02",
        bytes(8),
        b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.",
        b"\x10\0\0\0\0\0\0\0{",
    ):
        for size in (0, 1, 30, 3000):
            assert try_all("x.pth", head + rng.randbytes(size)) == [3, 3, 3]
