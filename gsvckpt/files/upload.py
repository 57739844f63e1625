"""Publish to a URL: upload under a temporary name, read back, then copy to the final name. Nothing is stored on the local disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from gsvckpt.errors import GsvError, MissingError, OutputError, RefusedError
from gsvckpt.files.paths import folder_of, join
from gsvckpt.files.remote.filesystems import can_copy, explain_output, open_filesystem
from gsvckpt.files.streams import Stopped
from gsvckpt.files.temporary import temp_name

_PART = 1 << 23  # bytes of one part of an upload, of which two are in memory
_MOST_PARTS = 9_000  # of one object; S3 allows 10,000


class OrderedTarget:
    """An object that is written from its beginning to its end: a writer of a later place waits for its turn.

    There must always be a writer whose turn it is; when one fails, `stop` ends the waiting of the others.
    """

    ordered = True
    dropped = False

    def __init__(self, path: str, url: str, write: Callable[[memoryview], object]) -> None:
        """`path` is the temporary name under which it is written, `url` the one that it will have; `write` adds bytes to its end."""
        self.path = path
        self._url, self._write = url, write
        self._turns = threading.Condition()
        self._position = 0
        self._stopped = False

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data` when all before `offset` is written. Raises OutputError, and Stopped when another writer failed."""
        view = memoryview(data).cast("B")
        with self._turns:
            self._turns.wait_for(lambda: self._stopped or offset <= self._position)
            if self._stopped:
                raise Stopped
            if offset != self._position:
                raise OutputError(f"byte {offset:,} was to be written when byte {self._position:,} was due", path=self._url)
        with _explained(self._url):
            self._write(view)  # the others wait, so this needs no lock
        with self._turns:
            self._position += len(view)
            self._turns.notify_all()

    def stop(self) -> None:
        """Let those who wait go: what comes before them will never be written."""
        with self._turns:
            self._stopped = True
            self._turns.notify_all()

    def drop(self) -> None:
        """Publish nothing, because the output turned out to be unnecessary."""
        self.dropped = True


def find_obstacle(url: str, *, overwrite: bool) -> GsvError | None:
    """Why an object of this name cannot be written, as far as that shows before any work is done."""
    try:
        filesystem, path = _opened(url)
        with _explained(url):
            _require_free(filesystem, path, url, overwrite=overwrite)
    except (RefusedError, OutputError) as error:
        return error
    return None


def upload(
    url: str,
    size: int,
    fill: Callable[[Any], None],
    check: Callable[[Any], None],
    *,
    overwrite: bool,
    settle: Callable[[], None] = lambda: None,
) -> None:
    """Create the object `url` as `publishing.publish` creates a file; `fill` gets an OrderedTarget.

    It is uploaded in parts under a temporary name beside `url`, `check` reads it back from there, and the server copies it to its name. After any
    error the upload is aborted and nothing of it is left. Raises RefusedError when there is such an object and `overwrite` is false, and OutputError.
    """
    filesystem, path = _opened(url)
    name = temp_name()
    temp, temp_path = join(folder_of(url), name), join_path(path, name)
    stream: Any = None
    requests = ThreadPoolExecutor(1)

    def ask(request: Callable[..., Any], *args: object) -> Any:
        return requests.submit(request, *args).result()

    try:
        with _explained(url):
            _require_free(filesystem, path, url, overwrite=overwrite)
            stream = ask(lambda: filesystem.open(temp_path, "wb", block_size=max(_PART, size // _MOST_PARTS)))
        target = OrderedTarget(temp, url, lambda data: ask(stream.write, data))
        fill(target)
        if target.dropped:
            return
        with _explained(url):
            ask(stream.close)
            stream = None
        with _read_back(url):
            check(target)
        settle()
        with _explained(url):
            _require_free(filesystem, path, url, overwrite=overwrite)
            ask(filesystem.cp_file, temp_path, path)
            _require_same(filesystem, temp_path, path)
        try:
            ask(filesystem.rm_file, temp_path)
        except Exception as error:  # noqa: BLE001 - whatever the protocol's library raises
            why = f"is written, but its temporary copy {name} is still there: {explain_output(error, url).why}"
            raise OutputError(why, path=url, hint="remove it") from None
    finally:
        requests.shutdown()  # what Ctrl-C interrupted would come to its end later, and leave something behind
        _clean_up(filesystem, temp_path, stream)


def join_path(path: str, name: str) -> str:
    """A name beside a path inside a file system."""
    folder, slash, _ = path.rpartition("/")
    return f"{folder}{slash}{name}"


def _opened(url: str) -> tuple[Any, str]:
    try:
        filesystem, path = open_filesystem(url)
    except MissingError as error:
        raise OutputError(error.why.replace("cannot be read", "cannot be written"), path=error.path, hint=error.hint) from error
    if not can_copy(filesystem):
        why = "its server cannot copy files, so an output cannot be put in place there in one step"
        raise OutputError(why, path=url, hint="write to a file of this machine, and copy that")
    return filesystem, path


@contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        yield
    except (GsvError, Stopped, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever the protocol's library raises
        raise explain_output(error, url) from None


@contextmanager
def _read_back(url: str) -> Iterator[None]:
    """Whatever goes wrong when the temporary name, which nobody will see, is read back is an error of the output."""
    try:
        yield
    except GsvError as error:
        raise OutputError(error.why, where=error.where, path=url, hint="nothing was published; try again") from error


def _require_free(filesystem: Any, path: str, url: str, *, overwrite: bool) -> None:
    filesystem.invalidate_cache(path)
    try:
        facts = filesystem.info(path)
    except FileNotFoundError:
        return
    if facts.get("type") == "directory":
        raise RefusedError("is a folder; only a file can be replaced", path=url, hint="name a file in it")
    if not overwrite:
        raise RefusedError("exists already", path=url, hint="--force overwrites it; -o PATH writes elsewhere")


def _require_same(filesystem: Any, temp_path: str, path: str) -> None:
    """The server made the copy itself; that it is whole shows by its size."""
    filesystem.invalidate_cache(path)
    if filesystem.info(path)["size"] != filesystem.info(temp_path)["size"]:
        raise OSError("the server's copy is incomplete")


def _clean_up(filesystem: Any, temp_path: str, stream: Any) -> None:
    """Remove what was uploaded under the temporary name, whole or in parts. `stream` is one that was not closed."""
    if stream is not None:
        with suppress(Exception):  # the failure that led here is the one to tell
            stream.discard()
        with suppress(Exception):
            stream.closed = True  # or its end would upload what it holds
    with suppress(Exception):
        filesystem.invalidate_cache(temp_path)
        if filesystem.exists(temp_path):
            filesystem.rm_file(temp_path)
    with suppress(Exception):
        _abort_uploads(filesystem, temp_path)


def _abort_uploads(filesystem: Any, temp_path: str) -> None:
    """Abort uploads of this name that Ctrl-C kept the stream from knowing."""
    if not hasattr(filesystem, "list_multipart_uploads"):
        return
    bucket, key, _ = filesystem.split_path(temp_path)
    for found in filesystem.list_multipart_uploads(bucket):
        if found["Key"] == key:
            filesystem.abort_mpu(bucket, key, found["UploadId"])
