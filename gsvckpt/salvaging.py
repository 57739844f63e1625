"""What can still be had of a damaged checkpoint: its tree, and which of its storages have all their bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath

from gsvckpt.errors import DamagedError, GsvError
from gsvckpt.files import open_source
from gsvckpt.formats.torch_remains import LOST, find_remains
from gsvckpt.model import Checkpoint, Storage, storages_of
from gsvckpt.opening import blame, read
from gsvckpt.progress import Progress
from gsvckpt.streams import Buffers, chunks, for_each


@contextmanager
def open_remains(path: str | PathLike[str]) -> Iterator[Checkpoint]:
    """Open a checkpoint as ever where that works, else what is left of a torch file: storages without bytes are at LOST.

    Raises GsvError with the path filled in; that of the file as a whole where nothing can be had of it.
    """
    with open_source(path) as source, blame(fspath(path)):
        try:
            checkpoint = read(source, inflate=True)
        except DamagedError as error:
            try:
                checkpoint = find_remains(source).checkpoint
            except GsvError as other:
                why = f"nothing can be salvaged: {other.why}; {error.why}"
                raise DamagedError(why, where=other.where or error.where, hint=error.hint, check=error.check) from error
        yield checkpoint


def find_lost(root: object, jobs: int, progress: Progress) -> frozenset[Storage]:
    """The storages that have no bytes any more, or not those of their checksum. Reads everything."""
    storages = storages_of(root)
    progress.expect(sum(storage.nbytes for storage in storages if storage.offset != LOST))
    whole = for_each(sorted(storages, key=lambda storage: storage.offset), _is_whole, jobs=jobs, progress=progress)
    return frozenset(storage for storage, is_whole in whole.items() if not is_whole)


def _is_whole(storage: Storage, buffers: Buffers) -> bool:
    if storage.offset == LOST:
        return False
    try:
        for _ in chunks(storage, buffers):
            pass
    except DamagedError:
        return False
    return True
