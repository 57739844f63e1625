"""Temporary files and folders of outputs: how they are named, locked and removed.

A temporary file is locked (flock) from when it is made until it has its final name. The system releases the lock when the process ends, however that
ends, so a file that can be locked belongs to nobody. That counts only for files of the same running system, which the name tells: in a network
folder, another machine's locks may not be seen here. Containers of one machine share it. A process id would not do, as it is used again: in
containers each run may have the same one. Windows has no such lock, but removes no file that is open; there the process id decides.
"""

from __future__ import annotations

import os
import re
import stat
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from gsvckpt.errors import OutputError
from gsvckpt.files.local import BINARY, LINKLESS, is_link, reason

_WINDOWS = os.name == "nt"
_PREFIX, _SUFFIX = ".gsvckpt-", ".part"  # a name that GPT-SoVITS never picks up: no G_, D_, epoch=, .pth or .ckpt
_NAME = re.compile(r"\.gsvckpt-(held-)?(\d+)(?:-([0-9a-f]{8}))?-[0-9a-z]+\.part")
_STALE_SECONDS = 86_400  # no run on another machine is silent for a day, and a day's leftovers harm nobody
_SWEPT_SECONDS = 30  # between two looks through a folder, as thousands of outputs may go to one
_SILENT_SECONDS = 60  # of a run on this machine whose process is gone; this long, as a container may share the machine's name
_NO_SUCH_PROCESS, _STILL_ACTIVE, _QUERY = 87, 259, 0x1000  # ERROR_INVALID_PARAMETER, STILL_ACTIVE, PROCESS_QUERY_LIMITED_INFORMATION


def temp_name() -> str:
    """A new name for a temporary file that is not locked: it names the process and the machine that write it."""
    return f"{_PREFIX}{os.getpid()}-{_machine()}-{os.urandom(8).hex()}{_SUFFIX}"


def is_temporary(name: str) -> bool:
    """Whether gsvckpt is still writing this file or folder, or was killed while it did."""
    return name.startswith(_PREFIX) and name.endswith(_SUFFIX)


@contextmanager
def temporary_file(folder: Path) -> Iterator[tuple[Path, int]]:
    """A new temporary file in `folder`, with a descriptor that the caller closes. It is held until the block ends, and then goes if it is still
    there. Raises OSError.
    """
    with _held(folder, _make_file) as (path, fd):
        yield path, fd


@contextmanager
def temporary_folder(folder: Path) -> Iterator[Path]:
    """A new temporary folder in `folder`. It is locked until the block ends, and is then removed with its content, if it is still there.

    Raises OSError.
    """
    with _held(folder, _make_folder) as (path, fd):
        if fd >= 0:
            os.close(fd)  # a second descriptor holds it
        yield path


def _make_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | BINARY, 0o666)


def _make_folder(path: Path) -> int | None:
    """A descriptor of the new folder; None where another process took it for a leftover before it was open."""
    os.mkdir(path)
    if _WINDOWS:  # which opens no folders
        return -1
    try:
        return os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None


@contextmanager
def _held(folder: Path, make: Callable[[Path], int | None]) -> Iterator[tuple[Path, int]]:
    """Make something under a new name, and keep it locked by a descriptor of our own, as the caller may be done with his before it has its name."""
    paths: list[Path] = []  # known before they are there, as Ctrl-C can come anywhere
    locks: list[int] = []
    try:
        while True:
            paths.append(folder / f"{_PREFIX}held-{os.getpid()}-{_system()}-{os.urandom(8).hex()}{_SUFFIX}")
            fd = make(paths[-1])
            if fd is None:
                continue
            if _WINDOWS:  # it is open, which holds it
                break
            try:
                if _lock(fd) and os.path.samestat(os.fstat(fd), os.stat(paths[-1])):
                    locks.append(os.dup(fd))
                    break
            except FileNotFoundError:
                pass
            except OSError:  # there are no locks here, so its name must not promise one
                paths.append(folder / temp_name())
                os.rename(paths[-2], paths[-1])
                break
            os.close(fd)  # another process was faster, and took it for a leftover
        yield paths[-1], fd
    finally:
        for path in paths:
            with suppress(OSError):
                _remove(path)
        for lock in locks:
            os.close(lock)


def _lock(fd: int) -> bool:
    """Lock an open file or folder; False where another process has it. Raises OSError where the file system knows no locks."""
    import fcntl  # POSIX alone has it

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


_swept: dict[str, float] = {}  # folders, and when this process looked through them


def sweep(folder: Path) -> None:
    """Remove what killed runs left: at once if the system says that it is not locked; else after it was unchanged for a while, as its process may
    run on another machine.
    """
    place, now = str(folder), time.monotonic()
    if now - _swept.get(place, -_SWEPT_SECONDS) < _SWEPT_SECONDS:
        return
    _swept[place] = now
    with suppress(OSError):
        for entry in os.scandir(folder):
            found = _NAME.fullmatch(entry.name)
            if found is not None:
                with suppress(OSError):
                    _sweep_one(entry, bool(found[1]), int(found[2]), found[3])


def _sweep_one(entry: os.DirEntry[str], held: bool, pid: int, where: str | None) -> None:
    path = Path(entry.path)
    if held and where == _system():
        with suppress(OSError):  # as where it may not be opened: in doubt it waits
            if not _WINDOWS:
                _remove_unlocked(path, is_folder=entry.is_dir(follow_symlinks=False))
            elif not _alive(pid):
                _remove(path)
            return
    patience = _SILENT_SECONDS if where == _machine() and not held else _STALE_SECONDS
    if (held or not _alive(pid)) and time.time() - entry.stat(follow_symlinks=False).st_mtime > patience:
        _remove(path)


def _remove_unlocked(path: Path, *, is_folder: bool) -> None:
    """Remove what can be locked, while it is. Whoever makes it at this moment sees that, and makes another. Raises OSError."""
    try:
        fd = os.open(path, (os.O_RDONLY if is_folder else os.O_RDWR) | LINKLESS)  # network folders lock what can be written to
    except PermissionError:
        fd = os.open(path, os.O_RDONLY | LINKLESS)
    try:
        if _lock(fd):
            _remove(path)
    finally:
        os.close(fd)


def remove_file(path: str) -> None:
    """Remove a file for good, read-only or not. Raises OutputError."""
    try:
        unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise OutputError(f"cannot be removed: {reason(error)}", path=path) from error


def remove_folder(path: str | Path) -> None:
    """Remove a folder of gsvckpt's own with all that is in it, as far as the system lets."""
    if os.path.isdir(path) and not is_link(path):
        _clear_folder(path)


def unlink(path: str | Path) -> None:
    """Remove a file, read-only or not. Raises OSError."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        raise
    except OSError:  # read-only on Windows
        os.chmod(path, stat.S_IREAD | stat.S_IWRITE)
        os.unlink(path)


def _clear_folder(folder: str | Path) -> None:
    """A temporary folder with all that is in it."""
    for entry in os.scandir(folder):
        with suppress(OSError):
            is_inside = entry.is_dir(follow_symlinks=False) and not is_link(entry.path)  # what a junction leads to is somebody else's
            (_clear_folder if is_inside else unlink)(entry.path)
    with suppress(OSError):
        os.rmdir(folder)


def _remove(path: Path) -> None:
    if os.path.isdir(path) and not is_link(path):
        remove_folder(path)
    else:
        unlink(path)


@cache
def _machine() -> str:
    name = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    return f"{zlib.crc32(name.encode('utf-8', 'surrogateescape')):08x}"


@cache
def _system() -> str:
    """The running system, whose locks and processes can be seen here: containers share it, and no other machine has it."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            told = file.read()
    except (OSError, ValueError):  # no Linux
        import uuid

        told = f"{_machine()} {uuid.getnode()}"  # of a machine without a network it differs each time, and then its files wait for a day
    return f"{zlib.crc32(told.encode()):08x}"


def _alive(pid: int) -> bool:
    if _WINDOWS:
        return _alive_on_windows(pid)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _alive_on_windows(pid: int) -> bool:
    """There os.kill ends the process, whatever the signal."""
    import ctypes

    system = ctypes.WinDLL("kernel32", use_last_error=True)  # type: ignore[attr-defined,unused-ignore]
    system.OpenProcess.restype = ctypes.c_void_p
    handle = system.OpenProcess(_QUERY, False, ctypes.c_ulong(pid & 0xFFFFFFFF))
    if not handle:
        return bool(ctypes.get_last_error() != _NO_SUCH_PROCESS)  # type: ignore[attr-defined,unused-ignore]
    code = ctypes.c_ulong()
    told = system.GetExitCodeProcess(ctypes.c_void_p(handle), ctypes.byref(code))
    system.CloseHandle(ctypes.c_void_p(handle))
    return not told or code.value == _STILL_ACTIVE
