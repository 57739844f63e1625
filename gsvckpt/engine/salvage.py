"""Open a damaged checkpoint as far as possible: its tree, and which storages still have all their bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike, fspath

from gsvckpt.engine.open import blame, index_of, open_checkpoint, read
from gsvckpt.errors import FLAWS, DamagedError
from gsvckpt.files.local import open_source
from gsvckpt.files.progress import Progress
from gsvckpt.files.streams import Buffers, chunks, for_each
from gsvckpt.formats import safetensors, torch_salvage
from gsvckpt.formats.sniff import read_head
from gsvckpt.formats.torch_salvage import Salvaged, count_complete
from gsvckpt.model import MISSING, Checkpoint, Source, Storage, storages_of

_BYTEORDERS = ("little", "big")


@contextmanager
def open_salvaged(path: str | PathLike[str]) -> Iterator[Checkpoint]:
    """Open a checkpoint normally if that works, else as much as is left of it: storages without bytes are at MISSING.

    Raises GsvError with the path filled in; that of the file as a whole where nothing can be had of it, and of the file that is damaged where the
    checkpoint is in several.
    """
    if index_of(fspath(path)) is not None:
        with open_checkpoint(path, inflate=True) as checkpoint:
            yield checkpoint
        return
    with open_source(path) as source, blame(source.path):
        try:
            checkpoint = _reread(read(source, inflate=True))
        except DamagedError as error:
            try:
                checkpoint = find_salvaged(source).checkpoint
            except FLAWS as other:
                why = f"nothing can be salvaged: {other.why}" + (f"; {error.why}" if other.why != error.why else "")
                raise DamagedError(why, where=other.where or error.where, hint="get the file again", check=error.check) from error
        yield checkpoint


def _reread(checkpoint: Checkpoint) -> Checkpoint:
    """A checkpoint that could be read; read otherwise where its directory has places or checksums that its own headers and bytes contradict.

    Readers believe one of them, so damage there shows only by the bytes. A byteorder that is neither of the two words was damaged, too.
    """
    if checkpoint.container.format != "torch-zip" or checkpoint.container.compressed:
        return checkpoint
    with suppress(*FLAWS):
        other = find_salvaged(checkpoint.source).checkpoint
        places = {storage.key: (storage.offset, storage.crc) for storage in storages_of(checkpoint.root)}
        differs = any(storage.offset != MISSING and places.get(storage.key) != (storage.offset, storage.crc) for storage in storages_of(other.root))
        if differs or checkpoint.container.byteorder not in _BYTEORDERS:
            return other
    return checkpoint


def find_salvaged(source: Source) -> Salvaged:
    """What is left of a file that cannot be read as a whole, of any format. Raises DamagedError where nothing is, and UnsupportedError."""
    try:
        if safetensors.looks_like(read_head(source), source.size):
            return count_complete(safetensors.read(source, partial=True))
        return torch_salvage.find_salvaged(source)
    except (MemoryError, RecursionError) as error:
        raise DamagedError(f"the file asks for too much ({type(error).__name__})") from error


def is_damaged(checkpoint: Checkpoint) -> bool:
    """Whether its container could not be read completely, or has extra bytes: then it is worth writing again, even if nothing is lost."""
    container = checkpoint.container
    return (container.format == "torch-zip" and not checkpoint.records) or (container.format == "safetensors" and bool(container.trailing))


def find_lost(root: object, jobs: int, progress: Progress) -> frozenset[Storage]:
    """The storages that have no bytes any more, or not those of their checksum. Reads everything."""
    storages = storages_of(root)
    progress.expect(sum(storage.nbytes for storage in storages if storage.offset != MISSING))
    complete = for_each(sorted(storages, key=lambda storage: storage.offset), _is_complete, jobs=jobs, progress=progress)
    return frozenset(storage for storage, is_complete in complete.items() if not is_complete)


def _is_complete(storage: Storage, buffers: Buffers) -> bool:
    if storage.offset == MISSING:
        return False
    try:
        for _ in chunks(storage, buffers):
            pass
    except DamagedError:
        return False
    return True
