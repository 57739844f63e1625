"""Files to read. Every system call that can fail is made to fail."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import os
import threading
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from gsvckpt.errors import ChangedError, DamagedError, MissingError
from gsvckpt.files import local
from gsvckpt.files.local import LocalSource, _missing, is_link, open_source, reason, same_time

OLD = b"old and whole"


def failing(code: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def files_without(monkeypatch: pytest.MonkeyPatch, *calls: str) -> types.ModuleType:
    """A fresh copy of the module, as it comes out where `os` lacks these calls: on Windows."""
    spec = importlib.util.spec_from_file_location("files_elsewhere", local.__file__)
    module = importlib.util.module_from_spec(spec)
    for call in calls:
        monkeypatch.delattr(os, call, raising=False)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["preadv", "lseek"])
def source_type(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[LocalSource]:
    """Both ways to read at an offset."""
    return LocalSource if request.param == "preadv" else files_without(monkeypatch, "preadv").LocalSource


def test_reads_from_many_threads(tmp_path: Path, source_type: type[LocalSource]) -> None:
    data = bytes(range(256)) * 64
    (tmp_path / "x").write_bytes(data)
    source = source_type(tmp_path / "x")
    wrong: list[int] = []

    def work(start: int) -> None:
        for offset in range(start, len(data) - 64, 97):
            buffer = bytearray(64)
            source.read_into(offset, memoryview(buffer))
            if buffer != data[offset : offset + 64]:
                wrong.append(offset)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    source.close()
    source.close()
    assert not wrong


@pytest.mark.parametrize(("offset", "message"), [(90, "ends at byte 100, 10 bytes too early"), (500, "ends at byte 500"), (-1, "cannot be read")])
def test_reading_outside_the_file(tmp_path: Path, source_type: type[LocalSource], offset: int, message: str) -> None:
    (tmp_path / "x").write_bytes(bytes(100))
    source = source_type(tmp_path / "x")
    with pytest.raises(DamagedError, match=message):
        source.read_into(offset, memoryview(bytearray(20)))
    source.close()


def test_short_reads_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    monkeypatch.setattr(local, "CHUNK", 3)
    buffer = bytearray(10)
    with open_source(tmp_path / "x") as source:
        source.read_into(0, memoryview(buffer))
    assert buffer == b"0123456789"


def test_a_disk_that_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(b"0123456789")
    with open_source(tmp_path / "x") as source:
        monkeypatch.setattr(LocalSource, "_read_some", failing(errno.EIO))
        with pytest.raises(DamagedError, match="cannot be read at byte 4"):
            source.read_into(4, memoryview(bytearray(2)))


def test_what_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MissingError, match="no such file"):
        LocalSource(tmp_path / "nothing")
    with pytest.raises(MissingError, match="is a folder"):
        LocalSource(tmp_path)
    with pytest.raises(MissingError, match="null"):
        LocalSource("a\0b")
    monkeypatch.setattr(os, "open", failing(errno.EACCES))
    with pytest.raises(MissingError, match="permission denied"):
        LocalSource(tmp_path / "locked")
    with pytest.raises(MissingError, match="is a folder"):  # Windows: permission denied, too
        LocalSource(tmp_path)
    monkeypatch.setattr(os, "open", failing(errno.EMFILE))
    with pytest.raises(MissingError, match="cannot be opened"):
        LocalSource(tmp_path / "x")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MissingError, match="not a regular file"):
        LocalSource(tmp_path / "pipe")


@pytest.mark.parametrize("change", ["append", "same size", "replace", "remove"])
def test_a_source_that_changes(tmp_path: Path, change: str) -> None:
    path = tmp_path / "x"
    path.write_bytes(OLD)
    os.utime(path, ns=(0, 0))
    with open_source(path) as source:
        source.check_unchanged()
        if change == "append":
            path.write_bytes(OLD + OLD)
        elif change == "same size":
            path.write_bytes(OLD[::-1])
        elif change == "replace":
            (tmp_path / "y").write_bytes(OLD)
            os.utime(tmp_path / "y", ns=(0, 0))
            os.replace(tmp_path / "y", path)
        else:
            path.unlink()
        with pytest.raises(ChangedError, match="disappeared" if change == "remove" else "changed while it was read"):
            source.check_unchanged()


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        (1_700_000_000_123_456_789, 1_700_000_000_123_456_789, True),
        (1_700_000_000_123_456_789, 1_700_000_000_123_456_700, True),  # NTFS
        (1_700_000_000_123_456_789, 1_700_000_000_123_457_789, False),
        (1_700_000_001_123_456_789, 1_700_000_002_000_000_000, True),  # FAT rounds up
        (1_700_000_001_123_456_789, 1_700_000_000_000_000_000, True),
        (1_700_000_001_123_456_789, 1_700_000_004_000_000_000, False),
        (1_700_000_001_123_456_789, 1_700_000_001_623_456_789, False),
    ],
)
def test_times_of_other_file_systems(one: int, two: int, same: bool) -> None:
    assert same_time(one, two) == same_time(two, one) == same


def test_a_file_that_another_program_holds_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = PermissionError(13, "Permission denied")
    error.winerror = 32  # type: ignore[attr-defined]
    (tmp_path / "x.pth").touch()
    found = _missing(str(tmp_path / "x.pth"), error)
    assert "in use by another program" in str(found)
    assert reason(error) == "it is in use by another program"


@pytest.mark.parametrize(("tag", "expected"), [(0xA0000003, True), (0, False), (0x80000023, False)])
def test_a_junction_is_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tag: int, expected: bool) -> None:
    facts = os.lstat(tmp_path)
    monkeypatch.setattr(local.os, "lstat", lambda path: types.SimpleNamespace(st_mode=facts.st_mode, st_reparse_tag=tag))
    assert is_link(tmp_path) == expected


def test_links_of_this_system(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert not is_link(tmp_path / "folder")
    assert not is_link(tmp_path / "gone")
    with contextlib.suppress(OSError, NotImplementedError):
        (tmp_path / "link").symlink_to(tmp_path / "folder")
        assert is_link(tmp_path / "link")
