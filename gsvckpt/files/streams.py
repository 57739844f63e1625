"""Stream storages through reused buffers in several threads. Each worker needs two buffers, whatever the file's size."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar, runtime_checkable

from gsvckpt.errors import DamagedError
from gsvckpt.files.paths import file_words
from gsvckpt.files.progress import Progress
from gsvckpt.hints import TRY_SALVAGE, Hint
from gsvckpt.model import Source, Storage

CHUNK = 1 << 21  # a multiple of every element size; larger ones gain nothing and leave the processor's cache
BATCH = 1 << 23  # items are handed to workers in runs of about this many bytes, as most are tiny
_ALTERED = Hint(f"{TRY_SALVAGE.text}: its bytes were altered on disk or in transfer, which torch.load does not notice", TRY_SALVAGE.command)


class WorkItem(Protocol):
    """Something to work on, of a known size: a storage or a part of one."""

    @property
    def nbytes(self) -> int: ...


P = TypeVar("P", bound=WorkItem)
R = TypeVar("R")


def buffer(size: int) -> memoryview:
    """Memory that begins with a page: the kernel copies into it four times as fast as into a bytearray's, which begins 16 bytes behind one."""
    return memoryview(mmap.mmap(-1, size))


def read_chunks(source: Source, begin: int = 0, end: int | None = None, *, memory: memoryview | None = None) -> Iterator[tuple[int, memoryview]]:
    """Yield (offset, bytes) of a file from `begin` to `end`, by default to its last byte. A chunk lies in `memory`, by default in some of its own,
    fills it but for the last one, and is gone at the next step.
    """
    memory = buffer(CHUNK) if memory is None else memory
    end = source.size if end is None else end
    for at in range(begin, end, len(memory)):
        chunk = memory[: end - at]
        source.read_into(at, chunk)
        yield at, chunk


class Buffers:
    """One worker's memory: `raw` for what is read, `out` for what is made of it."""

    def __init__(self, stop: threading.Event, progress: Progress) -> None:
        self.raw = buffer(CHUNK)
        self.out = buffer(CHUNK)
        self.stop = stop
        self.progress = progress


class Stopped(Exception):  # not an error: another worker failed, or the user pressed Ctrl-C, and this one ends early
    """Ends a worker whose result is no longer needed."""


def chunks(
    storage: Storage,
    buffers: Buffers,
    begin: int = 0,
    end: int | None = None,
    *,
    step: int | None = None,
    into: Callable[[int, int], memoryview] | None = None,
) -> Iterator[tuple[int, memoryview]]:
    """Yield (offset in the storage, bytes) from `begin` to `end`, by default for the whole storage, `step` (CHUNK) bytes at a time.

    A chunk lies in `buffers.raw` and is gone at the next step, or where `into(offset, count)` says. Raises DamagedError at the end when the whole
    storage was read and its bytes do not have the checksum that their container states.
    """
    end = storage.nbytes if end is None else end
    step = step or CHUNK
    expected = storage.crc if (begin, end) == (0, storage.nbytes) else None
    crc = 0
    for at in range(begin, end, step):
        if buffers.stop.is_set():
            raise Stopped
        count = min(step, end - at)
        chunk = buffers.raw[:count] if into is None else into(at, count)
        storage.source.read_into(storage.offset + at, chunk)
        if expected is not None:
            crc = crc32(chunk, crc)
        yield at, chunk
        buffers.progress.advance(count)
    if expected is not None and crc != expected:
        raise DamagedError(
            f"the stored bytes have checksum {crc:08x}, their record states {expected:08x}",
            where=f"storage {storage.key}",
            hint=_ALTERED.fill(file_words(storage.source.path)),
            path=storage.source.path,
        )


def check_unchanged(sources: Iterable[Source]) -> None:
    """Raise ChangedError where a source that can tell is no longer what was opened. Due whenever numbers were read that are to be believed."""
    for source in {id(source): source for source in sources}.values():
        if isinstance(source, _Watched):
            source.check_unchanged()


@runtime_checkable
class _Watched(Protocol):
    def check_unchanged(self) -> None: ...


def for_each(items: Iterable[P], work: Callable[[P, Buffers], R], *, jobs: int, progress: Progress) -> dict[P, R]:
    """Run `work` on every item in up to `jobs` threads, and return the results by item. The first failure stops all and is raised."""
    batches = list(_batches(items))
    stop = threading.Event()
    local = threading.local()
    results: dict[P, R] = {}

    def run_batch(batch: list[P]) -> list[R]:
        buffers = getattr(local, "buffers", None)
        if buffers is None:
            buffers = local.buffers = Buffers(stop, progress)
        return [work(item, buffers) for item in batch]

    if jobs == 1 or len(batches) < 2:  # one batch needs no pool, whose import alone takes 10 ms
        for batch in batches:
            results.update(zip(batch, run_batch(batch), strict=True))
        return results

    from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait

    with ThreadPoolExecutor(min(jobs, len(batches))) as pool:
        futures: list[Future[list[R]]] = []
        try:
            for batch in batches:
                futures.append(pool.submit(run_batch, batch))  # noqa: PERF401 - Ctrl-C in between must find those that there are
            wait(futures, return_when=FIRST_EXCEPTION)
            for future in filter(Future.done, futures):
                future.result()  # the failure, if there was one, before those that still run
            for batch, future in zip(batches, futures, strict=True):
                results.update(zip(batch, future.result(), strict=True))
        except BaseException:  # Ctrl-C too: the workers must end before the pool can
            stop.set()
            for future in futures:
                future.cancel()
            raise
    return results


def _batches(items: Iterable[P]) -> Iterator[list[P]]:
    batch: list[P] = []
    size = 0
    for item in items:
        batch.append(item)
        size += item.nbytes
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


try:
    from isal.isal_zlib import crc32
except ImportError:  # no wheel for this processor
    from zlib import crc32

__all__ = ["crc32"]
