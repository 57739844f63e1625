"""Removing files of gsvckpt's own, and those that are to go for good."""

from __future__ import annotations

import os
import stat
import time
import zlib
from contextlib import suppress
from pathlib import Path

from gsvckpt.errors import OutputError
from gsvckpt.files import reason

TEMP_PREFIX, TEMP_SUFFIX = ".gsvckpt-", ".part"  # a name that GPT-SoVITS never picks up: no G_, D_, epoch=, .pth or .ckpt
_STALE_SECONDS = 86_400  # no run on another machine is silent for a day, and a day's leftovers harm nobody
_SWEPT_SECONDS = 30  # between two looks through a folder, as thousands of outputs may go to one
_SILENT_SECONDS = 60  # of a run on this machine whose process is gone; this long, as a container may share the machine's name


def temp_name() -> str:
    """A new name for a temporary file: it tells the process and the machine that write it."""
    return f"{TEMP_PREFIX}{os.getpid()}-{_machine()}-{os.urandom(8).hex()}{TEMP_SUFFIX}"


def is_temporary(name: str) -> bool:
    """Whether a file or folder is one that a run of gsvckpt has not finished, or was killed before it did."""
    return name.startswith(TEMP_PREFIX) and name.endswith(TEMP_SUFFIX)


def _machine() -> str:
    name = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    return f"{zlib.crc32(name.encode('utf-8', 'surrogateescape')):08x}"


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
    if os.path.isdir(path) and not os.path.islink(path):
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
            (_clear_folder if entry.is_dir(follow_symlinks=False) else unlink)(entry.path)
    with suppress(OSError):
        os.rmdir(folder)


_swept: dict[str, float] = {}  # folders, and when this process looked through them


def sweep(folder: Path) -> None:
    """Remove what killed runs left: temporary files without a process, untouched for a while, as theirs may run on another machine."""
    place, now = str(folder), time.monotonic()
    if now - _swept.get(place, -_SWEPT_SECONDS) < _SWEPT_SECONDS:
        return
    _swept[place] = now
    with suppress(OSError):
        for entry in os.scandir(folder):
            if is_temporary(entry.name):
                pid, *where, _ = (*entry.name.removeprefix(TEMP_PREFIX).removesuffix(TEMP_SUFFIX).split("-"), "")
                patience = _SILENT_SECONDS if where[:1] == [_machine()] else _STALE_SECONDS
                with suppress(OSError):
                    if pid.isdigit() and not _alive(int(pid)) and time.time() - entry.stat().st_mtime > patience:
                        (_clear_folder if entry.is_dir(follow_symlinks=False) else unlink)(entry.path)


def _alive(pid: int) -> bool:
    if os.name == "nt":
        return False  # no signal 0 there; but a file in use cannot be removed
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
