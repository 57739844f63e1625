"""What `--help` shows as examples is pasted into a shell here, in a folder that holds the files they name."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gsvckpt.cli.app import COMMANDS
from tests.support.cloud import BUCKET
from tests.support.voices import sovits_config
from tests.support.web import serve

from .samples import discriminator, environment, generator, gpt, lora, s1_training, s2_training, save, small

WIDTH = 80  # of the narrowest terminal whose lines can be pasted whole
NOBODY = "to confirm it"  # of what prune answers without a terminal
# Refused (exit code 4) of shrunk files, as GPT-SoVITS looks at their sizes.
FULL_SIZE = re.compile("--merge-lora|--bundle|logs_s2_v2/.* --to-inference")

pytestmark = pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")


def examples(gsvckpt, monkeypatch, command: str) -> list[str]:
    """The lines of that part of the help, as they stand on the screen."""
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    lines = re.split(r"^ (?:Checks|Steps)\b", gsvckpt(command, "--help").out.partition("Examples")[2], flags=re.MULTILINE)[0].splitlines()
    return [line.strip() for line in lines if line.strip()]


@pytest.mark.parametrize("command", COMMANDS)
def test_an_example_is_one_line_a_command_and_what_it_does(gsvckpt, monkeypatch, command):
    found = examples(gsvckpt, monkeypatch, command)
    assert len(found) > 3
    assert all(re.fullmatch(rf"gsvckpt {command} [^#]+  # [^#]+", example) for example in found), found


def prepare(root: Path) -> None:
    """The files that the examples name, each of the kind that its example is about."""
    trained = s2_training(generator("v2", enc_q=True))
    voice, lightning = small(generator("v2", "float16"), "v2"), s1_training(gpt(dtype="float32"))
    runs = ("logs/alice/logs_s2_v2", "logs_s2_v2", "voices", "models", ".")
    for folder in runs:
        for step, epoch in ((16, 8), (32, 16), (48, 24)):
            save(root / folder / f"G_{step}.pth", {**trained, "iteration": epoch})
            save(root / folder / f"D_{step}.pth", s2_training(discriminator(), epoch))
    for name in ("voice", "old-voice", "stranger", "small", "big", "base", "model", "a", "SoVITS_weights_v2/alice_e8_s16"):
        save(root / f"{name}.pth", voice)
    for name in ("epoch=1-step=12", "run", "logs/alice/logs_s1_v2/ckpt/epoch=1-step=12"):
        save(root / f"{name}.ckpt", lightning)
    save(root / "alice_e8_s16_l32.pth", small(lora(), "v3"), b"03")
    save(root / "s2Gv3.pth", small(generator("v3"), "v3"))
    for folder in ("logs/alice", "logs/alice/logs_s2_v2"):
        (root / folder / "config.json").write_text(json.dumps(sovits_config("alice", "v2", 8)))
    (root / "broken.pth").write_bytes((root / "base.pth").read_bytes()[:-1200])


@pytest.fixture
def shell(tmp_path, cloud):
    """Runs a line in `sh`, where gsvckpt is on the PATH, and what examples call a host, a bucket and a disk are of this test."""
    bin_folder, root = tmp_path / "bin", tmp_path / "scratch"
    bin_folder.mkdir()
    program = bin_folder / "gsvckpt"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gsvckpt "$@"\n')
    program.chmod(0o755)
    prepare(root)
    (tmp_path / "mnt" / "copies").mkdir(parents=True)
    gsvckpt = ["sh", "-c", "gsvckpt migrate a.pth --to safetensors"]
    surroundings = environment(PATH=f"{bin_folder}{os.pathsep}{os.environ['PATH']}", **cloud.environment)
    subprocess.run(gsvckpt, cwd=root, env=surroundings, check=True, capture_output=True)
    cloud.put("logs/G_16.pth", (root / "G_16.pth").read_bytes())
    with serve(root) as web:

        def run(line: str) -> subprocess.CompletedProcess[str]:
            line = line.replace("https://host/", web.url("")).replace("s3://bucket/", f"s3://{BUCKET}/").replace("/mnt/", f"{tmp_path}/mnt/")
            return subprocess.run(["sh", "-c", line], cwd=root, env=surroundings, capture_output=True, text=True, check=False, timeout=60)

        yield run


@pytest.mark.parametrize("command", COMMANDS)
def test_examples_run_one_after_the_other(gsvckpt, monkeypatch, shell, command):
    for example in examples(gsvckpt, monkeypatch, command):
        if "| jq" in example and shutil.which("jq") is None:
            continue
        done = shell(example)
        if NOBODY in done.stderr:
            done = shell(example.replace("  #", " --yes  #"))
        assert done.returncode in ((4,) if FULL_SIZE.search(example) else (0, 1)), (example, done.stderr)
        assert "Traceback" not in done.stderr
