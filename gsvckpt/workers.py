"""Many files at once: one after the other with all threads on each, or, where it pays, several at a time in processes of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gsvckpt.progress import Progress
from gsvckpt.recognition import Facts, Memory, look_through
from gsvckpt.verdicts import Expected, Options, Verification
from gsvckpt.verification import verify_file

if TYPE_CHECKING:
    from concurrent.futures import Executor, Future

_START = 0.4  # seconds that starting processes takes
_PER_FILE = 0.02  # seconds that a file takes besides reading: opening it is Python, which one process does for one file at a time
_RATE = 3e9  # bytes read a second
_FEWEST = 4  # files for each process
_PER_LOOK = 0.0004  # seconds that it takes to see what a file is
_CHUNK = 256  # files that a process looks at in one go


def verify_files(files: Mapping[str, Expected], options: Options, jobs: int, progress: Progress) -> list[Verification]:
    """Verify all files; results in their order. One bad file does not stop the others."""
    sizes = {path: _size(path) for path in files}
    seconds = len(files) * _PER_FILE + (0 if options.quick else sum(sizes.values()) / _RATE)
    if jobs > 1 and len(files) >= _FEWEST * jobs and seconds > 4 * _START:
        return _in_processes(files, sizes, options, jobs, progress)
    return [verify_file(path, options, expected, jobs=jobs, progress=progress) for path, expected in files.items()]


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _in_processes(files: Mapping[str, Expected], sizes: Mapping[str, int], options: Options, jobs: int, progress: Progress) -> list[Verification]:
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    progress.expect(sum(sizes.values()))
    # Fresh processes on every system: a fork would inherit the threads and buffers of this one in the middle of their work.
    pool = ProcessPoolExecutor(min(jobs, len(files)), get_context("spawn"), initializer=_start)
    try:
        return run_on(pool, files, options, lambda path: progress.advance(sizes[path]))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def run_on(executor: Executor, files: Mapping[str, Expected], options: Options, done: Callable[[str], None]) -> list[Verification]:
    """Verify files on any executor; `done` hears of each as it ends. A file whose process dies is verified here."""
    from concurrent.futures import as_completed

    futures: dict[Future[Verification], str] = {}
    lost: list[str] = []
    results: dict[str, Verification] = {}
    with _quiet_start():
        for path, expected in files.items():
            try:
                futures[executor.submit(verify_file, path, options, expected)] = path
            except RuntimeError:  # noqa: PERF203 - the pool broke; the files go on without it
                lost.append(path)
    for future in as_completed(futures):
        path = futures[future]
        error = future.exception()
        if isinstance(error, RuntimeError):  # BrokenExecutor: a process was killed, by the system for its memory perhaps
            lost.append(path)
        else:
            results[path] = future.result()
        done(path)
    results |= {path: verify_file(path, options, files[path]) for path in lost}
    return [results[path] for path in files]


def look_files(paths: Sequence[str], jobs: int) -> list[Facts | None]:
    """What each file is, for retention, in the order of the paths; in processes where there are many, as that is Python and little reading."""
    if jobs < 2 or len(paths) * _PER_LOOK < 4 * _START:
        return look_through(paths, Memory())
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    pool = ProcessPoolExecutor(min(jobs, len(paths)), get_context("spawn"), initializer=_start)
    try:
        with _quiet_start():
            chunks = [paths[begin : begin + _CHUNK] for begin in range(0, len(paths), _CHUNK)]
            futures = [pool.submit(_look, chunk) for chunk in chunks]
        return [facts for chunk, future in zip(chunks, futures, strict=True) for facts in _result(chunk, future)]
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _result(paths: Sequence[str], future: Future[list[Facts | None]]) -> list[Facts | None]:
    try:
        return future.result()
    except RuntimeError:  # BrokenExecutor: a process was killed, by the system for its memory perhaps
        return _look(paths)


_memory = Memory()  # of a process that looks at many chunks


def _look(paths: Sequence[str]) -> list[Facts | None]:
    return look_through(paths, _memory)


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
