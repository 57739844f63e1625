"""What is counted before it is made, and that a text is refused before its values are."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc

import pytest
from support.builders import Bytes, read, safetensors, safetensors_raw, tensor, torch_entries, zipped

from gsvckpt.commands.prune import guards, trash
from gsvckpt.commands.verify.checksum_files import read_checksums
from gsvckpt.errors import DamagedError, UnsupportedError, UsageError
from gsvckpt.files import budget
from gsvckpt.files.budget import require_small
from gsvckpt.formats import shards
from gsvckpt.formats.json_values import read_json
from gsvckpt.formats.pickle.equality import first_difference
from gsvckpt.formats.tree_json import decode

EMPTY = '{"dtype":"U8","shape":[0],"data_offsets":[0,0]}'


@pytest.fixture
def unread(monkeypatch):
    """Nothing may be made of JSON."""

    def fail(*_, **__):
        raise AssertionError("was parsed")

    monkeypatch.setattr(json, "loads", fail)


@pytest.mark.parametrize(
    "text",
    [
        '{"a":[' + "1," * 3_000 + "1]}",
        '{"a":' + "[" * 2_000 + "]" * 2_000 + "}",
        "{" + ",".join(f'"{n}":{{}}' for n in range(500)) + "}",
        '{"a":"' + "x" * 40_000 + '"}',
        '{"a":"\U0001f600' + "x" * 12_000 + '"}',
    ],
    ids=["numbers", "brackets", "entries", "text", "wide text"],
)
def test_json_is_refused_before_it_is_parsed(text, unread, monkeypatch, tmp_path):
    monkeypatch.setattr(budget, "MOST_JSON", 100_000)
    index = tmp_path / "a.index.json"
    index.write_text(text, encoding="utf-8")
    for parse in (
        lambda: require_small(text),
        lambda: require_small(text.encode()),
        lambda: read_json(text),
        lambda: decode(text, lambda _: tensor),
        lambda: read(safetensors_raw(text.encode())),
        lambda: shards.members(str(index)),
    ):
        with pytest.raises(UnsupportedError, match=r"too much for a checkpoint: more than 100,000 bytes of memory for the values"):
            parse()


def test_the_estimate_is_no_less_than_what_python_takes():
    """Measured, for the forms that a hostile header would take."""
    for text in ("[" + "1234567," * 50_000 + "1]", "[" + "[]," * 50_000 + "1]", "{" + ",".join(f'"{n}":{{}}' for n in range(50_000)) + "}"):
        tracemalloc.start()
        made = json.loads(text)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert made
        with pytest.raises(UnsupportedError):
            require_small(text, most=peak // 2)


def test_tensors_of_a_header_are_counted(monkeypatch):
    data = safetensors({str(n): ("F32", [1], struct.pack("<f", n)) for n in range(8)})
    assert len(read(data).root) == 8
    monkeypatch.setattr(budget, "MOST_TENSORS", 7)
    with pytest.raises(UnsupportedError, match="more than 7 tensors"):
        read(data)


def test_lists_and_dicts_of_a_tree_are_counted(monkeypatch):
    monkeypatch.setattr(budget, "MOST_CONTAINERS", 30)
    for part in ("[]", '{"dict":{}}', '{"tuple":[]}'):
        assert decode(f"[{','.join([part] * 29)}]", lambda _: tensor)
        with pytest.raises(UnsupportedError, match="more than 30 lists and dicts"):
            decode(f"[{','.join([part] * 31)}]", lambda _: tensor)


def test_a_directory_is_limited_in_bytes(monkeypatch):
    monkeypatch.setattr("gsvckpt.formats.zip.directory.MOST_DIRECTORY", 100)
    with pytest.raises(UnsupportedError, match="more than 100 bytes"):
        read(zipped(torch_entries({"a": tensor("float32", (2,), range(2))})))


def test_reading_shards_takes_no_time_for_those_before():
    """A read looks its file up; once it went through all of them."""
    source = shards.ShardedSource("index", [Bytes(bytes([n % 256]) * 3) for n in range(5_000)])
    buffer, begin = bytearray(7), time.perf_counter()
    for at in range(0, 14_990, 3):
        source.read_into(at, memoryview(buffer))
        assert buffer == bytes((at + n) // 3 % 256 for n in range(7))
    assert time.perf_counter() - begin < 3


def test_a_long_text_that_stands_in_many_places_is_compared_once():
    one, two = "x" * 5_000_000, "".join(["x" * 4_999_999, "x"])
    begin = time.perf_counter()
    assert first_difference([one] * 20_000, [two] * 20_000, lambda *_: True) is None
    assert first_difference([one, "a"], [two, "b"], lambda *_: True) == "1"
    assert first_difference([one], [two + "x"], lambda *_: True) == "0"
    assert time.perf_counter() - begin < 3


def test_lists_of_digests_are_limited(tmp_path, monkeypatch):
    path = tmp_path / "SUMS"
    path.write_text(f"{'0' * 32}  a\n" * 40)
    assert read_checksums(str(path)).listed
    monkeypatch.setattr("gsvckpt.commands.verify.checksum_files.MOST_LINES", 39)
    with pytest.raises(UsageError, match="or 39 lines"):
        read_checksums(str(path))


def test_settings_of_blanks_take_no_time(tmp_path):
    (tmp_path / "weight.json").write_text("a:\n" + " " * 300_000 + ":\n" + " " * 300_000 + "x.pth")
    begin = time.perf_counter()
    guards.Guards([str(tmp_path)])
    assert time.perf_counter() - begin < 3


def test_a_journal_is_limited(tmp_path, monkeypatch):
    run = tmp_path / trash.TRASH / "20260101-000000"
    run.mkdir(parents=True)
    (run / "journal.jsonl").write_text("x" * 200)
    monkeypatch.setattr(trash, "_LARGEST", 100)
    with pytest.raises(DamagedError, match="more than 100 characters"):
        trash.find_runs(str(tmp_path))
