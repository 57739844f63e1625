"""The scripts in completions/ are what the program prints today, and they complete in real shells."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "completions"
PROGRAM = Path(sys.executable).with_name("gsvckpt")
PATIENCE = 30  # seconds before a shell that does not answer is given up

pytestmark = pytest.mark.skipif(not PROGRAM.exists(), reason="gsvckpt is not installed beside this Python; `make test` does so")


def needs(shell: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"{shell} is not installed")


@pytest.fixture
def environment(tmp_path):
    """An environment in which `gsvckpt` is this one and no user's settings are read."""
    return {"PATH": f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path), "TERM": "dumb", "LC_ALL": "C.UTF-8"}


def run(arguments, environment):
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout


@needs("sh")
def test_the_scripts_are_current(tmp_path, environment):
    run([FOLDER / "generate", tmp_path], environment)
    for name in ("gsvckpt.bash", "_gsvckpt", "gsvckpt.fish"):
        assert (FOLDER / name).read_text() == (tmp_path / name).read_text(), "run `make completions`"


@needs("bash")
@pytest.mark.parametrize(
    ("words", "expected"), [(["con"], {"convert-fp16"}), (["inspect", "--tens"], {"--tensors"}), (["strip-optimizer", "--in-p"], {"--in-place"})]
)
def test_bash_completes(environment, words, expected):
    script = """
        source "$1"; shift
        COMP_WORDS=(gsvckpt "$@"); COMP_CWORD=$#
        "$(complete -p gsvckpt | sed 's/.*-F \\([^ ]*\\).*/\\1/')" gsvckpt
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    assert set(run(["bash", "--norc", "-c", script, "bash", FOLDER / "gsvckpt.bash", *words], environment).split()) == expected


@needs("fish")
@pytest.mark.parametrize(("line", "expected"), [("gsvckpt con", {"convert-fp16"}), ("gsvckpt inspect --tens", {"--tensors"})])
def test_fish_completes(environment, line, expected):
    said = run(["fish", "--no-config", "-c", 'source $argv[1]; complete -C "$argv[2]"', FOLDER / "gsvckpt.fish", line], environment)
    assert {row.partition("\t")[0] for row in said.splitlines()} == expected


@needs("zsh")
@pytest.mark.parametrize(
    "setup", ["fpath=({folder} $fpath); autoload -Uz compinit; compinit -u -D", "autoload -Uz compinit; compinit -u -D; . {folder}/_gsvckpt"]
)
@pytest.mark.parametrize(("line", "expected"), [("gsvckpt con", "convert-fp16 "), ("gsvckpt inspect --tens", "--tensors ")])
def test_zsh_completes(environment, setup, line, expected):
    """Only a terminal makes zsh complete, so it gets one, and its Tab key."""
    ours, theirs = pty.openpty()
    shell = subprocess.Popen(["zsh", "-f", "-i"], stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True)
    os.close(theirs)
    try:
        os.write(ours, f"{setup.format(folder=FOLDER)}; print REA''DY\n".encode())  # what is typed is shown too, hence the quotes
        read_until(ours, "READY\r\n")
        os.write(ours, f"{line}\t".encode())
        read_until(ours, expected)
    finally:
        shell.kill()
        shell.wait()
        os.close(ours)


def read_until(terminal: int, text: str) -> None:
    said = b""
    deadline = time.monotonic() + PATIENCE
    while text.encode() not in said:
        ready, _, _ = select.select([terminal], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"no {text!r} in {said!r}"
        said += os.read(terminal, 4096)
