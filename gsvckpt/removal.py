"""Removing files of gsvckpt's own, and those that are to go for good."""

from __future__ import annotations

import os
import stat
import time
from contextlib import suppress
from pathlib import Path

from gsvckpt.errors import OutputError
from gsvckpt.files import reason

TEMP_PREFIX, TEMP_SUFFIX = ".gsvckpt-", ".part"  # a name that GPT-SoVITS never picks up: no G_, D_, epoch=, .pth or .ckpt
_STALE_SECONDS = 86_400  # no run is silent for a day, and a day's leftovers harm nobody


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


def sweep(folder: Path) -> None:
    """Remove what killed runs left: temporary files without a process, untouched for a while, as theirs may run on another machine."""
    with suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.startswith(TEMP_PREFIX) and entry.name.endswith(TEMP_SUFFIX):
                pid = entry.name.removeprefix(TEMP_PREFIX).split("-", 1)[0]
                with suppress(OSError):
                    if pid.isdigit() and not _alive(int(pid)) and time.time() - entry.stat().st_mtime > _STALE_SECONDS:
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
