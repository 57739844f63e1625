"""What happens when the world gets in the way: full disks, kills, other processes, odd paths. The source is never harmed, nothing is left behind."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest
from support.builders import tensor

from gsvckpt.engine import write
from gsvckpt.files import publish

from .samples import assert_one_error, environment, generator, leftovers, numbers, s2_training, save, spawn, weights

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")
COMMANDS = ("convert-fp16", "strip-optimizer")


@pytest.fixture
def training(tmp_path):
    return save(tmp_path / "run.pth", s2_training(generator("v2", enc_q=True)))


def large(path, megabytes, seed=0):
    """A training file that takes a moment to rewrite."""
    data = random.Random(seed).randbytes(megabytes << 19)
    state = {"state": {0: {"exp_avg": tensor("uint8", (len(data),), data)}}, "param_groups": [{"params": [0]}]}
    half = tensor("uint8", (len(data),), data)
    return save(path, {"model": {"w": numbers((64, 64)), "m": half}, "iteration": 1, "optimizer": state, "learning_rate": 1e-4})


# --- disks ---------------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system with place for 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        sys.platform == "linux"
        and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True, check=False).returncode == 0
    )
    if not mounted:
        pytest.skip("may not mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_disk_too_small_is_told_before_anything_is_written(gsvckpt, tiny_disk, tmp_path, command):
    source = large(tmp_path / "big.pth", 2)
    assert_one_error(gsvckpt(command, source, "-o", tiny_disk / "out.pth"), tiny_disk / "out.pth", 5)
    assert gsvckpt.json(command, source, "-o", tiny_disk / "out.pth", exit_code=5).file["error"]["kind"] == "output"
    assert os.listdir(tiny_disk) == []


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("in_place", [True, False])
def test_a_disk_that_fills_meanwhile(gsvckpt, tiny_disk, tmp_path, monkeypatch, command, in_place):
    monkeypatch.setattr(publish, "require_space", lambda destination, size: None)
    source = save(
        (tiny_disk if in_place else tmp_path) / "x.pth", s2_training({**generator("v2"), "big": numbers((90, 90) if in_place else (160, 160))})
    )
    data = source.read_bytes()
    if in_place:
        (tiny_disk / "filler").write_bytes(bytes(max(256 * 1024 - len(data) - 16384, 0)))
    options = ["--in-place"] if in_place else ["-o", tiny_disk / "out.pth", "--keep", "*" if command == "convert-fp16" else "optimizer"]
    before = sorted(os.listdir(tiny_disk))
    run = gsvckpt(command, source, *options)
    assert_one_error(run, tiny_disk, 5)
    assert "hint: " in run.err
    assert source.read_bytes() == data
    assert sorted(os.listdir(tiny_disk)) == before


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("place", ["write", "truncate", "fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_an_error_at_any_step_leaves_the_source_and_nothing_else(gsvckpt, training, monkeypatch, command, place, number):
    def fail(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    if place == "write":
        monkeypatch.setattr(publish.Target, "_write_some", fail)
    else:
        monkeypatch.setattr(os, place, fail)
    data = training.read_bytes()
    run = gsvckpt(command, training, "--in-place")
    assert_one_error(run, training, 5)
    assert training.read_bytes() == data
    assert os.listdir(training.parent) == [training.name]


@POSIX
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_read_only_folder(gsvckpt, training, command):
    training.parent.chmod(0o500)
    try:
        assert_one_error(gsvckpt(command, training), training.parent, 5)
        assert_one_error(gsvckpt(command, training, "--in-place"), training, 5)
    finally:
        training.parent.chmod(0o700)


def test_a_folder_that_may_not_be_written(gsvckpt, training, monkeypatch):
    def refuse(destination, size):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(publish, "require_space", refuse)
    run = gsvckpt("strip-optimizer", training)
    assert_one_error(run, "run.weights.pth", 5)
    assert "hint: " in run.err


@POSIX
def test_a_folder_that_cannot_be_made(gsvckpt, training, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for output in (f"{tmp_path}/file/folder/", f"{tmp_path}/file/x.pth", f"{tmp_path}/no/such/x.pth"):
        assert_one_error(gsvckpt("strip-optimizer", training, "-o", output), output.rstrip("/"), 5)


@POSIX
def test_an_output_that_does_not_read_back_is_not_published(gsvckpt, training, monkeypatch):
    def rot(self, offset, view):
        return os.pwrite(self._fd, bytes([view[0] ^ 1]) + bytes(view[1:]) if len(view) > 2000 else view, offset)

    monkeypatch.setattr(publish.Target, "_write_some", rot)
    data = training.read_bytes()
    assert_one_error(gsvckpt("convert-fp16", training, "--in-place"), training, 5)
    assert training.read_bytes() == data
    assert leftovers(training.parent) == []


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full")
def test_a_progress_bar_that_cannot_be_shown_stops_nothing(tmp_path):
    source = large(tmp_path / "big.pth", 8)
    command = "import gsvckpt.report.progress as p; p._PATIENCE = 0; from gsvckpt.__main__ import run; run()"
    argv = [sys.executable, "-c", command, "strip-optimizer", "-q", "--progress", source]
    with open("/dev/full", "wb") as full:
        run = subprocess.run(argv, stdout=subprocess.PIPE, stderr=full, env=environment(), check=False)
    assert (run.returncode, run.stdout) == (0, b"")
    assert source.with_name("big.weights.pth").exists()


def test_a_bar_whose_terminal_went_away_keeps_still(monkeypatch):
    from gsvckpt.report import progress

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(progress, "_PATIENCE", 0)
    monkeypatch.setattr(progress.Progress, "start", fail)
    bar = progress.Bar("x")
    for _ in range(3):
        bar.expect(2)
        bar.advance(1)
    bar.close()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_name_that_is_taken_by_a_folder_is_that_files_own_error(gsvckpt, tmp_path, training, command):
    long = save(tmp_path / f"{'x' * 248}.pth", s2_training(generator("v2", enc_q=True)))
    os.mkdir(tmp_path / "out")
    os.mkdir(tmp_path / "out" / long.name)
    run = gsvckpt.json(command, long, training, "-o", tmp_path / "out", exit_code=4)
    failed, done = run.document["files"]
    assert (failed["error"]["kind"], failed["written"], done["written"]) == ("refused", False, True)
    assert str(tmp_path) in run.err.splitlines()[0]


def test_an_error_of_the_system_is_that_files_own_error(gsvckpt, tmp_path, training, monkeypatch):
    other = save(tmp_path / "other.pth", weights({"w": (2, 2)}))
    real = os.path.getmtime

    def vanish(path):
        if path == str(training):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return real(path)

    monkeypatch.setattr(os.path, "getmtime", vanish)
    run = gsvckpt("inspect", training, other)
    assert_one_error(run, training, 3)
    assert "other.pth" in run.out


def test_a_folder_that_may_be_listed_but_not_entered(gsvckpt, tmp_path, training, monkeypatch):
    real = os.stat

    def refuse(path, **options):
        if path == str(training):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(path, **options)

    monkeypatch.setattr("gsvckpt.engine.discover.os.stat", refuse)
    assert [file["path"] for file in gsvckpt.json("inspect", tmp_path).document["files"]] == [str(training)]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_made_for_an_output_goes_again_when_there_is_none(gsvckpt, training, tmp_path, monkeypatch, command):
    def fail(*args):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(publish.Target, "_write_some", fail)
    assert_one_error(gsvckpt(command, training, "-o", f"{tmp_path}/new/deep/"), "run.pth", 5)
    assert_one_error(gsvckpt(command, tmp_path / "nothing.pth", "-o", f"{tmp_path}/new/deep/"), "nothing.pth", 3)
    assert os.listdir(tmp_path) == [training.name]


# --- other processes -----------------------------------------------------------------------------------------------------------------------------


@POSIX  # Windows keeps others away from an open file
@pytest.mark.parametrize("change", ["replaced", "appended", "touched", "removed"])
@pytest.mark.parametrize("options", [["--in-place"], []], ids=["in place", "beside"])
def test_a_source_that_changes_meanwhile_is_an_error(gsvckpt, training, monkeypatch, change, options):
    other = save(training.with_name("other.pth"), weights({"w": (2, 2)}))
    new = other.read_bytes()
    read_back = write.Engine._read_back

    def interfere(self, *args):
        if change == "replaced":
            os.replace(other, training)
        elif change == "appended":
            with training.open("ab") as file:
                file.write(b"more")
        elif change == "touched":
            os.utime(training, ns=(1, 1))
        else:
            training.unlink()
        return read_back(self, *args)

    monkeypatch.setattr(write.Engine, "_read_back", interfere)
    run = gsvckpt("convert-fp16", training, *options)
    assert_one_error(run, training, 3)
    assert not training.with_name("run.fp16.pth").exists()
    assert leftovers(training.parent) == []
    assert change != "replaced" or training.read_bytes() == new


def test_a_changed_source_has_its_own_kind_of_error(gsvckpt, training, monkeypatch):
    monkeypatch.setattr(write.Engine, "_read_back", lambda *_: os.utime(training, ns=(1, 1)))
    assert gsvckpt.json("convert-fp16", training, exit_code=3).file["error"]["kind"] == "changed"


def test_of_two_processes_one_wins(tmp_path):
    sources = [large(tmp_path / f"{n}.pth", 8, n) for n in range(2)]
    command = [sys.executable, "-m", "gsvckpt", "strip-optimizer", "-o", tmp_path / "out.pth"]
    running = [subprocess.Popen([*command, source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) for source in sources]
    said = [process.communicate(timeout=60)[1].decode() for process in running]
    codes = [process.returncode for process in running]
    assert sorted(codes) == [0, 4], said
    spawn("strip-optimizer", sources[codes.index(0)], "-o", tmp_path / "expected.pth")
    assert (tmp_path / "out.pth").read_bytes() == (tmp_path / "expected.pth").read_bytes()
    assert "out.pth" in said[codes.index(4)]
    assert leftovers(tmp_path) == []


def test_with_force_the_last_wins_and_the_file_is_whole(tmp_path):
    sources = [large(tmp_path / f"{n}.pth", 8, n) for n in range(2)]
    command = [sys.executable, "-m", "gsvckpt", "strip-optimizer", "-q", "--force", "-o", tmp_path / "out.pth"]
    running = [subprocess.Popen([*command, source], env=environment()) for source in sources]
    assert [process.wait(60) for process in running] == [0, 0]
    for source in sources:
        spawn("strip-optimizer", source)
    assert (tmp_path / "out.pth").read_bytes() in [(tmp_path / f"{n}.weights.pth").read_bytes() for n in range(2)]


# --- interruptions -------------------------------------------------------------------------------------------------------------------------------


@POSIX
def test_a_kill_at_any_moment_leaves_the_old_file_or_the_new_one(tmp_path):
    source = large(tmp_path / "big.pth", 24)
    old = source.read_bytes()
    begin = time.monotonic()
    assert spawn("strip-optimizer", source, "--in-place").returncode == 0
    whole = time.monotonic() - begin
    new = source.read_bytes()
    seed = 50
    rng = random.Random(seed)
    seen = set()
    for run in range(50):
        source.write_bytes(old)
        process = subprocess.Popen([sys.executable, "-m", "gsvckpt", "strip-optimizer", "-q", source, "--in-place"], env=environment())
        with suppress(subprocess.TimeoutExpired):
            process.wait(whole * rng.uniform(0.2, 1.1))
        process.kill()
        process.wait()
        data = source.read_bytes()
        assert data in (old, new), f"run {run} of seed {seed}"
        seen.add(data == new)
        for path in leftovers(tmp_path):
            assert path.endswith(".part")
            os.unlink(path)
    assert sorted(os.listdir(tmp_path)) == ["big.pth"]
    print(f"seed {seed}: saw {seen}")


@POSIX
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
@pytest.mark.parametrize("options", [["--in-place"], []], ids=["in place", "beside"])
def test_an_interruption_leaves_nothing(gsvckpt, training, monkeypatch, command, number, options):
    previous = signal.getsignal(number)
    data = training.read_bytes()
    fill = write.Engine._read_back

    def interrupt(*args):
        signal.raise_signal(number)
        return fill(*args)

    monkeypatch.setattr(write.Engine, "_read_back", interrupt)
    run = gsvckpt(command, training, *options)
    assert run.code == 130
    assert training.read_bytes() == data
    assert os.listdir(training.parent) == [training.name]
    assert len(run.err.splitlines()) == 1
    assert signal.getsignal(number) is previous


@POSIX
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_a_real_process_is_interrupted_while_it_writes(tmp_path, number):
    source = large(tmp_path / "big.pth", 48)
    data = source.read_bytes()
    command = [sys.executable, "-m", "gsvckpt", "strip-optimizer", "-j", "2", source, "--in-place"]
    for _ in range(5):  # where the machine was so fast that it had finished, once more
        source.write_bytes(data)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:
            while process.poll() is None and not leftovers(tmp_path):
                time.sleep(0.001)
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        if process.returncode != 0:
            break
    assert process.returncode == 130, err
    assert out == b""
    assert len(err.splitlines()) == 1
    assert source.read_bytes() == data
    assert os.listdir(tmp_path) == ["big.pth"]


@POSIX
def test_an_interruption_while_it_starts(tmp_path, training):
    """Whatever Python itself says before `main` runs, nothing is touched."""
    for delay in (0.05, 0.15, 0.25):
        with subprocess.Popen(
            [sys.executable, "-m", "gsvckpt", "inspect", training], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
        ) as process:
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
    assert os.listdir(tmp_path) == [training.name]


def test_main_runs_in_a_thread_where_signals_cannot_be_caught(gsvckpt, training):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(gsvckpt("inspect", training, "-q").code))
    thread.start()
    thread.join()
    assert codes == [0]
