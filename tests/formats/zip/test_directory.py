"""The zip directory: zipfile and torch's own reader are the judges of what is written, the builders of what is read."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from zlib import crc32

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.builders import Bytes, Entry, zipped

from gsvckpt.formats.zip import writer
from gsvckpt.formats.zip.directory import Record, find_tail, read_records

NAMES = st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40), min_size=1, max_size=12, unique_by=str.lower)


def written(files: dict[str, bytes]) -> bytes:
    records = [record._replace(crc=crc32(files[record.name])) for record in writer.lay_out((n, len(data)) for n, data in files.items())]
    end = records[-1].offset + records[-1].size
    out = bytearray(end)
    for record in records:
        header = writer.local_header(record)
        out[record.header : record.header + len(header)] = header
        out[record.offset : record.offset + record.size] = files[record.name]
    return bytes(out + writer.directory(records))


def found(data: bytes) -> tuple[Record, ...]:
    source = Bytes(data)
    tail = find_tail(source)
    assert tail is not None
    return read_records(source, tail)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(NAMES, st.randoms())
def test_zipfile_and_we_read_what_we_write(names: list[str], random: object) -> None:
    files = {f"archive/{name}".replace("\\", "/"): random.randbytes(random.choice([0, 1, 63, 64, 65, 300])) for name in names}
    data = written(files)
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        assert file.testzip() is None
        assert {info.orig_filename: file.read(info) for info in file.infolist()} == files
    records = found(data)
    assert {record.name: data[record.offset : record.offset + record.size] for record in records} == files
    assert all(record.offset % writer.ALIGNMENT == 0 for record in records)


def test_more_than_65535_records(tmp_path: Path) -> None:
    files = {"archive/data.pkl": b"N.", "archive/version": b"3\n", **{f"archive/data/{n}": b"x" for n in range(66_000)}}
    (tmp_path / "many").write_bytes(written(files))
    assert len(found((tmp_path / "many").read_bytes())) == 66_002
    reader = torch._C.PyTorchFileReader(str(tmp_path / "many"))
    assert reader.get_record("data/65999") == b"x"


def test_the_order_in_the_file_counts_not_that_of_the_directory() -> None:
    data = bytearray(zipped([Entry("a", b"1"), Entry("b", b"22")]))
    at = data.index(b"PK\x01\x02")
    half = data.index(b"PK\x01\x02", at + 4)
    end = data.index(b"PK\x05\x06")
    data[at:end] = data[half:end] + data[at:half]
    assert [record.name for record in found(bytes(data))] == ["a", "b"]


def test_names_that_are_no_utf8_are_read_as_zip_means_them() -> None:
    data = zipped([Entry("nam?", b"1", flags=0)]).replace(b"nam?", b"nam\x82")
    assert [record.name for record in found(data)] == ["namé"]


@pytest.mark.parametrize("data", [b"", b"PK\x05\x06", bytes(100_000)])
def test_no_directory(data: bytes) -> None:
    assert find_tail(Bytes(data)) is None


@pytest.mark.parametrize("comment", [b"", b"x", b"PK\x05\x06", b"x" * 65_535])
def test_comments_are_passed_over(comment: bytes) -> None:
    assert [record.name for record in found(zipped([Entry("a", b"1")], comment=comment))] == ["a"]


def test_an_end_record_farther_than_64_kib_from_the_end_is_not_looked_for() -> None:
    assert find_tail(Bytes(zipped([Entry("a", b"1")]) + bytes(70_000))) is None


def test_gaps_of_one_to_three_bytes_become_whole_extra_fields() -> None:
    """An extra field needs four bytes of its own."""
    for length in range(1, 130):
        (record,) = writer.lay_out([("n" * length, 1)])
        header = writer.local_header(record)
        assert len(header) == record.offset
        extra = header[30 + length :]
        assert not extra or (extra[:2] == b"FB" and int.from_bytes(extra[2:4], "little") == len(extra) - 4)
