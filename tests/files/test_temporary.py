"""What killed runs leave goes at once, and what a living process holds never does. With real processes and real kills."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gsvckpt.files import temporary
from gsvckpt.files.publish import publish, publish_bytes
from gsvckpt.files.publish_folder import publish_folder
from gsvckpt.files.temporary import sweep, temporary_file, temporary_folder

POSIX = pytest.mark.skipif(os.name == "nt", reason="signals and locks of POSIX")
ROOT = Path(__file__).parents[2]
# Publishes x as a file or a folder, and says so while it is at it; then it waits to be killed, or goes on when its input ends.
PROGRAM = """
import os, sys
from gsvckpt.files.publish import publish, publish_bytes
from gsvckpt.files.publish_folder import publish_folder
place, what, moment = sys.argv[1:]
def wait(now):
    if now == moment:
        print("at it", flush=True)
        sys.stdin.read()
def fill(target):
    if what == "file":
        target.write_at(0, b"x" * 1000)
    else:
        publish_bytes(os.path.join(target, "part"), b"y", overwrite=False)
    wait("fill")
if what == "file":
    publish(place, 1000, fill, lambda target: wait("check"), overwrite=True, settle=lambda: wait("settle"))
else:
    publish_folder(place, 1000, fill, settle=lambda: wait("settle"))
"""
MOMENTS = [("file", "fill"), ("file", "check"), ("file", "settle"), ("folder", "fill"), ("folder", "settle")]


@pytest.fixture(autouse=True)
def _look_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(temporary, "_SWEPT_SECONDS", 0)


def start(place: Path, what: str, moment: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, str(place), what, moment], stdin=pipe, stdout=pipe, text=True, cwd=ROOT)
    assert process.stdout is not None
    assert process.stdout.readline() == "at it\n"
    return process


def end(process: subprocess.Popen[str], *, kill: bool) -> int:
    if kill:
        process.kill()
    process.communicate("")
    return process.returncode


def left_in(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def age(path: Path, seconds: float) -> None:
    stamp = time.time() - seconds
    os.utime(path, (stamp, stamp))


@POSIX
@pytest.mark.parametrize(("what", "moment"), MOMENTS)
def test_what_a_killed_process_left_goes_at_once(tmp_path: Path, what: str, moment: str) -> None:
    process = start(tmp_path / "x", what, moment)
    assert end(process, kill=True) == -signal.SIGKILL
    (left,) = left_in(tmp_path)
    assert temporary.is_temporary(left)
    publish_bytes(str(tmp_path / "other"), b"z", overwrite=False)
    assert left_in(tmp_path) == ["other"]


@POSIX
@pytest.mark.parametrize(("what", "moment"), MOMENTS)
def test_what_a_living_process_holds_stays_however_long_it_is_silent(tmp_path: Path, what: str, moment: str) -> None:
    process = start(tmp_path / "x", what, moment)
    (held,) = left_in(tmp_path)
    age(tmp_path / held, 1_000_000)
    sweep(tmp_path)
    assert left_in(tmp_path) == [held]
    assert end(process, kill=False) == 0
    assert left_in(tmp_path) == ["x"]


@POSIX
def test_several_processes_at_once(tmp_path: Path) -> None:
    """One that lives, one that is killed, one that is stopped and cannot say anything."""
    living, killed, stopped = (start(tmp_path / name, "file", "check") for name in "abc")
    stopped.send_signal(signal.SIGSTOP)
    end(killed, kill=True)
    sweep(tmp_path)
    assert len(left_in(tmp_path)) == 2
    stopped.send_signal(signal.SIGCONT)
    assert [end(process, kill=False) for process in (living, stopped)] == [0, 0]
    assert left_in(tmp_path) == ["a", "c"]


@POSIX
def test_a_process_id_that_is_used_again_keeps_nothing(tmp_path: Path) -> None:
    """As in containers, where each run may have the same one."""
    end(start(tmp_path / "x", "file", "fill"), kill=True)
    (left,) = left_in(tmp_path)
    ours = left.replace(left.split("-")[2], str(os.getpid()))
    os.rename(tmp_path / left, tmp_path / ours)
    sweep(tmp_path)
    assert left_in(tmp_path) == []


@POSIX
@pytest.mark.parametrize(("seconds", "stays"), [(0, True), (10_000, True), (100_000, False)])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_of_another_machine_it_waits_for_a_day(tmp_path: Path, what: str, seconds: float, stays: bool) -> None:
    """Whose locks may not be seen here: a dead process of ours looks the same as a living one of theirs."""
    end(start(tmp_path / "x", what, "fill"), kill=True)
    (left,) = left_in(tmp_path)
    theirs = tmp_path / left.replace(temporary._system(), "00000000")
    os.rename(tmp_path / left, theirs)
    age(theirs, seconds)
    sweep(tmp_path)
    assert theirs.exists() is stays


@POSIX
@pytest.mark.parametrize("mode", [0o444, 0o000])
def test_read_only_leftovers(tmp_path: Path, mode: int) -> None:
    """The mode of the file that is replaced is set last; who may not even open it waits for a day."""
    end(start(tmp_path / "x", "file", "settle"), kill=True)
    (left,) = left_in(tmp_path)
    (tmp_path / left).chmod(mode)
    sweep(tmp_path)
    assert left_in(tmp_path) == ([left] if mode == 0 and os.geteuid() else [])


@POSIX
def test_links_and_pipes_of_such_a_name_lead_nowhere(tmp_path: Path) -> None:
    """A stranger's folder may hold them."""
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_bytes(b"x")
    names = [f".gsvckpt-held-1-{temporary._system()}-{letter}.part" for letter in "abc"]
    (tmp_path / names[0]).symlink_to("precious")
    (tmp_path / names[1]).symlink_to("precious/file")
    os.mkfifo(tmp_path / names[2])
    sweep(tmp_path)
    assert left_in(tmp_path / "precious") == ["file"]


@POSIX
@pytest.mark.parametrize("make", [temporary_file, temporary_folder])
def test_where_the_file_system_has_no_locks_the_name_promises_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: object) -> None:
    import fcntl

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with make(tmp_path) as found:
        path = found if isinstance(found, Path) else found[0]
        assert left_in(tmp_path) == [path.name]
        assert "held" not in path.name
        sweep(tmp_path)
        assert path.exists()
        if not isinstance(found, Path):
            os.close(found[1])
    assert left_in(tmp_path) == []
    publish_bytes(str(tmp_path / "x"), b"x", overwrite=False)
    publish_folder(str(tmp_path / "y"), 1, lambda temp: publish_bytes(f"{temp}/z", b"z", overwrite=False))
    assert left_in(tmp_path) == ["x", "y"]


@POSIX
@pytest.mark.parametrize("what", ["has it", "took it"])
def test_another_process_that_is_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Between the making of a file and its lock, it looks like a leftover: then another one is made."""
    lock, calls = temporary._lock, []

    def later(fd: int) -> bool:
        calls.append(fd)
        if len(calls) > 1:
            return lock(fd)
        if what == "took it":
            (first,) = left_in(tmp_path)
            os.unlink(tmp_path / first)
        return what != "has it"

    monkeypatch.setattr(temporary, "_lock", later)
    publish(str(tmp_path / "x"), 1, lambda target: target.write_at(0, b"x"), lambda _: None, overwrite=False)
    assert (len(calls), left_in(tmp_path), (tmp_path / "x").read_bytes()) == (2, ["x"], b"x")


@pytest.mark.parametrize("alive", [True, False])
def test_on_windows_the_process_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alive: bool) -> None:
    """It removes no file that is open, so nothing more is needed."""
    monkeypatch.setattr(temporary, "_WINDOWS", True)
    monkeypatch.setattr(temporary, "_alive", lambda _: alive)
    left = tmp_path / f".gsvckpt-held-123-{temporary._system()}-abc.part"
    left.write_bytes(b"x")
    publish_bytes(str(tmp_path / "x"), b"x", overwrite=False)
    publish_folder(str(tmp_path / "y"), 1, lambda temp: publish_bytes(f"{temp}/z", b"z", overwrite=False))
    assert left_in(tmp_path) == ([left.name] if alive else []) + ["x", "y"]


@POSIX
def test_nothing_stays_open(tmp_path: Path) -> None:
    before = len(os.listdir("/dev/fd"))
    publish_bytes(str(tmp_path / "x"), b"x", overwrite=False)
    publish_folder(str(tmp_path / "y"), 1, lambda temp: publish_bytes(f"{temp}/z", b"z", overwrite=False))
    assert len(os.listdir("/dev/fd")) == before
    assert stat.S_ISDIR((tmp_path / "y").stat().st_mode)


def test_the_system_is_the_same_for_all_its_processes() -> None:
    told = subprocess.run(
        [sys.executable, "-c", "from gsvckpt.files.temporary import _system; print(_system())"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert told.stdout.strip() == temporary._system()


def test_what_a_junction_leads_to_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows' own functions take a junction for a plain folder; here one is played by a folder, whose removal as a link is that of its name."""
    inside = tmp_path / "own" / "junction"
    inside.mkdir(parents=True)
    (inside / "voice.pth").write_bytes(b"x")
    monkeypatch.setattr(temporary, "is_link", lambda path: os.fspath(path) == str(inside))
    removed: list[str] = []
    monkeypatch.setattr(temporary, "unlink", lambda path: removed.append(os.fspath(path)))
    temporary.remove_folder(tmp_path / "own")
    assert (removed, (inside / "voice.pth").exists()) == ([str(inside)], True)
    temporary.remove_folder(inside)
    assert (inside / "voice.pth").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows opens no folders")
def test_a_folder_that_is_swept_before_it_is_open_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three runs that wrote one folder at once: one of them ended with `No such file`."""
    inner, made = os.mkdir, []

    def mkdir(path: os.PathLike[str]) -> None:
        inner(path)
        made.append(path)
        if len(made) == 1:
            os.rmdir(path)  # as another process does

    monkeypatch.setattr(temporary.os, "mkdir", mkdir)
    with temporary.temporary_folder(tmp_path) as folder:
        assert folder.is_dir()
    assert (len(made), list(tmp_path.iterdir())) == (2, [])
    with pytest.raises(FileNotFoundError), temporary.temporary_folder(tmp_path / "gone"):
        pass
