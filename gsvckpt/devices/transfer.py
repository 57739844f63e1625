"""Load tensors from a file into a device's memory: each byte is read once, straight to its place, and checked on the way."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch

from gsvckpt.devices.memory import free_memory, is_full, staging
from gsvckpt.dtypes import DType
from gsvckpt.errors import UnsupportedError, UsageError
from gsvckpt.files.progress import Silent
from gsvckpt.files.streams import CHUNK, Buffers, check_unchanged, chunks, for_each
from gsvckpt.model import Storage, Tensor

_ALIGNMENT = 16  # the largest element; a part of a storage begins at a multiple, so that the views of it begin at whole elements
_PART = 4  # a storage of which less than one byte in so many is wanted is read in part, without its checksum


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    """The bytes of a storage from `begin` to `end`, and the memory that they go to."""

    storage: Storage
    begin: int
    end: int
    memory: torch.Tensor

    @property
    def nbytes(self) -> int:
        return self.end - self.begin


def load(tensors: Mapping[str, Tensor], device: torch.device, *, jobs: int) -> dict[str, torch.Tensor]:
    """The tensors with their values, sharing memory as they do in the file, with its strides; none requires a gradient.

    Raises DamagedError when a storage does not have its checksum, ChangedError when the file is not what it was any more, UnsupportedError for
    types that this torch or device lacks, and UsageError where the device has no room for them: nothing stays there then.
    """
    blanks = {name: _blank(tensor.dtype, device, name) for name, tensor in tensors.items()}
    parts = _reserve(_ranges(tensors.values()), device)
    _fill(parts.values(), device, jobs)
    check_unchanged(storage.source for storage in parts)
    return {name: _view(tensor, blanks[name], parts.get(tensor.storage)) for name, tensor in tensors.items()}


def _blank(dtype: DType, device: torch.device, name: str) -> torch.Tensor:
    try:
        return torch.empty(0, dtype=getattr(torch, dtype.name), device=device)
    except (AttributeError, RuntimeError, TypeError) as error:
        raise UnsupportedError(f"torch {torch.__version__} has no {dtype.name} on {device}", where=name) from error


def _ranges(tensors: Iterable[Tensor]) -> dict[Storage, tuple[int, int]]:
    """What to read of each storage: all of it, or what lies between the first and last byte wanted where that is little."""
    wanted: dict[Storage, tuple[int, int]] = {}
    for tensor in tensors:
        if tensor.numel:
            size = tensor.dtype.itemsize
            begin, end = tensor.start * size, (tensor.start + tensor.extent) * size
            known = wanted.get(tensor.storage, (begin, end))
            wanted[tensor.storage] = min(known[0], begin), max(known[1], end)
    return {
        storage: (begin - begin % _ALIGNMENT, end) if (end - begin) * _PART < storage.nbytes else (0, storage.nbytes)
        for storage, (begin, end) in wanted.items()
    }


def _reserve(ranges: Mapping[Storage, tuple[int, int]], device: torch.device) -> dict[Storage, _Part]:
    """Memory for the bytes of each storage, all of it before the first byte is read."""
    parts: dict[Storage, _Part] = {}
    try:
        for storage, (begin, end) in ranges.items():
            parts[storage] = _Part(storage, begin, end, torch.empty(end - begin, dtype=torch.uint8, device=device))
    except RuntimeError as error:  # the host's own says "can't allocate memory"
        if not is_full(error) and "memory" not in str(error):
            raise
        parts.clear()  # the error that is raised must not hold on to what there was room for
    else:
        return parts
    needed, free = sum(end - begin for begin, end in ranges.values()), free_memory(device)
    left = "" if free is None else f", {device} has {free / 1e9:.2f} GB left"
    raise UsageError(
        f"the tensors need {needed / 1e9:.2f} GB{left}", where="device", hint="choose some of them with include, or load them to the cpu"
    )


def _view(tensor: Tensor, blank: torch.Tensor, part: _Part | None) -> torch.Tensor:
    try:
        if not tensor.numel or part is None:
            return torch.empty_strided(tensor.shape, tensor.stride, dtype=blank.dtype, device=blank.device)
        start = tensor.start - part.begin // tensor.dtype.itemsize
        return blank.set_(part.memory.untyped_storage(), start, tensor.shape, tensor.stride)
    except RuntimeError as error:
        raise UnsupportedError(f"torch has no tensors of shape {list(tensor.shape)[:8]}") from error


def _fill(parts: Collection[_Part], device: torch.device, jobs: int) -> None:
    if device.type == "cpu":
        for_each(parts, _read, jobs=jobs, progress=Silent())
    else:
        fill_through(parts, device, jobs)


def _read(part: _Part, buffers: Buffers) -> None:
    memory = part.memory.numpy().data
    for _ in chunks(part.storage, buffers, part.begin, part.end, into=lambda at, count: memory[at - part.begin :][:count]):
        pass


def fill_through(parts: Collection[_Part], device: torch.device, jobs: int) -> None:
    """Fill parts on a device through page-locked buffers, a ring of two for each thread, while the next bytes are read."""
    earlier = torch.cuda.current_stream(device) if device.type == "cuda" else None
    local = threading.local()
    rings: list[_Ring] = []

    def send(part: _Part, buffers: Buffers) -> None:
        ring: _Ring | None = getattr(local, "ring", None)
        if ring is None:
            ring = local.ring = _Ring(device, earlier)
            rings.append(ring)
        for at, chunk in chunks(part.storage, buffers, part.begin, part.end, into=ring.take):
            ring.send(part.memory[at - part.begin :][: len(chunk)])

    try:
        for_each(parts, send, jobs=jobs, progress=Silent())
        for ring in rings:
            ring.flush()
    finally:
        for ring in rings:  # after a failure too: the memory must not be given back while copies to it are under way
            ring.wait()


class _Ring:
    """One thread's buffers and its queue on the device. Small pieces share a buffer, since most are small and each queue entry costs time."""

    def __init__(self, device: torch.device, earlier: torch.cuda.Stream | None) -> None:
        self._slots = [staging(CHUNK, device) for _ in range(2)]
        self._stream: torch.cuda.Stream | None = None
        self._sent: list[torch.cuda.Event] = []
        self._turn = self._filled = 0
        self._pending: list[tuple[torch.Tensor, int]] = []  # where to, and where in the buffer it begins
        if earlier is not None:
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
            self._stream.wait_stream(earlier)  # the memory may have belonged to work that is not done yet
            self._sent = [torch.cuda.Event(blocking=True) for _ in self._slots]  # type: ignore[no-untyped-call]  # to sleep while waiting

    def take(self, _: int, count: int) -> memoryview:
        """Free bytes of the buffer whose turn it is, once its last ones have gone."""
        if self._filled + count > CHUNK:
            self.flush()
        if self._sent and not self._filled:
            self._sent[self._turn].synchronize()
        return self._slots[self._turn].numpy().data[self._filled : self._filled + count]

    def send(self, memory: torch.Tensor) -> None:
        """Have the bytes taken last copied to `memory`, at once where they are many."""
        self._pending.append((memory, self._filled))
        self._filled += memory.numel()
        if self._filled > CHUNK // 2:
            self.flush()

    def flush(self) -> None:
        """Begin to copy all that waits, and go on with the other buffer."""
        slot = self._slots[self._turn]
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            for memory, begin in self._pending:
                memory.copy_(slot[begin : begin + memory.numel()], non_blocking=self._stream is not None)
        self._pending, self._filled = [], 0
        if self._stream is not None:
            self._sent[self._turn].record(self._stream)
        self._turn = 1 - self._turn

    def wait(self) -> None:
        """Wait until all that was begun has arrived."""
        if self._stream is not None:
            self._stream.synchronize()
