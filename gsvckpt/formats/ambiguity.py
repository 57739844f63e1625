"""Check that all readers find the same content in a file. All commands use this one answer.

Readers differ in which format they try first, where they look for a zip's end, how they compare names, and what they do with leftover bytes (torch's
order of tries in torch/serialization.py; its zip reader, third_party/miniz; GPT-SoVITS, which puts `PK` over the first two bytes, process_ckpt.py).
So the pickles of all of them count: also those in other records, in zips inside the zip, in a tar that is the same file, and in bytes that belong to
nothing. What cannot be examined leaves a doubt, and a file with a doubt is never called safe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

from gsvckpt.errors import FLAWS, GsvError
from gsvckpt.files.local import read_bytes
from gsvckpt.formats import pickle_search, torch_tar
from gsvckpt.formats.known import Known, known_of
from gsvckpt.formats.pickle.calls import merge_calls
from gsvckpt.formats.pickle_search import PickleStart, Searched
from gsvckpt.formats.torch_zip import fold
from gsvckpt.formats.zip import directory
from gsvckpt.formats.zip.directory import LOCAL, Tail, is_storage
from gsvckpt.model import Checkpoint, Container, Doubt, Global, Record, Source

_LEAST = LOCAL.size  # bytes that a record takes at least: in fewer, none can hide
_UNSEEN = Doubt("records", "has records that cannot be examined", "pickle.safety")


def compare_readers(checkpoint: Checkpoint, tail: Tail | None) -> Checkpoint:
    """The checkpoint with the names that any reader finds in its file, and a doubt wherever readers may part. Reads no tensor bytes.

    `tail` is the end of a zip.
    """
    container, source = checkpoint.container, checkpoint.source
    doubts: list[Doubt] = [*checkpoint.doubts]
    places: list[PickleStart] = []
    spans: list[tuple[int, int]] = []
    if container.format == "torch-zip":
        places += _records(checkpoint)
        spans += gaps(source, checkpoint.records, tail)
        if container.trailing:
            why = f"{container.trailing:,} bytes follow the pickle in its record, where no pickler leaves any"
            doubts.append(Doubt("data.pkl", why, agreed=True))
        tar = container.head != "PK" and _also_tar(source)
        if tar:
            places += tar
            why = "is a tar archive as well: torch.load reads it as one, GPT-SoVITS reads it as a zip"
            doubts.append(Doubt("first block", why, "container.head"))
    elif container.format == "torch-stream" and container.trailing:
        begin = source.size - container.trailing
        places.append(PickleStart(begin, ""))
        spans.append((begin, source.size))
    elif container.format == "safetensors" and directory.has_tail(source):
        places += pickle_search.entries(source)
        doubts.append(Doubt("end of file", "ends like a zip, so some readers take it for one", "container.trailing"))
    if not places and not spans:
        return replace(checkpoint, doubts=tuple(doubts)) if doubts else checkpoint
    found = pickle_search.search_places(source, places, spans)
    return replace(
        checkpoint, globals=_unite(checkpoint.globals, found), calls=merge_calls(checkpoint.calls, found.calls), doubts=(*doubts, *_left(found))
    )


def name_unreadable(source: Source, error: GsvError) -> Known | None:
    """What is known of a file that cannot be read, with the names of all pickles that its directory or its first bytes lead to."""
    known = known_of(error)
    with suppress(*FLAWS):
        found = pickle_search.search(source, everywhere=False, front=True)
        if known is not None:
            return known._replace(globals=_unite(known.globals, found), calls=merge_calls(known.calls, found.calls))
        if found.names:
            return Known(source.size, Container("pickle", records=1), found.names, found.calls)
    return known


def gaps(source: Source, records: Sequence[Record], tail: Tail | None) -> list[tuple[int, int]]:
    """The (begin, end) of what belongs to no record of a zip and may hide one: between records, around the directory, and behind the end."""
    if tail is None or not records:
        return []
    found = []
    behind = 0
    for record in records:
        if record.header - behind >= _LEAST:
            found.append((behind, record.header))
        behind = record.offset + record.size if record.method == 0 else record.end
    comment = source.size - tail.trailing - tail.comment
    return [*found, *((begin, end) for begin, end in ((behind, tail.offset), (comment, source.size)) if end - begin >= _LEAST)]


def _records(checkpoint: Checkpoint) -> Iterator[PickleStart]:
    """The records whose bytes are neither a tensor's nor the pickle that was read."""
    folder = f"{checkpoint.container.prefix}/".removeprefix("/")
    read, storages = fold(f"{folder}data.pkl"), f"{folder}data/"
    for record in checkpoint.records:
        name = record.name
        number = name[len(storages) :] if name.startswith(storages) else ""
        if number.isdecimal() and number.isascii():  # told sooner than by `is_storage`, for thousands of them
            continue
        if not is_storage(name) and (fold(name) != read or checkpoint.container.trailing):
            yield pickle_search.place_of(record)


def _also_tar(source: Source) -> list[PickleStart]:
    head = read_bytes(source, 0, min(torch_tar.BLOCK, source.size))
    return list(pickle_search.tar_places(source)) if torch_tar.is_tar(head) else []


def _unite(names: Sequence[Global], found: Searched) -> tuple[Global, ...]:
    return tuple(dict.fromkeys((*names, *found.names)))


def _left(found: Searched) -> tuple[Doubt, ...]:
    return () if found.complete else (_UNSEEN,)
