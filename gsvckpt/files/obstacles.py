"""Outputs never replace folders, devices, pipes or sockets, nor use a name that means a device on Windows."""

from __future__ import annotations

import os
import re
import stat

from gsvckpt.errors import RefusedError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a symbolic link",
}
# With any extension, and with a stream's name behind a colon (Microsoft, Naming Files, Paths, and Namespaces).
_DEVICE = re.compile(r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³]) *([.:].*)?", re.IGNORECASE | re.DOTALL)
_DEVICES = re.compile(r"[\\/]{2}\.[\\/]")  # `\\.\PhysicalDrive0`


def file_obstacle(path: str, *, windows: bool = os.name == "nt") -> RefusedError | None:
    """Why no file may take this name, with or without --force: something is there that is not a regular file, also behind a link. None where nothing
    is, or a regular file.
    """
    if windows and names_device(path):
        return _device(path)
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):  # nothing is there, or nothing that can be: whoever writes there will say so
        return None
    return None if stat.S_ISREG(mode) else _irregular(path, mode)


def folder_obstacle(path: str, *, windows: bool = os.name == "nt") -> RefusedError | None:
    """Why no folder can take this name: something is there already that is no empty folder. None where nothing is."""
    if windows and names_device(path):
        return _device(path)
    found = file_obstacle(path, windows=False)
    if found is not None and not os.path.isdir(path):
        return found
    place = os.path.realpath(path)
    if os.path.lexists(place) and not (os.path.isdir(place) and not os.listdir(place)):
        return RefusedError("exists already", path=path, hint="name a folder that is not there yet; a folder is never overwritten")
    return None


def entry_obstacle(place: str, path: str) -> RefusedError | None:
    """Why the entry `place` itself, no link followed, may not be replaced; `path` is what the user calls it. Raises OSError."""
    try:
        mode = os.lstat(place).st_mode
    except FileNotFoundError:
        return None
    return None if stat.S_ISREG(mode) else _irregular(path, mode)


def names_device(path: str) -> bool:
    """Whether a path leads to a device on Windows, where `NUL`, `com1.pth` and `out/aux. ` do in every folder."""
    return _DEVICES.match(path) is not None or any(_DEVICE.fullmatch(part.rstrip(". ")) for part in re.split(r"[\\/]", path))


def _irregular(path: str, mode: int) -> RefusedError:
    kind = _KINDS.get(stat.S_IFMT(mode), "not a regular file")
    hint = "name a file in it" if stat.S_ISDIR(mode) else "name a regular file, or one that is not there yet"
    return RefusedError(f"is {kind}; only a regular file can be replaced", path=path, hint=hint)


def _device(path: str) -> RefusedError:
    return RefusedError("is the name of a device on Windows", path=path, hint="give the output another name")
