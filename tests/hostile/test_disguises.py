"""Files that show one reader something clean and torch something else: torch.load runs what the marker proves, so gsvckpt must not call them safe."""

from __future__ import annotations

import io
import struct
import tarfile
from pathlib import Path

import pytest
import torch
from support.builders import Entry, pickled, read, safetensors_raw, tensor, torch_entries, torch_stream, torch_zip, zipped

from gsvckpt.errors import DamagedError, GsvError, NotCheckpointError, UnsupportedError
from gsvckpt.formats.known import Known
from gsvckpt.formats.pickle.safety import judge_all

TREE = {"weight": tensor("float32", (2,))}


def evil(marker: Path) -> bytes:
    """A pickle that makes the marker file."""
    path = str(marker).encode()
    return b"\x80\x02cposix\nmkdir\nX" + struct.pack("<I", len(path)) + path + b"\x85R."


def runs_in_torch(data: bytes, marker: Path) -> bool:
    """Whether torch.load, as GPT-SoVITS calls it, runs the payload."""
    path = marker.with_name("x.pth")
    path.write_bytes(data)
    try:
        torch.load(path, weights_only=False)
    except Exception:  # noqa: BLE001 - what it makes of the rest does not matter
        return marker.exists()
    return marker.exists()


def parts(data: bytes) -> tuple[bytes, bytes, int]:
    """A zip's records, its directory, and its count of entries."""
    _, _, _, _, count, size, offset, _ = struct.unpack("<4s4H2IH", data[-22:])
    return data[:offset], data[offset : offset + size], count


def moved(directory: bytes, by: int) -> bytes:
    """A directory whose records all stand `by` bytes later."""
    out = bytearray(directory)
    at = 0
    while at < len(out):
        name, extra, comment = struct.unpack_from("<3H", out, at + 28)
        struct.pack_into("<I", out, at + 42, struct.unpack_from("<I", out, at + 42)[0] + by)
        at += 46 + name + extra + comment
    return bytes(out)


def ending(count: int, size: int, offset: int, comment: int = 0, disk: int = 0) -> bytes:
    return struct.pack("<4s4H2IH", b"PK\5\6", disk, disk, count, count, size, offset, comment)


def two_zips(marker: Path) -> tuple[bytes, tuple[int, int, int], tuple[int, int, int]]:
    """A clean zip and a malicious one behind each other without ends, and (count, size, offset) of both directories."""
    records, directory, count = parts(torch_zip(TREE))
    bad_records, bad_directory, bad_count = parts(zipped([Entry("archive/data.pkl", evil(marker)), Entry("archive/version", b"3\n")]))
    base = len(records) + len(directory)
    body = records + directory + bad_records + moved(bad_directory, base)
    return body, (count, len(directory), len(records)), (bad_count, len(bad_directory), base + len(bad_records))


def test_a_zip64_directory_beside_the_one_in_the_end_record(tmp_path: Path) -> None:
    body, good, bad = two_zips(tmp_path / "ran")
    wide = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, bad[0], bad[0], bad[1], bad[2])
    data = body + wide + struct.pack("<4sIQI", b"PK\6\7", 0, len(body), 1) + ending(*good)
    with pytest.raises(DamagedError, match="end records disagree"):
        read(data)
    assert runs_in_torch(data, tmp_path / "ran")


@pytest.mark.parametrize("last", [{"comment": 65_535}, {"disk": 1}], ids=str)
def test_a_last_end_record_that_contradicts_itself_does_not_give_way_to_an_earlier_one(tmp_path: Path, last: dict[str, int]) -> None:
    records, directory, count = parts(torch_zip(TREE))
    first = records + directory + ending(count, len(directory), len(records))
    bad_records, bad_directory, bad_count = parts(zipped([Entry("archive/data.pkl", evil(tmp_path / "ran")), Entry("archive/version", b"3\n")]))
    data = first + bad_records + moved(bad_directory, len(first)) + ending(bad_count, len(bad_directory), len(first) + len(bad_records), **last)
    with pytest.raises(DamagedError, match="contradicts itself"):
        read(data)
    assert runs_in_torch(data, tmp_path / "ran") == ("comment" in last)


@pytest.mark.parametrize("first", ["DATA.PKL", "data.pkl"])
def test_a_second_pickle_in_other_letters(tmp_path: Path, first: str) -> None:
    code = Entry(f"archive/{'DATA.PKL' if first == 'DATA.PKL' else 'data.pkl'}", evil(tmp_path / "ran"))
    clean = torch_entries(TREE)
    other = [Entry("archive/DATA.PKL", pickled({}))] if first == "data.pkl" else []
    entries = [code, *clean] if first == "DATA.PKL" else [code, *other, *clean[1:]]
    with pytest.raises(DamagedError, match="appears twice"):
        read(zipped(entries))
    assert runs_in_torch(zipped(entries), tmp_path / "ran")


def test_a_pickle_dressed_as_safetensors() -> None:
    """Eight bytes of header length are also PROTO and BINUNICODE, and JSON may hold opcodes inside a text."""
    opening = b"\x80\x04X\x05\0\0\0\0"
    header = b'{"ab' + b"0cos\nsystem\n."
    data = opening + header + bytes(int.from_bytes(opening, "little") + 8 - len(header))
    with pytest.raises(UnsupportedError, match="bare pickle") as caught:
        read(data)
    assert isinstance(caught.value.known, Known)
    assert judge_all(caught.value.known.globals).verdict == "unsafe"


def test_an_honest_safetensors_file_is_no_pickle() -> None:
    assert read(safetensors_raw(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x")).container.format == "safetensors"


def tar(name: bytes, content: bytes) -> bytes:
    """A tar whose first member has this name, as bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as file:
        member = tarfile.TarInfo("x")
        member.size = len(content)
        file.addfile(member, io.BytesIO(content))
    data = bytearray(out.getvalue())
    data[: len(name)] = name
    data[148:156] = b"        "
    data[148:156] = b"%06o\0 " % sum(data[:512])
    return bytes(data)


def test_a_tar_whose_first_name_is_a_torch_stream() -> None:
    """torch.load opens a tar before it tries its older format, so what the stream shows is not what torch reads."""
    stream = torch_stream({})[:90]
    with pytest.raises(NotCheckpointError, match="tar archive"):
        read(tar(stream, b"clean"))


def test_a_tar_is_known_by_its_checksum_alone() -> None:
    data = bytearray(tar(b"storages", b"x"))
    data[257:265] = bytes(8)
    data[148:156] = b"        "
    data[148:156] = b"%06o\0 " % sum(data[:512])
    tarfile.open(fileobj=io.BytesIO(bytes(data)), mode="r:").close()
    with pytest.raises(NotCheckpointError, match="tar archive"):
        read(bytes(data))


def test_a_cut_malicious_zip_is_still_judged(tmp_path: Path) -> None:
    data = zipped([Entry("archive/data.pkl", evil(tmp_path / "ran")), Entry("archive/data/0", bytes(4096))])[:1024]
    with pytest.raises(GsvError) as caught:
        read(data)
    assert isinstance(caught.value.known, Known)
    assert judge_all(caught.value.known.globals).verdict == "unsafe"
