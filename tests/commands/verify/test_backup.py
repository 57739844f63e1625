"""Copies that are read back before they count, and files that come back from them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import xxhash

from gsvckpt.commands.verify import backup as module
from gsvckpt.commands.verify.backup import Backup, place_for, restore
from gsvckpt.commands.verify.damaged_names import damaged_name, is_kept_aside
from gsvckpt.commands.verify.manifest import NAME, ManifestEntry, read_manifest
from gsvckpt.errors import ChangedError, DamagedError, OutputError
from gsvckpt.files.publish import Target

ONE, TWO = b"one" * 1000, b"two" * 1000


def entry(path: Path) -> ManifestEntry:
    facts = path.stat()
    return ManifestEntry(path.name, facts.st_size, facts.st_mtime_ns, digests={"xxh3_128": xxhash.xxh3_128_hexdigest(path.read_bytes())})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "G_1.pth").write_bytes(ONE)
    return tmp_path / "G_1.pth"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != NAME}


def test_a_copy_has_bytes_time_config_and_an_entry(source: Path, tmp_path: Path) -> None:
    copied = Backup(str(tmp_path / "b")).store(str(source), "alice/G_1.pth", entry(source), {"model": {"version": "v2"}})
    copy = tmp_path / "b" / "alice" / "G_1.pth"
    assert (copied.copy, copied.made) == (str(copy), True)
    assert copy.read_bytes() == ONE
    assert copy.stat().st_mtime_ns == source.stat().st_mtime_ns
    assert json.loads((copy.parent / "G_1.pth.config.json").read_text()) == {"model": {"version": "v2"}}
    assert read_manifest(str(copy.parent / NAME)).entries["G_1.pth"].digests == entry(source).digests


def test_the_config_of_an_experiment_goes_along(tmp_path: Path) -> None:
    run = tmp_path / "logs" / "alice" / "logs_s2_v2"
    run.mkdir(parents=True)
    (run.parent / "config.json").write_text('{"train": {}}')
    (run / "G_1.pth").write_bytes(ONE)
    Backup(str(tmp_path / "b")).store(str(run / "G_1.pth"), "G_1.pth", entry(run / "G_1.pth"), None)
    assert (tmp_path / "b" / "G_1.pth.config.json").read_text() == '{"train": {}}'


def test_the_config_of_another_voice_stays_behind(tmp_path: Path) -> None:
    run = tmp_path / "logs" / "alice" / "logs_s2_v2"
    run.mkdir(parents=True)
    (run.parents[1] / "config.json").write_text('{"train": {}}')
    (run / "G_1.pth").write_bytes(ONE)
    Backup(str(tmp_path / "b")).store(str(run / "G_1.pth"), "G_1.pth", entry(run / "G_1.pth"), None)
    assert not (tmp_path / "b" / "G_1.pth.config.json").exists()


def test_what_is_there_already_is_not_copied_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(tmp_path / "b")
    Backup(folder).store(str(source), "G_1.pth", entry(source), None)
    monkeypatch.setattr(module, "copy_file", None)
    monkeypatch.setattr(module, "_digest_of", None)  # nor is it read: its manifest is believed while size and time stay
    assert not Backup(folder).store(str(source), "elsewhere/G_1.pth", entry(source), None).made


def test_another_good_copy_is_never_overwritten(source: Path, tmp_path: Path) -> None:
    backup = Backup(str(tmp_path / "b"))
    backup.store(str(source), "G_1.pth", entry(source), None)
    source.write_bytes(TWO)
    copied = backup.store(str(source), "G_1.pth", entry(source), None)
    assert Path(copied.copy).name == f"G_1.{xxhash.xxh3_128_hexdigest(TWO)[:8]}.pth"
    assert sorted(files(tmp_path / "b").values()) == [ONE, TWO]


def test_a_copy_without_an_entry_is_recorded_not_copied(source: Path, tmp_path: Path) -> None:
    """As after a kill between the copy and its entry."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "G_1.pth").write_bytes(ONE)
    assert not Backup(str(tmp_path / "b")).store(str(source), "G_1.pth", entry(source), None).made
    assert "G_1.pth" in read_manifest(str(tmp_path / "b" / NAME)).entries


def test_a_file_that_changed_since_it_was_verified_is_not_copied(source: Path, tmp_path: Path) -> None:
    known = entry(source)
    source.write_bytes(TWO)
    with pytest.raises(ChangedError):
        Backup(str(tmp_path / "b")).store(str(source), "G_1.pth", known, None)
    assert files(tmp_path / "b") == {}


def test_a_copy_that_does_not_read_back_is_not_kept(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Target.write_at
    monkeypatch.setattr(Target, "write_at", lambda self, offset, data: write(self, offset, bytes(len(data))))
    with pytest.raises(OutputError, match="does not read back"):
        Backup(str(tmp_path / "b")).store(str(source), "G_1.pth", entry(source), None)
    assert files(tmp_path / "b") == {}


def copies(tmp_path: Path, *contents: bytes) -> str:
    (tmp_path / "b" / "sub").mkdir(parents=True)
    for number, data in enumerate(contents):
        (tmp_path / "b" / "sub" / f"{number}.pth").write_bytes(data)
    return str(tmp_path / "b")


def test_a_damaged_file_comes_back_and_is_kept(source: Path, tmp_path: Path) -> None:
    known = entry(source)
    source.write_bytes(b"damaged")
    restored = restore(str(source), known, copies(tmp_path, TWO, ONE))
    assert source.read_bytes() == ONE
    assert source.stat().st_mtime_ns == known.mtime_ns
    assert restored.kept == str(source) + ".damaged"
    assert Path(restored.kept).read_bytes() == b"damaged"


def test_a_missing_file_comes_back(source: Path, tmp_path: Path) -> None:
    known = entry(source)
    source.unlink()
    assert restore(str(source), known, copies(tmp_path, ONE)).kept is None
    assert source.read_bytes() == ONE


def test_a_damaged_copy_never_replaces_anything(source: Path, tmp_path: Path) -> None:
    known = entry(source)
    source.write_bytes(b"damaged")
    rotten = bytearray(ONE)
    rotten[7] ^= 1
    with pytest.raises(DamagedError, match="no copy of it with the recorded digest; 1 file of its size"):
        restore(str(source), known, copies(tmp_path, bytes(rotten)))
    assert source.read_bytes() == b"damaged"
    assert sorted(os.listdir(tmp_path)) == ["G_1.pth", "b"]


def test_a_second_damage_is_kept_as_well(source: Path, tmp_path: Path) -> None:
    known = entry(source)
    folder = copies(tmp_path, ONE)
    for number, damage in enumerate((b"first", b"second"), 1):
        source.write_bytes(damage)
        kept = restore(str(source), known, folder).kept
        assert kept == str(source) + (".damaged" if number == 1 else ".damaged-2")
        assert Path(kept).read_bytes() == damage


def test_without_hard_links(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    known = entry(source)
    source.write_bytes(b"damaged")
    folder = copies(tmp_path, ONE)
    monkeypatch.setattr(os, "link", no_link)
    kept = restore(str(source), known, folder).kept
    assert (source.read_bytes(), Path(kept).read_bytes()) == (ONE, b"damaged")


def test_a_full_disk_leaves_everything_as_it_was(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    known = entry(source)
    source.write_bytes(b"damaged")
    folder = copies(tmp_path, ONE)
    monkeypatch.setattr(Target, "write_at", full)
    with pytest.raises(OutputError):
        restore(str(source), known, folder)
    assert source.read_bytes() == b"damaged"
    assert sorted(os.listdir(tmp_path)) == ["G_1.pth", "b"]


@pytest.mark.parametrize(
    ("name", "number", "kept"),
    [
        ("a/G_16.pth", 1, "a/G_16.pth.damaged"),
        ("a/G_16.pth", 2, "a/G_16.pth.damaged-2"),
        ("a/epoch=1-step=12.ckpt", 1, "a/damaged-epoch=1-step=12.ckpt"),
        ("x.safetensors", 1, "x.safetensors.damaged"),
    ],
)
def test_gpt_sovits_never_takes_a_damaged_file_for_one_of_its_own(name: str, number: int, kept: str) -> None:
    assert damaged_name(name, number) == kept
    assert is_kept_aside(kept)
    assert not is_kept_aside(name)


def test_places_below_the_backup(tmp_path: Path) -> None:
    assert place_for(str(tmp_path / "logs" / "a" / "G.pth"), str(tmp_path / "logs")) == os.path.join("logs", "a", "G.pth")
    assert place_for("anywhere/G.pth", None) == "G.pth"
