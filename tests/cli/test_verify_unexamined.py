"""Nothing vouches for a file that was not examined: no list, no name, no choice of checks; only gsvckpt's own list of official files does."""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import tarfile

import pytest

from gsvckpt.sovits import official

from .samples import save, weights


def tar() -> bytes:
    """A tar that is no checkpoint."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("storages", "tensors", "notes"):
            data = pickle.dumps(0, 2)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


FILES = {"x.pth": tar(), "model.onnx": b"\x08\x07\x12\x07pytorch" + bytes(100), "notes.txt": b"notes\n", "config.json": b'{"a": 1}\n'}


@pytest.fixture
def folder(tmp_path):
    for name, data in FILES.items():
        (tmp_path / name).write_bytes(data)
    for name in ("sha256", "md5"):
        (tmp_path / f"{name}sums").write_text("".join(f"{hashlib.new(name, data).hexdigest()}  {file}\n" for file, data in FILES.items()))
    return tmp_path


def facts(run):
    return {os.path.basename(file["path"]): (file["status"], [found["check"] for found in file["findings"]]) for file in run.document["files"]}


@pytest.mark.parametrize("listed", ["sha256sums", "md5sums"])
@pytest.mark.parametrize("name", FILES)
def test_a_list_makes_nothing_sound(gsvckpt, folder, name, listed):
    """Whoever makes the file can make the list."""
    run = gsvckpt.json("verify", folder / name, "--checksums", folder / listed, exit_code=3)
    assert facts(run) == {name: ("unchecked", ["container.unsupported", "checksum.match"])}
    assert [found["severity"] for found in run.file["findings"]] == ["error", "info"]
    assert run.file["safety"]["verdict"] != "safe"


def test_those_that_a_list_names_in_a_folder(gsvckpt, folder):
    save(folder / "good.pth", weights({"w": (4, 4)}))
    found = facts(gsvckpt.json("verify", folder, "--checksums", folder / "sha256sums", exit_code=3))
    assert {name: status for name, (status, _) in found.items()} == {"good.pth": "suspect", **dict.fromkeys(FILES, "unchecked")}


@pytest.mark.parametrize("name", FILES)
def test_a_digest_that_differs_is_damage(gsvckpt, folder, name):
    (folder / name).write_bytes(FILES[name] + b" ")
    run = gsvckpt.json("verify", folder / name, "--checksums", folder / "sha256sums", exit_code=1)
    assert facts(run) == {name: ("damaged", ["checksum.mismatch"])}


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("checks", ["container,checksum.missing", "checksum.unlisted", "checksum.match", "pickle,checksum.malformed"])
def test_no_choice_of_checks_makes_it_sound(gsvckpt, folder, checks, damaged):
    (folder / "x.pth").write_bytes(FILES["x.pth"] + b" " * damaged)
    run = gsvckpt.json("verify", folder / "x.pth", "--checksums", folder / "sha256sums", "--checks", checks, exit_code=3)
    assert run.file["status"] == "unchecked"


@pytest.mark.parametrize("options", [[], ["--checksums", "sha256sums"]], ids=["", "listed"])
def test_it_is_neither_recorded_nor_copied_nor_listed(gsvckpt, folder, options):
    words = [folder / word if word == "sha256sums" else word for word in options]
    run = gsvckpt("verify", folder / "x.pth", *words, "--record", "--backup", folder / "copies", "--write-checksums", folder / "new.sha256")
    assert run.code == (3 if options else 1)
    assert not (folder / "gsvckpt.toml").exists()
    assert not list(folder.glob("copies/**/x.pth"))
    assert (folder / "new.sha256").read_bytes() == b""


def test_a_manifest_makes_nothing_sound(gsvckpt, folder):
    """One of a stranger, with the right digest."""
    size, digest = len(FILES["x.pth"]), hashlib.sha256(FILES["x.pth"]).hexdigest()
    mtime = (folder / "x.pth").stat().st_mtime_ns
    (folder / "gsvckpt.toml").write_text(f'[files."x.pth"]\nsize = {size}\nmtime_ns = {mtime}\nsha256 = "{digest}"\n')
    assert gsvckpt.json("verify", folder / "x.pth", exit_code=1).file["status"] == "damaged"
    assert gsvckpt.json("verify", folder / "x.pth", "--checks", "manifest", exit_code=1).file["status"] == "damaged"
    assert gsvckpt.json("verify", folder / "x.pth", "--checksums", folder / "sha256sums", exit_code=3).file["status"] == "unchecked"


@pytest.fixture
def published(monkeypatch):
    """With a list of our own, as the real files are too large to keep here. One is pinned by several repositories, the other by one."""
    listed = (
        official.OfficialFile("chinese-hubert-base/config.json", len(FILES["config.json"]), hashlib.sha256(FILES["config.json"]).hexdigest(), 4),
        official.OfficialFile("G2PWModel/model.onnx", len(FILES["model.onnx"]), hashlib.sha256(FILES["model.onnx"]).hexdigest(), 1),
    )
    monkeypatch.setattr(official, "OFFICIAL", listed)
    monkeypatch.setattr(official, "_by_basename", official._by_basename.__wrapped__)  # which remembers the real list


OFFICIAL = [("chinese-hubert-base", "config.json", "damaged"), ("G2PWModel", "model.onnx", "unchecked")]


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(("place", "name", "status"), OFFICIAL)
def test_official_files_are_known_by_gsvckpts_own_list_and_never_by_their_name(gsvckpt, folder, place, name, status):
    (folder / place).mkdir()
    path = folder / place / name
    path.write_bytes(FILES[name])
    run = gsvckpt.json("verify", path)
    assert (run.file["status"], run.file["official"], facts(run)[name][1]) == ("sound", f"{place}/{name}", ["official.digest"])
    path.write_bytes(FILES[name] + b" ")
    (folder / place / "sums").write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {name}\n")
    for more in ([], ["--checksums", folder / place / "sums"]):
        run = gsvckpt.json("verify", path, *more, exit_code=1 if status == "damaged" else 3)
        assert (run.file["status"], run.file["official"]) == (status, None)
        assert "official.digest" in facts(run)[name][1]
    assert gsvckpt.json("verify", path, "--checks", "container", exit_code=3).file["status"] == "unchecked"
    gsvckpt("verify", path, "--record")
    assert not (folder / place / "gsvckpt.toml").exists()
