"""Lists of digests, against the tools that write and check them."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import xxhash

from gsvckpt.commands.verify.checks.of_list import compare, malformed
from gsvckpt.commands.verify.checksum_files import format_for, read_checksums, write_checksums
from gsvckpt.errors import MissingError, RefusedError, UsageError

NAMES = ["plain.pth", "two words.pth", "声音.pth", "back\\slash.pth", "new\nline.pth"]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    found = {name: name.encode() * 100 for name in NAMES}
    for name, data in found.items():
        (tmp_path / name).write_bytes(data)
    return found


@pytest.mark.parametrize("tool", ["md5sum", "sha256sum", "sha1sum", "sha512sum"])
@pytest.mark.parametrize("options", [[], ["--tag"], ["-b"]], ids=["plain", "tag", "binary"])
def test_what_coreutils_write_is_read(tmp_path: Path, files: dict[str, bytes], tool: str, options: list[str]) -> None:
    listing = subprocess.run([tool, *options, *files], cwd=tmp_path, check=True, capture_output=True).stdout
    (tmp_path / "SUMS").write_bytes(listing)
    found = read_checksums(str(tmp_path / "SUMS"))
    assert not found.malformed
    assert len(found.listed) == len(NAMES)
    name = tool.removesuffix("sum")
    for file, data in files.items():
        line = found.listed[os.path.normcase(str(tmp_path / file))]
        assert name in line.algorithms
        assert compare(line, {name: hashlib.new(name, data).hexdigest()}) == []
        assert [finding.check for finding in compare(line, {name: "00"})] == ["checksum.mismatch"]


@pytest.mark.parametrize("name", ["xxh32", "xxh64", "xxh3_64", "xxh3_128"])
def test_what_xxhsum_writes_is_read(tmp_path: Path, name: str) -> None:
    """Its output, by hand: `XXH3_` stands before the one that has the length of another."""
    digest = getattr(xxhash, f"{name}_hexdigest")(b"x")
    label = {"xxh32": "XXH32", "xxh64": "XXH64", "xxh3_64": "XXH3", "xxh3_128": "XXH128"}[name]
    for line in (f"{'XXH3_' if name == 'xxh3_64' else ''}{digest}  x.pth\n", f"{label} (x.pth) = {digest}\n"):
        (tmp_path / "SUMS").write_text(line)
        (listed,) = read_checksums(str(tmp_path / "SUMS")).listed.values()
        assert name in listed.algorithms
        assert compare(listed, {name: digest}) == []


@pytest.mark.parametrize("ending", [".md5", ".sha256", ".txt"])
def test_what_is_written_the_tools_check(tmp_path: Path, files: dict[str, bytes], ending: str) -> None:
    path = tmp_path / "lists" / f"sums{ending}"
    path.parent.mkdir()
    name = format_for(str(path))
    write_checksums(str(path), [(str(tmp_path / file), hashlib.new(name, data).hexdigest()) for file, data in files.items()], overwrite=False)
    subprocess.run([f"{name}sum", "-c", "--strict", "--quiet", path.name], cwd=path.parent, check=True)
    with pytest.raises(RefusedError):
        write_checksums(str(path), [], overwrite=False)


@pytest.mark.skipif(not shutil.which("xxhsum"), reason="xxhsum is not installed")
def test_xxhsum_itself(tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(b"x")
    write_checksums(str(tmp_path / "s.xxh128"), [(str(tmp_path / "x.pth"), xxhash.xxh3_128_hexdigest(b"x"))], overwrite=False)
    subprocess.run(["xxhsum", "-c", "s.xxh128"], cwd=tmp_path, check=True)


@pytest.mark.parametrize(
    ("name", "algorithm"),
    [("a.md5", "md5"), ("MD5SUMS", "md5"), ("x.xxh128", "xxh3_128"), ("SHA256SUMS", "sha256"), ("x", "sha256"), ("x.pth.sha256", "sha256")],
)
def test_the_name_of_a_list_says_what_it_holds(name: str, algorithm: str) -> None:
    assert format_for(name) == algorithm


def test_lines_that_make_no_sense_are_counted(tmp_path: Path) -> None:
    (tmp_path / "SUMS").write_text(f"# a comment\n\n{'0' * 64}  a.pth\nnonsense\n{'0' * 63}  b.pth\n")
    found = read_checksums(str(tmp_path / "SUMS"))
    assert (len(found.listed), found.malformed) == (1, (4, 5))
    assert [finding.found for finding in malformed(found)] == ["2"]


def test_a_list_without_lines_and_none_at_all(tmp_path: Path) -> None:
    (tmp_path / "SUMS").write_bytes(bytes(range(256)))
    with pytest.raises(UsageError, match="holds no line"):
        read_checksums(str(tmp_path / "SUMS"))
    with pytest.raises(MissingError):
        read_checksums(str(tmp_path / "none"))


def test_names_are_looked_for_beside_the_list_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "x.pth").write_bytes(b"x")
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "SUMS").write_text(f"{'0' * 64}  x.pth\n")
    (listed,) = read_checksums(str(tmp_path / "SUMS")).listed.values()
    assert listed.path == str(tmp_path / "here" / "x.pth")
    (tmp_path / "x.pth").write_bytes(b"x")
    (listed,) = read_checksums(str(tmp_path / "SUMS")).listed.values()
    assert listed.path == str(tmp_path / "x.pth")
