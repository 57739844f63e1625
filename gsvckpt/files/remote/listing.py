"""List a folder on another machine by names alone: looking into every object would cost a request each."""

from __future__ import annotations

from gsvckpt.files.paths import join
from gsvckpt.files.remote.filesystems import explained, open_filesystem
from gsvckpt.files.secrets import conceal, reveal


def list_files(folder: str, *, recursive: bool) -> list[str]:
    """The URLs of the files in a folder, with `recursive` below it, in order. Raises MissingError and UnreachableError."""
    filesystem, path = open_filesystem(folder)
    with explained(folder, folder=True):
        filesystem.invalidate_cache(path)
        entries = [] if recursive else filesystem.ls(path, detail=True)
        found = list(filesystem.find(path)) if recursive else [entry["name"] for entry in entries if entry["type"] == "file"]
    base = path.rstrip("/") + "/"
    url = reveal(folder).partition("?")[0]
    inside = sorted(name.removeprefix(base) for name in found if name.startswith(base))
    return [conceal(join(url, name)) for name in inside if name and not name.endswith("/")]
