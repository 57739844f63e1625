"""A lock for a folder, held while a process rewrites a file that others rewrite as well.

The system's own file locks, which end with their process however that ends. Not the filelock package: it leaves its file beside the checkpoints,
takes 50 ms to import, and its newest line does not run on Python 3.10.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from gsvckpt.errors import OutputError, RefusedError
from gsvckpt.files.local import BINARY, LINKLESS
from gsvckpt.files.obstacles import entry_obstacle

_NAME = ".gsvckpt.lock"
_PATIENCE = 30.0  # seconds; whoever holds it writes one small file
_PAUSE = 0.01


class LockHeldError(OutputError):
    """Another process holds the lock."""


@contextmanager
def locked(folder: str, patience: float = _PATIENCE) -> Iterator[None]:
    """Hold the lock of `folder`, and leave no file behind. Raises LockHeldError where another process keeps it for `patience` seconds,
    OutputError where the folder cannot be written to, and RefusedError where something else has its name.
    """
    path = os.path.join(folder, _NAME)
    deadline = time.monotonic() + patience
    held: list[int] = []  # Ctrl-C can come anywhere, and must leave no lock that this process holds without knowing
    try:
        while not _try(path, held):
            if time.monotonic() > deadline:
                raise LockHeldError("another process has kept the lock for too long", path=path, hint="end the other gsvckpt, then try again")
            time.sleep(_PAUSE)
        yield
    finally:
        _release(path, held)


def _release(path: str, held: Sequence[int]) -> None:
    for fd in held:
        try:
            if os.name != "nt":  # while the lock is held, so that nobody can lock a file that is gone
                with suppress(OSError):
                    os.unlink(path)
        finally:
            os.close(fd)
        if os.name == "nt":  # which removes no open file, and none that another has opened meanwhile
            with suppress(OSError):
                os.unlink(path)


def sweep_lock(folder: str) -> None:
    """Remove the lock file that a killed process left in `folder`; a lock that is held stays."""
    if os.path.lexists(os.path.join(folder, _NAME)):
        with suppress(OutputError, RefusedError), locked(folder, patience=0):
            pass


def _try(path: str, held: list[int]) -> bool:
    """Put a descriptor that holds the lock into `held`; False where another holds it, or removed the file meanwhile."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | BINARY | LINKLESS, 0o666)
    except PermissionError as error:
        if os.name == "nt" and os.path.isdir(os.path.dirname(path)) and os.access(os.path.dirname(path), os.W_OK):
            return False  # being removed
        raise OutputError("the folder cannot be written to (permission denied)", path=path) from error
    except OSError as error:
        raise entry_obstacle(path, path) or OutputError(f"cannot be locked: {error.strerror}", path=path) from error
    try:
        obstacle = entry_obstacle(path, path)
        if obstacle is not None:
            raise obstacle
        _lock(fd)
        if os.path.samestat(os.fstat(fd), os.stat(path)):
            held.append(fd)
            return True
    except OSError:
        pass
    finally:
        if fd not in held:
            os.close(fd)
    return False


if os.name == "nt":

    def _lock(fd: int) -> None:
        import msvcrt

        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]

else:

    def _lock(fd: int) -> None:
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
