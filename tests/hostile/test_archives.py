"""Zips that lie: each lie on its own, with the entry named in the error."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from support.builders import Bytes, Entry, pickled, read, tensor, torch_entries, torch_stream, torch_zip, zipped

from gsvckpt.errors import DamagedError, GsvError, UnsupportedError

TREE = {"w": tensor("float32", (4,), [1, 2, 3, 4]), "epoch": 3}
DATA = "archive/data/0"


def with_entry(which: str = DATA, **lies: object) -> bytes:
    """The sample zip with one entry changed."""
    return zipped([replace(entry, **lies) if entry.name == which else entry for entry in torch_entries(TREE)])


def test_the_sample_itself_is_sound() -> None:
    assert read(with_entry()).root["epoch"] == 3


@pytest.mark.parametrize(
    ("lies", "error", "message"),
    [
        ({"method": 8}, UnsupportedError, "compressed"),
        ({"flags": 0x0809}, UnsupportedError, "encrypted"),
        ({"flags": 0x0848}, UnsupportedError, "encrypted"),
        ({"local_method": 8}, DamagedError, "two headers disagree"),
        ({"local_name": "archive/data/1"}, DamagedError, "names it 'archive/data/1'"),
        ({"local_name": "archive/" + "x" * 5000}, DamagedError, "local header names it"),
        ({"local_sizes": (0, 8, 8)}, DamagedError, "two headers disagree"),
        ({"flags": 0x0800, "local_sizes": (1, 16, 16)}, DamagedError, "different checksums"),
        ({"size": 12}, DamagedError, "12 bytes stored where 4 x float32"),
        ({"size": 1 << 31}, DamagedError, "past the place where the directory begins"),
        ({"header": 1 << 31}, DamagedError, "begins outside the file"),
        ({"header": 7}, DamagedError, "no local header|overlaps"),
        ({"data": b"short"}, DamagedError, "5 bytes stored"),
        ({"name": "archive/data/9", "local_name": None}, DamagedError, "record is missing"),
    ],
    ids=range(14),
)
def test_one_lie(lies: dict[str, object], error: type[GsvError], message: str) -> None:
    with pytest.raises(error, match=message) as caught:
        read(with_entry(**lies))
    assert caught.value.exit_code == 3
    assert caught.value.where


@pytest.mark.parametrize("lies", [{"method": 8}, {"flags": 0x0809}])
def test_a_pickle_that_is_not_stored_plainly(lies: dict[str, object]) -> None:
    with pytest.raises(UnsupportedError) as caught:
        read(with_entry("archive/data.pkl", **lies))
    assert caught.value.known.container.records == 5


def test_what_is_compressed_beside_the_data_does_not_matter() -> None:
    assert read(with_entry("archive/.data/serialization_id", method=8)).root["epoch"] == 3


def test_duplicate_names() -> None:
    with pytest.raises(DamagedError, match="appears twice") as caught:
        read(zipped([*torch_entries(TREE), Entry(DATA, bytes(16))]))
    assert caught.value.where == DATA


def test_one_name_twice_for_the_same_bytes() -> None:
    """A directory may list one record many times: a zip bomb without compression."""
    entries = torch_entries(TREE)
    with pytest.raises(DamagedError, match=r"appears twice|overlaps"):
        read(zipped([*entries, replace(entries[0], header=0)]))


def test_overlapping_records() -> None:
    inner = zipped([Entry("archive/data/1", b"x")])[:200]
    entries = torch_entries(TREE)
    outer = Entry("archive/data/8", inner, aligned=False)
    data = zipped([*entries, outer])
    begin = data.index(inner)
    assert data.count(inner) == 1
    with pytest.raises(DamagedError, match="overlaps"):
        read(zipped([*entries, outer, Entry("archive/data/1", b"x", header=begin)]))


@pytest.mark.parametrize("count", [0, 1, 4])
def test_fewer_entries_announced_than_there_are(count: int) -> None:
    """Torch counts, zipfile reads to the end: they would see different files."""
    with pytest.raises(DamagedError, match="holds more than"):
        read(zipped(torch_entries(TREE), count=count))


@pytest.mark.parametrize("count", [6, 65_534])
def test_more_entries_announced_than_there_are(count: int) -> None:
    with pytest.raises(DamagedError, match=f"entry 6 of {count} is damaged"):
        read(zipped(torch_entries(TREE), count=count))


def test_a_directory_of_endless_entries_is_not_read() -> None:
    with pytest.raises(UnsupportedError, match="too much for a checkpoint: more than 110,000 entries"):
        read(zipped(torch_entries(TREE), count=1 << 40, zip64=True))


@pytest.mark.parametrize("kind", ["size", "offset"])
def test_a_directory_outside_the_file(kind: str) -> None:
    data = bytearray(torch_zip(TREE))
    at = len(data) - 22 + (12 if kind == "size" else 16)
    data[at : at + 4] = struct.pack("<I", 0x7FFFFFF0)
    with pytest.raises(DamagedError, match="contradicts itself"):
        read(bytes(data))


def test_a_zip64_locator_that_leads_nowhere() -> None:
    data = bytearray(zipped(torch_entries(TREE), zip64=True))
    at = data.rindex(b"PK\x06\x07") + 8
    data[at : at + 8] = struct.pack("<Q", 1 << 60)
    with pytest.raises(DamagedError):
        read(bytes(data))


def test_zip64_sizes_that_are_missing() -> None:
    data = bytearray(torch_zip(TREE))
    at = data.rindex(b"PK\x01\x02") + 20
    data[at : at + 8] = b"\xff" * 8
    with pytest.raises(DamagedError, match="64-bit sizes are missing"):
        read(bytes(data))


def test_a_zip_hidden_in_the_comment_of_another() -> None:
    """The last end record whose comment fits counts, as for torch; the inner zip is only reached when nothing stands behind it."""
    outer, inner = torch_zip({"from": "outer"}), torch_zip({"from": "inner"})
    both = zipped(torch_entries({"from": "outer"}), comment=inner)
    try:
        root = read(both).root
    except GsvError:
        root = None
    assert root != {"from": "inner"}
    assert read(outer).root == {"from": "outer"}


@pytest.mark.parametrize("kind", ["zip", "stream"])
def test_truncated_at_two_hundred_places(kind: str) -> None:
    whole = {"zip": torch_zip, "stream": torch_stream}[kind](TREE | {"more": tensor("float64", (40,))})
    places = {len(whole) * n // 200 for n in range(200)}
    for place in places:
        with pytest.raises(GsvError) as caught:
            read(whole[:place])
        assert caught.value.exit_code == 3
        assert caught.value.why


def test_a_stream_whose_storage_count_is_huge() -> None:
    with pytest.raises(DamagedError, match=r"ends early|announced"):
        read(torch_stream(TREE, counts={0: (1 << 62)}))


def test_the_pickle_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gsvckpt.files.budget.MOST_PICKLE", 100)
    source = Bytes(torch_zip(pickled({"x": "y" * 1000})))
    with pytest.raises(UnsupportedError, match="too much for a checkpoint: more than 100 bytes in a pickle"):
        read(source.data)
