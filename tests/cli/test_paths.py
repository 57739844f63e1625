"""Odd, long and wrong paths, and several sources of which some fail."""

from __future__ import annotations

import os
import sys

import pytest

from .samples import generator, s2_training, save, small

COMMANDS = ("convert-fp16", "strip-optimizer")


@pytest.mark.parametrize(
    "name", ["徐大夫第二次_e8_s16.pth", "with spaces é.pth", "-dash.pth", "--json", "😀.pth", "a'b$(x)`y`;z.pth", "#[b]%s{}.pth", "!menu\uff01.pth"]
)
@pytest.mark.parametrize("command", COMMANDS)
def test_odd_names(gsvckpt, tmp_path, monkeypatch, command, name):
    save(tmp_path / "日本 語" / name, s2_training(generator("v2")))
    monkeypatch.chdir(tmp_path / "日本 語")
    run = gsvckpt(command, "--json", "--", name)
    assert run.code == 0, run.err
    assert (run.file["source"], os.path.exists(run.file["output"])) == (name, True)
    assert gsvckpt("inspect", "--", name).code == 0
    assert gsvckpt(command, "-o", "out", "--", name).code == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_of_250_bytes(gsvckpt, tmp_path, command):
    source = save(tmp_path / f"{'n' * 247}.pth", s2_training(generator("v2")))
    data = source.read_bytes()
    assert gsvckpt("inspect", source).code == 0
    output = gsvckpt.json(command, source).file["output"]  # x.fp16.pth would be longer than a name may be, so it is cut
    assert os.path.isfile(output)
    assert "n" * 200 in output
    assert gsvckpt(command, source, "-o", tmp_path / "out.pth").code == 0
    assert gsvckpt(command, source, "-o", tmp_path / "folder").code == 0
    assert gsvckpt(command, source, "--in-place").code == 0
    assert source.read_bytes() != data


@pytest.mark.skipif(sys.platform == "win32", reason="needs long paths")
def test_a_very_long_path(gsvckpt, tmp_path):
    folder = tmp_path
    for _ in range(12):
        folder /= "声" * 80
    source = save(folder / "x.pth", s2_training(generator("v2")))
    assert len(os.fsencode(source)) > 2800
    for argv in (["inspect", source], ["convert-fp16", source], ["strip-optimizer", source, "--in-place"], ["inspect", tmp_path, "-r"]):
        assert gsvckpt(*argv).code == 0


@pytest.mark.parametrize("command", ["inspect", *COMMANDS])
def test_what_is_no_regular_file(gsvckpt, tmp_path, command):
    paths = [tmp_path / "nothing.pth", tmp_path / "nowhere" / "x.pth", "x" * 5000, ""]
    paths += [] if command == "inspect" else [tmp_path]
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "pipe.pth")
        (tmp_path / "loop.pth").symlink_to(tmp_path / "loop.pth")
        paths += [tmp_path / "pipe.pth", tmp_path / "loop.pth", "/dev/null", "/dev/zero"]
    for path in paths:
        run = gsvckpt(command, path)
        assert run.code == 3, (path, run)
        assert 1 <= len(run.err.splitlines()) <= 2


def test_several_sources_go_on_after_a_failure(gsvckpt, tmp_path):
    good = [save(tmp_path / f"{n}.pth", small(generator("v2"), "v2")) for n in range(2)]
    bad = tmp_path / "bad.pth"
    bad.write_bytes(b"no")
    files = gsvckpt.json("convert-fp16", good[0], bad, tmp_path / "nothing.pth", good[1], exit_code=3).document["files"]
    assert [file.get("written") for file in files] == [True, False, False, True]
    assert [file["source"] for file in files] == [str(path) for path in (good[0], bad, tmp_path / "nothing.pth", good[1])]
