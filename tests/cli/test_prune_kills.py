"""prune killed at a hundred moments (a thousand by `make soak`): nothing is lost, and `--undo` or a second run ends in one of two states."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import soak

from .prune_trees import NOW, record, snapshot, whole
from .samples import environment

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals")
MOMENTS, ENDS, FULL = soak.count(250), soak.count(120), soak.count(200)

# Forks a run for each line of its input, so that what takes long, the imports, is done once. A run is sent the signal at the n-th time that it
# touches a file of the test, or by a timer that fires anywhere in between. Answers with [how often it touched one, its exit code, how it ended].
PROGRAM = """
import errno, json, os, signal, sys
from gsvckpt.cli.app import main
import gsvckpt.cli.prune, gsvckpt.engine.digest, gsvckpt.commands.verify.manifest, gsvckpt.devices.host, numpy, tomli_w
gsvckpt.commands.verify.manifest._parse("", "")
os.fsync = lambda fd: None  # a killed process loses nothing that it wrote
def run(at, number, after, folder, argv, answer):
    count = 0
    def hook(event, arguments):
        nonlocal count
        if event in ("open", "os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "os.utime", "os.chmod") and folder in str(arguments[0]):
            count += 1
            if count == at and number:
                os.kill(os.getpid(), number)
            writes = event == "os.mkdir" or (event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
            if not number and count >= at > 0 and writes and not str(arguments[0]).endswith((".lock", "state.done")):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), arguments[0])
    pwrite, write = os.pwrite, os.write
    def full(take):
        def instead(fd, *more):
            if not number and count >= at > 0 and folder in os.readlink(f"/proc/self/fd/{fd}"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return take(fd, *more)
        return instead
    if not number and os.path.isdir("/proc/self/fd"):
        os.pwrite, os.write = full(pwrite), full(write)
    sys.addaudithook(hook)
    if after:
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), number))
        signal.setitimer(signal.ITIMER_REAL, after)
    code = main([*argv, "-q", "-j", "1"])
    signal.setitimer(signal.ITIMER_REAL, 0)
    write(answer, json.dumps([count, code]).encode())
    os._exit(0)
for line in sys.stdin:
    at, number, after, folder, argv = json.loads(line)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        run(at, number, after, folder, argv, writer)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    print(json.dumps([*json.loads(os.read(reader, 100) or "[0, null]"), status]), flush=True)
    os.close(reader)
"""


class Runs:
    """A process that forks runs of prune."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment())

    def __call__(self, *argv: object, at: int = -1, number: int = signal.SIGKILL, after: float = 0) -> tuple[int, int | None, int]:
        self.process.stdin.write(json.dumps([at, number, after, str(self.folder), ["prune", *map(str, argv)]]) + "\n")
        self.process.stdin.flush()
        count, code, status = json.loads(self.process.stdout.readline())
        return count, code, status


@pytest.fixture
def run(tmp_path):
    runs = Runs(tmp_path)
    yield runs
    runs.process.stdin.close()
    runs.process.stdout.close()
    assert runs.process.wait(30) == 0


@pytest.fixture
def tree(tmp_path):
    """Some sixty files of several kinds, two manifests among them."""
    template = tmp_path / "template"
    files = {f"logs/alice/logs_s2_v2/{letter}_{epoch * 16}.pth": whole(letter, "v2", epoch, 0) for epoch in range(1, 6) for letter in "GD"}
    files |= {f"SoVITS_weights_v2/{who}_e{e}_s{e}.pth": whole("sovits", "v2", e, e) for who in ("alice", "bob") for e in range(1, 9)}
    files |= {f"GPT_weights_v2/alice-e{e}.ckpt": whole("gpt", "v2", e, e) for e in range(1, 9)}
    files |= {f"runs/model_{e}.pth": whole("training", "", e, e) for e in range(1, 13)}
    files |= {f"runs/hf/checkpoint-{e}/model.pt": whole("state", "", e, e) for e in range(1, 6)}
    files |= {f"runs/hf/checkpoint-{e}/trainer_state.json": json.dumps({"global_step": e}).encode() for e in range(1, 6)}
    files |= {f"runs/other/net_step_{e}.pt": whole("state", "", e, e) for e in range(1, 9)} | {f"runs/notes {n}.txt": b"x" * n for n in range(4)}
    for age, (name, data) in enumerate(files.items()):
        path = template / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (NOW + age, NOW + age))
    for folder in ("SoVITS_weights_v2", "logs/alice/logs_s2_v2"):
        record(template / folder, os.listdir(template / folder))
    return template


def contents(folder: Path) -> dict[str, str]:
    """What files are, without the trash and without their times."""
    return {name: entry[4] for name, entry in snapshot(folder).items() if entry[0] == "file" and ".gsvckpt-trash" not in name}


def without_manifests(found: dict[str, str]) -> dict[str, str]:
    return {name: digest for name, digest in found.items() if not name.endswith("gsvckpt.toml")}


def moments(rng: random.Random, total: int, count: int):
    """(the operation, the signal, the delay) of each interruption: most at a file operation, some between them, some by Ctrl-C."""
    for index in range(count):
        number = signal.SIGINT if index % 5 == 4 else signal.SIGKILL
        yield (-1, number, rng.uniform(0.01, 0.5)) if index % 5 == 3 else (rng.randrange(total // 2, total + 1), number, 0)


WAYS = {
    "plain": ["--keep-last", "2"],
    "demoting": ["--keep-last", "2", "--demote-after", "1"],
    "archiving": ["--keep-last", "2", "--archive", "ARCHIVE"],
    "purging": ["--keep-last", "2", "--purge"],
}


@pytest.mark.parametrize("way", WAYS)
def test_a_run_that_is_killed(run, tree, tmp_path, way):
    place, archive = tmp_path / "here", tmp_path / "archive"
    words = [place, *(str(archive) if word == "ARCHIVE" else word for word in WAYS[way]), "--yes"]

    def prepare() -> None:
        for path in (place, archive):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(tree, place)

    prepare()
    before = snapshot(place)
    total, code, _ = run(*words)
    assert code == 0
    after = contents(place)
    gone = {entry[4] for entry in before.values() if entry[0] == "file"} - set(after.values())
    killed = undone = 0
    for turn, (at, number, delay) in enumerate(moments(random.Random(f"{soak.SEED} {way}"), total, MOMENTS)):
        prepare()
        _, code, status = run(*words, at=at, number=number, after=delay)
        told = (way, at, number, delay, code)
        killed += os.WIFSIGNALED(status) or code == 130
        there = {entry[4] for entry in snapshot(place).values() if entry[0] == "file"}
        lost = {entry[4] for entry in before.values() if entry[0] == "file"} - there
        assert not lost or (way == "purging" and lost <= gone), (told, "lost")
        if way == "archiving":
            copies = {entry[4] for entry in snapshot(archive).values() if entry[0] == "file"}
            taken = {entry[4] for name, entry in snapshot(place).items() if "/files/" in name and name.endswith((".pth", ".ckpt", ".pt"))}
            assert taken <= copies, (told, "went before its copy was whole")
        if code == 130:
            assert snapshot(place) == before or contents(place) == after, (told, "Ctrl-C leaves something behind")
        if turn % 2 and not lost:
            code = run(place, "--undo")[1]
            undone += code == 0
            assert code in (0, 3), told
            assert snapshot(place) == before, told
        else:
            codes = [run(*words)[1]]
            if codes == [4]:  # it was taken back: the plan had been made for what was there before
                assert snapshot(place) == before, told
                codes.append(run(*words)[1])
            assert codes[-1] == 0, (told, codes)
            assert contents(place) == after, told
            if way == "purging":
                assert not list(place.rglob(".gsvckpt*")), told
    assert killed >= MOMENTS // 2, "most runs must really have been interrupted"
    soak.tally("prune, killed or interrupted", moments=MOMENTS, killed=killed, undone=undone)
    assert undone >= 3


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="tells which file is written by its descriptor")
@pytest.mark.parametrize("way", WAYS)
def test_a_disk_that_is_full_from_some_step_on(run, tree, tmp_path, way):
    """No file is lost that the plan did not name, whatever could still be written; and with room again, the same command comes to its end."""
    place, archive = tmp_path / "here", tmp_path / "archive"
    words = [place, *(str(archive) if word == "ARCHIVE" else word for word in WAYS[way]), "--yes"]
    shutil.copytree(tree, place)
    before = snapshot(place)
    total = run(*words)[0]
    after = contents(place)
    gone = {entry[4] for entry in before.values() if entry[0] == "file"} - set(after.values())
    steps = sorted(random.Random(f"{soak.SEED} full {way}").sample(range(1, total + 1), min(total, FULL)))
    codes: list[int | None] = []
    for at in steps:
        for path in (place, archive):
            shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(tree, place)
        codes.append(run(*words, at=at, number=0)[1])
        there = {entry[4] for entry in snapshot(place).values() if entry[0] == "file"}
        lost = {entry[4] for entry in before.values() if entry[0] == "file"} - there
        assert not lost or (way == "purging" and lost <= gone), (way, at, "lost")
        if not lost and at % 2:
            assert run(place, "--undo")[1] in (0, 3), (way, at)
            assert contents(place) == contents(tree), (way, at)
        else:
            assert run(*words)[1] in (0, 4), (way, at)
            assert run(*words)[1] == 0, (way, at)
            assert without_manifests(contents(place)) == without_manifests(after), (way, at)  # a full disk leaves no room to mend these
    soak.tally("prune, on a full disk", moments=len(steps), done=codes.count(0))
    assert set(codes) - {0}, "the disk must really have been full"


@pytest.mark.parametrize("what", ["--undo", "--empty-trash"])
def test_an_end_that_is_killed(run, tree, tmp_path, what):
    """Undoing and emptying go on where they were."""
    place, pruned, before = tmp_path / "here", tmp_path / "pruned", snapshot(tree)
    shutil.copytree(tree, pruned)
    assert run(pruned, "--keep-last", "2", "--demote-after", "1", "--yes")[1] == 0
    end = contents(pruned)

    def prepare() -> None:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(pruned, place)

    prepare()
    total, code, _ = run(place, what, "--yes")
    assert code == 0
    rng = random.Random(f"{soak.SEED} {what}")
    for _ in range(ENDS):
        prepare()
        at = rng.randrange(1, total + 1)
        assert os.WIFSIGNALED(run(place, what, "--yes", at=at)[2])
        assert run(place, what, "--yes")[1] in (0, 3), at  # 3: it was killed with nothing left to do
        if what == "--undo":
            assert snapshot(place) == before, at
        else:
            assert contents(place) == end, at
            assert not list(place.rglob(".gsvckpt*")), at
