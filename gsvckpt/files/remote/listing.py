"""List a folder on another machine by names alone: looking into every object would cost a request each."""

from __future__ import annotations

from gsvckpt.errors import MissingError
from gsvckpt.files.paths import join
from gsvckpt.files.remote.filesystems import explained, open_filesystem
from gsvckpt.files.secrets import conceal, reveal
from gsvckpt.hints import NO_HINT


def list_files(folder: str, *, recursive: bool) -> list[str]:
    """The URLs of the files in a folder, with `recursive` below it, in order. Raises MissingError and UnreachableError."""
    filesystem, path = open_filesystem(folder)
    try:
        with explained(folder):
            filesystem.invalidate_cache(path)
            if recursive:
                found = list(filesystem.find(path))
            else:
                found = [entry["name"] for entry in filesystem.ls(path, detail=True) if entry["type"] == "file"]
    except MissingError as error:
        if "no such file" in error.why:
            error.why, error.hint = error.why.replace("no such file", "no such folder"), NO_HINT
        raise
    base = path.rstrip("/") + "/"
    url = reveal(folder).partition("?")[0]
    inside = sorted(name.removeprefix(base) for name in found if name.startswith(base))
    return [conceal(join(url, name)) for name in inside if name and not name.endswith("/")]
