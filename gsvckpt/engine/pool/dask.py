"""Run a job on many files on a Dask cluster that sees the same storage under the same paths. Only this module imports Dask.

If a worker dies, its task goes to another worker, a few times. Every file has a result. If a worker published an output just before it died, the next
worker cannot know whose output that is, so it reports that the file exists already.
"""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pydoc import locate
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from gsvckpt.engine.pool.processes import Job, Lost, PoolItem, Workers, run_on
from gsvckpt.errors import ClusterError, GsvError
from gsvckpt.files.progress import Progress, Share
from gsvckpt.hints import Hint, quote_word
from gsvckpt.version import __version__

if TYPE_CHECKING:
    from concurrent.futures import Future

    from distributed import Client

_LOOKS = 0.5  # seconds between two looks whether the scheduler is still there
PATIENCE = 10  # seconds to reach the scheduler, and for it to have a worker
_WINDOW = 8  # tasks for each thread of the cluster that are with it or wait for their turn
_MOST = 512  # tasks at all
_SAME = "every machine must see the same files under the same paths"
_DASK = Hint("installs it", 'pip install "gsvckpt[dask]"')
_INSTALL = Hint("on every worker", f"pip install gsvckpt=={__version__}")

T = TypeVar("T", bound=PoolItem)
R = TypeVar("R")


class _Parcel(NamedTuple):
    """An item, and its file's size and time where it was sent off; None where there is no such file."""

    item: Any
    path: str
    sight: tuple[int, int] | None


class _Shipped(NamedTuple, Generic[R]):
    """A job whose items travel in parcels."""

    job: Job[Any, R]
    version: str

    def __call__(self, item: _Parcel, jobs: int, progress: Progress) -> R:
        if self.version != __version__:
            return self.fail(item, ClusterError(f"a worker has gsvckpt {__version__}, not {self.version}", hint=_INSTALL))
        sight = _look(item.path)
        if sight != item.sight:
            what = (
                "no such file"
                if sight is None
                else "a file that is not here"
                if item.sight is None
                else "another file of this name, or not all of it"
            )
            return self.fail(item, ClusterError(f"a worker sees {what}", hint=_SAME))
        try:
            return self.job(item.item, jobs, progress)
        except Exception as error:  # noqa: BLE001 - not every exception survives Dask's own pickling, and its client would wait for ever
            return self.fail(item, _failure(error))

    def fail(self, item: _Parcel, error: GsvError) -> R:
        error.path = error.path or item.path
        return self.job.fail(item.item, error)


def _look(path: str) -> tuple[int, int] | None:
    try:
        facts = os.stat(path)
    except (OSError, ValueError):  # ValueError: a name with a NUL
        return None
    return facts.st_size, facts.st_mtime_ns


def run_on_cluster(address: str, job: Job[T, R], items: Sequence[T], shares: Sequence[Share], chunk: int) -> Generator[R, None, None]:
    """Yield the result for each item, in order, from the cluster at `address`. Raises ClusterError where it cannot be used at all.

    Whoever stops listening, as at Ctrl-C, cancels what is still queued; what a worker is at, it finishes.
    """
    parcels = [_Parcel(item, item.path, _look(item.path)) for item in items]
    if not parcels:
        return
    with _connected(address) as client:
        threads = _count_threads(client, address)
        executor = _Executor(client)
        workers = Workers(executor, min(_MOST, _WINDOW * threads), lost=_explain)
        chunk = max(1, min(chunk, len(items) // (4 * threads)))
        try:
            yield from run_on(workers, _Shipped(job, __version__), parcels, shares, chunk=chunk)
        finally:
            executor.cancel()


class _GoneError(RuntimeError):
    """The scheduler does not answer any more."""


class _Executor:
    """Dask's own forgets tasks that were on their way to the scheduler when that went, so that they would wait for ever; and it takes a result for an
    error where the worker that had it dies while it is fetched.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._waiting: dict[Future[Any], Any] = {}  # with Dask's own future of each: what nobody holds is not done
        self._over = threading.Event()
        threading.Thread(target=self._watch_over, daemon=True).start()

    def submit(self, fn: Callable[..., R], /, *args: object) -> Future[R]:
        """Raises _GoneError; so does the result, at the latest a moment after the scheduler went."""
        from concurrent.futures import Future

        if self._client.status != "running":
            raise _GoneError
        task: Future[R] = Future()
        promised = self._client.submit(fn, *args, pure=False)
        with self._lock:
            self._waiting[task] = promised
        promised.add_done_callback(partial(self._settle, task))
        return task

    def _settle(self, task: Future[R], done: Any) -> None:
        from concurrent.futures import InvalidStateError

        error: Exception | None = None
        try:
            result = done.result()
        except Exception as caught:  # noqa: BLE001 - whatever the task or its worker came to; `_explain` says what it means
            error = _GoneError() if done.cancelled() else caught
        with self._lock:
            self._waiting.pop(task, None)
        with suppress(InvalidStateError):  # given up or cancelled meanwhile
            if error is not None:
                task.set_exception(error)
            else:
                task.set_result(result)

    def _watch_over(self) -> None:
        from concurrent.futures import InvalidStateError

        while not self._over.wait(_LOOKS):
            if self._client.status != "running":
                with self._lock:
                    lost, self._waiting = self._waiting, {}
                for task in lost:
                    with suppress(InvalidStateError):
                        task.set_exception(_GoneError())

    def cancel(self) -> None:
        """Cancel what no worker has started."""
        self._over.set()
        with self._lock:
            queued = list(self._waiting.values())
        if self._client.status == "running":
            with suppress(Exception):  # it may go away right now
                self._client.cancel(queued)


@contextmanager
def _connected(address: str) -> Iterator[Client]:
    try:
        from distributed import Client
    except ImportError as error:
        raise ClusterError("needs Dask, which is not installed", where="--cluster", hint=_DASK) from error
    for name in (*logging.root.manager.loggerDict, "distributed.client"):
        if name.startswith(("distributed", "tornado", "asyncio")):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)  # what goes wrong is told in one line, by us
    warnings.filterwarnings("ignore", module="distributed")
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except Exception as error:  # OSError, ValueError, and whatever the scheme's own library raises
        why = f"there is no Dask scheduler at {address}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        raise ClusterError(why, where="--cluster", hint="tcp://HOST:PORT of a running `dask scheduler`") from error
    try:
        yield client
    finally:
        with suppress(Exception):  # it may be gone
            client.close(timeout=PATIENCE)


def _count_threads(client: Client, address: str) -> int:
    """How many files the workers can do at once, every one of which has this gsvckpt. Raises ClusterError."""
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
        found = client.run(locate, "gsvckpt.__version__", on_error="return")  # of the standard library, so that every worker has it
        threads = sum(client.nthreads().values())
    except Exception as error:  # TimeoutError, and whatever a cluster that goes away raises
        hint = Hint("starts one", f"dask worker {quote_word(address)}")
        raise ClusterError(f"the cluster at {address} has no worker that answers", where="--cluster", hint=hint) from error
    for worker, version in found.items():
        if version != __version__ and not isinstance(version, OSError):  # one that is too busy, or just went, is asked again by each task
            has = f"gsvckpt {version}, not {__version__}" if isinstance(version, str) else "no gsvckpt"
            raise ClusterError(f"the worker {worker} has {has}", where="--cluster", hint=_INSTALL)
    return int(max(threads, 1))


def _explain(error: Exception) -> Lost:
    """A task without a result is a file that could not be examined, never a success."""
    name = type(error).__name__
    if name == "KilledWorker":
        return Lost(
            ClusterError("every worker that worked on it died", hint="it may need more memory than they have; it can be done without --cluster")
        )
    if name in ("CancelledError", "CommClosedError") or isinstance(error, _GoneError):
        return Lost(
            ClusterError("the connection to the cluster was lost", hint="run it again; what workers had written by then is told as existing already")
        )
    return Lost(_failure(error))


def _failure(error: Exception) -> ClusterError:
    hint = _INSTALL if isinstance(error, ImportError) else Hint("its worker's log may say more")
    return ClusterError(f"failed on the cluster: {type(error).__name__}{f': {error}' if str(error) else ''}"[:300], hint=hint)
