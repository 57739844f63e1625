"""Removing files of gsvckpt's own, and those that are to go for good."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from gsvckpt.errors import OutputError
from gsvckpt.files.local import reason


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
