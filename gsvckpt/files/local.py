"""Read local files at any position from several threads, and notice when a file changes."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from gsvckpt.errors import ChangedError, DamagedError, MissingError
from gsvckpt.files.paths import is_url
from gsvckpt.model import OpenSource, Source

_JUNCTION = 0xA0000003  # IO_REPARSE_TAG_MOUNT_POINT
_SECOND = 1_000_000_000  # ns
BINARY = getattr(os, "O_BINARY", 0)  # Windows would translate line ends without it
LINKLESS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # to open a file of gsvckpt's own: no link, no pipe that stalls us
CHUNK = 1 << 30  # one system call moves less than 2 GiB on every platform


class LocalSource:
    """A file opened for positioned reads from several threads. It remembers its size and time, so that `check_unchanged` can tell."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Raises MissingError when there is no such regular file or it may not be read."""
        self.path = os.fspath(path)
        try:
            self._fd = os.open(self.path, os.O_RDONLY | BINARY | getattr(os, "O_NONBLOCK", 0))  # a pipe must not stall us
        except (OSError, ValueError) as error:
            raise _missing(self.path, error) from error
        facts = os.fstat(self._fd)
        if not stat.S_ISREG(facts.st_mode):
            os.close(self._fd)
            raise MissingError("is a folder" if stat.S_ISDIR(facts.st_mode) else "is not a regular file", path=self.path)
        self.size = facts.st_size
        self.mtime_ns = facts.st_mtime_ns
        self._identity = (facts.st_dev, facts.st_ino)
        self._lock = threading.Lock()
        self.closed = False

    @property
    def facts(self) -> tuple[int, int, tuple[int, int]]:
        """Its size, its time, and which file of the system it is."""
        return self.size, self.mtime_ns, self._identity

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole buffer from `offset`. Raises DamagedError when the file ends before, or cannot be read there."""
        done = 0
        try:
            if offset < 0:  # preadv takes -1 for the current position
                raise ValueError("a negative offset")
            while done < len(buffer):
                count = self._read_some(offset + done, buffer[done : done + CHUNK])
                if count == 0:
                    raise DamagedError(f"the file ends at byte {offset + done:,}, {len(buffer) - done:,} bytes too early", path=self.path)
                done += count
        except (OSError, ValueError, OverflowError) as error:
            raise DamagedError(f"cannot be read at byte {offset:,}: {reason(error)}", path=self.path) from error

    if hasattr(os, "preadv"):

        def _read_some(self, offset: int, buffer: memoryview) -> int:
            return os.preadv(self._fd, [buffer], offset)

    else:

        def _read_some(self, offset: int, buffer: memoryview) -> int:
            with self._lock:  # Windows and macOS before 11: one file position for all threads
                os.lseek(self._fd, offset, os.SEEK_SET)
                data = os.read(self._fd, len(buffer))
            buffer[: len(data)] = data
            return len(data)

    def check_unchanged(self) -> None:
        """Raise ChangedError unless size and time are what they were, and the path still leads to this file."""
        try:
            open_file, named = os.fstat(self._fd), os.stat(self.path)
        except OSError as error:
            raise ChangedError(f"disappeared while it was being read: {reason(error)}", path=self.path) from error
        for facts in (open_file, named):
            if (facts.st_size, facts.st_mtime_ns, (facts.st_dev, facts.st_ino)) != self.facts:
                raise ChangedError("changed while it was read", path=self.path, hint="wait until training has finished saving, then try again")

    def map(self) -> mmap.mmap:
        """The whole file in memory, private and read-only, for random access. Raises ChangedError when the file is no longer what was opened.

        Stays valid after `close`. A file that shrinks under its map kills the process on POSIX, so bulk work reads instead.
        """
        self.check_unchanged()
        if os.name == "nt":
            return mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ)
        return mmap.mmap(self._fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ)

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if not self.closed:
            self.closed = True
            os.close(self._fd)
            self._fd = -1  # the number may be given to another file, which must not be read in our name


class RestingSource(LocalSource):
    """One of very many files, open only while it is read: systems let a process have some thousands open. Otherwise as a LocalSource."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        super().close()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        with self._awake() as source:
            source.read_into(offset, buffer)

    def check_unchanged(self) -> None:
        with self._awake():
            pass

    def map(self) -> mmap.mmap:
        with self._awake() as source:
            return source.map()

    @contextmanager
    def _awake(self) -> Iterator[LocalSource]:
        try:
            source = LocalSource(self.path)
        except MissingError as error:
            raise ChangedError(f"disappeared while it was being read: {error.why}", path=self.path) from error
        try:
            if source.facts != self.facts:
                raise ChangedError("changed while it was read", path=self.path, hint="wait until training has finished saving, then try again")
            yield source
        finally:
            source.close()


def _missing(path: str, error: Exception) -> MissingError:
    if isinstance(error, FileNotFoundError):
        return MissingError("there is no such file", path=path)
    if isinstance(error, PermissionError):
        if os.path.isdir(path):  # Windows says so when a folder is opened
            return MissingError("is a folder", path=path)
        if is_held(error):
            return MissingError("is in use by another program", path=path, hint="close it there, then try again")
        return MissingError("cannot be read (permission denied)", path=path)
    return MissingError(f"cannot be opened: {reason(error)}", path=path)


def make_source(path: str | os.PathLike[str], *, structure_only: bool = False) -> OpenSource:
    """A source for a path or URL, which the caller closes. `structure_only`: its tensors are not wanted, so the fewer requests the better.

    Raises MissingError when there is no such file or it may not be read, and UnreachableError.
    """
    name = os.fspath(path)
    if not is_url(name):
        return LocalSource(name)
    from gsvckpt.files.remote.source import RemoteSource  # local files need nothing of it

    return RemoteSource(name, structure_only=structure_only)


@contextmanager
def open_source(path: str | os.PathLike[str], *, structure_only: bool = False) -> Iterator[OpenSource]:
    """Open a source as `make_source` does and close it again."""
    source = make_source(path, structure_only=structure_only)
    try:
        yield source
    finally:
        source.close()


def allow_open_files(count: int) -> None:
    """Let this process have so many more files open, as far as the system lets; most systems allow 1,024 and more on demand."""
    with suppress(ImportError, OSError, ValueError):  # Windows has no such limit
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = count + 256  # for what is open besides
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def is_link(path: str | os.PathLike[str]) -> bool:
    """Whether a name leads elsewhere: a symbolic link, or a junction of Windows, which other functions take for a plain folder."""
    try:
        facts = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISLNK(facts.st_mode) or getattr(facts, "st_reparse_tag", 0) == _JUNCTION


def is_held(error: BaseException) -> bool:
    """Whether Windows refused something because another program has the file open (ERROR_SHARING_VIOLATION, ERROR_LOCK_VIOLATION)."""
    return getattr(error, "winerror", None) in (32, 33)


def same_time(one: int, two: int) -> bool:
    """Whether two times of a file, in nanoseconds, may be the same one on file systems that keep it in other steps: 100 ns on NTFS, whole seconds on
    network drives and FAT.
    """
    if one // 100 == two // 100:
        return True
    return (one % _SECOND == 0 or two % _SECOND == 0) and abs(one - two) < 2 * _SECOND


def reason(error: Exception) -> str:
    """Why the system refused, in the system's words."""
    if is_held(error):
        return "it is in use by another program"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror if error.errno != errno.ENOSPC or "needed" not in error.strerror else f"no space left: {error.strerror}"
    return str(error)


def read_bytes(source: Source, offset: int, size: int) -> bytes:
    """Exactly so many bytes from there on. Raises DamagedError where there are fewer."""
    buffer = bytearray(size)
    source.read_into(offset, memoryview(buffer))
    return bytes(buffer)
