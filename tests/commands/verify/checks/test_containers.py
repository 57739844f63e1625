"""Every kind of damage under its own name, with torch's own words; torch itself is asked whether these are its words."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
import torch
from support.builders import Entry, tensor, torch_entries, torch_stream, torch_zip, zipped
from support.verified import ids, remarkable, verify

from gsvckpt.commands.verify.checks.containers import torch_says
from gsvckpt.commands.verify.result import Options

TREE = {"weight": {f"dec.{n}.weight": tensor("float32", (8, 8), range(64)) for n in range(6)}, "info": "8epoch_16iteration"}
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 84998954\n"
WHOLE = torch_zip(TREE)


def saved() -> bytes:
    buffer = io.BytesIO()
    torch.save({f"dec.{n}": torch.ones(8, 8) for n in range(6)}, buffer)
    return buffer.getvalue()


DAMAGED: dict[str, tuple[bytes, str, str]] = {  # bytes, the check that names it, a word of its finding
    "empty": (b"", "container.kind", "empty"),
    "one byte": (saved()[:1], "container.truncated", "persistent id"),
    "two bytes": (saved()[:2], "container.truncated", "persistent id"),
    "cut": (saved()[:900], "container.truncated", "central directory"),
    "cut at 5,000 bytes": (torch_zip({"dec.w": tensor("float32", (4000,))})[:5000], "container.truncated", "Errno 22"),
    "too much behind it": (saved() + bytes(70_000), "container.trailing", "70,000 bytes"),
    "cut at its last byte": (saved()[:-1], "container.truncated", "central directory"),
    "web page": (b"<!DOCTYPE html><html><body>404</body></html>", "container.kind", "web page"),
    "LFS pointer": (LFS, "container.kind", "LFS"),
    "zeros": (bytes(5000), "container.kind", "zeros"),
    "few zeros": (bytes(10), "container.kind", "zeros"),
    "ONNX": (b"\x08\x07\x12\x07pytorch\x1a\x03foo", "container.kind", "ONNX"),
    "old format, cut": (torch_stream(TREE)[:-10], "container.truncated", "storages are complete"),
    "pickle damaged": (torch_zip(b"\x80\x02}X\x05\x00\x00\x00ab\xff\xffcdK\x01s."), "pickle.damaged", ""),
    "overlap": (zipped([*torch_entries(TREE)[:-1], Entry("archive/version", b"3\n", header=0)]), "container.headers", ""),
    "twice": (zipped([*torch_entries(TREE), Entry("archive/Version", b"3\n")]), "container.duplicate", "twice"),
    "directory altered": (WHOLE[:-22] + WHOLE[-22:-10] + b"\1" + WHOLE[-9:], "container.directory", ""),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_named(tmp_path: Path, name: str) -> None:
    data, check, word = DAMAGED[name]
    result = verify(tmp_path / "x.pth", data)
    assert result.status == "damaged"
    assert check in ids(result), result.findings
    assert word in " ".join(finding.why for finding in result.findings)


@pytest.mark.parametrize("name", [*DAMAGED, "head 05"])
def test_torch_says_what_we_say_it_says(tmp_path: Path, name: str) -> None:
    data = b"05" + saved()[2:] if name == "head 05" else DAMAGED[name][0]
    path = tmp_path / "x.pth"
    path.write_bytes(data)
    said = torch_says(data[:8192], len(data), cut=name.startswith(("cut", "too much", "one", "two")))
    if not said:
        return
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whichever it is, its words are compared
        torch.load(path, weights_only=False)
    told = f"{type(caught.value).__name__}: {caught.value}"
    assert any(words in told for words in re.split(r"` \((?:or|with weights_only:) `", said)), told


def test_what_can_be_saved_of_a_cut_file_is_told(tmp_path: Path) -> None:
    data = torch_zip(TREE)
    result = verify(tmp_path / "x.pth", data[: data.find(b"archive/data/3") + 60])
    (remains,) = [finding for finding in result.findings if finding.where == "tensors"]
    assert remains.found == "3 of 6"
    assert "--salvage" in remains.hint.command


def test_altered_bytes_of_a_tensor_are_named_by_the_tensor(tmp_path: Path) -> None:
    data = bytearray(WHOLE)
    at = data.find(tensor("float32", (8, 8), range(64)).store.data)
    data[at + 17] ^= 4
    result = verify(tmp_path / "x.pth", bytes(data))
    (finding,) = remarkable(result)
    assert (finding.check, finding.severity, finding.where) == ("record.crc", "error", "weight/dec.0.weight")
    assert finding.found != finding.expected
    with open(tmp_path / "x.pth", "rb") as file:
        assert len(torch.load(file, weights_only=True)["weight"]) == 6  # torch notices nothing


def test_records_without_checksums_are_a_warning(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"dec.w": torch.ones(3)}, tmp_path / "x.pth")
    finally:
        torch.serialization.set_crc32_options(before)
    result = verify(tmp_path / "x.pth")
    assert [(finding.check, finding.severity) for finding in remarkable(result)] == [("record.crc", "warning")]
    assert result.status == "suspect"


def test_quick_reads_no_tensor_bytes(tmp_path: Path) -> None:
    data = bytearray(WHOLE)
    data[data.find(tensor("float32", (8, 8), range(64)).store.data)] ^= 1
    assert remarkable(verify(tmp_path / "x.pth", bytes(data), Options(quick=True))) == []


def test_a_training_file_under_a_head_cannot_be_resumed(tmp_path: Path) -> None:
    tree = {"model": TREE["weight"], "iteration": 1, "optimizer": None, "learning_rate": 1e-4}
    result = verify(tmp_path / "G_1.pth", torch_zip(tree, head=b"05"))
    assert "container.head" in ids(result)
    assert "--head PK" in next(finding.hint.command for finding in result.findings if finding.check == "container.head")


def test_the_hint_mends_the_head(tmp_path: Path) -> None:
    """Hints are made to be pasted."""
    import shlex
    import subprocess

    path = tmp_path / "G 1.pth"
    tree = {"model": TREE["weight"], "iteration": 1, "optimizer": None, "learning_rate": 1e-4}
    result = verify(path, torch_zip(tree, head=b"05"))
    hint = next(finding.hint.command for finding in result.findings if finding.check == "container.head")
    _, *arguments = shlex.split(hint)
    subprocess.run([sys.executable, "-m", "gsvckpt", *arguments], check=True)
    assert "container.head" not in ids(verify(path))


def test_the_hint_cuts_off_what_is_too_much(tmp_path: Path) -> None:
    import shlex
    import subprocess

    result = verify(tmp_path / "x y.pth", saved() + bytes(70_000))
    hint = next(finding.hint.command for finding in result.findings if finding.check == "container.trailing")
    _, *arguments = shlex.split(hint)
    subprocess.run([sys.executable, *arguments], check=True)
    assert verify(tmp_path / "x y.pth").status == "sound"


def test_bytes_behind_an_old_file(tmp_path: Path) -> None:
    assert ids(verify(tmp_path / "x.pth", torch_stream(TREE) + bytes(3))) == {"container.trailing"}


def test_what_cannot_be_examined_is_never_sound(tmp_path: Path) -> None:
    result = verify(tmp_path / "x.pth", zipped([Entry("a/data.pkl", b"x", method=8)]))
    assert result.status in ("unchecked", "damaged"), result
