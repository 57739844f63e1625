"""Recognise a save of a known structure without unpickling: compare all bytes except tensor data, checksums, progress and configs.

Tensor data is not read, and nothing can hide between records. Checksums are compared with each other and with the pickle. Progress, configs and the
name of the folder inside the zip may differ; they are read as a full read would read them. The folder's name must have the same length.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
from gsvckpt.formats.pickle.machine import PickleFragment, run_fragment
from gsvckpt.formats.pickle.positions import Passage, Place, Places, find_places
from gsvckpt.formats.torch_objects import rebuild
from gsvckpt.formats.zip import directory
from gsvckpt.model import Checkpoint, Record, Source, storages_of, walk
from gsvckpt.sovits.config import CONFIG_KEYS
from gsvckpt.sovits.sections import Sections, role, split_sections
from gsvckpt.sovits.training_progress import PROGRESS_KEYS

_WHOLE = 1 << 22  # bytes: a smaller file is read at once, of a larger one what is no tensor data
_MARKED = 1024  # bytes of the smallest storage that counts as a duplicate (see breakdown)
_LARGEST_PICKLE = 1 << 21  # bytes: what is known of a larger one takes too much memory
_LARGEST_AROUND, _LARGEST_CONFIG = 500_000, 1 << 14  # bytes of a pickle, and of a config in it, that can reach no limit of the pickle machine
_OBJECT, _RECORD = 60, 400  # bytes of memory that each takes, besides the bytes of the file that must be equal
_SAVE_NUMBER = ".data/serialization_id"  # a record of digits that differ from save to save
_FOLDER = re.compile(r"[0-9A-Za-z_.+-]+")  # a folder inside a zip of which every reader makes the same


class Config(NamedTuple):
    """The passage of a root entry in the pickle or in the gaps, its bytes, and what they make."""

    key: str
    begin: int
    end: int
    raw: bytes
    passage: Passage
    fragment: PickleFragment

    def moved(self, by: int) -> Config:
        """The same passage where the pickle begins at byte `by`."""
        return self._replace(begin=self.begin + by, end=self.end + by)


class KnownStructure(NamedTuple):
    """The structure of a file that was read, which another file must match.

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

    def has_length(self, data: bytearray) -> bool:
        """Whether the pickle has the same length, which is the quickest check."""
        begin, end = self.length
        return int.from_bytes(data[begin:end], "little") == self.pickle[1] - self.pickle[0]


class Known(NamedTuple):
    """An examination, and where the bytes go."""

    examination: Examination
    counted: Account


def find_structure(examination: Examination, counted: Account) -> KnownStructure | None:
    """The structure of a file that is still open; None if no other file can be compared with it."""
    checkpoint = examination.checkpoint
    tail = _find_tail(checkpoint)
    pickled = _find_pickle(checkpoint)
    if tail is None or pickled is None:
        return None
    slots = _find_slots(checkpoint, pickled)
    entries = dict(_find_entries(checkpoint.source, tail))
    local, central = _find_checksums(checkpoint, entries)
    numbers = [(record.offset, record.end) for record in checkpoint.records if record.name.endswith(_SAVE_NUMBER)]
    if slots is None or central != sorted(central) or not _are_digits(gather(checkpoint.source, numbers)):
        return None
    data = [(record.offset, record.end) for record in checkpoint.records if directory.is_storage(record.name)]
    folders = _find_folders(checkpoint, entries)
    free = sorted(
        (
            *data,
            *numbers,
            *_behind(checkpoint.records, tail.offset),
            *((entry + 16, entry + 20) for entry in entries.values()),
            *((at, at + 4) for at in local),
            *folders,
            *slots.spans(pickled.offset),
        )
    )
    source = checkpoint.source
    gaps = ((0, source.size),) if source.size <= _WHOLE else tuple(between(sorted(data), source.size))
    at = Map(gaps)
    form = make_picker(list(between([at.move(begin, end - begin) for begin, end in free if at.has(begin)], at.total)))
    begin = at(pickled.offset)
    marks = _find_marks(checkpoint, entries, at)
    return KnownStructure(
        examination=examination._replace(checkpoint=replace(checkpoint, source=Closed(source.path, source.size))),
        sections=split_sections(checkpoint.root),
        counted=counted,
        size=source.size,
        gaps=gaps,
        form=form,
        parts=form.unpack_from(gather(source, gaps)),
        values=tuple((key, place.moved(begin)) for key, place in slots.values.items()),
        configs=tuple(config.moved(begin) for config in slots.configs),
        pickle=at.move(pickled.offset, pickled.size),
        pickle_crc=at(entries[pickled.name] + 16),
        local=make_picker([at.move(place, 4) for place in local]),
        central=make_picker([at.move(place, 4) for place in central]),
        marks=make_picker([(place, place + 4) for place, _ in marks]),
        marked=tuple(size for _, size in marks),
        folders=make_picker([at.move(begin, end - begin) for begin, end in folders]),
        numbers=make_picker([at.move(begin, end - begin) for begin, end in numbers]),
        length=at.move(entries[pickled.name] + 24, 4),
        weight=_OBJECT * slots.objects + _RECORD * len(entries) + at.total - sum(end - begin for begin, end in data if at.has(begin)),
    )


def _find_tail(checkpoint: Checkpoint) -> directory.Tail | None:
    """The end of a local torch zip in which nothing can hide; None for any other file."""
    container, source = checkpoint.container, checkpoint.source
    if container.format != "torch-zip" or container.compressed or container.byteorder != "little" or checkpoint.doubts:
        return None
    if not isinstance(source, LocalSource):
        return None
    tail = directory.find_tail(source)
    return None if hiding_places(source, checkpoint.records, tail) else tail


def _find_pickle(checkpoint: Checkpoint) -> Record | None:
    """The record of the pickle, unless it is so large that what is known of it takes too much memory."""
    name = f"{checkpoint.container.prefix}/data.pkl"
    return next((record for record in checkpoint.records if record.name == name and record.size <= _LARGEST_PICKLE), None)


class _Slots(NamedTuple):
    """What of a pickle may differ, by places in the pickle; `objects` are those that it makes."""

    values: Mapping[str, Place]
    configs: tuple[Config, ...]
    floats: tuple[int, ...]
    objects: int

    def spans(self, pickle: int) -> Iterator[Span]:
        """Where they are in a file whose pickle begins there."""
        yield from ((pickle + at, pickle + at + 8) for at in self.floats)
        yield from ((pickle + place.begin, pickle + place.end) for place in self.values.values())
        yield from ((pickle + config.begin, pickle + config.end) for config in self.configs)


def _find_slots(checkpoint: Checkpoint, pickled: Record) -> _Slots | None:
    """None for a pickle of which it is not certain what its bytes mean."""
    root = checkpoint.root
    if not isinstance(root, dict) or any(isinstance(root.get(key), float) for key in PROGRESS_KEYS):
        return None
    text = bytes(gather(checkpoint.source, ((pickled.offset, pickled.offset + pickled.size),)))
    places = find_places(text, PROGRESS_KEYS, CONFIG_KEYS, _LARGEST_CONFIG if len(text) <= _LARGEST_AROUND else 0)
    if places is None:
        return None
    try:
        values = {key: place for key, place in places.values.items() if key in root and root[key] == place.read(text)}
    except UnicodeDecodeError:
        return None
    return _Slots(values, tuple(_find_configs(text, places, root)), places.floats, places.objects)


def _find_marks(checkpoint: Checkpoint, entries: Mapping[str, int], at: Map) -> list[tuple[int, int]]:
    """Where the directory states the checksum of a storage that may be a duplicate, and the storage's size, in order."""
    sizes = {
        f"{checkpoint.container.prefix}/data/{storage.key}": storage.nbytes for storage in storages_of(checkpoint.root) if storage.nbytes >= _MARKED
    }
    return sorted((at(entries[name] + 16), size) for name, size in sizes.items() if name in entries)


def apply_structure(known: KnownStructure, source: LocalSource, data: bytearray) -> Known | None:
    """The facts of a file with this structure; None if it has another, or if reading it would find a fault. Raises GsvError."""
    if known.form.unpack_from(data) != known.parts or known.local.unpack_from(data) != known.central.unpack_from(data):
        return None
    if not _are_digits(b"".join(known.numbers.unpack_from(data))):  # which no reader takes for a pickle
        return None
    stated = int.from_bytes(data[known.pickle_crc : known.pickle_crc + 4], "little")
    if stated not in (0, crc32(memoryview(data)[known.pickle[0] : known.pickle[1]])):
        return None
    checkpoint = _move(known.examination.checkpoint, known.folders.unpack_from(data))
    if checkpoint is None:
        return None
    root = copy(checkpoint.root)
    assert isinstance(root, dict)  # noqa: S101 - no other is known; for the type checker
    try:
        root.update((key, place.read(data)) for key, place in known.values)
    except UnicodeDecodeError:
        return None
    for config in known.configs:
        raw = bytes(data[config.begin : config.end])
        if raw != config.raw:
            fragment = _read_config(config.key, raw, config.passage.texts)
            if fragment is None or fragment[1:] != config.fragment[1:]:
                return None
            root[config.key] = fragment.value
    found = examine(replace(checkpoint, source=source, root=root), known.sections)
    counted = known.counted if found.identity.kind == known.examination.identity.kind else account(found)
    return Known(found, counted._replace(duplicates=_duplicates(known.marked, known.marks.unpack_from(data))))


def _are_digits(raw: bytes | bytearray) -> bool:
    return not raw or raw.isdigit()


def _find_configs(text: bytes, places: Places, root: Mapping[object, object]) -> Iterator[Config]:
    """Root entries that may differ, as they can be read without the rest of the pickle."""
    for key, passage in places.passages.items():
        raw = text[passage.begin : passage.end]
        fragment = _read_config(key, raw, passage.texts)
        if fragment is not None and key in root and first_difference(fragment.value, root[key], lambda _one, _two: False) is None:
            yield Config(key, passage.begin, passage.end, raw, passage, fragment)


@lru_cache(2)
def _read_config(key: str, raw: bytes, texts: tuple[tuple[int, str], ...]) -> PickleFragment | None:
    """A root entry; None also where it is none that says nothing of how the root is divided, or too deep for whoever walks through it. The last
    are remembered, as those of one run are equal.
    """
    fragment = run_fragment(raw, dict(texts), rebuild)
    if fragment is None or role(key, fragment.value) != "other":
        return None
    try:
        for _ in walk({key: fragment.value}):
            pass
    except UnsupportedError:
        return None
    return fragment


def _find_entries(source: Source, tail: directory.Tail) -> Iterator[tuple[str, int]]:
    """By a record's name, where its entry in the directory stands."""
    position = tail.offset
    for entry, fields in directory.read_entries(source, tail):
        yield entry.name, position
        position += directory.CENTRAL.size + sum(fields[10:13])


def _find_checksums(checkpoint: Checkpoint, entries: Mapping[str, int]) -> tuple[list[int], list[int]]:
    """Where local headers state checksums, and where the directory states the same ones."""
    local = {record.name: record.header + 14 for record in checkpoint.records if not record.flags & 8}
    raw = gather(checkpoint.source, [(at, at + 4) for at in local.values()])
    stated = [(name, at) for n, (name, at) in enumerate(local.items()) if raw[4 * n : 4 * n + 4] != bytes(4)]  # zero: not computed
    return [at for _, at in stated], [entries[name] + 16 for name, _ in stated]


def _find_folders(checkpoint: Checkpoint, entries: Mapping[str, int]) -> list[Span]:
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
