"""The ring of buffers against a queue as lazy as a GPU's may be: what is copied is looked at only when somebody waits for it."""

from __future__ import annotations

import pytest
import torch

from gsvckpt.devices import transfer
from gsvckpt.dtypes import DTYPES
from gsvckpt.files.streams import CHUNK
from gsvckpt.model import Storage

from .lazy import LazyEvent, LazyStream, chosen, queue


class LazyMemory:
    """Stands for a tensor on the GPU."""

    def __init__(self, values):
        self.values = values

    def __getitem__(self, key):
        return LazyMemory(self.values[key])

    def numel(self):
        return self.values.numel()

    def copy_(self, staged, *, non_blocking):
        assert non_blocking
        queue().copies.append(lambda: self.values.copy_(staged))


class Bytes:
    """A source in memory."""

    path = "memory"

    def __init__(self, data):
        self.data = data
        self.size = len(data)

    def read_into(self, offset, target):
        target[:] = self.data[offset : offset + len(target)]


@pytest.fixture
def lazy(monkeypatch):
    for name, value in {"Stream": LazyStream, "Event": LazyEvent, "stream": chosen, "current_stream": lambda _: "the caller's"}.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(transfer, "staging", lambda count, _: torch.empty(count, dtype=torch.uint8))


@pytest.mark.parametrize("jobs", [1, 3])
def test_no_buffer_is_filled_again_before_its_bytes_have_gone(lazy, jobs):
    sizes = [5 * CHUNK + 3, *range(1, 400), CHUNK, CHUNK // 2 + 1, CHUNK // 2 + 1, 9, CHUNK // 2, *[CHUNK // 3] * 20, 2 * CHUNK - 1, *[70_001] * 200]
    source = Bytes(torch.randint(0, 256, (sum(sizes),), dtype=torch.uint8).numpy().tobytes())
    parts, at = [], 0
    for number, size in enumerate(sizes):
        storage = Storage(str(number), DTYPES["uint8"], size, "cuda:0", source, at)
        parts.append(transfer._Part(storage, 0, size, LazyMemory(torch.zeros(size, dtype=torch.uint8))))
        at += size
    transfer.fill_through(parts, torch.device("cuda"), jobs=jobs)
    for part in parts:
        begin = part.storage.offset
        assert part.memory.values.numpy().tobytes() == source.data[begin : begin + part.nbytes]
