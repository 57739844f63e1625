"""What two files have in common byte for byte, and what of a file is to be looked at where it may differ from its twin.

Tensor data is read by nobody, and nothing hides between records; checksums are compared with each other and with the pickle. The rest that may
differ is read as reading the file would read it: progress, configs, and the name of the folder inside the zip, as long as in the other.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from gsvckpt.commands.inspect.breakdown import Account, account
from gsvckpt.engine.examine import Closed, Examination, examine
from gsvckpt.errors import UnsupportedError
from gsvckpt.files.local import LocalSource
from gsvckpt.files.spans import Map, Span, between, gather, make_picker
from gsvckpt.files.streams import crc32
from gsvckpt.formats.ambiguity import gaps as hiding_places
from gsvckpt.formats.pickle.equality import first_difference
from gsvckpt.formats.pickle.machine import Piece, run_piece
from gsvckpt.formats.pickle.positions import Passage, Place, Places, find_places
from gsvckpt.formats.torch_objects import rebuild
from gsvckpt.formats.zip import directory
from gsvckpt.model import Checkpoint, Record, Source, storages_of, walk
from gsvckpt.sovits.config import CONFIG_KEYS
from gsvckpt.sovits.sections import Sections, divide, role
from gsvckpt.sovits.training_progress import PROGRESS_KEYS

_WHOLE = 1 << 22  # bytes: a smaller file is read at once, of a larger one what is no tensor data
_MARKED = 1024  # bytes of the smallest storage that counts as a duplicate (see accounting)
_LARGEST_PICKLE = 1 << 21  # bytes: what is learnt of a larger one takes too much memory
_LARGEST_AROUND, _LARGEST_CONFIG = 500_000, 1 << 14  # bytes of a pickle, and of a config in it, that can reach no limit of the pickle machine
_OBJECT, _RECORD = 60, 400  # bytes of memory that each takes, besides the bytes of the file that must be equal
_SAVE_NUMBER = ".data/serialization_id"  # a record of digits that differ from save to save
_FOLDER = re.compile(r"[0-9A-Za-z_.+-]+")  # a folder inside a zip of which every reader makes the same


class Config(NamedTuple):
    """The passage of a root entry in the gaps, its bytes, and what they make."""

    key: str
    begin: int
    end: int
    raw: bytes
    passage: Passage
    piece: Piece


class Twin(NamedTuple):
    """A file that was read, and what another must have in common with it.

    `gaps` are what of a file is read; `form` takes from these the `parts` that must be equal. `values` are where the progress stands, `pickle` and
    `pickle_crc` the pickle and its checksum, `local` and `central` take checksums that must be equal, `marks` takes those of storages of the sizes
    `marked`, `folders` takes all names of the folder inside the zip, `numbers` the digits with which torch tells saves apart. `length` is where the
    length of the pickle is stated; `weight` is about how many bytes of memory all this takes.
    """

    examination: Examination
    sections: Sections
    counted: Account
    size: int
    gaps: tuple[Span, ...]
    form: struct.Struct
    parts: tuple[bytes, ...]
    values: tuple[tuple[str, Place], ...]
    configs: tuple[Config, ...]
    pickle: Span
    pickle_crc: int
    local: struct.Struct
    central: struct.Struct
    marks: struct.Struct
    marked: tuple[int, ...]
    folders: struct.Struct
    numbers: struct.Struct
    length: Span
    weight: int

    def is_alike(self, data: bytearray) -> bool:
        """Whether the pickle has the same length, which is told soonest."""
        begin, end = self.length
        return int.from_bytes(data[begin:end], "little") == self.pickle[1] - self.pickle[0]


class Known(NamedTuple):
    """An examination, and where the bytes go."""

    examination: Examination
    counted: Account


def learn(examination: Examination, counted: Account) -> Twin | None:
    """What others have in common with a file that is still open; None where nothing can be said."""
    checkpoint = examination.checkpoint
    container, source, root = checkpoint.container, checkpoint.source, checkpoint.root
    if container.format != "torch-zip" or container.compressed or not isinstance(source, LocalSource) or not isinstance(root, dict):
        return None
    tail = directory.find_tail(source)
    if checkpoint.doubts or hiding_places(source, checkpoint.records, tail):
        return None
    pickled = next((record for record in checkpoint.records if record.name == f"{container.prefix}/data.pkl"), None)
    if tail is None or pickled is None or pickled.size > _LARGEST_PICKLE:
        return None
    text = bytes(gather(source, ((pickled.offset, pickled.offset + pickled.size),)))
    places = find_places(text, PROGRESS_KEYS, CONFIG_KEYS, _LARGEST_CONFIG if len(text) <= _LARGEST_AROUND else 0)
    if places is None or any(isinstance(root.get(key), float) for key in PROGRESS_KEYS):
        return None
    try:
        values = {key: place for key, place in places.values.items() if key in root and root[key] == place.read(text)}
    except UnicodeDecodeError:
        return None
    configs = dict(_find_configs(text, places, root))
    entries = dict(_find_entries(source, tail))
    data = [(record.offset, record.end) for record in checkpoint.records if directory.is_storage(record.name)]
    numbers = [(record.offset, record.end) for record in checkpoint.records if record.name.endswith(_SAVE_NUMBER)]
    if not _are_digits(gather(source, numbers)):
        return None
    local, central = _find_checksums(checkpoint, entries)
    if central != sorted(central):
        return None
    folders = _find_folders(checkpoint, entries)
    free = sorted(
        (
            *data,
            *numbers,
            *_behind(checkpoint.records, tail.offset),
            *((entry + 16, entry + 20) for entry in entries.values()),
            *((at, at + 4) for at in local),
            *folders,
            *((pickled.offset + at, pickled.offset + at + 8) for at in places.floats),
            *((pickled.offset + place.begin, pickled.offset + place.end) for place in values.values()),
            *((pickled.offset + passage.begin, pickled.offset + passage.end) for passage, _ in configs.values()),
        )
    )
    gaps = ((0, source.size),) if source.size <= _WHOLE else tuple(between(sorted(data), source.size))
    at = Map(gaps)
    form = make_picker(list(between([at.move(begin, end - begin) for begin, end in free if at.has(begin)], at.total)))
    begin = at(pickled.offset)
    sizes = {f"{container.prefix}/data/{storage.key}": storage.nbytes for storage in storages_of(root) if storage.nbytes >= _MARKED}
    marks = sorted((at(entries[name] + 16), size) for name, size in sizes.items() if name in entries)
    return Twin(
        examination._replace(checkpoint=replace(checkpoint, source=Closed(source.path, source.size))),
        divide(root),
        counted,
        source.size,
        gaps,
        form,
        form.unpack_from(gather(source, gaps)),
        tuple((key, place.moved(begin)) for key, place in values.items()),
        tuple(
            Config(key, begin + passage.begin, begin + passage.end, text[passage.begin : passage.end], passage, piece)
            for key, (passage, piece) in configs.items()
        ),
        at.move(pickled.offset, pickled.size),
        at(entries[pickled.name] + 16),
        make_picker([at.move(place, 4) for place in local]),
        make_picker([at.move(place, 4) for place in central]),
        make_picker([(place, place + 4) for place, _ in marks]),
        tuple(size for _, size in marks),
        make_picker([at.move(begin, end - begin) for begin, end in folders]),
        make_picker([at.move(begin, end - begin) for begin, end in numbers]),
        at.move(entries[pickled.name] + 24, 4),
        _OBJECT * places.objects + _RECORD * len(entries) + at.total - sum(end - begin for begin, end in data if at.has(begin)),
    )


def recognise(twin: Twin, source: LocalSource, data: bytearray) -> Known | None:
    """What a file is that is the other's twin; None where it is not, or where reading it would find something wrong. Raises GsvError."""
    if twin.form.unpack_from(data) != twin.parts or twin.local.unpack_from(data) != twin.central.unpack_from(data):
        return None
    if not _are_digits(b"".join(twin.numbers.unpack_from(data))):  # which no reader takes for a pickle
        return None
    stated = int.from_bytes(data[twin.pickle_crc : twin.pickle_crc + 4], "little")
    if stated not in (0, crc32(memoryview(data)[twin.pickle[0] : twin.pickle[1]])):
        return None
    checkpoint = _move(twin.examination.checkpoint, twin.folders.unpack_from(data))
    if checkpoint is None:
        return None
    root = copy(checkpoint.root)
    assert isinstance(root, dict)  # noqa: S101 - no other is learnt; for the type checker
    try:
        root.update((key, place.read(data)) for key, place in twin.values)
    except UnicodeDecodeError:
        return None
    for config in twin.configs:
        raw = bytes(data[config.begin : config.end])
        if raw != config.raw:
            piece = _read_config(config.key, raw, config.passage.texts)
            if piece is None or piece[1:] != config.piece[1:]:
                return None
            root[config.key] = piece.value
    found = examine(replace(checkpoint, source=source, root=root), twin.sections)
    counted = twin.counted if found.identity.kind == twin.examination.identity.kind else account(found)
    return Known(found, counted._replace(duplicates=_duplicates(twin.marked, twin.marks.unpack_from(data))))


def _are_digits(raw: bytes | bytearray) -> bool:
    return not raw or raw.isdigit()


def _find_configs(text: bytes, places: Places, root: dict[object, object]) -> Iterator[tuple[str, tuple[Passage, Piece]]]:
    """Root entries that may differ, as they can be read without the rest of the pickle."""
    for key, passage in places.passages.items():
        piece = _read_config(key, text[passage.begin : passage.end], passage.texts)
        if piece is not None and key in root and first_difference(piece.value, root[key], lambda _one, _two: False) is None:
            yield key, (passage, piece)


@lru_cache(2)
def _read_config(key: str, raw: bytes, texts: tuple[tuple[int, str], ...]) -> Piece | None:
    """A root entry; None also where it is none that says nothing of how the root is divided, or too deep for whoever walks through it. The last
    are remembered, as those of one run are equal.
    """
    piece = run_piece(raw, dict(texts), rebuild)
    if piece is None or role(key, piece.value) != "other":
        return None
    try:
        for _ in walk({key: piece.value}):
            pass
    except UnsupportedError:
        return None
    return piece


def _find_entries(source: Source, tail: directory.Tail) -> Iterator[tuple[str, int]]:
    """By a record's name, where its entry in the directory stands."""
    position = tail.offset
    for entry, fields in directory.read_entries(source, tail):
        yield entry.name, position
        position += directory.CENTRAL.size + sum(fields[10:13])


def _find_checksums(checkpoint: Checkpoint, entries: dict[str, int]) -> tuple[list[int], list[int]]:
    """Where local headers state checksums, and where the directory states the same ones."""
    local = {record.name: record.header + 14 for record in checkpoint.records if not record.flags & 8}
    raw = gather(checkpoint.source, [(at, at + 4) for at in local.values()])
    stated = [(name, at) for n, (name, at) in enumerate(local.items()) if raw[4 * n : 4 * n + 4] != bytes(4)]  # zero: not computed
    return [at for _, at in stated], [entries[name] + 16 for name, _ in stated]


def _find_folders(checkpoint: Checkpoint, entries: dict[str, int]) -> list[Span]:
    """Where the folder inside the zip is named, in order; nowhere if another name could matter. torch takes it from the name that a file is given
    first, in which upstream puts the time.
    """
    prefix = checkpoint.container.prefix or ""
    if not _FOLDER.fullmatch(prefix) or not all(record.name.startswith(f"{prefix}/") for record in checkpoint.records):
        return []
    begins = (
        *(record.header + directory.LOCAL.size for record in checkpoint.records),
        *(at + directory.CENTRAL.size for at in entries.values()),
    )
    return [(begin, begin + len(prefix)) for begin in sorted(begins)]


def _move(checkpoint: Checkpoint, folders: tuple[bytes, ...]) -> Checkpoint | None:
    """The checkpoint in a folder of another name; None where the names differ."""
    prefix = checkpoint.container.prefix or ""
    folder = folders[0].decode("latin-1") if folders else prefix
    if folder == prefix and folders.count(folders[0] if folders else b"") == len(folders):
        return checkpoint
    if folders.count(folders[0]) != len(folders) or not _FOLDER.fullmatch(folder):
        return None
    records = tuple(record._replace(name=folder + record.name[len(prefix) :]) for record in checkpoint.records)
    return replace(checkpoint, container=replace(checkpoint.container, prefix=folder), records=records)


def _duplicates(sizes: Sequence[int], checksums: Sequence[bytes]) -> int:
    """The bytes of storages that have size and checksum of an earlier one, as accounting has it."""
    counts = Counter(mark for mark in zip(sizes, checksums, strict=True) if any(mark[1]))
    return sum(size * (count - 1) for (size, _), count in counts.items())


def _behind(records: Sequence[Record], end: int) -> Iterator[Span]:
    """What stands between a record's data and the next header, which no reader looks at."""
    for record, header in zip(records, (*(record.header for record in records[1:]), end), strict=True):
        yield record.offset + record.size, header
