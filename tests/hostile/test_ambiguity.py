"""Files of which one reader makes something else than another: never safe by any command, and nothing in them runs.

The judges are torch.load and GPT-SoVITS's own loader, which really run the payload of the cases marked so.
"""

from __future__ import annotations

import io
import json
import struct
import tarfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from support.builders import Bytes, Entry, Raw, pickled, read, tensor, torch_entries, torch_stream, torch_zip, under_safetensors, zipped
from support.verified import ids, verify

import gsvckpt
from gsvckpt.cli.app import main
from gsvckpt.errors import DamagedError, GsvError
from gsvckpt.formats.zip.directory import find_tail

LARGE = {"dec.w": tensor("float32", (30_000,))}  # in a small file, torch's reader asks for places before its beginning
TREE = {"dec.w": tensor("float32", (4, 4), range(16))}
MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def call(marker: Path) -> bytes:
    """Opcodes that make the marker, a folder, and leave what the call returns."""
    return b"cposix\nmkdir\n(" + text(str(marker)) + b"tR"


def tar_and_zip(marker: Path, head: bytes = b"05") -> bytes:
    """A zip whose first record is a storage, in which the rest of a tar stands; the first block is the tar's, too."""
    evil = b"\x80\x02" + call(marker) + b"."

    def build(store: bytes) -> bytes:
        records = torch_entries({"a": tensor("uint8", (len(store),), store), **TREE})
        return zipped(sorted(records, key=lambda entry: entry.name != "archive/data/0"), head=head)

    size = 1 << 14
    plain = build(bytes(size))
    base = plain.find(bytes(400))
    block = bytearray(plain[:base] + bytes(512 - base))
    block[100:108], block[108:124], block[124:136], block[136:148] = b"0000644\0", b"0000000\0" * 2, b"00000000000\0", b"00000000000\0"
    block[148:156], block[156:157], block[257:265] = b" " * 8, b"0", b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    tar = bytes(block)
    for name in ("storages", "tensors", "pickle"):
        member = tarfile.TarInfo(name)
        member.size = len(evil)
        tar += member.tobuf(tarfile.USTAR_FORMAT) + evil + bytes(-len(evil) % 512)
    data = build((tar + bytes(1024))[base:] + bytes(size - len(tar) - 1024 + base))
    assert data.startswith(tar)
    return data


def long_frame(marker: Path, beyond: int = 1 << 18, protocol: int = 4) -> bytes:
    """A stream whose first pickle has a frame that goes on behind it, up to a pickle inside a storage.

    From a real file, the C unpickler goes on behind a frame of 128 KiB and more; from memory, behind any.
    """
    evil = b"\x80\x02" + call(marker) + b"."
    store = bytearray(beyond + 4_096)

    def build() -> bytes:
        rest = torch_stream({"weight": tensor("uint8", (len(store),), bytes(store))})[len(pickled(0x1950A86A20F9469CFC6C)) :]
        return b"\x80" + bytes([protocol]) + b"\x95" + struct.pack("<Q", beyond) + MAGIC + rest

    base = len(build()) - len(store)
    store[11 + beyond - base : 11 + beyond - base + len(evil)] = evil
    return build()


def frame_inside_a_length(marker: Path, protocol: int = 4, head: bytes = b"PK", cut: int = 2) -> bytes:
    """A frame that ends inside the length of a text: others read the length behind it, and then what is in the text."""
    hidden = b"\0\0" + b"0" + call(marker) + b"0X\0\0\0\0"
    front = b"}" + text("info") + b"X" + struct.pack("<I", len(hidden))[:cut]
    whole = front + struct.pack("<I", len(hidden))[cut:] + hidden
    return torch_zip(b"\x80" + bytes([protocol]) + b"\x95" + struct.pack("<Q", len(front)) + whole + b"s.", head=head)


def other_case(marker: Path, name: str = "archive/DATA.PKL", shown: str = "archive/b") -> bytes:
    """Two pickles whose names differ by case or folder: torch takes the one in the folder of the first record, whatever its case."""
    hidden = [Entry(name, b"\x80\x02" + call(marker) + b"."), Entry("archive/version", b"3\n"), Entry("archive/byteorder", b"little")]
    return zipped([*hidden, *torch_entries(TREE, prefix=shown)])


RUN = {
    "tar and zip": (tar_and_zip, torch.load),
    "long frame": (long_frame, torch.load),
    "frame inside a length": (frame_inside_a_length, torch.load),
    "other case": (other_case, torch.load),
}
NEIGHBOURS: dict[str, Callable[[Path], bytes]] = {
    **{f"tar and zip, head {head}": lambda marker, head=head: tar_and_zip(marker, head.encode()) for head in ("00", "01", "06", "07", "42", "99")},
    **{f"long frame, {beyond} bytes": lambda marker, beyond=beyond: long_frame(marker, beyond) for beyond in (200, 1_000, 70_000, 300_000)},
    "long frame, protocol 5": lambda marker: long_frame(marker, 3_000, 5),
    **{
        f"frame inside a length, head {head}, protocol {protocol}": lambda marker, head=head, protocol=protocol: frame_inside_a_length(
            marker, protocol, head.encode()
        )
        for head, protocol in (("05", 4), ("00", 5), ("PK", 5), ("PK", 2), ("PK", 3))
    },
    **{f"frame inside a length, after {cut} bytes": lambda marker, cut=cut: frame_inside_a_length(marker, 4, b"PK", cut) for cut in (1, 3)},
    **{
        f"other case, {name}, beside {shown}": lambda marker, name=name, shown=shown: other_case(marker, name, shown)
        for name, shown in (
            ("archive/Data.pkl", "archive/b"),
            ("ARCHIVE/data.pkl", "archive"),
            ("archive/data.PKL", "b"),
            ("archive/data.pkl", "archive/archive"),
        )
    },
    "digits in front of a frame": lambda marker: torch_zip(b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + call(marker) + b"."),
    "a frame of nothing": lambda marker: torch_zip(b"\x80\x04\x95" + bytes(8) + b"\x95" + struct.pack("<Q", 1) + call(marker) + b"0}."),
    "follow the pickle": lambda marker: torch_zip(pickled({}) + b"\x80\x02" + call(marker) + b"."),
    "in a record's place that the directory leaves": lambda marker: _left_out(b"\x80\x02" + call(marker) + b"."),
    "in the comment of the zip": lambda marker: zipped(torch_entries(TREE), comment=_record(b"\x80\x02" + call(marker) + b".")),
    "behind a stream": lambda marker: torch_stream(TREE) + torch_zip(b"\x80\x02" + call(marker) + b"."),
    "a pickle behind a stream": lambda marker: torch_stream(TREE) + b"\x80\x02" + call(marker) + b".",
}


def _record(code: bytes) -> bytes:
    whole = zipped([Entry("archive/data.pkl", code)])
    return whole[: whole.find(b"PK\x01\x02")]


def _left_out(code: bytes) -> bytes:
    """A zip in which a record stands that its directory does not name."""
    record = _record(code)
    entries = torch_entries(TREE)
    data = zipped([*entries[:1], Entry("x", record, flags=0, aligned=False), *entries[1:]])
    at = data.find(b"PK\x01\x02")
    entry = data.find(b"x", at + 46 + len(entries[0].name)) - 46
    end, tail = data.find(b"PK\x01\x02", entry + 4), bytearray(data[-22:])
    tail[8:12], tail[12:16] = struct.pack("<2H", len(entries), len(entries)), struct.pack("<I", len(data) - 22 - at - (end - entry))
    return data[:entry] + data[end:-22] + tail


@pytest.mark.parametrize("name", RUN)
def test_the_payload_is_real(tmp_path: Path, name: str) -> None:
    build, load = RUN[name]
    (tmp_path / "x.pth").write_bytes(build(tmp_path / "ran"))
    with suppress(Exception):  # whatever torch makes of the rest
        load(tmp_path / "x.pth", weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", [*RUN, *NEIGHBOURS])
def test_never_safe_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str) -> None:
    monkeypatch.chdir(tmp_path)
    build = RUN[name][0] if name in RUN else NEIGHBOURS[name]
    Path("x.pth").write_bytes(build(tmp_path / "ran"))
    assert main(["inspect", "x.pth", "--json"]) in (0, 3)
    inspected = json.loads(capsys.readouterr().out)["files"][0]["safety"]["verdict"]
    assert main(["verify", "x.pth", "--json"]) in (1, 3)
    verified = json.loads(capsys.readouterr().out)["files"][0]["safety"]["verdict"]
    assert inspected == verified != "safe"
    for checks in ("pickle.safety", "container", "layout"):
        assert main(["verify", "x.pth", f"--checks={checks}"]) in (1, 3)
    for command in (["convert-fp16"], ["strip-optimizer"], ["migrate"], ["migrate", "--salvage"], ["prune", "--keep-last", "1", "--yes"]):
        main([command[0], "." if command[0] == "prune" else "x.pth", *command[1:]])
    try:
        with gsvckpt.open("x.pth") as opened:
            assert opened.safety.verdict == inspected
    except GsvError:
        pass
    assert not (tmp_path / "ran").exists()


def test_an_ambiguous_pickle_is_neither_converted_nor_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(frame_inside_a_length(tmp_path / "ran"))
    assert main(["convert-fp16", str(path), "-o", str(tmp_path / "y.pth"), "--force"]) == 3
    assert "a frame ends inside an opcode" in capsys.readouterr().err
    with gsvckpt.open(path) as opened:
        assert opened.safety.doubts[0].check == "pickle.encoding"
    path.write_bytes(torch_zip({**TREE, "n": Raw(b"I010\n")}))
    with pytest.raises(DamagedError, match="'010', which readers read differently"):
        gsvckpt.load_state_dict(path)
    assert not (tmp_path / "y.pth").exists()


def test_a_plain_spelling_mends_what_all_readers_agree_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.pth"
    path.write_bytes(torch_zip(b"\x80\x02}" + text("n") + b"J\x05\0\0\0s."))
    assert verify(path).safety.verdict == "unknown"
    assert ids(verify(path)) == {"pickle.encoding"}
    assert main(["migrate", str(path), "-o", str(tmp_path / "y.pth")]) == 0
    assert verify(tmp_path / "y.pth").status == "sound"
    capsys.readouterr()


@pytest.mark.parametrize("far", [65_535, 65_557, 65_558, 66_500, 69_000, 69_562])
def test_the_end_is_found_where_torch_finds_it(far: int) -> None:
    data = torch_zip(LARGE) + bytes(far)
    assert find_tail(Bytes(data)) is not None
    torch.load(io.BytesIO(data))


def test_the_end_is_not_found_where_torch_gives_up() -> None:
    data = torch_zip(LARGE) + bytes(69_563)
    assert find_tail(Bytes(data)) is None
    with pytest.raises(RuntimeError, match="central directory"):
        torch.load(io.BytesIO(data))


@pytest.mark.parametrize("far", [0, 66_500, 69_000])
def test_a_zip_in_a_safetensors_file_that_only_torch_finds(tmp_path: Path, far: int) -> None:
    """The length of the header is 0x0403...., so that with `PK` in front the file is a zip, as GPT-SoVITS reads it."""
    path = tmp_path / "x.safetensors"
    path.write_bytes(under_safetensors(torch_zip(b"\x80\x02" + call(tmp_path / "ran") + b".") + bytes(far), 0x04030000 + 0x2020))
    try:
        with pytest.raises(GsvError, match="readers interpret differently"), gsvckpt.open(path):
            pass
        assert verify(path).status == "unsafe"
        patched = io.BytesIO(b"PK" + path.read_bytes()[2:])
    finally:
        path.unlink()
    torch.load(patched, weights_only=False)
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "code",
    [
        *(b"I%s\n" % number for number in (b"010", b"0x1f", b" 7", b"+1", b"1_0", b"-0", b"0o17", b"08")),
        *(b"L%s\n" % number for number in (b"0x5L", b" 5L", b"1_0L", b"+5L")),
        *(b"F%s\n" % number for number in (b"1_0.5", b" 1.5", b"Infinity", b"1.5 ", b"+1.5", b"1E5")),
        *(b"Np%s\n" % number for number in (b" 1", b"1_0", b"+1", b"01")),
        *(b"Np1\n0g%s\n" % number for number in (b" 1", b"01", b"+1")),
        b"\x80\x04N",
        b"M\x05\0", b"J\x05\0\0\0", b"\x8a\x02\x05\0", b"\x8a\x04\x05\0\0\0", b"\x8b\x01\0\0\0\x05",
        b"\x8d\x01" + bytes(7) + b"a", b"\x8e\x01" + bytes(7) + b"a", b"Nr\x01\0\0\0", b"Nq\x010j\x01\0\0\0", b"S'a'b'\n",
    ],
)  # fmt: skip
def test_spellings_that_no_pickler_writes(tmp_path: Path, code: bytes) -> None:
    data = torch_zip(b"\x80\x02}" + text("a") + code + b"s.")
    try:
        checkpoint = read(data)
    except GsvError:
        assert verify(tmp_path / "x.pth", data).safety.verdict == "unknown"
        return
    assert [doubt.check for doubt in checkpoint.doubts] == ["pickle.encoding"]
    result = verify(tmp_path / "x.pth", data)
    assert result.safety.verdict == "unknown"
    assert "pickle.encoding" in ids(result)


@pytest.mark.parametrize(
    "code",
    [
        b"I1\n", b"I-5\n", b"I00\n", b"I01\n", b"I5000000000\n", b"L5L\n", b"L5\n", b"L-12345678901234567890L\n", b"L0L\n", b"F1.5\n",
        b"F-0\n", b"F1e+16\n", b"F1.0000000000000001e-05\n", b"Finf\n", b"F-inf\n", b"Fnan\n", b"F3\n", b"S'abc'\n", b'S"it\'s"\n',
        b"S'\\x41\\n\\\\'\n", b"S'\\101'\n", b"Vabc\n", b"V\\u4f60\n", b"U\x01a", b"T\x01\0\0\0a", b"(lp1\nI1\na", b"(dp1\nS'k'\nI1\ns",
        b"(I1\nI2\nt", b"Np0\n0g0\n", b"\x8a\x08\x05" + bytes(7), b"\x8a\0", b"K\x05", b"M\0\x01", b"J\0\0\x01\0", b"J\xff\xff\xff\xff",
        b"\x8a\x02\x80\0", b"\x8a\x01\x80", b"C\x01a", b"B\x01\0\0\0a", b"\x96\x01" + bytes(7) + b"a",
    ],
)  # fmt: skip
def test_spellings_of_old_and_other_picklers(tmp_path: Path, code: bytes) -> None:
    assert read(torch_zip(b"\x80\x02}" + text("a") + code + b"s.")).doubts == ()
    assert verify(tmp_path / "x.pth", torch_zip(b"\x80\x02}" + text("a") + code + b"s.")).safety.verdict == "safe"
