"""What each command imports: the reason why it starts fast. Fresh processes tell, whatever this one has imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gsvckpt.cli.app import COMMANDS

from .samples import environment, generator, gpt, s1_training, s2_training, save, small

HEAVY = {"torch", "numpy", "pydantic", "pydantic_core", "safetensors", "fsspec", "aiohttp", "asyncio"}


def imported(*argv, code=0):
    """The top-level names of all modules that a run imports."""
    command = [sys.executable, "-X", "importtime", "-m", "gsvckpt", *argv]
    run = subprocess.run(command, capture_output=True, check=False, env=environment(), timeout=60)
    lines = run.stderr.decode().splitlines()
    assert run.returncode == code, lines[-5:]
    modules = {line.rsplit("|", 1)[1].strip() for line in lines if line.startswith("import time:")}
    assert "gsvckpt.cli.app" in modules
    return modules


@pytest.fixture
def files(tmp_path):
    save(tmp_path / "voice.pth", small(generator("v2", "float16"), "v2"))
    save(tmp_path / "G_16.pth", s2_training(generator("v2", enc_q=True)))
    save(tmp_path / "epoch=1-step=12.ckpt", s1_training(gpt(dtype="float32")))
    (tmp_path / "bad.pth").write_bytes(b"no checkpoint")
    return tmp_path


def tops(modules):
    return {name.partition(".")[0] for name in modules}


@pytest.mark.parametrize(
    "argv",
    [("--help",), ("--version",), *((command, "--help") for command in COMMANDS), ("insepct",), ("inspect", "--nonsense")],
    ids=" ".join,
)
def test_help_and_usage_errors_import_nothing_heavy(argv):
    assert not tops(imported(*argv, code=2 if argv[-1] in ("insepct", "--nonsense") else 0)) & HEAVY


@pytest.mark.parametrize("options", [(), ("--tensors",), ("--config",), ("--globals",), ("--memory",), ("--json",)], ids=" ".join)
def test_inspect_imports_nothing_heavy(files, options):
    assert not tops(imported("inspect", files / "G_16.pth", *options)) & HEAVY


def test_inspect_of_a_folder_and_of_a_bad_file_imports_nothing_heavy(files):
    assert not tops(imported("inspect", files, code=3)) & HEAVY
    assert not tops(imported("inspect", files / "bad.pth", code=3)) & HEAVY


@pytest.mark.parametrize("name", ["G_16.pth", "epoch=1-step=12.ckpt"])
@pytest.mark.parametrize("options", [(), ("--dry-run",), ("--in-place", "--json")], ids=" ".join)
def test_strip_optimizer_imports_nothing_heavy(files, name, options):
    assert not tops(imported("strip-optimizer", files / name, *options)) & HEAVY


def test_numbers_need_numpy_but_never_torch(files):
    for argv in (
        ("inspect", files / "voice.pth", "--stats"),
        ("convert-fp16", files / "G_16.pth"),
        ("inspect", files / "voice.pth", "--diff", files / "G_16.pth"),
    ):
        modules = imported(*argv, code=1 if "--diff" in argv else 0)
        assert "torch" not in modules
    assert not tops(imported("convert-fp16", files / "voice.pth")) & HEAVY  # nothing to cast


def test_a_command_imports_no_other_command(files):
    modules = imported("inspect", files / "voice.pth")
    assert not modules & {"gsvckpt.cli.convert_fp16", "gsvckpt.cli.strip_optimizer", "gsvckpt.engine.write"}
