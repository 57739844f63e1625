"""torch is an extra: every command works where it is missing or broken, and what needs it says so in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gsvckpt.files.toml import load

from .samples import ROOT, environment, evil, generator, gpt, lora, numbers, s1_training, s2_training, save, small

MISSING = 'raise ModuleNotFoundError("No module named \'torch\'", name="torch")'
BROKEN = "raise OSError('[WinError 126] The specified module could not be found. Error loading \"c10.dll\" or one of its dependencies.')"
PARTLY = 'raise ModuleNotFoundError("No module named \'torch._C\'", name="torch._C")'


def without(folder: Path, torch: str) -> dict[str, str]:
    """An environment in which `import torch` does what a text says."""
    package = folder / "packages" / "torch"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(torch, encoding="utf-8")
    return environment(PYTHONPATH=os.pathsep.join([str(package.parent), str(ROOT)]), PYTHONDONTWRITEBYTECODE="1")


@pytest.fixture
def run(tmp_path):
    """Runs the program where `import torch` does what a text says."""

    def run(torch: str, *argv: object) -> subprocess.CompletedProcess[str]:
        surroundings = without(tmp_path, torch)
        command = [sys.executable, "-m", "gsvckpt", *map(str, argv)]
        return subprocess.run(command, cwd=tmp_path, env=surroundings, capture_output=True, text=True, check=False, timeout=60)

    return run


@pytest.fixture
def files(tmp_path) -> Path:
    save(tmp_path / "alice_e8_s16.pth", small(generator("v2", "float32"), "v2"))
    save(tmp_path / "epoch=1-step=12.ckpt", s1_training(gpt(dtype="float32")))
    save(tmp_path / "lora_e8_s16_l32.pth", small(lora(), "v3"), b"03")
    save(tmp_path / "evil.pth", evil())
    for step in (8, 16):
        save(tmp_path / "logs" / "alice" / "logs_s2_v2" / f"G_{step}.pth", s2_training(generator("v2", enc_q=True)))
    return tmp_path


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        ("--help", 0),
        ("inspect alice_e8_s16.pth --tensors --stats", 0),
        ("inspect . -r --json", 0),
        ("inspect evil.pth --globals", 0),
        ("verify alice_e8_s16.pth --layout none", 1),
        ("verify evil.pth", 1),
        ("convert-fp16 alice_e8_s16.pth -o half.pth", 0),
        ("strip-optimizer epoch=1-step=12.ckpt -o small.ckpt", 0),
        ("migrate alice_e8_s16.pth --to safetensors", 0),
        ("migrate alice_e8_s16.pth --plain --dtype bfloat16 -o plain.pth", 0),
        ("migrate epoch=1-step=12.ckpt --to-inference -o weights/", 0),
        ("prune logs/alice --keep-last 1 -n", 0),
    ],
)
@pytest.mark.parametrize("torch", [MISSING, BROKEN], ids=["missing", "broken"])
def test_commands_need_no_torch(run, files, argv, code, torch):
    if argv.endswith("weights/"):
        (files / "weights").mkdir()
    done = run(torch, *argv.split())
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr


NEEDED = {
    "merging": ("--merge-lora", ("migrate", "lora_e8_s16_l32.pth", "--merge-lora", "base.pth", "-o", "full.pth", "--force")),
    "the device cuda": ("device", ("convert-fp16", "alice_e8_s16.pth", "--device", "cuda", "-o", "x.pth")),
    "fusing weight norms": ("--rules", ("migrate", "norms.pth", "--rules", "fuse.toml", "-o", "x.pth")),
}


@pytest.mark.parametrize("what", NEEDED)
@pytest.mark.parametrize(
    ("torch", "why", "hint"),
    [
        (MISSING, "which is not installed", 'pip install "gsvckpt[torch]"  # installs it'),
        (
            BROKEN,
            'which is installed but does not load: [WinError 126] The specified module could not be found. Error loading "c10.dll"',
            "Redistributable",
        ),
        (PARTLY, "which is installed but does not load: No module named 'torch._C'", "install torch anew"),
    ],
    ids=["missing", "broken", "partly"],
)
def test_what_needs_torch_says_so_in_one_line(run, files, what, torch, why, hint):
    where, argv = NEEDED[what]
    save(files / "base.pth", small(generator("v3"), "v3"))
    save(files / "norms.pth", {"dec.a.weight_g": numbers((4, 1)), "dec.a.weight_v": numbers((4, 3))})
    (files / "fuse.toml").write_text('[[rule]]\nfuse-weight-norm = "*"\n')
    before = sorted(path.name for path in files.iterdir() if path.name != "packages")
    done = run(torch, *argv)
    first, second = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{where}: {what} needs torch, {why}" in first
    assert hint in second
    assert sorted(path.name for path in files.iterdir() if path.name != "packages") == before


def test_loading_into_torch_says_so(run, files):
    code = "import gsvckpt\ntry: gsvckpt.load_state_dict('alice_e8_s16.pth')\nexcept gsvckpt.GsvError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", code], cwd=files, env=without(files, MISSING), capture_output=True, text=True, check=True)
    assert "loading tensors into torch needs torch, which is not installed" in done.stdout


def test_the_package_asks_for_no_torch():
    project = load((Path(ROOT) / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert not any(name.startswith("torch") for name in project["dependencies"])
    assert json.dumps(project["optional-dependencies"]["torch"]).count("torch") == 1
