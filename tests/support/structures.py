"""What inspect says of a file with and without others that it remembers."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from gsvckpt.commands.inspect import batch
from gsvckpt.commands.inspect.batch import Inspect, Sought
from gsvckpt.commands.inspect.breakdown import account
from gsvckpt.commands.inspect.result import View
from gsvckpt.commands.inspect.structure_cache import StructureCache
from gsvckpt.engine.examine import examine
from gsvckpt.engine.json_objects import failure_json
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.errors import GsvError
from gsvckpt.files.local import open_source
from gsvckpt.files.progress import Silent


def look(path: Path, known: StructureCache, monkeypatch: pytest.MonkeyPatch) -> object:
    """What inspect says of a file that remembers those of `known`: the line, the object, and an error as JSON."""
    monkeypatch.setattr(batch, "_structures", known)
    results = [Inspect(view)(Sought(str(path)), 1, Silent()) for view in (None, View())]
    return [failure_json(result) if isinstance(result, GsvError) else result for result in results]


def remember(*paths: Path) -> StructureCache:
    known = StructureCache()
    for path in (*paths, *paths):  # a size is kept when it comes for the second time
        with open_checkpoint(path) as checkpoint:
            examination = examine(checkpoint)
            known.add(examination, account(examination))
    return known


def is_known(path: Path, known: StructureCache) -> bool:
    with open_source(path) as source:
        try:
            return known.get(source) is not None
        except GsvError:
            return False


def pickle_of(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        return archive.read(name)


def with_pickle(data: bytes, changed: bytes) -> bytes:
    """The same zip with another pickle of that size, and its checksum."""
    before = pickle_of(data)
    assert len(before) == len(changed) and data.count(before) == 1
    old, new = (struct.pack("<I", zlib.crc32(pickled)) for pickled in (before, changed))
    return data.replace(before, changed).replace(old, new)
