"""Pickles are found wherever any reader might find one."""

from __future__ import annotations

from support.builders import Bytes, Entry, pickled, tensor, torch_entries, torch_zip, zipped

from gsvckpt.formats import pickle_search
from gsvckpt.formats.pickle_search import search

EVIL = b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00ls\x85R."


def names(data: bytes, **options: object) -> list[str]:
    return [str(name) for name in search(Bytes(data), **({"everywhere": False} | options)).names]


def test_all_records_but_storages_are_looked_at() -> None:
    assert "torch.FloatStorage" in names(torch_zip({"w": tensor("float32", (1,))}))


def test_one_behind_the_other() -> None:
    assert names(torch_zip(pickled({}) + pickled([1]) + EVIL)) == ["os.system"]


def test_tensor_bytes_are_no_pickles() -> None:
    assert names(zipped([*torch_entries({}), Entry("archive/data/0", EVIL)])) == []


def test_everywhere_needs_no_directory() -> None:
    data = zipped([Entry("a/x", bytes(70_000)), Entry("b/data.pkl", EVIL)])
    assert names(data[: data.find(b"PK\x01\x02")], everywhere=True) == ["os.system"]


def test_a_header_across_two_windows(monkeypatch) -> None:
    data = zipped([Entry("a/x", bytes(1000), aligned=False), Entry("b/data.pkl", EVIL, aligned=False)])
    at = data.find(b"PK\x03\x04", 4)
    for step in range(at - 3, at + 5):
        monkeypatch.setattr(pickle_search, "_STEP", step)
        assert names(data[: data.find(b"PK\x01\x02")], everywhere=True) == ["os.system"]


def test_many_places_read_little() -> None:
    source = Bytes(zipped([Entry(f"a/{n}", b"\x80\x02" + bytes(60)) for n in range(3000)] + [Entry("z", bytes(1 << 20))]))
    search(source, everywhere=True)
    assert sum(count for _, count in source.reads) < 1 << 28
