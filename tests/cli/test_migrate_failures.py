"""gsvckpt migrate when something goes wrong: damaged or hostile files, files that change, full disks. Source and base keep every byte."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.builders import Make, Name, Store, View, tensor, torch_zip

from gsvckpt.engine import write
from gsvckpt.files import publish

from .samples import assert_one_error, evil, generator, gpt, leftovers, numbers, s1_training, s2_training, save, spawn

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX")
STEPS = {
    "dtype": ["--dtype", "float16"],
    "fill": ["--like", "base.pth", "--fill"],
    "all": ["--rules", "ddp", "--like", "base.pth", "--fill", "--plain", "--dtype", "bfloat16"],
    "container": ["--to", "safetensors"],
}
OUTPUTS = {name: "x.safetensors" if name == "container" else "x.migrated.pth" for name in STEPS}


def tree():
    return {
        "weight": {"module.a": numbers((200, 200)), "b": View(Store("float32", bytes(16), "cuda:0"), (4,), (1,)), "n": tensor("int64", (1,), [3])},
        "info": "x",
    }


class Pair:
    def __init__(self, source: Path, base: Path) -> None:
        self.source, self.base = source, base
        self._data = source.read_bytes(), base.read_bytes()

    @property
    def untouched(self) -> bool:
        return (self.source.read_bytes(), self.base.read_bytes()) == self._data

    @property
    def others(self) -> list[str]:
        return sorted(set(os.listdir(self.source.parent)) - {"x.pth", "base.pth"})


def make_pair(folder):
    """A source, a base, and a way to see that neither has changed and nothing else is there."""
    base = {"b": numbers((4,), seed=8), "filled": numbers((150, 150), seed=9), "other": numbers((3,)), "module.a": numbers((200, 200))}
    return Pair(save(folder / "x.pth", tree()), save(folder / "base.pth", {"weight": base}))


@pytest.fixture
def pair(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_pair(tmp_path)


# --- damaged and hostile files -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("keep", [0.0, 0.2, 0.9, 0.999])
def test_a_source_that_was_cut_off(gsvckpt, pair, step, keep):
    data = pair.source.read_bytes()
    pair.source.write_bytes(data[: int(len(data) * keep)])
    assert_one_error(gsvckpt("migrate", pair.source, *STEPS[step]), pair.source, 3)
    assert pair.others == []


@pytest.mark.parametrize("step", ["dtype", "fill", "container"])
def test_an_altered_source_is_noticed(gsvckpt, pair, step):
    data = bytearray(pair.source.read_bytes())
    data[data.index(numbers((200, 200)).store.data) + 77] ^= 4
    pair.source.write_bytes(data)
    for options in ([], ["-n"], ["--in-place"]):
        if (step, options) in (("container", ["--in-place"]), ("fill", ["-n"]), ("container", ["-n"])):
            continue  # a usage error; a dry run reads what it casts alone
        run = gsvckpt("migrate", pair.source, *STEPS[step], *options)
        assert_one_error(run, pair.source, 3)
        assert "checksum" in run.err
    assert (pair.source.read_bytes(), pair.others) == (bytes(data), [])


def test_a_malicious_pickle_is_refused_and_never_run(gsvckpt, tmp_path):
    witness = Path("/tmp/gsvckpt-was-here")  # noqa: S108 - the payload's own
    witness.unlink(missing_ok=True)
    source = save(tmp_path / "evil.pth", evil())
    clean = save(tmp_path / "x.pth", {"enc_p.ssl_proj.weight": numbers((8, 4))})
    for options in (*STEPS.values(), ["--plain"], ["--scrub-paths"], ["--in-place"], ["-n"], ["--to-inference"]):
        words = [clean if word == "base.pth" else word for word in options]
        assert_one_error(gsvckpt("migrate", source, *words), source, 4)
    gsvckpt("migrate", clean, "--like", source, "--fill", "-o", tmp_path / "out.pth")  # as a base it gives tensors, and nothing else of it comes over
    assert not witness.exists()
    if (tmp_path / "out.pth").exists():
        assert gsvckpt.json("inspect", tmp_path / "out.pth").file["safety"]["verdict"] != "unsafe"
        torch.load(tmp_path / "out.pth", weights_only=True)
    assert gsvckpt("migrate", source, "--dtype", "float16", "--force", "-o", tmp_path / "forced.pth").code == 0
    assert not witness.exists()
    assert gsvckpt.json("inspect", tmp_path / "forced.pth").file["safety"]["verdict"] == "unsafe"


@pytest.mark.parametrize("damage", ["cut", "empty", "page", "gone", "folder"])
def test_a_base_that_cannot_be_read_is_named(gsvckpt, pair, damage):
    data = pair.base.read_bytes()
    pair.base.unlink()
    if damage == "folder":
        pair.base.mkdir()
    elif damage != "gone":
        pair.base.write_bytes({"cut": data[:-50], "empty": b"", "page": b"<html>"}[damage])
    source = pair.source.read_bytes()
    for options in ([], ["-n"], ["--in-place"]):
        run = gsvckpt("migrate", pair.source, *STEPS["fill"], *options)
        assert_one_error(run, "base.pth", 2 if damage == "gone" else 3)
    assert (pair.source.read_bytes(), pair.others) == (source, [])


@pytest.mark.parametrize("where", ["filled", "other"])
def test_an_altered_base_is_noticed_where_its_bytes_are_taken(gsvckpt, pair, where):
    data = bytearray(pair.base.read_bytes())
    shape, seed = {"filled": ((150, 150), 9), "other": ((3,), 1)}[where]
    data[data.index(numbers(shape, seed=seed).store.data) + 6] ^= 1
    pair.base.write_bytes(data)
    run = gsvckpt("migrate", pair.source, *STEPS["fill"])
    assert_one_error(run, "base.pth", 3)
    assert "checksum" in run.err
    assert pair.others == []
    assert gsvckpt("migrate", pair.source, "--like", pair.base).code == 0  # only shapes are asked


@POSIX
@pytest.mark.parametrize("change", ["replaced", "appended", "touched", "removed"])
@pytest.mark.parametrize("which", ["source", "base"])
@pytest.mark.parametrize("dry", [False, True])
def test_a_file_that_changes_while_it_is_read(gsvckpt, pair, monkeypatch, change, which, dry):
    path = getattr(pair, which)
    other = save(pair.source.with_name("other.pth"), {"w": numbers((2,))})
    where = "_foresee_overflow" if dry else "_read_back"
    real = getattr(write.Engine, where)

    def interfere(self, *args):
        if change == "replaced" and other.exists():
            os.replace(other, path)
        elif change == "appended":
            with path.open("ab") as file:
                file.write(b"more")
        elif change == "touched":
            os.utime(path, ns=(1, 1))
        elif change == "removed":
            path.unlink(missing_ok=True)
        return real(self, *args)

    monkeypatch.setattr(write.Engine, where, interfere)
    run = gsvckpt.json("migrate", pair.source, *STEPS["all"], *(["-n"] if dry else []), exit_code=3)
    assert run.file["error"]["kind"] == "changed"
    assert path.name in run.err.splitlines()[0]
    assert set(pair.others) <= {"other.pth"}


# --- full disks ----------------------------------------------------------------------------------------------------------------------------------


def failing(monkeypatch, at, number):
    """Let the at-th write, truncation, sync or renaming fail; hands back what was called."""
    calls = []
    monkeypatch.setattr(publish, "_SYNC_SECONDS", 1000)  # only once all is written, so that every run takes the same steps

    def wrap(owner, name):
        real = getattr(owner, name)

        def call(*args, **more):
            calls.append(name)
            if len(calls) == at or (name == "rename" and calls[at - 1 : at] == ["link"]):  # what is tried where links fail
                raise OSError(number, os.strerror(number))
            return real(*args, **more)

        monkeypatch.setattr(owner, name, call)

    wrap(publish.Target, "_write_some")
    for name in ("truncate", "fsync", "link", "replace", "rename"):
        wrap(os, name)
    return calls


@POSIX
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("in_place", [False, True])
def test_an_error_at_any_step_of_writing_leaves_nothing(gsvckpt, pair, monkeypatch, step, in_place):
    options = ["--in-place"] if in_place and step != "container" else []
    data = pair.source.read_bytes()
    tried = set()
    for at in range(1, 60):
        number = (errno.ENOSPC, errno.EIO, errno.EROFS)[at % 3]
        with monkeypatch.context() as patched:
            calls = failing(patched, at, number)
            run = gsvckpt("migrate", pair.source, *STEPS[step], *options, "-j", "1")
        if len(calls) < at:
            break
        tried.add(calls[at - 1])
        if run.code == 0:  # some systems cannot sync folders, so an error there is passed over: the file has its name already
            assert calls[at - 1 :] == ["fsync"]
            break
        assert_one_error(run, "x.", 5)
        assert (number == errno.EIO) or "hint: " in run.err
        assert pair.untouched
        assert pair.others == []
    assert tried == {"_write_some", "truncate", "fsync", "replace" if options else "link"}
    assert run.code == 0
    assert leftovers(pair.source.parent) == []
    assert options or pair.source.read_bytes() == data


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system with place for 128 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", folder]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("may not mount")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("step", ["fill", "container"])
def test_a_disk_too_small_is_told_before_or_while_it_fills(gsvckpt, pair, tiny_disk, monkeypatch, known, step):
    if not known:
        monkeypatch.setattr(publish, "require_space", lambda destination, size: None)
    output = tiny_disk / OUTPUTS[step]
    run = gsvckpt("migrate", pair.source, *STEPS[step], "-o", output)
    assert_one_error(run, output, 5)
    assert "hint: " in run.err
    assert os.listdir(tiny_disk) == []
    assert pair.untouched


def test_a_real_process_says_one_line_and_no_traceback(pair, tmp_path):
    save(tmp_path / "e.ckpt", s1_training(gpt()))
    pair.base.write_bytes(torch_zip({"weight": {"b": numbers((4,))}})[:-30])
    for argv, code in ((["x.pth", *STEPS["fill"]], 3), (["x.pth", "--fill"], 2), (["e.ckpt", *STEPS["dtype"], "-o", "x.pth"], 4), (["no.pth"], 3)):
        run = spawn("migrate", *argv, cwd=tmp_path)
        lines = run.stderr.decode().splitlines()
        assert (run.returncode, run.stdout) == (code, b""), lines
        assert lines[0].startswith("gsvckpt: ")
        assert len(lines) <= 2


def test_code_does_not_come_in_with_a_config(gsvckpt, tmp_path):
    brought = {"train": {"a": 1}, "data": {"a": 1}, "model": {"version": "v2"}, "x": Make(Name("os", "system"), ("touch pwned",)), "version": "v2"}
    config = save(tmp_path / "config-of.pth", {"weight": {"a": numbers((2, 2))}, "config": brought})
    source = save(tmp_path / "G_1.pth", s2_training(generator("v2", enc_q=True)))
    run = gsvckpt("migrate", source, "--to-inference", "--config", config)
    assert run.code == 2
    assert "os.system" in run.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["G_1.pth", "config-of.pth"]
