"""One job for each of many files: here, in processes of their own where it pays, or on any executor. Results come in the order of the files.

Memory does not grow with the number of files: not more than a window of them is under way or waits for its turn. A process takes what an interpreter
takes, and two buffers of 2 MiB for each of its threads; the processes of one run have as many threads together as were asked for.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from gsvckpt.errors import GsvError
from gsvckpt.locations import holds_secrets
from gsvckpt.progress import Progress, Share, Silent

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

START = 0.4  # seconds that starting processes takes
FEWEST = 4  # files for each process
WINDOW = 16  # tasks for each process that are under way or wait for their turn


class Item(Protocol):
    """What a job is told of one file: a plain value, for any process."""

    @property
    def path(self) -> str: ...


T = TypeVar("T", bound=Item)
I_contra = TypeVar("I_contra", bound=Item, contravariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Job(Protocol[I_contra, R_co]):
    """What is done to each file, as a plain value with a plain result. Nothing is raised for what is wrong with a file: the result tells."""

    def __call__(self, item: I_contra, jobs: int, progress: Progress) -> R_co:
        """Do it, with so many threads."""

    def recall(self, item: I_contra) -> R_co | None:
        """The result of an earlier attempt at this very item that was cut off only after its work was done."""

    def fail(self, item: I_contra, error: GsvError) -> R_co:
        """The result for a file that nothing could be done to."""


class Load(NamedTuple):
    """What a run costs one worker: seconds for each file, and for all bytes that are read. `chunk` files go to a process at a time; `together` says
    whether several may be in work at once.
    """

    per_file: float
    reading: float = 0
    chunk: int = 1
    together: bool = True


def run_each(
    job: Job[T, R], items: Sequence[T], load: Load, jobs: int, progress: Progress, sizes: Sequence[int] | None = None, cluster: str | None = None
) -> Generator[R, None, None]:
    """Yield the result for each item, in order. `sizes` are the bytes that each counts for in the progress.

    On a `cluster` where one is named, in processes where that is faster, else one after the other with all threads. One bad file stops no other.
    """
    sizes = sizes or [0] * len(items)
    progress.expect_files(len(items))
    progress.expect(sum(sizes))
    shares = [Share(progress, size) for size in sizes]
    if cluster is not None:
        raise NotImplementedError
    elif load.together and pays(len(items), load, jobs) and not holds_secrets():
        yield from _in_processes(job, items, shares, load.chunk, jobs)
    else:
        for item, share in zip(items, shares, strict=True):
            result = job(item, jobs, share)
            share.end_file()
            yield result


def pays(count: int, load: Load, jobs: int) -> bool:
    """Whether processes save more time than starting them takes."""
    return jobs > 1 and count >= FEWEST * jobs and count * load.per_file + load.reading > 4 * START


def sizes_of(paths: Sequence[str]) -> list[int]:
    """The size of each file; 0 where there is none."""
    return [_size(path) for path in paths]


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _in_processes(job: Job[T, R], items: Sequence[T], shares: Sequence[Share], chunk: int, jobs: int) -> Generator[R, None, None]:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    running = min(jobs, len(items))
    # Fresh processes on every system: a fork would inherit the threads and buffers of this one in the middle of their work.
    pool = ProcessPoolExecutor(running, get_context("spawn"), initializer=_start)
    try:
        yield from run_on(pool, job, items, shares, chunk=chunk, window=WINDOW * running, threads=max(1, jobs // running))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def perform(job: Job[T, R], items: Sequence[T], jobs: int) -> list[R]:
    """Do a job to some files: what an executor is given."""
    return [job(item, jobs, Silent()) for item in items]


class Lost(NamedTuple):
    """What to do about items whose process died: `error` is their result, or None where they are done here."""

    error: GsvError | None = None


def _do_it_here(error: Exception) -> Lost:
    if isinstance(error, RuntimeError):  # BrokenExecutor: a process was killed, by the system for its memory perhaps
        return Lost()
    raise error


def run_on(
    executor: Executor,
    job: Job[T, R],
    items: Sequence[T],
    shares: Sequence[Share],
    *,
    chunk: int = 1,
    window: int = 64,
    threads: int = 1,
    work: Callable[..., list[R]] = perform,
    lost: Callable[[Exception], Lost] = _do_it_here,
) -> Generator[R, None, None]:
    """Yield the result for each item, in order, from any executor: not more than `window` tasks of `chunk` items are with it or wait for their turn.

    `lost` decides what becomes of items whose task failed; it may raise. Those of a process that died are done here, unless `recall` finds them done.
    """
    pending: deque[tuple[range, Future[list[R]] | None]] = deque()
    chunks = iter([range(begin, min(begin + chunk, len(items))) for begin in range(0, len(items), chunk)])
    try:
        while True:
            with _quiet_start():
                while len(pending) < window and (indices := next(chunks, None)) is not None:
                    pending.append((indices, _submit(executor, work, job, [items[n] for n in indices], threads)))
                    _end_with(pending[-1][1], [shares[n] for n in indices])
            if not pending:
                return
            indices, future = pending.popleft()
            yield from _collect(job, [items[n] for n in indices], [shares[n] for n in indices], future, lost)
    finally:
        for _, future in pending:
            if future is not None:
                future.cancel()


def _submit(executor: Executor, work: Callable[..., list[R]], job: Job[T, R], items: list[T], threads: int) -> Future[list[R]] | None:
    try:
        return executor.submit(work, job, items, threads)
    except RuntimeError:  # the pool broke; the files go on without it
        return None


def _end_with(future: Future[list[R]] | None, shares: Sequence[Share]) -> None:
    def end(done: Future[list[R]]) -> None:
        if not done.cancelled() and done.exception() is None:
            for share in shares:
                share.end_file()

    if future is not None:
        future.add_done_callback(end)


def _collect(job: Job[T, R], items: list[T], shares: list[Share], future: Future[list[R]] | None, lost: Callable[[Exception], Lost]) -> list[R]:
    verdict = Lost()
    if future is not None:
        from concurrent.futures import CancelledError

        try:
            return future.result()
        except (Exception, CancelledError) as error:  # noqa: BLE001 - whoever owns the executor knows what its errors mean
            verdict = lost(error)
    results = []
    for item, share in zip(items, shares, strict=True):
        results.append(job.fail(item, verdict.error) if verdict.error is not None else job.recall(item) or job(item, 1, share))
        share.end_file()
    return results


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Processes that are started inside ignore Ctrl-C until `_start` runs in them; else they would print a traceback each."""
    import signal

    try:
        previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _start() -> None:
    """Ctrl-C reaches every process of the terminal; these end without a word, as the first one speaks for all."""
    import signal
    import sys

    sys.setswitchinterval(0.0005)
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))
