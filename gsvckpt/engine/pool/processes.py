"""Run one job on each of many files, on any executor. Results come in the order of the files.

Memory does not grow with the number of files: only a limited number of them is in work or waits for its turn.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from copy import copy
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from gsvckpt.errors import GsvError
from gsvckpt.files.progress import Progress, Share, Silent

if TYPE_CHECKING:
    from concurrent.futures import Future

WINDOW = 16  # tasks for each process that are under way or wait for their turn
_MOST_ON_WINDOWS = 61  # processes of a pool, which waits for no more handles there
_ENDS = ("SIGTERM", "SIGHUP")  # requests to end, where the system has them


class PoolItem(Protocol):
    """The input of a job for one file: a plain value, for any process."""

    @property
    def path(self) -> str: ...


T = TypeVar("T", bound=PoolItem)
I_contra = TypeVar("I_contra", bound=PoolItem, contravariant=True)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Job(Protocol[I_contra, R_co]):
    """The work done on each file: a plain value with a plain result. A bad file raises nothing; the result says what is wrong."""

    def __call__(self, item: I_contra, jobs: int, progress: Progress) -> R_co:
        """Do the work with this many threads."""

    def fail(self, item: I_contra, error: GsvError) -> R_co:
        """The result for a file that could not be processed."""


def run_in_processes(job: Job[T, R], items: Sequence[T], shares: Sequence[Share], chunk: int, jobs: int) -> Generator[R, None, None]:
    """Yield the result for each item, in order, from processes of this one's. They tidy up and end before whoever stops listening goes on."""
    import signal
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import active_children, get_context

    running = count_processes(len(items), jobs)
    ends = tuple(number for name in _ENDS if (number := getattr(signal, name, None)) is not None and signal.getsignal(number) != signal.SIG_IGN)
    others = {child.pid for child in active_children()}
    with _quiet_start():  # Python's own tracker of what processes share starts here, and must outlive a terminal that goes away
        # Fresh processes on every system: a fork would inherit the threads and buffers of this one in the middle of their work.
        pool = ProcessPoolExecutor(running, get_context("spawn"), initializer=_start, initargs=(ends,))
    try:
        workers = Workers(pool, WINDOW * running, max(1, jobs // running), _perform_apart, cancel=False)
        yield from run_on(workers, job, items, shares, chunk=chunk)
    except BaseException:  # a request to end may have reached this process alone
        _interrupt(child.pid for child in active_children() if child.pid not in others)
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def count_processes(items: int, jobs: int) -> int:
    """The number of processes for this many items."""
    return min(jobs, items, _MOST_ON_WINDOWS if sys.platform == "win32" else jobs)


def _interrupt(processes: Iterable[int | None]) -> None:
    """What Ctrl-C does to each. Windows has no such signal for another process: there they finish what they are at."""
    import signal

    for number in processes if sys.platform != "win32" else ():
        if number is not None:
            with suppress(OSError):  # it is gone
                os.kill(number, signal.SIGINT)


def perform(job: Job[T, R], items: Sequence[T], jobs: int) -> list[R]:
    """Run a job on some files: this is what executors call."""
    return [job(item, jobs, Silent()) for item in items]


class Submits(Protocol):
    """As much of a `concurrent.futures.Executor` as is needed."""

    def submit(self, fn: Callable[..., R], /, *args: object) -> Future[R]: ...


class Lost(NamedTuple):
    """What to do with items whose process died: `error` is their result, or None to process them here."""

    error: GsvError | None = None


def _do_it_here(error: Exception) -> Lost:
    if isinstance(error, RuntimeError):  # BrokenExecutor: a process was killed, by the system for its memory perhaps
        return Lost()
    raise error


class Workers(NamedTuple):
    """Those who do the tasks. Not more than `window` tasks are with `executor` or wait for their turn; `work` does each, with so many `threads`.

    `lost` decides what becomes of items whose task failed; it may raise. `cancel` says that what waits is to be cancelled here when nobody listens
    any more. An executor that does so itself does it better: Python's pool trips over tasks that others cancelled when one of its processes ends at
    that moment.
    """

    executor: Submits
    window: int = 64
    threads: int = 1
    work: Callable[[Job[Any, Any], Sequence[Any], int], list[Any]] = perform
    lost: Callable[[Exception], Lost] = _do_it_here
    cancel: bool = True

    def submit(self, job: Job[T, R], items: list[T]) -> Future[list[R]]:
        try:
            return self.executor.submit(self.work, job, items, self.threads)
        except RuntimeError as error:  # the pool broke
            from concurrent.futures import Future

            failed: Future[list[R]] = Future()
            failed.set_exception(error)
            return failed


def run_on(workers: Workers, job: Job[T, R], items: Sequence[T], shares: Sequence[Share], *, chunk: int = 1) -> Generator[R, None, None]:
    """Yield the result for each item, in order, in tasks of `chunk` items. What a process was at when it died is done here."""
    pending: deque[tuple[range, Future[list[R]]]] = deque()
    chunks = iter([range(begin, min(begin + chunk, len(items))) for begin in range(0, len(items), chunk)])

    def fill() -> None:
        while len(pending) < workers.window and (indices := next(chunks, None)) is not None:
            pending.append((indices, workers.submit(job, [items[n] for n in indices])))
            _end_with(pending[-1][1], [shares[n] for n in indices])

    try:
        with _quiet_start():  # a pool starts its processes with its first tasks
            fill()
        while pending:
            indices, future = pending.popleft()
            yield from _collect(job, [items[n] for n in indices], [shares[n] for n in indices], future, workers.lost)
            fill()
    finally:
        for _, future in pending if workers.cancel else ():
            future.cancel()


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
        results.append(job.fail(item, copy(failure)) if failure is not None else job(item, 1, share))
        share.end_file()
    return results


@contextmanager
def _quiet_start() -> Iterator[None]:
    """Processes that are started inside ignore Ctrl-C, and a terminal that goes away, until `_start` runs in them; else they would print a traceback
    each.
    """
    import signal

    ignored = [signal.SIGINT, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
    try:
        previous = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Process:
    """What a process of a pool is at. Ctrl-C reaches every process of the terminal; these tidy up in silence, as the first one speaks for all."""

    working = stopped = ending = False

    def start(self, ends: Sequence[int]) -> None:
        import signal

        sys.setswitchinterval(0.0005)
        signal.signal(signal.SIGINT, self.interrupt)
        for number in ends:
            signal.signal(number, self.end)

    def interrupt(self, *_: object) -> None:
        """Stop the work once: a second Ctrl-C must not disturb the clean-up."""
        is_first, self.stopped = not self.stopped, True
        if self.working and is_first:
            raise KeyboardInterrupt

    def end(self, *_: object) -> None:
        """The same at a request to end, such as that of a pool of which another process died; this process ends then, too."""
        self.ending = True
        if not self.working:
            os._exit(1)
        self.interrupt()

    def perform(self, job: Job[T, R], items: Sequence[T], jobs: int) -> list[R]:
        """Run a job so that nothing half-written stays at Ctrl-C. The process ends with its pool: if it ended by itself, it would end others, too."""
        try:
            return self._work(job, items, jobs)
        except KeyboardInterrupt:
            raise RuntimeError("interrupted") from None
        finally:
            self.working = False  # it still is where the signal came just as it was to become that
            if self.ending:
                os._exit(1)

    def _work(self, job: Job[T, R], items: Sequence[T], jobs: int) -> list[R]:
        try:
            self.working = True
            if self.stopped:
                raise KeyboardInterrupt
            return perform(job, items, jobs)
        finally:
            self.working = False


_process = _Process()  # this one, where it is one of a pool


def _start(ends: Sequence[int]) -> None:
    _process.start(ends)


def _perform_apart(job: Job[T, R], items: Sequence[T], jobs: int) -> list[R]:
    return _process.perform(job, items, jobs)
