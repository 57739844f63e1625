"""Files that a review built to be called sound although some loader runs them, or although nobody looked; and requests that would hide damage."""

from __future__ import annotations

import bz2
import json
import struct
import zlib
from pathlib import Path

import pytest
from support.builders import Entry, pickled, tensor, torch_entries, torch_zip, under_safetensors, zipped
from support.verified import verify

from gsvckpt.cli.app import main
from gsvckpt.commands.verify.result import Options
from hostile.payloads import payloads, text

TREE = {"dec.w": tensor("float32", (8,), range(8))}


@pytest.fixture
def evil(tmp_path: Path) -> bytes:
    return payloads(str(tmp_path / "ran"))["os.system"]


def beside(code: bytes, name: str = "archive/extra.pkl", **lies: object) -> bytes:
    """A clean checkpoint with one more record."""
    return zipped([*torch_entries(TREE), Entry(name, code, **lies)])


def test_a_pickle_longer_than_anybody_looks_is_no_safetensors(tmp_path: Path) -> None:
    """Its first eight bytes are a header's length and a pickle's opcodes at once; the call stands in a tensor's name, behind 300,000 others."""
    front = b"\x80\x04X\x03\x00\x00\x00\x00"
    name = b"N0" * 260_000 + b"U\x02os" + b"U\x06system" + b"q\xc2\x93" + b"U\x04true" + b"q\xc2\x85R."
    header = b'{"' + name + b'":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    length = int.from_bytes(front, "little")
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(front + header)
        file.write(b" " * (length - len(header)) + struct.pack("<f", 1.0))
    try:
        result = verify(path)
        assert result.safety.verdict != "safe"
        assert result.status not in ("sound", "suspect")
    finally:
        path.unlink()


def test_a_zip_under_a_safetensors_header_is_neither(tmp_path: Path, evil: bytes) -> None:
    """GPT-SoVITS writes PK over any first two bytes, so a header length of 0x0403.... makes the file a zip for it."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(under_safetensors(torch_zip(evil), 0x04030000 + 0x2020))
    try:
        assert verify(path).status == "unsafe"
    finally:
        path.unlink()


@pytest.mark.parametrize(
    ("build", "verdict"),
    [
        (lambda code: beside(bz2.compress(code), method=12, crc=zlib.crc32(code)), "unknown"),
        (lambda code: beside(code, method=14), "unknown"),
        (lambda code: beside(b"\x80\x02" + b"N0" * 1_100_000 + code[2:]), "unknown"),
        (lambda code: beside(b"\x80\x02" + b"N0" * 300_000 + code[2:]), "unsafe"),
        (lambda code: beside(pickled({}) * 70 + code), "unsafe"),
        (lambda code: torch_zip(pickled({}) * 70 + code), "unsafe"),
        (lambda code: beside(torch_zip(code), "archive/inner.pth"), "unsafe"),
        (lambda code: beside(torch_zip(code, head=b"05"), "archive/inner.pth"), "unsafe"),
        (lambda code: beside(zipped([Entry("x", torch_zip(code))]), "archive/inner.zip"), "unsafe"),
        (lambda code: beside(zipped([Entry("x", zipped([Entry("y", zipped([Entry("z", torch_zip(code))]))]))]), "archive/inner.zip"), "unsafe"),
        (lambda code: beside(zlib.compress(code), "archive/x.7z", flags=0x0809), "unknown"),
        (lambda code: beside(b"7z\xbc\xaf\x27\x1c" + code, "archive/x.7z"), "unknown"),
    ],
    ids=[
        "bz2",
        "lzma",
        "a million opcodes",
        "fewer opcodes",
        "the 71st",
        "the 71st in data.pkl",
        "nested",
        "nested head",
        "zip in zip",
        "zips in zips",
        "flag",
        "7z",
    ],
)
def test_what_is_hidden_beside_the_pickle(tmp_path: Path, evil: bytes, build, verdict: str) -> None:
    result = verify(tmp_path / "x.pth", build(evil))
    assert result.safety.verdict == verdict
    assert any(finding.check == "pickle.safety" and finding.severity == "error" for finding in result.findings)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("zip64", [False, True])
def test_one_zip_behind_another(tmp_path: Path, evil: bytes, zip64: bool) -> None:
    clean, bad = (zipped(entries, zip64=zip64) for entries in (torch_entries(TREE), torch_entries(evil)))
    for data in (clean + bad, bad + clean):
        assert verify(tmp_path / "x.pth", data).status == "unsafe"


def test_a_record_behind_the_end(tmp_path: Path, evil: bytes) -> None:
    whole = zipped([Entry("archive/data.pkl", evil)])
    record = whole[: whole.find(b"PK\x01\x02")]
    result = verify(tmp_path / "x.pth", torch_zip(TREE) + record)
    assert result.status == "unsafe"
    assert verify(tmp_path / "x.pth", torch_zip(TREE) + bytes(500)).safety.verdict == "safe"


def test_honest_records_beside_the_pickle_hide_nothing(tmp_path: Path) -> None:
    for data in (b"just a note\n", bytes(70_000), b"0123", b"", json.dumps({"a": 1}).encode()):
        assert verify(tmp_path / "x.pth", beside(data, "archive/note.txt")).status == "sound"


@pytest.mark.parametrize("checks", ["pickle.safety", "layout", "-record.crc", "version.name"])
def test_a_file_that_cannot_be_read_fails_whatever_is_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str], checks: str) -> None:
    path = tmp_path / "x.pth"
    entries = torch_entries(TREE)
    for data in (zipped([Entry(entries[0].name, entries[0].data, crc=1), *entries[1:]]), torch_zip(TREE)[:-40], b"<html>"):
        path.write_bytes(data)
        assert main(["verify", str(path), f"--checks={checks}"]) in (1, 3)
    capsys.readouterr()


@pytest.mark.parametrize("checks", ["container", "-pickle.safety", "record.crc"])
def test_an_unsafe_file_fails_whatever_is_asked(tmp_path: Path, evil: bytes, capsys: pytest.CaptureFixture[str], checks: str) -> None:
    (tmp_path / "x.pth").write_bytes(torch_zip(evil))
    assert main(["verify", str(tmp_path / "x.pth"), f"--checks={checks}"]) == 1
    assert "UNSAFE" in capsys.readouterr().err


def test_no_checks_are_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(torch_zip(TREE))
    assert main(["verify", str(tmp_path / "x.pth"), "--checks=-*"]) == 2


@pytest.mark.parametrize("options", [["--record"], ["--backup", "b"], ["--restore-from", "b"], ["--write-checksums", "SUMS"]], ids=" ".join)
@pytest.mark.parametrize("checks", ["version", "-record.crc", "-tensor.finite"])
def test_nothing_is_kept_for_sound_without_the_checks_for_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], checks: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.pth").write_bytes(torch_zip(TREE))
    assert main(["verify", "x.pth", f"--checks={checks}", *options]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["x.pth"]


def test_many_expanded_tensors_are_as_bad_as_one(tmp_path: Path) -> None:
    from support.builders import View

    small = tensor("float32", (1,), [1.0])
    tree = {f"dec.{n}": View(small.store, (1 << 14, 1 << 13), (0, 0)) for n in range(40)}  # half a GiB each
    result = verify(tmp_path / "x.pth", torch_zip(tree))
    assert "tensor.bounds" in {finding.check for finding in result.findings}
    assert "content" not in result.digests
    assert verify(tmp_path / "x.pth", options=Options(against=str(tmp_path / "x.pth"))).status != "sound"


def test_a_directory_that_fills_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.weights"
    with path.open("wb") as file:
        file.truncate(1 << 31)
        file.seek(1 << 31)
        file.write(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 100, 100, (1 << 31) - 100, 100, 0))
        file.seek(0)
        file.write(b"PK\x03\x04")
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert verify(path).status in ("damaged", "unchecked")
    assert main(["verify", str(tmp_path), "-q", "--quick"]) in (1, 3)
    path.unlink()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 300_000_000


def test_a_huge_text_in_a_pickle(tmp_path: Path) -> None:
    code = b"\x80\x02" + text("x" * (1 << 25)) + b"."
    result = verify(tmp_path / "x.pth", torch_zip(code))
    assert "pickle.bomb" in {finding.check for finding in result.findings}
    (tmp_path / "x.pth").unlink()


def test_renamed_tars_and_unknown_pickles_in_a_folder(tmp_path: Path, evil: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    import io
    import tarfile

    with tarfile.open(tmp_path / "model.weights", "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = len(evil)
            archive.addfile(member, io.BytesIO(evil))
    (tmp_path / "b.weights").write_bytes(b"\x80\x02csomebody.own\nThing\n)R.")
    (tmp_path / "c.weights").write_bytes(b"\x80\x02" + b"N0" * 1_100_000 + evil[2:])
    (tmp_path / "poem.txt").write_text("come\nlive\nwith me and be my love\n")
    assert main(["verify", str(tmp_path)]) in (1, 3)
    out = capsys.readouterr().out
    assert all(f"{name}.weights" in out for name in ("model", "b", "c"))
    assert "1 other file" in out
