"""Open checkpoints. Nothing here imports what only writing needs, so that reading starts fast."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from os import PathLike, fspath

from gsvckpt.errors import FLAWS, DamagedError, GsvError, UnsupportedError
from gsvckpt.files.local import open_source
from gsvckpt.files.paths import file_words, folder_of, is_url, name_of
from gsvckpt.files.secrets import conceal
from gsvckpt.formats import shards, sniff, torch_distributed
from gsvckpt.hints import Hint, quote_word
from gsvckpt.model import Checkpoint, Source


@contextmanager
def open_checkpoint(path: str | PathLike[str], *, inflate: bool = False, structure_only: bool = False) -> Iterator[Checkpoint]:
    """Open a checkpoint lazily: its directory and its pickle are read, no tensor bytes. `inflate` admits compressed zips; `structure_only` says that
    none of those bytes will be asked for.

    A folder with an index, or the index itself, is one checkpoint in several files. Raises GsvError with the path filled in.
    """
    index = index_of(conceal(fspath(path)))
    if index is not None:
        with ExitStack() as stack, blame(conceal(fspath(path))):
            yield shards.read(index, partial(_read_shard, inflate=inflate), stack, structure_only=structure_only)
        return
    with open_source(path, structure_only=structure_only) as source, blame(source.path):
        yield read(source, inflate=inflate)


def index_of(path: str) -> str | None:
    """The index by which `path`, a folder or the index itself, is one checkpoint in several files; None where it is none."""
    if not is_url(path) and os.path.isdir(path):
        return shards.find_index(path)
    return path if shards.is_index(path) else None


def refuse_ambiguous(checkpoint: Checkpoint) -> None:
    """Raise DamagedError where readers may get other values than those that were read. What they may find besides is a matter of safety alone."""
    for doubt in checkpoint.doubts:
        if doubt.check == "pickle.encoding" and not doubt.agreed:
            raise DamagedError(f"{doubt.why}, so its content is ambiguous", where=doubt.where, hint="get the file again", check=doubt.check)


@contextmanager
def blame(path: str) -> Iterator[None]:
    """Errors raised inside learn which file they are about, and so do their hints."""
    try:
        yield
    except GsvError as error:
        if not error.path:
            error.path = path
            error.hint = error.hint.fill(file_words(path))
        raise


def _read_shard(source: Source, *, inflate: bool) -> Checkpoint:
    with blame(source.path):
        return read(source, inflate=inflate)


def read(source: Source, *, inflate: bool = False) -> Checkpoint:
    """Read a checkpoint from an open source. No byte of it is run."""
    try:
        return sniff.read(source, inflate=inflate)
    except FLAWS as error:
        raise _of_a_part(source, error) or _unfinished(source, error) or error from error.__cause__
    except (MemoryError, RecursionError) as error:  # a crafted file may get here; an honest one does not
        raise DamagedError(f"the file asks for too much ({type(error).__name__})") from error


def _of_a_part(source: Source, error: GsvError) -> UnsupportedError | None:
    """That a file is a part of a distributed checkpoint, whose form only the `.metadata` beside it tells."""
    if not source.path.endswith(torch_distributed.PART):
        return None
    folder = folder_of(source.path) or os.curdir
    found = UnsupportedError(
        "is one part of a distributed checkpoint, whose .metadata tells what is in it",
        hint=Hint("shows the checkpoint", f"gsvckpt inspect {quote_word(folder)}"),
    )
    found.known = error.known
    return found


def _unfinished(source: Source, error: GsvError) -> UnsupportedError | None:
    """That a damaged file is a download which has not ended, by its name or by the file that its download manager keeps beside it."""
    if not isinstance(error, DamagedError):
        return None
    from gsvckpt.engine.save_names import download_of  # only damaged files need these
    from gsvckpt.files.temporary import is_temporary

    beside = [] if is_url(source.path) else os.listdir(folder_of(source.path) or os.curdir)
    sign = download_of(name_of(source.path), beside)
    if not sign or is_temporary(name_of(source.path)):  # gsvckpt's own are complete when they are read back, or the disk is at fault
        return None
    found = UnsupportedError(f"is an unfinished download: {sign}", where=error.where, hint="let it finish, or download it again")
    found.known = error.known
    return found
