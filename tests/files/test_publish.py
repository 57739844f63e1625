"""Publishing in one step. Every system call that can fail is made to fail."""

from __future__ import annotations

import errno
import importlib.util
import os
import stat
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from gsvckpt.errors import DamagedError, OutputError, RefusedError
from gsvckpt.files import publish as publishing
from gsvckpt.files import temporary
from gsvckpt.files.publish import Target, publish, publish_bytes
from gsvckpt.files.publish_folder import publish_folder

OLD, NEW = b"old and whole", b"new and whole"
POSIX = pytest.mark.skipif(os.name == "nt", reason="POSIX modes and links")


def write(path: Path, *, overwrite: bool = True, data: bytes = NEW, **more: Callable[..., None]) -> None:
    publish(str(path), len(data), lambda target: target.write_at(0, data), more.pop("check", lambda _: None), overwrite=overwrite, **more)


def left_in(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def failing(code: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def publishing_without(monkeypatch: pytest.MonkeyPatch, *calls: str) -> types.ModuleType:
    """A fresh copy of the module, as it comes out where `os` lacks these calls: on Windows."""
    spec = importlib.util.spec_from_file_location("publishing_elsewhere", publishing.__file__)
    module = importlib.util.module_from_spec(spec)
    for call in calls:
        monkeypatch.delattr(os, call, raising=False)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("existing", [True, False])
def test_publishes(tmp_path: Path, existing: bool) -> None:
    if existing:
        (tmp_path / "x").write_bytes(OLD)
    write(tmp_path / "x", overwrite=existing)
    assert (tmp_path / "x").read_bytes() == NEW
    assert left_in(tmp_path) == ["x"]


def test_refuses_to_overwrite_before_it_writes_anything(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(OLD)
    with pytest.raises(RefusedError, match="exists already") as caught:
        publish(str(tmp_path / "x"), 1, lambda _: pytest.fail("wrote"), lambda _: None, overwrite=False)
    assert (caught.value.exit_code, "--force" in caught.value.hint.text) == (4, True)


CRASHES = ["pwrite", "fsync", "replace", "open", "truncate"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS])
@pytest.mark.parametrize("call", CRASHES)
def test_a_failing_call_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    (tmp_path / "x").write_bytes(OLD)

    def fill(target: Target) -> None:
        target.write_at(0, NEW)
        target.resize(len(NEW))

    with monkeypatch.context() as patch:
        if call == "pwrite":
            patch.setattr(Target, "_write_some", failing(code))
        else:
            patch.setattr(os, call, failing(code))
        with pytest.raises(OutputError, match=os.strerror(code)) as caught:
            publish(str(tmp_path / "x"), 9, fill, lambda _: None, overwrite=True)
    assert caught.value.exit_code == 5
    assert caught.value.path == str(tmp_path / "x")
    assert bool(caught.value.hint) is (code != errno.EIO)
    assert (tmp_path / "x").read_bytes() == OLD
    assert left_in(tmp_path) == ["x"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, DamagedError("x"), ValueError, MemoryError])
@pytest.mark.parametrize("place", ["fill", "check", "settle"])
def test_any_other_end_leaves_the_old_file_and_nothing_else(tmp_path: Path, place: str, error: BaseException) -> None:
    (tmp_path / "x").write_bytes(OLD)

    def stop(*_: object) -> None:
        raise error

    steps = {"fill": lambda target: target.write_at(0, NEW), "check": lambda _: None, "settle": lambda: None} | {place: stop}
    with pytest.raises(type(error) if isinstance(error, Exception) else error):
        publish(str(tmp_path / "x"), 9, steps["fill"], steps["check"], overwrite=True, settle=steps["settle"])
    assert (tmp_path / "x").read_bytes() == OLD
    assert left_in(tmp_path) == ["x"]


@pytest.mark.parametrize("call", ["fsync", "replace", "link", "unlink"])
def test_killed_at_any_moment_one_whole_file_is_there(tmp_path: Path, call: str) -> None:
    """The process dies inside the call: no clean-up runs."""
    overwrite = call == "replace"
    if overwrite:
        (tmp_path / "x").write_bytes(OLD)
    program = (
        "import os, sys\nfrom gsvckpt.files.publish import publish\n"
        f"os.{call} = lambda *a, **k: os._exit(9)\n"
        f"publish({str(tmp_path / 'x')!r}, 1, lambda t: t.write_at(0, {NEW!r}), lambda t: None, overwrite={overwrite})"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, cwd=Path(__file__).parents[2])
    assert done.returncode == 9
    others = [name for name in left_in(tmp_path) if name != "x"]
    assert all(name.startswith(".gsvckpt-") and name.endswith(".part") for name in others)
    if overwrite or call == "unlink":
        assert (tmp_path / "x").read_bytes() == (OLD if overwrite else NEW)
    else:
        assert not (tmp_path / "x").exists()


@POSIX
def test_modes(tmp_path: Path) -> None:
    mask = os.umask(0o027)
    try:
        write(tmp_path / "new")
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
        (tmp_path / "old").write_bytes(OLD)
        (tmp_path / "old").chmod(0o604)
        write(tmp_path / "old")
        assert stat.S_IMODE((tmp_path / "old").stat().st_mode) == 0o604
    finally:
        os.umask(mask)


@POSIX
def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x").write_bytes(OLD)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "x")
    (tmp_path / "dangling").symlink_to("real/y")
    write(tmp_path / "link")
    write(tmp_path / "dangling", overwrite=False)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "dangling").is_symlink()
    assert [(tmp_path / "real" / name).read_bytes() for name in left_in(tmp_path / "real")] == [NEW, NEW]


@POSIX
def test_a_link_that_leads_to_itself(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("x")
    with pytest.raises((RefusedError, OutputError)):
        write(tmp_path / "x", overwrite=False)
    assert left_in(tmp_path) == ["x"]


def test_without_hard_links_the_file_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    write(tmp_path / "x", overwrite=False)
    assert (tmp_path / "x").read_bytes() == NEW
    assert left_in(tmp_path) == ["x"]


def test_without_hard_links_a_file_that_came_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", failing(errno.EPERM))
    with pytest.raises(RefusedError):
        write(tmp_path / "x", overwrite=False, settle=lambda: (tmp_path / "x").write_bytes(OLD) and None)
    assert (tmp_path / "x").read_bytes() == OLD
    assert left_in(tmp_path) == ["x"]


def test_of_two_publishers_exactly_one_wins(tmp_path: Path) -> None:
    both = threading.Barrier(2)
    outcomes: list[str] = []

    def run(data: bytes) -> None:
        try:
            write(tmp_path / "x", overwrite=False, data=data, settle=both.wait)
            outcomes.append(data.decode())
        except RefusedError:
            outcomes.append("refused")

    threads = [threading.Thread(target=run, args=(data,)) for data in (b"one", b"two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "refused" in outcomes
    assert (tmp_path / "x").read_text() in outcomes
    assert left_in(tmp_path) == ["x"]


# --- what earlier runs left, and how much room there is ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "alive", "age", "swept"),
    [
        (".gsvckpt-123-abc.part", False, 100_000, True),
        (".gsvckpt-123-abc.part", False, 10_000, False),
        (".gsvckpt-123-abc.part", True, 100_000, False),
        (f".gsvckpt-123-{temporary._machine()}-abc.part", False, 100, True),
        (f".gsvckpt-123-{temporary._machine()}-abc.part", False, 10, False),
        (f".gsvckpt-123-{temporary._machine()}-abc.part", True, 100_000, False),
        (".gsvckpt-123-00000000-abc.part", False, 10_000, False),
        (".gsvckpt-notes.part", False, 100_000, False),
        (".gsvckpt-123-abc.pth", False, 100_000, False),
        ("G_123.part", False, 100_000, False),
    ],
)
def test_only_what_dead_runs_left_is_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, alive: bool, age: int, swept: bool) -> None:
    (tmp_path / name).write_bytes(b"")
    stamp = (tmp_path / name).stat().st_mtime - age
    os.utime(tmp_path / name, (stamp, stamp))
    monkeypatch.setattr(temporary, "_alive", lambda pid: alive)
    write(tmp_path / "x")
    assert (tmp_path / name).exists() is not swept


def test_alive() -> None:
    assert temporary._alive(os.getpid())
    assert temporary._alive(1 << 80)  # no process id at all: left alone
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert not temporary._alive(done.pid)


@pytest.mark.parametrize("windows", [False, True])
def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, windows: bool) -> None:
    if windows:
        monkeypatch.delattr(os, "statvfs", raising=False)
        monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 5, "total": 9})())
    with pytest.raises(OutputError, match=r"no space left: .* bytes are needed") as caught:
        publish(str(tmp_path / "x"), 1 << 60, lambda _: pytest.fail("wrote"), lambda _: None, overwrite=False)
    assert "free some space" in caught.value.hint.text
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("path", ["missing/x", "file/x"])
def test_no_such_folder(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be written"):
        write(tmp_path / path, overwrite=False)


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_in_the_way_is_noticed_before_anything_is_written(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(RefusedError, match="is a folder"):
        publish(str(tmp_path / "x"), 1, lambda _: pytest.fail("wrote"), lambda _: None, overwrite=overwrite)
    assert left_in(tmp_path) == ["x"]


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("name", ["n" * 5_000, "a\0b", "file/x"], ids=["too long", "NUL", "in a file"])
def test_a_path_that_cannot_be_is_noticed_before_anything_is_written(tmp_path: Path, name: str, overwrite: bool) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be written") as caught:
        publish(f"{tmp_path}/{name}", 1, lambda _: pytest.fail("wrote"), lambda _: None, overwrite=overwrite)
    assert caught.value.path == f"{tmp_path}/{name}"
    assert left_in(tmp_path) == ["file"]


def test_a_folder_that_may_not_be_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "lstat", failing(errno.EACCES))
    with pytest.raises(OutputError, match="cannot be written"):
        write(tmp_path / "x", overwrite=False)


@POSIX
def test_a_read_only_file_where_such_files_can_be_neither_replaced_nor_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows."""
    (tmp_path / "x").write_bytes(OLD)
    (tmp_path / "x").chmod(0o444)
    real = os.unlink

    def unlink(path: Path) -> None:
        if not os.stat(path).st_mode & stat.S_IWRITE:
            raise PermissionError(errno.EACCES, "read-only")
        real(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unlink)
        patch.setattr(os, "replace", failing(errno.EACCES))
        with pytest.raises(OutputError):
            write(tmp_path / "x")
    assert left_in(tmp_path) == ["x"]


def test_a_worker_left_over_cannot_write_any_more(tmp_path: Path) -> None:
    targets: list[Target] = []
    publish(str(tmp_path / "x"), 1, targets.append, lambda _: None, overwrite=False)
    with open(tmp_path / "other", "w+b") as other:  # gets the file number that the target had
        with pytest.raises(OSError, match="descriptor"):
            targets[0].write_at(0, b"late")
        targets[0].sync()
        assert not other.read()


def test_ctrl_c_while_the_temporary_file_is_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def interrupted(*args: object) -> None:
        os.close(real(*args))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "open", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "x")
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("call", ["start", "join"])
def test_ctrl_c_leaves_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    real = getattr(threading.Thread, call)

    def interrupted(self: threading.Thread) -> None:
        monkeypatch.setattr(threading.Thread, call, real)
        if call == "start":
            real(self)
        raise KeyboardInterrupt

    before = threading.enumerate()
    monkeypatch.setattr(threading.Thread, call, interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "x")
    for thread in set(threading.enumerate()) - set(before):
        thread.join(10)
    assert threading.enumerate() == before
    assert left_in(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "statvfs"), reason="POSIX")
def test_a_file_system_that_does_not_tell_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _: types.SimpleNamespace(f_blocks=0, f_bavail=0, f_frsize=4096))
    write(tmp_path / "x")
    assert left_in(tmp_path) == ["x"]


def test_the_slow_way_to_write_at_a_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows has no pwrite."""
    elsewhere = publishing_without(monkeypatch, "pwrite")
    monkeypatch.setattr(elsewhere, "CHUNK", 2)

    def fill(target: Target) -> None:
        target.write_at(3, b"defgh")
        target.write_at(0, b"abc")
        target.resize(6)

    elsewhere.publish(str(tmp_path / "x"), 8, fill, lambda _: None, overwrite=False)
    assert (tmp_path / "x").read_bytes() == b"abcdef"


@pytest.mark.parametrize("comes", ["folder", "file", "nothing", "empty"])
def test_a_folder_is_not_made_where_another_process_was_faster(tmp_path: Path, comes: str) -> None:
    place = tmp_path / "out"

    def fill(temp: str) -> None:
        (Path(temp) / "mine").write_bytes(NEW)
        if comes in ("folder", "empty"):
            place.mkdir()
        if comes in ("folder", "file"):
            (place / "theirs" if comes == "folder" else place).write_bytes(OLD)

    if comes in ("folder", "file"):
        with pytest.raises(RefusedError, match="exists already"):
            publish_folder(str(place), 9, fill)
        assert (place / "theirs" if comes == "folder" else place).read_bytes() == OLD
    else:
        publish_folder(str(place), 9, fill)
        assert left_in(place) == ["mine"]
    assert left_in(tmp_path) == ["out"]


def test_a_folder_is_looked_through_once_for_many_outputs(tmp_path, monkeypatch):
    """Each look at ten thousand outputs would take as long as writing one."""
    looks = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: looks.append(str(path)) or scandir(path))
    for number in range(20):
        publish_bytes(str(tmp_path / f"{number}.txt"), b"text", overwrite=False)
    assert looks.count(str(tmp_path)) == 1
    assert len(os.listdir(tmp_path)) == 20


# --- Windows -----------------------------------------------------------------------------------------------------------------------------------


def held(tries: list[int], number: int, times: int):
    """A rename that Windows refuses so many times."""

    def move(source: Path, target: Path) -> None:
        tries.append(1)
        if len(tries) <= times:
            error = PermissionError(13, "Access denied")
            error.winerror = number  # type: ignore[attr-defined]
            raise error
        os.rename(source, target)

    return move


@pytest.mark.parametrize("number", [5, 32])
def test_what_a_virus_scanner_holds_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(publishing, "_PAUSES", (0.001,) * 4)
    (tmp_path / "a").write_bytes(b"x")
    tries: list[int] = []
    publishing._patiently(held(tries, number, 3), tmp_path / "a", tmp_path / "b")
    assert (len(tries), (tmp_path / "b").read_bytes()) == (4, b"x")
    with pytest.raises(PermissionError):
        publishing._patiently(held([], number, 9), tmp_path / "b", tmp_path / "c")


def test_any_other_refusal_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_PAUSES", (0.001,) * 4)
    tries: list[int] = []
    with pytest.raises(PermissionError):
        publishing._patiently(held(tries, 19, 1), tmp_path / "a", tmp_path / "b")
    assert len(tries) == 1
