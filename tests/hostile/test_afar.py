"""Archives on other machines, of which only parts are read: these must be the parts that readers use."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile

import fsspec
import pytest

from gsvckpt.engine.open import open_checkpoint
from gsvckpt.errors import DamagedError, GsvError

FAR = 600_000  # bytes that no read of the file's ends brings along


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()


def archive(inside: bytes) -> bytearray:
    """A zip with its pickle between two large storages."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        made.writestr("x/data/0", bytes(FAR))
        made.writestr("x/data.pkl", inside)
        made.writestr("x/data/1", bytes(FAR))
        made.writestr("x/version", b"3\n")
    return bytearray(file.getvalue())


def outcome(path: str, **how) -> object:
    try:
        with open_checkpoint(path, **how) as checkpoint:
            return checkpoint.root, [str(name) for name in checkpoint.globals]
    except GsvError as error:
        return error.check, error.where, error.why


def everywhere(memory, tmp_path, data: bytes) -> list[object]:
    """What a file, its URL, and a glance at its URL come to."""
    (tmp_path / "x.pth").write_bytes(data)
    memory.pipe("/x.pth", bytes(data))
    return [outcome(str(tmp_path / "x.pth")), outcome("memory://x.pth"), outcome("memory://x.pth", structure_only=True)]


def test_the_pickle_is_the_one_that_its_local_header_leads_to(memory, tmp_path):
    """The directory's neighbours leave room for a harmless pickle, but readers begin where the local header says, sixteen bytes further on."""
    evil = b"cos\nsystem\n(S'true'\ntR."
    harmless = pickle.dumps("harmless", 2)
    data = archive(harmless + bytes(16 - len(harmless) % 16) + evil + bytes(8))
    header = data.index(b"PK\x03\x04", FAR)
    (length,) = struct.unpack_from("<H", data, header + 28)
    skipped = data.index(evil) - header - 30 - len(b"x/data.pkl")
    struct.pack_into("<H", data, header + 28, length + skipped)
    struct.pack_into("<I", data, header + 14, 0)  # "not computed", which readers believe
    directory = data.index(b"x/data.pkl", header + 100) - 46
    struct.pack_into("<I", data, directory + 16, 0)
    file, url, glance = everywhere(memory, tmp_path, data)
    assert file == url == glance
    assert "harmless" not in repr(glance)


def test_headers_of_what_may_be_unpickled_are_always_compared(memory, tmp_path):
    data = archive(pickle.dumps({"a": 1}, 2))
    header = data.index(b"PK\x03\x04", FAR)
    data[header + 30 : header + 40] = b"x/evil.pkl"
    file, url, glance = everywhere(memory, tmp_path, data)
    assert file == url == glance
    assert isinstance(file, tuple) and file[0] == "container.headers"


def test_a_sound_one_is_read_from_everywhere(memory, tmp_path):
    results = everywhere(memory, tmp_path, archive(pickle.dumps({"a": 1}, 2)))
    assert results == [({"a": 1}, [])] * 3


def test_a_storage_that_overlaps_is_told_at_a_glance(memory, tmp_path):
    data = archive(pickle.dumps({"a": 1}, 2))
    directory = data.index(b"x/data/1", FAR * 2) - 46
    struct.pack_into("<2I", data, directory + 20, 2 * FAR, 2 * FAR)  # it claims more than there is
    memory.pipe("/x.pth", bytes(data))
    with pytest.raises(DamagedError), open_checkpoint("memory://x.pth", structure_only=True):
        pass
