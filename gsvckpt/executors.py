"""One job for each of many files, on any executor. Results come in the order of the files.

Memory does not grow with the number of files: not more than a window of them is under way or waits for its turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from gsvckpt.errors import GsvError
from gsvckpt.progress import Progress, Share, Silent

if TYPE_CHECKING:
    from concurrent.futures import Future

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


def run_in_processes(job: Job[T, R], items: Sequence[T], shares: Sequence[Share], chunk: int, jobs: int) -> Generator[R, None, None]:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    running = min(jobs, len(items))
    # Fresh processes on every system: a fork would inherit the threads and buffers of this one in the middle of their work.
    pool = ProcessPoolExecutor(running, get_context("spawn"), initializer=_start)
    try:
        yield from run_on(pool, job, items, shares, chunk=chunk, window=WINDOW * running, threads=max(1, jobs // running), work=_perform_apart)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def perform(job: Job[T, R], items: Sequence[T], jobs: int) -> list[R]:
    """Do a job to some files: what an executor is given."""
    return [job(item, jobs, Silent()) for item in items]


class Submits(Protocol):
    """As much of a `concurrent.futures.Executor` as is needed."""

    def submit(self, fn: Callable[..., R], /, *args: object) -> Future[R]: ...


class Lost(NamedTuple):
    """What to do about items whose process died: `error` is their result, or None where they are done here."""

    error: GsvError | None = None


def _do_it_here(error: Exception) -> Lost:
    if isinstance(error, RuntimeError):  # BrokenExecutor: a process was killed, by the system for its memory perhaps
        return Lost()
    raise error


def run_on(
    executor: Submits,
    job: Job[T, R],
    items: Sequence[T],
    shares: Sequence[Share],
    *,
    chunk: int = 1,
    window: int = 64,
    threads: int = 1,
    work: Callable[[Job[T, R], Sequence[T], int], list[R]] = perform,
    lost: Callable[[Exception], Lost] = _do_it_here,
) -> Generator[R, None, None]:
    """Yield the result for each item, in order, from any executor: not more than `window` tasks of `chunk` items are with it or wait for their turn.

    `lost` decides what becomes of items whose task failed and which `recall` does not find done; it may raise. Those of a process that died are done
    here.
    """
    pending: deque[tuple[range, Future[list[R]]]] = deque()
    chunks = iter([range(begin, min(begin + chunk, len(items))) for begin in range(0, len(items), chunk)])

    def fill() -> None:
        while len(pending) < window and (indices := next(chunks, None)) is not None:
            pending.append((indices, _submit(executor, work, job, [items[n] for n in indices], threads)))
            _end_with(pending[-1][1], [shares[n] for n in indices])

    try:
        with _quiet_start():  # a pool starts its processes with its first tasks
            fill()
        while pending:
            indices, future = pending.popleft()
            yield from _collect(job, [items[n] for n in indices], [shares[n] for n in indices], future, lost)
            fill()
    finally:
        for _, future in pending:
            future.cancel()


def _submit(
    executor: Submits, work: Callable[[Job[T, R], Sequence[T], int], list[R]], job: Job[T, R], items: list[T], threads: int
) -> Future[list[R]]:
    try:
        return executor.submit(work, job, items, threads)
    except RuntimeError as error:  # the pool broke
        from concurrent.futures import Future

        failed: Future[list[R]] = Future()
        failed.set_exception(error)
        return failed


def _end_with(future: Future[list[R]], shares: Sequence[Share]) -> None:
    def end(done: Future[list[R]]) -> None:
        if not done.cancelled() and done.exception() is None:
            for share in shares:
                share.end_file()

    future.add_done_callback(end)


def _collect(job: Job[T, R], items: list[T], shares: list[Share], future: Future[list[R]], lost: Callable[[Exception], Lost]) -> list[R]:
    try:
        return future.result()
    except Exception as error:  # noqa: BLE001 - whoever owns the executor knows what its errors mean
        failure = lost(error).error
    results = []
    for item, share in zip(items, shares, strict=True):
        done = job.recall(item)
        if done is None:
            done = job.fail(item, copy(failure)) if failure is not None else job(item, 1, share)
        results.append(done)
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


class _Process:
    """What a process of a pool is at. Ctrl-C reaches every process of the terminal; these tidy up in silence, as the first one speaks for all."""

    working = stopped = False

    def start(self) -> None:
        import signal
        import sys

        sys.setswitchinterval(0.0005)
        signal.signal(signal.SIGINT, self.interrupt)

    def interrupt(self, *_: object) -> None:
        self.stopped = True
        if self.working:
            raise KeyboardInterrupt

    def perform(self, job: Job[T, R], items: Sequence[T], jobs: int) -> list[R]:
        """Do a job as ever, so that nothing half-written stays at Ctrl-C. The process ends with its pool: by itself, it would take others along."""
        try:
            self.working = True
            if self.stopped:
                raise KeyboardInterrupt
            return perform(job, items, jobs)
        except KeyboardInterrupt:
            raise RuntimeError("interrupted") from None
        finally:
            self.working = False


_process = _Process()  # this one, where it is one of a pool


def _start() -> None:
    _process.start()


def _perform_apart(job: Job[T, R], items: Sequence[T], jobs: int) -> list[R]:
    return _process.perform(job, items, jobs)
