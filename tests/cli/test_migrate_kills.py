"""gsvckpt migrate, killed at every step of its writing: the old file or the new one is there, and source and base keep every byte."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from gsvckpt.engine import write

from .samples import environment, leftovers
from .test_migrate_failures import OUTPUTS, POSIX, STEPS, make_pair

pytestmark = POSIX


@pytest.fixture
def pair(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_pair(tmp_path)


# Forks a run for each line of its input, which kills itself at the n-th write, truncation, sync or renaming: before it, in the midst of a write, or
# behind it. Answers with [their names, the exit code, how the process ended].
PROGRAM = """
import json, os, signal, sys
from gsvckpt.cli.app import main
import gsvckpt.cli.migrate, gsvckpt.files.publish, gsvckpt.devices.host, gsvckpt.formats.safetensors
gsvckpt.files.publish._SYNC_SECONDS = 1000  # only once all is written, so that every run takes the same steps
def run(at, when, argv, answer):
    names = []
    def wrap(name):
        real = getattr(os, name)
        def call(*args, **more):
            names.append(name)
            if len(names) != at:
                return real(*args, **more)
            try:
                if when == "midst":
                    real(args[0], args[1][: len(args[1]) // 2], args[2])
                elif when == "behind":
                    real(*args, **more)
            finally:
                os.kill(os.getpid(), signal.SIGKILL)
        setattr(os, name, call)
    for name in ("pwrite", "truncate", "fsync", "link", "replace", "rename", "unlink", "chmod"):
        wrap(name)
    code = main(["migrate", *argv, "-q", "-j", "1"])
    os.write(answer, json.dumps([names, code]).encode())
    os._exit(0)
for line in sys.stdin:
    at, when, argv = json.loads(line)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        run(at, when, argv, writer)
    os.close(writer)
    _, status = os.waitpid(child, 0)
    print(json.dumps([*json.loads(os.read(reader, 10000) or "[[], null]"), status]), flush=True)
    os.close(reader)
"""


@pytest.fixture(scope="module")
def runs():
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()) as process:

        def run(at, when, *argv):
            process.stdin.write(json.dumps([at, when, list(map(str, argv))]) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield run
        process.stdin.close()
        assert process.wait(30) == 0


@POSIX
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("in_place", [False, True])
def test_a_kill_at_any_step_leaves_the_old_file_or_the_new_one(runs, pair, step, in_place):
    if in_place and step == "container":
        pytest.skip("makes another kind of file")
    folder, old = pair.source.parent, pair.source.read_bytes()
    words = [folder / word if word == "base.pth" else word for word in STEPS[step]]
    argv = [pair.source, *words, *(["--in-place"] if in_place else [])]
    output = pair.source if in_place else folder / OUTPUTS[step]
    runs(-1, "", *argv, "-n")  # what takes long the first time is done
    names, code, _ = runs(-1, "", *argv)
    assert code == 0
    new = output.read_bytes()
    assert {"pwrite", "truncate", "fsync", "replace" if in_place else "link"} <= set(names)
    seen = set()
    for at, name in enumerate(names, 1):
        for when in ("before", *(["midst"] if name == "pwrite" else []), *(["behind"] if at == len(names) else [])):
            pair.source.write_bytes(old)
            (folder / OUTPUTS[step]).unlink(missing_ok=True)
            _, _, status = runs(at, when, *argv)
            assert os.WIFSIGNALED(status), (at, when, names)
            if in_place:
                assert pair.source.read_bytes() in (old, new), (at, when)
                seen.add(pair.source.read_bytes() == new)
            else:
                assert pair.untouched, (at, when)
                assert not output.exists() or output.read_bytes() == new, (at, when)
                seen.add(output.exists())
            for path in leftovers(folder):
                assert path.endswith(".part")
                os.unlink(path)
            assert set(pair.others) <= {output.name}
    assert seen == {True, False}
    pair.source.write_bytes(old)
    (folder / OUTPUTS[step]).unlink(missing_ok=True)
    runs(names.index("fsync") + 1, "before", *argv)
    assert len(leftovers(folder)) == 1
    assert runs(-1, "", *argv, "--force")[1] == 0
    assert output.read_bytes() == new
    assert leftovers(folder) == [], "what the killed run left goes with the next one"


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
@pytest.mark.parametrize("place", ["_carry_out", "_move", "_read_back"])
def test_an_interruption_leaves_nothing(gsvckpt, pair, monkeypatch, number, place):
    real = getattr(write.Engine, place)

    def interrupt(*args, **more):
        signal.raise_signal(number)
        return real(*args, **more)

    monkeypatch.setattr(write.Engine, place, interrupt)
    for options in ([], ["--in-place"]):
        run = gsvckpt("migrate", pair.source, *STEPS["all"], *options)
        assert (run.code, run.out, len(run.err.splitlines())) == (130, "", 1)
        assert pair.untouched
        assert pair.others == []
