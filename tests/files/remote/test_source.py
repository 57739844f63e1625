"""Sources on other machines: whatever a server does, the bytes are right or an error says why."""

from __future__ import annotations

import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module

import fsspec
import pytest
import torch

import gsvckpt
from gsvckpt.engine.open import open_checkpoint
from gsvckpt.errors import ChangedError, DamagedError, MissingError, UnreachableError, UnsupportedError
from gsvckpt.files.local import open_source
from gsvckpt.files.remote import objects
from gsvckpt.files.remote import source as remote
from gsvckpt.files.remote.filesystems import open_filesystem
from gsvckpt.files.remote.objects import HEAD
from gsvckpt.files.remote.source import BLOCK, RemoteSource
from gsvckpt.hints import Hint
from tests.support.web import serve

SIZE = 3 * BLOCK + 12_345


@pytest.fixture(autouse=True)
def _hurry(monkeypatch):
    monkeypatch.setattr(remote, "_PATIENCE", (0, 0, 0))


@pytest.fixture
def web(tmp_path):
    with serve(tmp_path) as web:
        yield web


@pytest.fixture
def data(tmp_path):
    data = random.Random(1).randbytes(SIZE)
    (tmp_path / "file.bin").write_bytes(data)
    return data


def read(source, offset, size):
    buffer = bytearray(size)
    source.read_into(offset, memoryview(buffer))
    return bytes(buffer)


@pytest.mark.parametrize("structure_only", [False, True])
def test_any_part_is_what_the_file_has_there(web, data, structure_only):
    parts = random.Random(2)
    with open_source(web.url("file.bin"), structure_only=structure_only) as source:
        assert source.size == SIZE
        places = [(0, 10), (SIZE - 10, 10), (0, 0), (SIZE, 0), (HEAD - 5, 10), (BLOCK - 1, BLOCK + 2), (0, SIZE)]
        places += [(offset := parts.randrange(SIZE), parts.randrange(1, min(SIZE - offset, 1 << 20) + 1)) for _ in range(40)]
        for offset, size in places:
            assert read(source, offset, size) == data[offset : offset + size], (offset, size)


def test_threads_share_what_was_got(web, data):
    steps = range(0, SIZE, 1 << 16)
    with open_source(web.url("file.bin")) as source, ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda offset: read(source, offset, min(1 << 16, SIZE - offset)), steps))
    assert b"".join(found) == data
    assert len(web.requests) <= 2 + 4  # the beginning, the end, and each block once


def test_memory_is_bounded_by_the_threads(tmp_path, web):
    with (tmp_path / "large.bin").open("wb") as file:
        file.truncate(40 * BLOCK)
    with open_source(web.url("large.bin")) as source:
        for offset in range(0, source.size, BLOCK):
            read(source, offset, BLOCK)
        assert isinstance(source, RemoteSource)
        assert len(source._blocks) == 2


def test_small_pieces_come_together(web, data):
    ranges = [(offset, 300) for offset in range(HEAD, SIZE - HEAD - 300, 100_000)]
    with open_source(web.url("file.bin")) as source:
        assert isinstance(source, RemoteSource)
        source.fetch(ranges)
        before = len(web.requests)
        assert all(source.at_hand(*piece) and read(source, *piece) == data[piece[0] : piece[0] + 300] for piece in ranges)
        assert len(web.requests) == before <= len(ranges) + 1


def test_behind_the_end_is_damage(web, data):
    with open_source(web.url("file.bin")) as source:
        for offset, size in ((SIZE - 5, 6), (-1, 1), (SIZE + 1, 1)):
            with pytest.raises(DamagedError, match="ends at byte"):
                read(source, offset, size)


def test_an_empty_file_and_a_file_of_one_byte(tmp_path, web):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "one").write_bytes(b"x")
    with open_source(web.url("empty")) as source:
        assert (source.size, read(source, 0, 0)) == (0, b"")
    with open_source(web.url("one")) as source:
        assert (source.size, read(source, 0, 1)) == (1, b"x")


def test_an_answer_that_ends_early_is_asked_for_again(web, data):
    def spoil(number, answer):
        answer.cut = 7 if number % 2 == 0 else 0

    web.spoil = spoil
    with open_source(web.url("file.bin")) as source:
        assert read(source, 0, SIZE) == data


def test_answers_that_always_end_early_are_an_error_not_damage(web, data):
    with open_source(web.url("file.bin")) as source:
        web.spoil = lambda _, answer: setattr(answer, "cut", 7)
        with pytest.raises(UnreachableError, match=r"the answer ends before .* tried 4 times") as caught:
            read(source, HEAD, 1000)
        assert caught.value.exit_code == 3
        assert not isinstance(caught.value, DamagedError)


def test_an_error_of_the_server_is_asked_again_then_told(web, data):
    web.spoil = lambda number, answer: setattr(answer, "status", 503 if number < 2 else answer.status)
    with open_source(web.url("file.bin")) as source:
        assert read(source, 0, 10) == data[:10]
    web.spoil = lambda _, answer: setattr(answer, "status", 500)
    with pytest.raises(UnreachableError, match="the server answers 500"), open_source(web.url("file.bin")):
        pass


def test_a_server_that_sends_other_bytes_than_were_asked_for(web, data):
    with open_source(web.url("file.bin")) as source:
        web.spoil = lambda _, answer: setattr(answer, "content_range", f"bytes 0-{answer.end - answer.start - 1}/{answer.size}")
        with pytest.raises(UnreachableError, match="was asked for bytes"):
            read(source, 2 * BLOCK, 1000)
        web.spoil = lambda _, answer: setattr(answer, "content_range", None)
        with pytest.raises(UnreachableError, match="does not say which bytes"):
            read(source, HEAD, 1000)


def ignore_ranges(_, answer):
    answer.status, answer.content_range, answer.start, answer.end = 200, None, 0, answer.size
    answer.length = answer.size


def test_a_server_without_ranges_is_told_and_nothing_is_downloaded(web, data):
    web.spoil = ignore_ranges
    with pytest.raises(MissingError, match="cannot send parts of a file, only all of its") as caught, open_source(web.url("file.bin")):
        pass
    assert caught.value.hint == Hint("download it first")
    assert len(web.requests) == 1


def test_a_server_without_ranges_that_does_not_say_how_much_it_sends(web, data):
    def spoil(number, answer):
        ignore_ranges(number, answer)
        answer.length = None

    web.spoil = spoil
    with pytest.raises(MissingError, match=r"only all of it$"), open_source(web.url("file.bin")):
        pass


def test_a_server_that_stops_knowing_ranges_is_not_misread(web, data):
    with open_source(web.url("file.bin")) as source:
        web.spoil = ignore_ranges
        with pytest.raises(MissingError, match="cannot send parts"):
            read(source, HEAD, 1000)


def test_a_small_file_needs_no_ranges(tmp_path, web):
    (tmp_path / "small").write_bytes(bytes(range(256)) * 8)
    web.spoil = ignore_ranges
    with open_source(web.url("small")) as source:
        assert read(source, 256, 256) == bytes(range(256))


@pytest.mark.parametrize("what", ["etag", "size", "gone"])
def test_an_object_that_changes_is_told(web, data, what):
    def spoil(_, answer):
        if what == "etag":
            answer.etag = '"two"'
        elif what == "size" and answer.content_range:
            answer.content_range = answer.content_range.replace(f"/{SIZE}", f"/{SIZE + 1}")
        elif what == "gone":
            answer.status, answer.content_range = 404, None

    with open_source(web.url("file.bin")) as source:
        read(source, HEAD, 10)
        source.check_unchanged()
        web.spoil = spoil
        with pytest.raises(MissingError if what == "gone" else ChangedError):
            source.check_unchanged()
        with pytest.raises(MissingError if what == "gone" else ChangedError):
            read(source, 2 * BLOCK, 10)


@pytest.mark.parametrize(
    ("status", "why"), [(404, "there is no such file"), (410, "there is no such file"), (403, "cannot be read"), (401, "cannot be read")]
)
def test_refusals(web, data, status, why):
    def spoil(_, answer):
        answer.status, answer.content_range = status, None

    web.spoil = spoil
    with pytest.raises(MissingError, match=why), open_source(web.url("file.bin?token=abcdef")):
        pass
    assert len(web.requests) == 1  # asking again would not help
    assert web.requests[0].path == "/file.bin?token=abcdef"


def test_the_signature_of_a_url_is_sent_and_not_shown(web, data):
    with open_source(web.url("file.bin?X-Amz-Signature=abcdef")) as source:
        assert source.path == web.url("file.bin")
    assert web.requests[0].path == "/file.bin?X-Amz-Signature=abcdef"


def test_a_server_that_says_nothing_is_told(web, data, monkeypatch):
    monkeypatch.setattr(objects, "_SECONDS", 0.2)
    web.spoil = lambda _number, _answer: time.sleep(0.5)
    with pytest.raises(UnreachableError, match=r"did not answer in time; tried 4 times"), open_source(web.url("file.bin")):
        pass


def test_proxies_of_the_environment_are_asked(web, data, monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("http_proxy", web.url(""))
    with open_source("http://host.invalid/file.bin") as source:
        assert read(source, 1, 10) == data[1:11]
    assert web.requests[0].path == "http://host.invalid/file.bin"


def test_nobody_listens():
    with pytest.raises(UnreachableError, match="tried 4 times"), open_source("http://127.0.0.1:9/file.bin?token=abcdef"):
        pass


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("xyz://a/b.pth", "there is no support for the protocol xyz"),
        ("file:///a.pth", "names a file of this machine"),
        ("zip://a::s3://b", "chained"),
        ("http://", "not a valid URL"),
        ("reference://a", "cannot be read"),
    ],
)
def test_urls_that_nobody_opens(url, why):
    with pytest.raises(MissingError, match=why), open_source(url):
        pass


def test_without_fsspec_the_hint_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(MissingError, match="fsspec") as caught, open_source("s3://bucket/a.pth"):
        pass
    assert caught.value.hint.command == 'pip install "gsvckpt[remote]"'


def test_without_the_protocols_package_the_hint_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(import_module("fsspec.registry")._registry, "s3", raising=False)
    with pytest.raises(MissingError, match="s3fs") as caught, open_source("s3://bucket/a.pth"):
        pass
    assert caught.value.hint.command == 'pip install "gsvckpt[remote]"'


def test_the_hugging_face_hub_is_reached_through_its_own_package():
    filesystem, path = open_filesystem("hf://user/repo/voice.pth")
    assert (type(filesystem).__name__, path) == ("HfFileSystem", "user/repo/voice.pth")


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()


def test_any_protocol_of_fsspec(memory):
    data = random.Random(3).randbytes(BLOCK + 1000)
    memory.pipe("/voices/a.bin", data)
    with open_source("memory://voices/a.bin") as source:
        assert read(source, 1, BLOCK + 5) == data[1 : BLOCK + 6]
        source.check_unchanged()
        memory.pipe("/voices/a.bin", data[:-1])
        with pytest.raises(ChangedError):
            source.check_unchanged()
    with pytest.raises(MissingError, match="is a folder"), open_source("memory://voices"):
        pass


@pytest.fixture
def model(tmp_path):
    """A file that torch wrote, whose headers stand far apart."""
    state = {f"layers.{n}.weight": torch.arange(n, n + 40_000 + n, dtype=torch.float32) for n in range(40)}
    torch.save(state, tmp_path / "model.pth")
    return tmp_path / "model.pth"


def test_for_the_structure_alone_torchs_records_are_found_where_they_are(web, model):
    with open_checkpoint(model) as expected, open_checkpoint(web.url("model.pth"), structure_only=True) as found:
        assert found.records == expected.records
        assert len(web.requests) <= 4
    with open_checkpoint(web.url("model.pth")) as found:
        assert found.records == expected.records


def test_the_python_interface_takes_urls(web, model):
    state = gsvckpt.load_state_dict(web.url("model.pth"))
    expected = torch.load(model, weights_only=True)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    with gsvckpt.open(web.url("model.pth")) as opened, pytest.raises(UnsupportedError, match="another machine"):
        opened.numpy("layers.0.weight")
