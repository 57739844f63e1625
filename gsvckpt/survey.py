"""Which files of a folder are checkpoints: by name, and those with other names by their first bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gsvckpt.errors import MissingError
from gsvckpt.formats import safetensors, torch_stream

EXTENSIONS = frozenset((".pth", ".pt", ".ckpt", ".safetensors", ".bin", ".pkl"))
_PEEK = 16


@dataclass(frozen=True, slots=True)
class Found:
    """Checkpoints below the folders, in order of their paths, how many other files there were, and temporary files that killed runs left."""

    checkpoints: tuple[str, ...] = ()
    others: int = 0
    folders: tuple[str, ...] = ()

    def as_json(self) -> dict[str, object]:
        return {"folders": list(self.folders), "ignored": self.others} if self.folders else {}


def find_files(folders: Sequence[str], *, recursive: bool) -> Found:
    """Look through folders. Raises MissingError for a folder that cannot be listed, or when none of them holds a checkpoint."""
    checkpoints: list[str] = []
    others = 0
    for folder in folders:
        for path in _files(folder, recursive=recursive):
            if _is_checkpoint(path):
                checkpoints.append(path)
            else:
                others += 1
    if folders and not checkpoints:
        hint = "choose another folder" if recursive else "-r looks in subfolders, too"
        raise MissingError("holds no checkpoint", path=folders[0], hint=hint)
    return Found(tuple(checkpoints), others, tuple(folders))


def _files(folder: str, *, recursive: bool) -> Iterator[str]:
    pending = [folder]
    while pending:
        here = pending.pop()
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            raise MissingError(f"cannot be listed: {error.strerror}", path=here) from error
        for entry in entries:
            if entry.is_file():
                yield entry.path
        if recursive:
            pending.extend(entry.path for entry in reversed(entries) if entry.is_dir(follow_symlinks=False) and entry.name != ".git")


def _is_checkpoint(path: str) -> bool:
    if os.path.splitext(path)[1].lower() in EXTENSIONS:
        return True
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            head = file.read(_PEEK)
    except OSError:
        return False
    is_zip = head[2:4] == b"\x03\x04" and (head[:1] == b"0" or (head[:2] == b"PK" and _holds_pickle(path)))
    return is_zip or head.startswith(torch_stream.HEAD[:_PEEK]) or safetensors.looks_like(head, size)


def _holds_pickle(path: str) -> bool:
    """A zip whose first record is a torch pickle: documents and programs are zips, too."""
    with open(path, "rb") as file:
        return b"data.pkl" in file.read(512)
