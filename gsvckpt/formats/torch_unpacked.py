"""A torch zip that somebody unpacked: `data.pkl`, `version` and `data/0`, `data/1`, ... as files of a folder. torch does not load it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate

from gsvckpt.errors import MissingError, as_error
from gsvckpt.files.budget import MOST_SHARDS, too_much
from gsvckpt.files.paths import folder_of, is_url, name_of
from gsvckpt.formats.torch_zip import read_folder
from gsvckpt.model import Checkpoint, Record, Source

PICKLE = "data.pkl"
_BESIDE = ("data", "version", "byteorder")  # one of these lies beside it


def is_unpacked(path: str) -> bool:
    """Whether a path is the pickle of an unpacked checkpoint on this machine: it is called `data.pkl`, and other records lie beside it."""
    return name_of(path) == PICKLE and not is_url(path) and any(os.path.exists(os.path.join(folder_of(path), name)) for name in _BESIDE)


def find_pickle(folder: str) -> str | None:
    """The pickle of a checkpoint that was unpacked into `folder`, or into the one folder in it, as its records are in one; None where none was."""
    try:
        with os.scandir(folder) as entries:
            inner = [entry.path for entry in entries if entry.is_dir() and entry.name != "__MACOSX"]
    except OSError:
        return None
    places = (folder, *inner) if len(inner) == 1 else (folder,)
    return next((path for path in (os.path.join(place, PICKLE) for place in places) if is_unpacked(path)), None)


def files_of(pickle: str) -> tuple[str, ...]:
    """The files of an unpacked checkpoint, the pickle first. Raises MissingError for a folder that cannot be listed."""
    folder = folder_of(pickle)
    found = []
    try:
        for place in (folder, os.path.join(folder, "data"), os.path.join(folder, ".data")):
            if os.path.isdir(place or os.curdir):
                with os.scandir(place or os.curdir) as entries:
                    found += [os.path.join(place, entry.name) for entry in entries if entry.is_file() and not entry.name.startswith("._")]
    except OSError as error:
        raise as_error(error, folder, MissingError) from error
    if len(found) > MOST_SHARDS:
        raise too_much("files", MOST_SHARDS, where="folder")
    return (pickle, *sorted(path for path in found if os.path.normpath(path) != os.path.normpath(pickle)))


def read(pickle: str, join_files: Callable[[Sequence[str]], tuple[Source, Sequence[int]]]) -> Checkpoint:
    """Read an unpacked checkpoint as its zip was. `join_files` opens files as one source, and gives the size of each.

    Raises what reading a zip raises.
    """
    files = files_of(pickle)
    source, sizes = join_files(files)
    folder = name_of(folder_of(os.path.abspath(pickle)))
    names = [f"{folder}/{os.path.relpath(path, folder_of(pickle) or os.curdir)}".replace(os.sep, "/") for path in files]
    begins = accumulate(sizes, initial=0)
    records = tuple(Record(name, begin, size, 0, header=begin) for name, begin, size in zip(names, begins, sizes, strict=False))
    found = read_folder(source, records, records[0].name)
    container = replace(found.container, head=None, shards=len(files), refused="its records are files of a folder, as if it had been unpacked")
    return replace(found, container=container, records=())
