"""Hints are pasted into a real `sh`, with the program behind them: each ends well, and what was to be mended is mended."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support.hints import commands_in

from .samples import discriminator, environment, generator, gpt, numbers, s1_training, s2_training, save, small

pytestmark = pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
NAME = "my 声音's $(touch pwned)"  # of the folder in which each file lies


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """Runs a line in `sh`, in the folder of the files, where gsvckpt is on the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "gsvckpt"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gsvckpt "$@"\n')
    program.chmod(0o755)
    root = tmp_path / "work"
    root.mkdir()
    monkeypatch.chdir(root)
    surroundings = environment(PATH=f"{folder}{os.pathsep}{os.environ['PATH']}")

    def run(line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["sh", "-c", line], cwd=root, env=surroundings, capture_output=True, text=True, check=False, timeout=60)

    return run


def deflated(path: Path) -> Path:
    """A zip whose records an archiver has compressed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = io.BytesIO()
    torch.save({"w": torch.ones(300)}, file)
    with zipfile.ZipFile(file) as one, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as two:
        for name in one.namelist():
            two.writestr(name, one.read(name))
    return path


def without_version(path: Path) -> Path:
    """A zip that torch.load refuses, though nothing in it is damaged."""
    file = io.BytesIO()
    torch.save({"w": torch.ones(300)}, file)
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(file) as one, zipfile.ZipFile(path, "w") as two:
        for name in one.namelist():
            if not name.endswith("/version"):
                two.writestr(name, one.read(name))
    return path


def sliced(path: Path) -> Path:
    """A small view of a big storage."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"w": torch.ones(500_000)[:10]}, path)
    return path


def cut(path: Path) -> Path:
    save(path, {"a": numbers((4_000,)), "b": numbers((4_000,))})
    os.truncate(path, path.stat().st_size - 4_000)
    return path


def recorded(path: Path) -> Path:
    """A file with a flipped bit, beside its manifest, and a sound copy of it in `copies`."""
    save(path, {"w": numbers((4_000,))})
    shutil.copytree(path.parent, "copies")
    subprocess.run([sys.executable, "-m", "gsvckpt", "verify", str(path), "--record"], check=True, capture_output=True, env=environment())
    data = bytearray(path.read_bytes())
    data[-2_000] ^= 1
    path.write_bytes(data)
    return path


def pair(path: Path) -> Path:
    """G of one epoch and D of another, as a kill leaves them, with an older pair."""
    save(path.parent / "G_16.pth", s2_training(generator("v2", enc_q=True), epoch=8))
    save(path.parent / "D_16.pth", s2_training(discriminator(), epoch=7))
    return path.parent


SITUATIONS: dict[str, tuple[str, Callable[[Path], Path], str]] = {  # how the file is called, what makes it, and the command that hints
    "a head of inference on a training file": ("G_16.pth", lambda path: save(path, s2_training(generator("v2", enc_q=True)), b"05"), "verify"),
    "a deflated zip": ("x.pth", deflated, "inspect"),
    "a deflated zip, verified": ("x.pth", deflated, "verify"),
    "a zip without a version": ("x.pth", without_version, "verify"),
    "a slice of a big storage": ("x.pth", sliced, "inspect"),
    "a cut file": ("x.pth", cut, "verify"),
    "a flipped bit": ("x.pth", recorded, "verify"),
    "a training file of SoVITS": ("G_16.pth", lambda path: save(path, s2_training(generator("v2", enc_q=True))), "inspect"),
    "a training file of GPT": ("epoch=1-step=12.ckpt", lambda path: save(path, s1_training(gpt(dtype="float32"))), "inspect"),
    "paths in a training file of GPT": ("epoch=1-step=12.ckpt", lambda path: save(path, s1_training(gpt(dtype="float32"))), "verify"),
    "float32 weights": ("alice_e8_s16.pth", lambda path: save(path, small(generator("v2", "float32"), "v2")), "inspect"),
    "a folder": ("x.pth", lambda path: save(path, {"w": numbers((300,))}).parent, "migrate"),
    "a folder of training files": ("logs_s2_v2/x", pair, "strip-optimizer"),
}
ALSO = re.compile(r"^.*(?:: |, )(gsvckpt [a-z0-9-]+ .*)$", re.MULTILINE)  # commands in inspect's lines, as `weights for inference: gsvckpt ...`
OTHERWISE = {  # exit codes other than 0, and why
    "--like": (2,),  # there is no such base here
    "--salvage": (1,),  # something is lost
    "--record": (0, 1),  # a damaged file is not recorded, which the hint excepts
    "--to-inference": (0, 3),  # SoVITS needs a config, and there is none here
}
MENDS = re.compile("--in-place|--restore-from")


@pytest.mark.parametrize("situation", SITUATIONS)
def test_each_hint_ends_well(gsvckpt, shell, situation):
    name, make, command = SITUATIONS[situation]
    path = make(Path(NAME) / name)
    said = gsvckpt(command, path)
    lines = [*commands_in(f"{said.out}\n{said.err}"), *ALSO.findall(said.out)]
    assert lines, (said.out, said.err)
    for line in dict.fromkeys(lines):
        done = shell(line.replace("<BACKUP>", "copies").replace("<BASE>", "base.pth"))
        assert done.returncode in next((codes for words, codes in OTHERWISE.items() if words in line), (0,)), (line, done.stderr)
        assert "Traceback" not in done.stderr
        if MENDS.search(line):
            assert gsvckpt("verify", path, "--layout", "none").code == 0
    assert not Path("pwned").exists()
