"""A checkpoint that somebody unpacked into a folder is one checkpoint, which torch does not load and `migrate` makes whole."""

from __future__ import annotations

import zipfile

import pytest
import torch
from support.oracle import assert_same

import gsvckpt as api

TREE = {"w": torch.arange(32.0), "tied": torch.ones(4).half(), "epoch": 3}


@pytest.fixture
def unpacked(tmp_path):
    """The folder that an archiver makes, with the folder of the records in it."""
    torch.save(TREE, tmp_path / "voice.pth")
    with zipfile.ZipFile(tmp_path / "voice.pth") as archive:
        archive.extractall(tmp_path / "out")
    (tmp_path / "out" / "voice" / "data" / "._0").write_bytes(b"\0\5\x16\7")  # what macOS adds
    return tmp_path / "out" / "voice"


@pytest.mark.parametrize("place", ["folder", "pickle", "relative"])
def test_migrate_makes_it_whole(gsvckpt, unpacked, tmp_path, monkeypatch, place):
    monkeypatch.chdir(unpacked)
    source = {"folder": unpacked, "pickle": unpacked / "data.pkl", "relative": "."}[place]
    output = gsvckpt.json("migrate", source, "-o", tmp_path / "whole.pth").file["output"]
    assert_same(torch.load(output), TREE)
    assert gsvckpt.json("verify", output).file["status"] == "sound"


def test_the_folder_above_will_do_where_it_holds_nothing_else(gsvckpt, unpacked):
    file = gsvckpt.json("migrate", unpacked.parent).file
    assert file["output"] == f"{unpacked.parent}.migrated.pth"
    assert_same(torch.load(file["output"]), TREE)


@pytest.mark.parametrize("arguments", [("FOLDER",), ("FOLDER/data.pkl",), ("ABOVE", "-r")])
def test_inspect_and_verify_say_what_it_is(gsvckpt, unpacked, arguments):
    words = [word.replace("FOLDER", str(unpacked)).replace("ABOVE", str(unpacked.parent)) for word in arguments]
    (file,) = gsvckpt.json("inspect", *words).document["files"]
    assert (file["path"], file["tensors"]) == (str(unpacked / "data.pkl"), 2)
    assert "as if it had been unpacked" in file["warnings"][0]
    (file,) = gsvckpt.json("verify", *words, exit_code=1).document["files"]
    assert [finding["check"] for finding in file["findings"] if finding["severity"] == "error"] == ["container.torch"]
    assert file["findings"][0]["hint"]["command"] == f"gsvckpt migrate {unpacked / 'data.pkl'}"
    assert "state no checksum" in file["checks"]["skipped"]["record.crc"]


def test_the_other_commands_read_it(gsvckpt, unpacked, tmp_path):
    half = torch.load(gsvckpt.json("convert-fp16", unpacked, "-o", tmp_path / "half.pth").file["output"])
    assert half["w"].dtype is torch.float16
    assert_same(dict(api.load_state_dict(unpacked)), {name: tensor for name, tensor in TREE.items() if name != "epoch"})
    assert gsvckpt("verify", unpacked, "--against", tmp_path / "voice.pth", "--checks", "against").code == 0


@pytest.mark.parametrize("damage", ["missing", "short", "long"])
def test_a_record_that_is_missing_or_of_another_size_is_damage(gsvckpt, unpacked, damage):
    record = unpacked / "data" / "0"
    if damage == "missing":
        record.unlink()
    else:
        record.write_bytes(record.read_bytes()[:-4] if damage == "short" else record.read_bytes() + bytes(4))
    for command in ("inspect", "migrate"):
        run = gsvckpt(command, unpacked)
        assert run.code == 3
        assert "storage 0" in run.err or "data/0" in run.err
    assert gsvckpt("verify", unpacked).code == 1


def test_a_pickle_that_runs_code_is_unsafe_here_as_well(gsvckpt, unpacked):
    (unpacked / "data.pkl").write_bytes(b"cposix\nsystem\n(S'touch ran'\ntR.")
    assert gsvckpt.json("verify", unpacked, exit_code=1).file["status"] == "unsafe"


def test_a_lone_pickle_of_that_name_is_a_bare_pickle(gsvckpt, tmp_path):
    (tmp_path / "data.pkl").write_bytes(b"\x80\x02}q\x00.")
    assert "a bare pickle" in gsvckpt("inspect", tmp_path / "data.pkl").err
