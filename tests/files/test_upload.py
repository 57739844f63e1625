"""Writing from beginning to end: turns are kept whoever comes first, and nobody waits for ever."""

from __future__ import annotations

import io
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest
import torch
from support.builders import tensor, torch_zip

from gsvckpt.dtypes import DTYPES
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.engine.write import Engine, lay_out
from gsvckpt.errors import ChangedError, OutputError
from gsvckpt.files.streams import Stopped, crc32
from gsvckpt.files.upload import OrderedTarget, find_obstacle
from gsvckpt.formats import torch_overlay
from gsvckpt.formats.layout import Layout, Text
from gsvckpt.model import Checkpoint, Container, Storage, Tensor, storages_of
from gsvckpt.transforms.plan import Plan, begin


def target(stream):
    return OrderedTarget("memory://temporary", "memory://out.pth", stream.write)


def test_bytes_come_in_order_from_threads_in_any_order():
    stream = io.BytesIO()
    ordered = target(stream)
    pieces = [(at, bytes([at % 251]) * 7) for at in range(0, 7 * 64, 7)]
    random.Random(1).shuffle(pieces)
    with ThreadPoolExecutor(len(pieces)) as pool:  # one thread each, so that the one whose turn it is always runs
        list(pool.map(lambda piece: ordered.write_at(*piece), pieces))
    assert stream.getvalue() == b"".join(data for _, data in sorted(pieces))


def test_those_who_wait_go_when_another_fails():
    ordered = target(io.BytesIO())
    ended = []

    def wait():
        with pytest.raises(Stopped):
            ordered.write_at(100, b"late")
        ended.append(True)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    ordered.stop()
    for thread in threads:
        thread.join(10)
    assert ended == [True] * 3
    with pytest.raises(Stopped):
        ordered.write_at(0, b"never")


def test_nothing_is_written_twice():
    ordered = target(io.BytesIO())
    ordered.write_at(0, b"one")
    with pytest.raises(OutputError, match="byte 1 was to be written when byte 3 was due") as caught:
        ordered.write_at(1, b"two")
    assert caught.value.path == "memory://out.pth"


class Broken(io.BytesIO):
    def write(self, _data):
        raise OSError(28, "no room for signature=abcdef at https://host/x?signature=abcdef")


def test_a_failure_of_the_stream_is_an_output_error_without_secrets():
    with pytest.raises(OutputError, match="cannot be written") as caught:
        target(Broken()).write_at(0, b"one")
    assert "?signature" not in caught.value.why


def test_a_server_that_cannot_copy_is_refused_before_any_work(monkeypatch):
    monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "cp_file", fsspec.AbstractFileSystem.cp_file)
    error = find_obstacle("memory://out.pth", overwrite=True)
    assert isinstance(error, OutputError)
    assert "cannot copy" in error.why


@pytest.fixture
def checkpoint(tmp_path):
    state = {f"layers.{n}.weight": torch.randn(n * 37 + 1) for n in range(50)} | {"none": torch.zeros(0), "tied": torch.arange(6.0).view(2, 3).t()}
    torch.save(state, tmp_path / "model.pth")
    with open_checkpoint(tmp_path / "model.pth") as checkpoint:
        yield checkpoint


def contents(storage: Storage) -> bytes:
    buffer = bytearray(storage.nbytes)
    storage.source.read_into(storage.offset, memoryview(buffer))
    return bytes(buffer)


def written_anywhere(layout: Layout, checksums) -> bytes:
    out = bytearray(b"?" * layout.size)
    for offset, text in (*layout.texts, *((place, contents(storage)) for storage, place in layout.storages), *layout.close(checksums)):
        out[offset : offset + len(text)] = text
    return bytes(out)


def written_in_order(layout: Layout, checksums) -> bytes:
    return b"".join(piece.data if isinstance(piece, Text) else contents(piece) for piece in layout.in_order(checksums))


@pytest.mark.parametrize("container", ["torch-zip", "safetensors"])
def test_a_file_written_in_order_is_the_file(checkpoint, container):
    from dataclasses import replace

    layout = lay_out(replace(begin(checkpoint), container=container))
    assert layout.needs_checksums == (container == "torch-zip")
    checksums = {storage: crc32(contents(storage)) for storage in storages_of(checkpoint.root)}
    assert written_in_order(layout, checksums) == written_anywhere(layout, checksums)


@pytest.mark.parametrize("writer", ["torch", "another"])
def test_a_file_written_over_another_is_patched_in_order(checkpoint, tmp_path, writer):
    if writer == "another":
        (tmp_path / "other.pth").write_bytes(torch_zip({f"layers.{n}": tensor("float32", (5,), [1.0, 2.0, 3.0, 4.0, float(n)]) for n in range(9)}))
    with open_checkpoint(tmp_path / ("model.pth" if writer == "torch" else "other.pth")) as base:
        contained = {storage.key: storage for storage in storages_of(base.root)}
        layout = torch_overlay.lay_out(base, contained, lambda storage: storage.dtype)
        checksums = dict.fromkeys(contained.values(), 0x12345678)
        assert written_in_order(layout, checksums) == written_anywhere(layout, checksums)
        assert (0x12345678).to_bytes(4, "little") in written_in_order(layout, checksums)


class Fickle:
    """A source that gives other bytes each time, whatever its marks say."""

    path, size = "fickle.pth", 1000

    def __init__(self) -> None:
        self.times = 0

    def read_into(self, _offset, buffer):
        self.times += 1
        buffer[:] = bytes([self.times]) * len(buffer)


@pytest.mark.parametrize(("container", "raises"), [("torch-zip", True), ("safetensors", False)])
def test_bytes_that_differ_from_those_that_headers_were_made_of_are_never_published(container, raises):
    source = Fickle()
    storage = Storage("0", DTYPES["float32"], 250, "cpu", source, 0)
    root = {"weight": Tensor(storage, DTYPES["float32"], (250,), (1,))}
    plan = Plan(Checkpoint(source, Container(container, records=1), root), root, container)
    memory = fsspec.filesystem("memory")
    try:
        if raises:
            with pytest.raises(ChangedError, match="was different when it was read a second time"):
                Engine().write(plan, "memory://out.pth", overwrite=False)
            assert memory.find("/") == []
        else:  # whose header states no checksums, so that it is read only once
            Engine().write(plan, "memory://out.pth", overwrite=False)
            assert source.times == 1
            assert memory.find("/") == ["/out.pth"]
    finally:
        memory.store.clear()
