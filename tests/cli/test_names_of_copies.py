"""Files that other programs leave beside checkpoints are called what they are: metadata of macOS, unfinished downloads, folders of copies."""

from __future__ import annotations

import os

import pytest

from .samples import numbers, save

APPLE = bytes([0, 5, 0x16, 7, 0, 2, 0, 0]) + b"Mac OS X        " + bytes(200)
TREE = {"w": numbers((300,))}


@pytest.fixture
def whole(tmp_path):
    return save(tmp_path / "voice.pth", TREE)


@pytest.mark.parametrize("name", ["._voice.pth", "__MACOSX/._voice.pth", "._epoch=1.ckpt", "._x.safetensors"])
def test_metadata_of_macos_is_no_checkpoint_and_not_damaged(gsvckpt, whole, tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(APPLE)
    for command in ("inspect", "verify"):
        document = gsvckpt.json(command, tmp_path, "-r").document
        assert [os.path.basename(file["path"]) for file in document["files"]] == ["voice.pth"]
        run = gsvckpt(command, path)
        assert run.code == 3
        assert "a metadata file of macOS (AppleDouble), not a checkpoint" in " ".join((run.out + run.err).split())
    assert gsvckpt.json("verify", path, exit_code=3).file["status"] == "unchecked"


def test_a_checkpoint_whose_name_begins_so_is_one(gsvckpt, tmp_path):
    save(tmp_path / "._mine.pth", TREE)
    assert gsvckpt.json("verify", tmp_path).file["status"] == "sound"


@pytest.mark.parametrize("ending", [".crdownload", ".part", ".partial", ".download", ".!ut", ".!qB", ".incomplete", ".tmp", ".xltd", ".opdownload"])
def test_an_unfinished_download_is_not_damaged(gsvckpt, whole, tmp_path, ending):
    data = whole.read_bytes()
    whole.unlink()
    path = tmp_path / f"voice.pth{ending}"
    path.write_bytes(data[: len(data) // 2])
    file = gsvckpt.json("verify", path, exit_code=3).file
    assert (file["status"], file["findings"][0]["why"]) == ("unchecked", f"is an unfinished download: it is called {path.name}")
    run = gsvckpt("inspect", path)
    assert (run.code, "is an unfinished download" in run.err) == (3, True)
    path.write_bytes(data)  # finished, but not renamed yet
    assert gsvckpt.json("verify", path).file["status"] == "sound"


@pytest.mark.parametrize("beside", ["voice.pth.aria2", "voice.pth.part", "Voice.pth.!qB"])
def test_what_a_download_manager_keeps_beside_a_file_tells_as_well(gsvckpt, whole, tmp_path, beside):
    data = whole.read_bytes()
    whole.write_bytes(data[:-40])
    assert gsvckpt.json("verify", whole, exit_code=1).file["status"] == "damaged"
    (tmp_path / beside).write_bytes(b"x")
    file = gsvckpt.json("verify", whole, exit_code=3).file
    assert (file["status"], f"{beside} lies beside it" in file["findings"][0]["why"]) == ("unchecked", True)
    whole.write_bytes(data)
    assert gsvckpt.json("verify", whole).file["status"] == "sound"


def test_a_partial_download_keeps_its_verdict(gsvckpt, whole, tmp_path):
    """What can be read of the pickle says no more than it would say of the whole file."""
    path = tmp_path / "voice.pth.crdownload"
    path.write_bytes(whole.read_bytes()[:-40])
    names = {name["name"]: name["verdict"] for name in gsvckpt.json("verify", path, exit_code=3).file["safety"]["globals"]}
    assert set(names.values()) == {"safe"}


@pytest.mark.parametrize("folder", [".ipynb_checkpoints", "__MACOSX"])
def test_folders_of_copies_are_named_and_not_looked_into(gsvckpt, whole, tmp_path, folder):
    (tmp_path / folder).mkdir()
    copy = save(tmp_path / folder / "voice-checkpoint.pth", TREE)
    for command in ("inspect", "verify"):
        run = gsvckpt(command, tmp_path, "-r")
        assert (run.code, f"{tmp_path / folder}" in run.out + run.err) == (0, True)
        document = gsvckpt.json(command, tmp_path, "-r").document
        assert document["skipped"] == [{"path": str(tmp_path / folder), "why": "holds copies that other programs keep"}]
        assert [file["path"] for file in document["files"]] == [str(whole)]
        assert gsvckpt.json(command, copy.parent).file["path"] == str(copy)
