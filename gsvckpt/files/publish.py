"""Publish a finished file in one step. The only fsync and the only rename of the program are here."""

from __future__ import annotations

import errno
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from gsvckpt.errors import OutputError, RefusedError
from gsvckpt.files.local import BINARY, CHUNK, LINKLESS, reason
from gsvckpt.files.obstacles import entry_obstacle, file_obstacle
from gsvckpt.files.paths import is_url
from gsvckpt.files.temporary import sweep, temporary_file

TRASH = ".gsvckpt-trash"  # the folder of files that went, until it is emptied
_SYNC_SECONDS = 0.05  # short: the disk then works while the rest is still copied, and little is left to wait for at the end
_PAUSES = (0.05, 0.1, 0.2, 0.4, 0.8) if os.name == "nt" else ()  # seconds between tries to take a name
_FOR_A_MOMENT = (5, 32)  # ERROR_ACCESS_DENIED and ERROR_SHARING_VIOLATION, which MoveFileEx says for a file that is open


class Target:
    """The temporary file that `publish` hands out: written at any place by several threads."""

    ordered = False
    dropped = False

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd
        self._lock = threading.Lock()

    def write_at(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data` at `offset`. Raises OSError."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            done += self._write_some(offset + done, view[done : done + CHUNK])

    if hasattr(os, "pwrite"):

        def _write_some(self, offset: int, view: memoryview) -> int:
            return os.pwrite(self._fd, view, offset)

    else:

        def _write_some(self, offset: int, view: memoryview) -> int:
            with self._lock:
                os.lseek(self._fd, offset, os.SEEK_SET)
                return os.write(self._fd, view)

    def resize(self, size: int) -> None:
        """Cut off what an earlier, larger attempt left behind `size`, or reserve up to it."""
        os.truncate(self._fd, size)

    def stop(self) -> None:
        """Do nothing: no writer waits for another here."""

    def drop(self) -> None:
        """Publish nothing, because the output turned out to be unnecessary."""
        self.dropped = True

    def sync(self) -> None:
        """Bring to the disk what was written. Does nothing after `close`."""
        fd = self._fd
        if fd >= 0:
            os.fsync(fd)

    def close(self) -> None:
        """Close the file. A worker that still runs after Ctrl-C then fails, instead of writing to a file that reuses the descriptor."""
        fd, self._fd = self._fd, -1
        os.close(fd)


def publish(
    path: str,
    size: int,
    fill: Callable[[Target], None],
    check: Callable[[Target], None],
    *,
    overwrite: bool,
    settle: Callable[[], None] = lambda: None,
) -> None:
    """Create `path` in one step: `fill` writes a temporary file beside it, `check` reads it back, and synced it takes the name.

    A kill at any moment leaves what was at `path` before, or the whole new file. A symbolic link at `path` is followed, an existing file's mode is
    kept. Where `fill` drops its target, nothing is published. `settle` runs last, just before the name changes hands. `size` is what will be needed,
    in bytes. Raises RefusedError when `path` exists and `overwrite` is false, or is not a regular file, also when it becomes so meanwhile, and
    OutputError when the disk is full, the folder not writable or the path no path at all; after any error no temporary file is left. A URL is
    published as `uploading.upload` tells, through an ordered target.
    """
    if is_url(path):
        from gsvckpt.files.upload import upload  # files of this machine need nothing of it

        upload(path, size, fill, check, overwrite=overwrite, settle=settle)
        return
    try:
        destination = resolve(path)
        sweep(destination.parent)
        _require_free(destination, path, overwrite=overwrite)
        require_space(destination, size)
        with temporary_file(destination.parent) as (temp, fd):
            target = Target(temp, fd)
            try:
                with _syncing(target) as written:
                    fill(target)
                    written.set()
                    if target.dropped:
                        return
                    check(target)
            finally:
                target.close()
            settle()
            _copy_mode(destination, temp)  # last: Windows removes no read-only file
            _take_name(temp, destination, path, overwrite=overwrite)
        sync_folder(destination.parent)
    except OSError as error:
        fail(path, error)


def publish_bytes(path: str, data: bytes, *, overwrite: bool) -> None:
    """Create a small file in one step, as `publish` does."""

    def check(target: Target) -> None:
        if target.path.read_bytes() != data:
            raise OSError(errno.EIO, "the output does not read back as it was written")

    publish(path, len(data), lambda target: target.write_at(0, data), check, overwrite=overwrite)


def move(source: str, target: str) -> None:
    """Give a file another name in the same file system, in one step; never that of another file, though a file of the same bytes may be there twice
    after a kill. The folders are left to `sync_folders`. Raises RefusedError where the name is taken, and OutputError.
    """
    try:
        os.makedirs(os.path.dirname(target) or ".", exist_ok=True)
        if os.path.lexists(target) and os.path.samefile(source, target):  # an earlier run was killed between the two names
            os.unlink(source)
        else:
            _take_name(Path(source), Path(target), target, overwrite=False)
            _drop_name(source, target)
    except OSError as error:
        hint = "let gsvckpt write in its folder" if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else ""
        raise OutputError(f"cannot be moved: {reason(error)}", path=source, hint=hint) from error


def _drop_name(source: str, target: str) -> None:
    """Take the old name away, where a file was linked and not renamed. Raises OSError; then it has its old name alone again."""
    try:
        os.unlink(source)
    except FileNotFoundError:
        pass
    except OSError:  # another program holds it, or it is read-only
        with suppress(OSError):
            os.unlink(target)
        raise


def sync_folders(folders: Iterable[str]) -> None:
    """Bring to the disk what files are in these folders: once for all that was moved, as each time takes a hundredth of a second."""
    for folder in dict.fromkeys(folders):
        sync_folder(Path(folder or "."))


def append_line(path: str, line: str) -> None:
    """Add a line to a small file and bring it to the disk. Raises OutputError."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | BINARY | LINKLESS)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise OSError(errno.EINVAL, "is not a regular file")
            os.write(fd, line.encode() + b"\n")
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        fail(path, error)


def resolve(path: str) -> Path:
    """Where a path leads, links followed. Raises OutputError."""
    try:
        return Path(os.path.realpath(path))
    except ValueError as error:  # a NUL byte
        raise OutputError(f"cannot be written: {error}", path=path) from error


def _require_free(destination: Path, path: str, *, overwrite: bool) -> None:
    obstacle = file_obstacle(path) or entry_obstacle(str(destination), path)
    if obstacle is not None:
        raise obstacle
    if not overwrite and os.path.lexists(destination):
        raise _exists(path)


@contextmanager
def _syncing(target: Target) -> Iterator[threading.Event]:
    """Sync the file beside the work: now and then while it is written, and at once when the event says that all of it is, while it is read back.

    On leaving, everything is on the disk, or the OSError of any sync is raised.
    """
    failures: list[OSError] = []
    written = threading.Event()

    def sync() -> None:
        try:
            while not written.wait(_SYNC_SECONDS):
                target.sync()
            target.sync()
        except OSError as error:  # the system tells of a failed write once only, so none may be lost
            failures.append(error)

    thread = threading.Thread(target=sync)
    try:  # Ctrl-C can come anywhere, and must leave no thread that waits for ever
        thread.start()
        yield written
    finally:
        written.set()
        if thread.ident is not None:
            thread.join()
    for failure in failures:
        raise failure


def require_space(destination: Path, size: int) -> None:
    """Raise OutputError or OSError where so many bytes do not fit beside `destination`, as far as the system tells."""
    space = disk_space(destination.parent)
    if space is not None and space[0] < size:
        raise OSError(errno.ENOSPC, f"{size:,} bytes are needed, {space[0]:,} are free")


def disk_space(folder: str | Path) -> tuple[int, int] | None:
    """The bytes that are free on the disk of a folder, and all of them; None where the file system does not tell. Raises OSError."""
    if hasattr(os, "statvfs"):
        facts = os.statvfs(folder)
        if not facts.f_blocks:  # some network and FUSE file systems do not tell
            return None
        return facts.f_bavail * facts.f_frsize, facts.f_blocks * facts.f_frsize
    import shutil  # only where statvfs is missing

    found = shutil.disk_usage(folder)
    return found.free, found.total


def _copy_mode(destination: Path, temp: Path) -> None:
    with suppress(OSError):
        os.chmod(temp, stat.S_IMODE(os.stat(destination).st_mode))


def _patiently(move: Callable[[Path, Path], None], source: Path, target: Path) -> None:
    """Try again for a moment where Windows refuses: virus scanners and search indexes hold each new file as long as they look at it."""
    if any(_moves(move, source, target, pause) for pause in _PAUSES):
        return
    move(source, target)


def _moves(move: Callable[[Path, Path], None], source: Path, target: Path, pause: float) -> bool:
    """Whether it could be moved; if not, some time has passed."""
    try:
        move(source, target)
    except PermissionError as error:
        if getattr(error, "winerror", None) not in _FOR_A_MOMENT:
            raise
        time.sleep(pause)
        return False
    return True


def _take_name(temp: Path, destination: Path, path: str, *, overwrite: bool) -> None:
    if overwrite:
        obstacle = entry_obstacle(str(destination), path)  # once more: it may have come while the file was written
        if obstacle is not None:
            raise obstacle
        _patiently(os.replace, temp, destination)
        return
    try:
        if os.name == "nt":  # where rename never overwrites, is one step, and moves read-only files and leaves open ones where they are
            _patiently(os.rename, temp, destination)
        else:
            os.link(temp, destination)  # unlike rename, link never overwrites, so two processes cannot both win
    except FileExistsError:
        raise _exists(path) from None
    except OSError:  # no hard links on FAT and some network drives
        if os.path.lexists(destination):
            raise _exists(path) from None
        if os.name == "nt":
            raise
        os.rename(temp, destination)


def sync_folder(folder: Path) -> None:
    """Have the names in a folder written to the disk, as far as the system lets."""
    with suppress(OSError):  # Windows cannot open folders, and some file systems refuse to sync them
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _exists(path: str) -> RefusedError:
    return RefusedError("exists already", path=path, hint="--force overwrites it")


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk or a quota is full."""
    cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
    return isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", -1))


def fail(path: str, error: OSError) -> NoReturn:
    """Raise OutputError for what the system refused."""
    hints = {errno.ENOSPC: "free some space, or write to another disk", getattr(errno, "EDQUOT", -1): "your disk quota is used up"}
    hint = hints.get(error.errno or 0, "")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "write elsewhere"
    raise OutputError(f"cannot be written: {reason(error)}", path=path, hint=hint) from error
