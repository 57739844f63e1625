"""What a word of the command line is taken for: a file in place of a command, and a pattern only where it names files; and UTF-8 for machines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from gsvckpt.files.toml import load

from .samples import environment, generator, numbers, save, small


@pytest.fixture
def voice(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return save(tmp_path / "alice_e8_s16.pth", small(generator("v2", "float16"), "v2"))


@pytest.mark.parametrize("options", [(), ("--json",), ("--tensors",)])
def test_a_file_in_place_of_a_command_is_inspected(gsvckpt, voice, options):
    assert gsvckpt(voice, *options) == gsvckpt("inspect", voice, *options)


def test_several_files_and_folders_too(gsvckpt, voice, tmp_path):
    other = save(tmp_path / "b.pth", {"w": numbers((3,))})
    assert gsvckpt(voice, other) == gsvckpt("inspect", voice, other)
    assert gsvckpt(tmp_path) == gsvckpt("inspect", tmp_path)
    assert gsvckpt(f'"{voice}"') == gsvckpt("inspect", voice)  # as Explorer copies a path


def test_what_is_not_there_is_still_a_misspelt_command(gsvckpt, voice):
    assert (gsvckpt("inspekt", voice).code, "inspekt" in gsvckpt("inspekt", voice).err) == (2, True)
    assert gsvckpt("gone.pth").code == 2


def test_a_command_goes_before_a_file_of_its_name(gsvckpt, voice, tmp_path):
    save(tmp_path / "verify", {"w": numbers((3,))})
    assert gsvckpt("verify", voice, "--layout", "none").out.startswith("s")


@pytest.mark.parametrize("option", ["--keep=G_*.pth", "--keep"])
def test_an_option_keeps_its_pattern(gsvckpt, voice, tmp_path, option):
    save(tmp_path / "G_50.pth", {"w": numbers((3,))})
    argv = [option] if "=" in option else [option, "G_*.pth"]
    assert gsvckpt("prune", tmp_path, "--keep-last", "1", *argv, "-n").code in (0, 3)


@pytest.mark.parametrize("argv", [("inspect", "--config"), ("inspect", "--json"), ("verify", "--format", "junit", "--layout", "none")])
@pytest.mark.parametrize("encoding", ["gbk", "cp1252", "ascii", "cp437"])
def test_what_a_machine_reads_is_utf8(tmp_path, argv, encoding):
    path = save(tmp_path / "鲁迅_e8_s16.pth", small(generator("v2", "float16"), "v2"))
    command = [sys.executable, "-m", "gsvckpt", argv[0], str(path), *argv[1:]]
    done = subprocess.run(command, capture_output=True, check=False, env=environment(PYTHONIOENCODING=encoding), timeout=60)
    text = done.stdout.decode("utf-8")
    assert "\ufffd" not in text
    if "--config" in argv:
        assert load(text)["name"] == "声音"
    elif "--json" in argv:
        assert json.loads(text)["files"][0]["path"] == str(path)
    else:
        assert path.name in text


def test_texts_of_powershell_are_read(gsvckpt, voice, tmp_path):
    text = '[[rule]]\nadd-prefix = "声音."\n'
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le"):
        (tmp_path / "rules.toml").write_bytes(text.replace("\n", "\r\n").encode(encoding))
        run = gsvckpt("migrate", save(tmp_path / "x.pth", {"w": numbers((3,))}), "--rules", tmp_path / "rules.toml", "-n")
        assert run.code == (2 if encoding == "utf-16-le" else 0)  # without its mark it could be anything
