"""No byte of a zip can change unseen; and honest zips, whoever wrote them, are not accused."""

from __future__ import annotations

import io
import random
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch
from support.builders import Bytes, Entry, tensor, torch_entries, torch_zip, zipped
from support.verified import ids, remarkable, verify

from gsvckpt.commands.verify.checks import zip_bytes
from gsvckpt.formats.zip import directory

TREE = {"weight": {f"dec.{n}.weight": tensor("float32", (3, 2), range(6)) for n in range(4)}, "info": "8epoch_16iteration"}


def audit(data: bytes):
    source = Bytes(data)
    tail = directory.find_tail(source)
    assert tail is not None
    return zip_bytes.audit(source, directory.read_records(source, tail), tail)


def saved(tree: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(tree, buffer)
    return buffer.getvalue()


def honest(tmp_path: Path) -> dict[str, bytes]:
    """Zips of the same checkpoint by every writer at hand."""
    tree = {"weight": {f"dec.{n}": torch.randn(5, 7) for n in range(4)}, "info": "x"}
    files = {"torch": saved(tree), "builders": torch_zip(TREE), "builders, zip64": zipped(torch_entries(TREE), zip64=True)}
    unpacked = zipfile.ZipFile(io.BytesIO(files["torch"]))
    for name, seekable in (("zipfile", True), ("zipfile to a pipe", False)):
        buffer = io.BytesIO() if seekable else Pipe()
        with zipfile.ZipFile(buffer, "w") as archive:
            for entry in unpacked.namelist():
                archive.writestr(entry, unpacked.read(entry))
        files[name] = buffer.getvalue()
    if shutil.which("zip"):
        unpacked.extractall(tmp_path / "unpacked")
        subprocess.run(["zip", "-q", "-0", "-r", tmp_path / "x.zip", "archive"], cwd=tmp_path / "unpacked", check=True)
        files["zip -0"] = (tmp_path / "x.zip").read_bytes()
    return files


class Pipe(io.RawIOBase):
    """Takes bytes and cannot go back, so zipfile writes data descriptors."""

    def __init__(self) -> None:
        super().__init__()
        self.data = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        self.data += bytes(data)
        return len(data)

    def getvalue(self) -> bytes:
        return bytes(self.data)


def test_honest_zips_are_not_accused(tmp_path: Path) -> None:
    for name, data in honest(tmp_path).items():
        assert audit(data) == [], name
        assert remarkable(verify(tmp_path / "x.pth", data)) == [], name


@pytest.mark.parametrize("writer", ["torch", "builders, zip64", "zipfile"])
@pytest.mark.parametrize("part", range(4))
def test_every_byte_changed_is_reported(tmp_path: Path, writer: str, part: int) -> None:
    data = honest(tmp_path)[writer]
    rng = random.Random(f"20261125 {writer} {part}")
    path = tmp_path / "x.pth"
    for at in range(part, len(data), 4):
        changed = bytearray(data)
        changed[at] ^= rng.randrange(1, 256)
        assert remarkable(verify(path, bytes(changed))), f"byte {at} of {len(data)}: {data[at]:02x} -> {changed[at]:02x}"


def test_a_gap_is_reported_with_its_place() -> None:
    first, *rest = torch_entries(TREE)
    data = zipped([first, Entry("archive/left", b"hidden" * 9), *rest])
    hidden = bytearray(data)
    at = data.find(b"PK\x01\x02", data.rfind(b"hidden"))  # the directory: take the entry out of it
    entry = data.find(b"archive/left", at) - 46
    end = data.find(b"PK\x01\x02", entry + 4)
    tail = bytearray(data[data.rfind(b"PK\x05\x06") :])
    count = len(rest) + 1
    tail[8:12] = count.to_bytes(2, "little") * 2
    size = data.rfind(b"PK\x05\x06") - at - (end - entry)
    tail[12:16] = size.to_bytes(4, "little")
    hidden = data[:entry] + data[end : data.rfind(b"PK\x05\x06")] + bytes(tail)
    assert [finding.check for finding in audit(hidden)] == ["container.gap"]


@pytest.mark.parametrize("count", [1, 100, 60_000])
def test_trailing_bytes(tmp_path: Path, count: int) -> None:
    assert ids(verify(tmp_path / "x.pth", torch_zip(TREE) + bytes(count))) == {"container.trailing"}
