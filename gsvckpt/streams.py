"""Moving storages: chunk by chunk through reused buffers, several at a time. Memory is two buffers a worker, whatever the file's size."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

from gsvckpt.checksums import crc32
from gsvckpt.errors import DamagedError
from gsvckpt.model import Storage

CHUNK = 1 << 21  # a multiple of every element size; larger ones gain nothing and leave the processor's cache
BATCH = 1 << 23  # storages are handed to workers in runs of about this many bytes, as most are tiny

R = TypeVar("R")


class Progress(Protocol):
    """Told how many bytes there are to go through, and how many went. Called from several threads."""

    def expect(self, count: int) -> None: ...
    def advance(self, count: int) -> None: ...


class Silent:
    """No progress display."""

    def expect(self, count: int) -> None:
        """Nobody looks."""

    def advance(self, count: int) -> None:
        """Nobody looks."""


class Buffers:
    """One worker's memory: `raw` for what is read, `out` for what is made of it."""

    def __init__(self, stop: threading.Event, progress: Progress) -> None:
        self.raw = memoryview(bytearray(CHUNK))
        self.out = memoryview(bytearray(CHUNK))
        self.stop = stop
        self.progress = progress


class Stopped(Exception):  # noqa: N818 - not an error: another worker failed, or the user pressed Ctrl-C, and this one ends early
    """Ends a worker whose result nobody needs any more."""


def chunks(storage: Storage, buffers: Buffers) -> Iterator[tuple[int, memoryview]]:
    """Yield (offset in the storage, bytes) for the whole storage; each chunk is gone at the next step.

    Raises DamagedError at the end when the bytes do not have the checksum that their container states.
    """
    crc = 0
    for done in range(0, storage.nbytes, CHUNK):
        if buffers.stop.is_set():
            raise Stopped
        chunk = buffers.raw[: min(CHUNK, storage.nbytes - done)]
        storage.source.read_into(storage.offset + done, chunk)
        if storage.crc is not None:
            crc = crc32(chunk, crc)
        yield done, chunk
        buffers.progress.advance(len(chunk))
    if storage.crc is not None and crc != storage.crc:
        raise DamagedError(
            f"the stored bytes have checksum {crc:08x}, their record states {storage.crc:08x}",
            where=f"storage {storage.key}",
            hint="bytes were altered on disk or in transfer, which torch.load does not notice; get the file again",
        )


def for_each(storages: Iterable[Storage], work: Callable[[Storage, Buffers], R], *, jobs: int, progress: Progress) -> dict[Storage, R]:
    """Run `work` on every storage, on up to `jobs` threads, and return the results by storage. The first failure ends all and is raised."""
    batches = list(_batches(storages))
    stop = threading.Event()
    local = threading.local()
    results: dict[Storage, R] = {}

    def run_batch(batch: list[Storage]) -> list[R]:
        buffers = getattr(local, "buffers", None)
        if buffers is None:
            buffers = local.buffers = Buffers(stop, progress)
        return [work(storage, buffers) for storage in batch]

    if jobs == 1 or len(batches) < 2:  # one batch needs no pool, whose import alone takes 10 ms
        for batch in batches:
            results.update(zip(batch, run_batch(batch), strict=True))
        return results

    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(jobs, len(batches))) as pool:
        futures = [pool.submit(run_batch, batch) for batch in batches]
        try:
            for batch, future in zip(batches, futures, strict=True):
                results.update(zip(batch, future.result(), strict=True))
        except BaseException:  # Ctrl-C too: the workers must end before the pool can
            stop.set()
            for future in futures:
                future.cancel()
            raise
    return results


def _batches(storages: Iterable[Storage]) -> Iterator[list[Storage]]:
    batch: list[Storage] = []
    size = 0
    for storage in storages:
        batch.append(storage)
        size += storage.nbytes
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
