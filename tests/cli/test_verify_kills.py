"""Killed at fifty moments (five hundred by `make soak`) while recording, copying or restoring.

The manifest is readable, nothing good is lost, and a second run ends the job.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soak
from support.builders import tensor, torch_zip

from gsvckpt.commands.verify.manifest import NAME, read_manifest

from .samples import environment, leftovers

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals")
MOMENTS = soak.count(500)

# Forks a run for each line of its input, so that what takes long, the imports, is done once. A run kills itself at the n-th time that it touches a
# file of the test, or by a timer that fires anywhere in between. Answers with [how often it touched one, its exit code, how the process ended].
PROGRAM = """
import json, os, signal, sys
from gsvckpt.cli.app import main
import gsvckpt.cli.verify, gsvckpt.engine.digest, gsvckpt.commands.verify.after, gsvckpt.commands.verify.manifest, numpy, tomli_w
gsvckpt.commands.verify.manifest._parse("", "")
def run(at, after, folder, argv, answer):
    count = 0
    def hook(event, arguments):
        nonlocal count
        if event in ("open", "os.rename", "os.link", "os.remove", "os.chmod", "os.utime", "os.mkdir") and folder in str(arguments[0]):
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    if after:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, after)
    code = main(["verify", *argv, "-q", "-j", "1"])
    os.write(answer, json.dumps([count, code]).encode())
    os._exit(0)
for line in sys.stdin:
    at, after, folder, argv = json.loads(line)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        run(at, after, folder, argv, writer)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    print(json.dumps([*json.loads(os.read(reader, 100) or "[0, null]"), status]), flush=True)
    os.close(reader)
"""


class Runs:
    """A process that forks runs of verify."""

    def __init__(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment())

    def __call__(self, folder: Path, *argv: object, at: int = -1, after: float = 0) -> tuple[int, int | None, int]:
        self.process.stdin.write(json.dumps([at, after, str(folder), list(map(str, argv))]) + "\n")
        self.process.stdin.flush()
        count, code, status = json.loads(self.process.stdout.readline())
        return count, code, status


@pytest.fixture(scope="module")
def run():
    runs = Runs()
    yield runs
    runs.process.stdin.close()
    runs.process.stdout.close()
    assert runs.process.wait(30) == 0


def moments(run: Runs, folder: Path, total: int, prepare, *argv: object):
    """Yield after each of the kills: at every kind of file operation, and at moments between them."""
    rng = random.Random(f"{soak.SEED} {argv}")
    steps = [rng.randrange(1, total + 1) for _ in range(MOMENTS * 3 // 5)]
    delays = [rng.uniform(0.0005, 0.08) for _ in range(MOMENTS - len(steps))]
    killed = 0
    for at, after in [*((step, 0.0) for step in steps), *((-1, delay) for delay in delays)]:
        prepare()
        _, _, status = run(folder, *argv, at=at, after=after)
        killed += os.WIFSIGNALED(status)
        yield
    assert killed >= MOMENTS * 3 // 5, "nearly all runs must really have been killed"
    soak.tally("verify, killed while it records, copies or restores", moments=MOMENTS, killed=killed)


def tree(value: float) -> dict[str, object]:
    return {"dec.w": tensor("float32", (60_000,), [value] * 60_000)}


@pytest.fixture
def voices(tmp_path: Path) -> Path:
    (tmp_path / "voices").mkdir()
    for number in range(3):
        (tmp_path / "voices" / f"G_{number}.pth").write_bytes(torch_zip(tree(number)))
    return tmp_path / "voices"


def total(run: Runs, folder: Path, *argv: object) -> int:
    count, code, _ = run(folder, *argv)
    assert code == 0
    return count


def test_recording(run: Runs, voices: Path) -> None:
    steps = total(run, voices, voices, "--record")
    good = (voices / NAME).read_bytes()
    (voices / "G_3.pth").write_bytes(torch_zip(tree(3)))

    def prepare() -> None:
        (voices / NAME).write_bytes(good)

    for _ in moments(run, voices, steps, prepare, voices, "--record"):
        assert len(read_manifest(str(voices / NAME)).entries) in (3, 4)
        assert run(voices, voices, "--record")[1] == 0
        assert len(read_manifest(str(voices / NAME)).entries) == 4
        assert leftovers(voices) == [], "what the killed run left goes with the next one"
        assert sorted(os.listdir(voices)) == ["G_0.pth", "G_1.pth", "G_2.pth", "G_3.pth", NAME]


def test_copying(run: Runs, tmp_path: Path, voices: Path) -> None:
    copies = tmp_path / "copies"
    steps = total(run, tmp_path, voices, "--backup", copies)
    originals = {path.name: path.read_bytes() for path in voices.iterdir()}
    for _ in moments(run, tmp_path, steps, lambda: shutil.rmtree(copies, ignore_errors=True), voices, "--backup", copies):
        for path in copies.rglob("*.pth"):
            assert path.read_bytes() == originals[path.name], "a copy has its name only when it is whole"
        for path in copies.rglob(NAME):
            read_manifest(str(path))
        assert run(tmp_path, voices, "--backup", copies)[1] == 0
        assert leftovers(copies) == [], "what the killed run left goes with the next one"
        assert {path.name: path.read_bytes() for path in copies.rglob("*.pth")} == originals
        assert set(read_manifest(str(copies / "voices" / NAME)).entries) == set(originals)
        assert {path.name: path.read_bytes() for path in voices.iterdir()} == originals


def test_restoring(run: Runs, tmp_path: Path, voices: Path) -> None:
    copies = tmp_path / "copies"
    run(tmp_path, voices, "--record", "--backup", copies)
    good = {path.name: path.read_bytes() for path in voices.glob("*.pth")}
    damage = {"G_0.pth": good["G_0.pth"][:-100], "G_1.pth": bytes(len(good["G_1.pth"]))}

    def prepare() -> None:
        for path in voices.iterdir():
            if path.name != NAME:
                path.unlink()
        for name, data in {**good, **damage}.items():
            (voices / name).write_bytes(data)
        (voices / "G_2.pth").unlink()

    prepare()
    steps = total(run, tmp_path, voices, "--restore-from", copies)
    for _ in moments(run, tmp_path, steps, prepare, voices, "--restore-from", copies):
        for name, data in damage.items():
            there = (voices / name).read_bytes()
            assert there in (data, good[name])
            if there != data:
                assert (voices / f"{name}.damaged").read_bytes() == data, "the damaged file is kept"
        if (voices / "G_2.pth").exists():
            assert (voices / "G_2.pth").read_bytes() == good["G_2.pth"]
        assert run(tmp_path, voices, "--restore-from", copies)[1] == 0
        assert {name: (voices / name).read_bytes() for name in good} == good
        assert {path.name: path.read_bytes() for path in (copies / "voices").glob("*.pth")} == good
        assert leftovers(tmp_path) == [], "what the killed run left goes with the next one"
        assert sorted(path.name for path in voices.iterdir()) == ["G_0.pth", "G_0.pth.damaged", "G_1.pth", "G_1.pth.damaged", "G_2.pth", NAME]
