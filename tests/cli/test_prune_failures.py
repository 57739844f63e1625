"""prune where something is in its way: it says so, with the right exit code, and nothing is lost or left behind."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import tomli
from support.builders import safetensors
from support.voices import sovits_config

from gsvckpt.commands.prune import run as command
from gsvckpt.commands.prune import trash, trash_run
from gsvckpt.commands.verify.manifest import NAME

from .prune_trees import NOW, damaged, disk_use, record, snapshot, whole
from .samples import assert_one_error

TRASH = ".gsvckpt-trash"


def voices(folder, *, name="alice", epochs=(1, 2, 3)):
    """SoVITS weights of an experiment."""
    folder.mkdir(parents=True, exist_ok=True)
    for epoch in epochs:
        path = folder / f"{name}_e{epoch}_s{epoch * 16}.pth"
        path.write_bytes(whole("sovits", "v2", epoch, epoch * 16))
        os.utime(path, (NOW + epoch, NOW + epoch))
    return folder


def pairs(folder, *epochs):
    """A SoVITS run."""
    folder.mkdir(parents=True, exist_ok=True)
    for epoch in epochs:
        for letter in "GD":
            path = folder / f"{letter}_{epoch * 16}.pth"
            path.write_bytes(whole(letter, "v2", epoch, 0))
            os.utime(path, (NOW + epoch, NOW + epoch))
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_manifest_of_two_experiments_loses_the_entries_of_both(gsvckpt, tmp_path):
    folder = voices(voices(tmp_path / "SoVITS_weights_v2"), name="bob")
    record(folder, names(folder))
    before = snapshot(tmp_path)
    gsvckpt.json("prune", folder, "--keep-last", "1", "--yes")
    assert set(tomli.loads((folder / NAME).read_text())["files"]) == {"alice_e3_s48.pth", "bob_e3_s48.pth"}
    gsvckpt.json("prune", folder, "--undo")
    assert snapshot(tmp_path) == before


def test_a_glob_is_about_names_wherever_the_folder_lies(gsvckpt, tmp_path):
    folder = voices(tmp_path / "e1 models")
    plan = gsvckpt.json("prune", folder, "--keep", "*e1*", "--dry-run").document
    assert [[path.rpartition("/")[2] for path in entry["paths"]] for entry in plan["groups"][0]["remove"]] == [["alice_e2_s32.pth"]]
    plan = gsvckpt.json("prune", folder, "--keep", "*/e1 models/*", "--dry-run").document
    assert plan["groups"][0]["remove"] == []


def test_a_damaged_lora_is_of_the_group_of_its_run(gsvckpt, tmp_path):
    folder = tmp_path / "logs" / "alice" / "logs_s2_v3_lora_4"
    folder.mkdir(parents=True)
    for epoch in (1, 2, 3):
        (folder / f"G_{epoch}.pth").write_bytes(whole("G", "lora", epoch, 0))
    (folder / "G_4.pth").write_bytes(b"")  # the disk was full
    (group,) = gsvckpt.json("prune", folder, "--keep-last", "1", "--dry-run").document["groups"]
    assert [[path.rpartition("/")[2] for path in entry["paths"]] for entry in group["keep"]] == [["G_3.pth"], ["G_4.pth"]]


def test_an_interruption_takes_all_back(gsvckpt, tmp_path, monkeypatch):
    folder = voices(tmp_path / "voices")
    before, real = snapshot(tmp_path), trash_run.TrashRun.take

    def interrupt(run, step):
        if step.path.endswith("e2_s32.pth"):
            signal.raise_signal(signal.SIGINT)
        real(run, step)

    monkeypatch.setattr(trash_run.TrashRun, "take", interrupt)
    assert gsvckpt("prune", folder, "--keep-last", "1", "--yes").code == 130
    assert snapshot(tmp_path) == before


def test_what_an_interrupted_run_took_is_not_deleted_with_the_trash(gsvckpt, tmp_path, monkeypatch):
    folder = voices(tmp_path / "voices")
    before = snapshot(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(trash_run.TrashRun, "finish", lambda run: None)  # killed when all was moved, but for saying so
        gsvckpt.json("prune", folder, "--keep-last", "1", "--yes")
    gsvckpt.json("prune", folder, "--empty-trash", "--yes")
    assert snapshot(tmp_path) == before


def test_the_next_run_begins_with_what_an_interrupted_one_took(gsvckpt, tmp_path, monkeypatch):
    folder = voices(tmp_path / "voices")
    with monkeypatch.context() as patch:
        patch.setattr(trash_run.TrashRun, "finish", lambda run: None)
        gsvckpt.json("prune", folder, "--keep-last", "1", "--yes")
    gsvckpt.json("prune", folder, "--keep-last", "2", "--yes")
    assert names(folder) == [TRASH, "alice_e2_s32.pth", "alice_e3_s48.pth"]


@pytest.fixture
def pruned(gsvckpt, tmp_path):
    """A folder with two files in its trash, and their journal."""
    folder = voices(tmp_path / "voices")
    gsvckpt.json("prune", folder, "--keep-last", "1", "--yes")
    return folder, next(folder.rglob("journal.jsonl"))


STEP = {"path": "x.pth", "size": 1, "mtime_ns": 1, "place": ""}
HEAD = {"schema": "gsvckpt.trash/1", "steps": 1}


@pytest.mark.parametrize(
    "lines",
    [
        b"",
        b"\xff\xfe\n",
        b"[]\n",
        b'{"steps": "many"}\n',
        b'{"steps": 3}\n' + json.dumps(STEP).encode() + b"\n",
        *(
            "\n".join(map(json.dumps, (HEAD, {**STEP, **more}))).encode()
            for more in (
                {"path": 5},
                {"size": "x"},
                {"mtime_ns": None},
                {"more": 1},
                {"path": "../../outside.pth"},
                {"path": "/etc/passwd"},
                {"path": "link/outside.pth"},
                {"path": ""},
                {"path": ".."},
                {"place": "../outside.pth"},
                {"place": "/etc/passwd"},
                {"place": "link/outside.pth"},
            )
        ),
        "\n".join(map(json.dumps, (HEAD, STEP, {"made": 1, "size": 1}))).encode(),
        "\n".join(map(json.dumps, (HEAD, STEP, 5))).encode(),
        "\n".join(map(json.dumps, (HEAD, STEP, {"state": "lost"}))).encode(),
    ],
)
def test_a_journal_that_no_run_wrote_moves_and_deletes_nothing(gsvckpt, tmp_path, pruned, lines):
    folder, journal = pruned
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "outside.pth").write_bytes(b"x")
    (tmp_path / "outside.pth").write_bytes(b"x")
    os.symlink(tmp_path / "outside", folder / "link")
    journal.write_bytes(lines)
    before = snapshot(tmp_path)
    for words in (["--undo"], ["--empty-trash", "--yes"], ["--keep-last", "1", "--yes"]):
        assert_one_error(gsvckpt("prune", folder, *words), journal, 3)
        assert snapshot(tmp_path) == before


@pytest.mark.parametrize("place", [TRASH, f"{TRASH}/20261125T000000.000000000", f"{TRASH}/20261125T000000.000000000/files"])
def test_a_trash_that_leads_elsewhere_deletes_nothing(gsvckpt, tmp_path, place):
    folder, outside = voices(tmp_path / "voices"), tmp_path / "outside"
    inner = outside / f"{TRASH}/20261125T000000.000000000/files"[len(place) :].lstrip("/")
    inner.mkdir(parents=True)
    (inner / "x.pth").write_bytes(b"precious")
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    os.symlink(outside, folder / place)
    journal = folder / TRASH / "20261125T000000.000000000" / "journal.jsonl"
    journal.write_text("\n".join(map(json.dumps, (HEAD, STEP, {"state": "purging"}))))
    before = snapshot(tmp_path)
    for words in (["--undo"], ["--empty-trash", "--yes"], ["--keep-last", "1", "--yes"]):
        looks = "--empty-trash" in words  # at what is there, before it would write
        assert gsvckpt("prune", folder, *words).code == (4 if place == TRASH and not looks else 3), words
        assert snapshot(tmp_path) == before


def test_a_folder_that_no_run_is_called_after(gsvckpt, pruned):
    folder, journal = pruned
    os.rename(journal.parent, journal.parent.with_name("mine"))
    assert_one_error(gsvckpt("prune", folder, "--empty-trash", "--yes"), "journal.jsonl", 3)


def test_no_room_is_given_twice(gsvckpt, tmp_path):
    """A group of which nothing fits is left alone, and then there is no room for older ones of other groups."""
    run = pairs(tmp_path / "logs" / "zoe" / "logs_s2_v2", 1, 2, 3)
    (run / "G_48.pth").write_bytes(b"")  # GPT-SoVITS would resume from it
    voices(tmp_path / "SoVITS_weights_v2", name="carol", epochs=(1, 2))
    damaged = sum(path.stat().st_size for path in run.glob("?_48.pth"))
    room = damaged + sum(path.stat().st_size for path in run.glob("?_32.pth")) - 1
    plan = gsvckpt.json("prune", tmp_path, "--max-size", f"{room}", "--dry-run").document
    kept = {path.rpartition("/")[2] for group in plan["groups"] for entry in group["keep"] for path in entry["paths"]}
    assert kept == {"G_48.pth", "D_48.pth", "G_32.pth", "D_32.pth", "G_16.pth", "D_16.pth", "carol_e2_s32.pth"}


# --- others at work -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("held", ["logs", "logs/alice", "logs/alice/logs_s2_v2"])
@pytest.mark.parametrize("asked", ["logs", "logs/alice", "logs/alice/logs_s2_v2", "logs/alice/logs_s2_v2/G_16.pth"])
def test_two_at_once(gsvckpt, tmp_path, held, asked):
    pairs(tmp_path / "logs" / "alice" / "logs_s2_v2", 1, 2, 3)
    before = snapshot(tmp_path)
    with trash.alone([str(tmp_path / held)]):
        locked = snapshot(tmp_path)
        for words in (["--keep-last", "1", "--yes"], ["--undo"]):
            paths = [tmp_path / asked] + ([tmp_path / asked.replace("16", "32")] if asked.endswith(".pth") else [])
            run = gsvckpt("prune", *paths, *words)
            assert run.code == 4, run
            assert "another prune" in run.err
        assert snapshot(tmp_path) == locked
    assert snapshot(tmp_path) == before


def meanwhile(monkeypatch, change):
    """Do something between the plan and the act."""
    real = command.carry_out

    def carry_out(*args):
        change()
        return real(*args)

    monkeypatch.setattr(command, "carry_out", carry_out)


CHANGES = {
    "appears": lambda folder: (folder / "G_64.pth").write_bytes(whole("G", "v2", 4, 0)),
    "grows": lambda folder: (folder / "D_48.pth").write_bytes(whole("D", "v2", 4, 0) + b"more"),
    "touched": lambda folder: os.utime(folder / "G_16.pth"),
    "replaced": lambda folder: os.replace(folder / "G_32.pth", folder / "G_16.pth"),
    "vanishes": lambda folder: (folder / "G_32.pth").unlink(),
    "kept vanishes": lambda folder: (folder / "G_48.pth").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("more", [[], ["--purge"], ["--demote-after", "1"]], ids=str)
def test_a_folder_that_changes_meanwhile_is_left_alone_and_others_are_not(gsvckpt, tmp_path, monkeypatch, change, more):
    folder, other = pairs(tmp_path / "logs" / "alice" / "logs_s2_v2", 1, 2, 3), voices(tmp_path / "SoVITS_weights_v2")
    later = []

    def act():
        CHANGES[change](folder)
        later.append(snapshot(folder))

    meanwhile(monkeypatch, act)
    run = gsvckpt.json("prune", tmp_path, "--keep-last", "1", *more, "--yes", exit_code=3)
    assert snapshot(folder) == later[0]
    shrinks = "--demote-after" in more  # then nothing is removed, and small weights stay
    assert names(other) == (["alice_e3_s48.pth"] if not shrinks else [f"alice_e{n}_s{n * 16}.pth" for n in (1, 2, 3)])
    (error,) = [file["error"] for file in run.document["files"]]
    assert error["kind"] == "changed"
    assert error["hint"]["text"]
    sizes = sum(len(whole("sovits", "v2", epoch, epoch * 16)) for epoch in (1, 2))
    assert run.document["freed_bytes"] == (0 if shrinks else sizes)
    assert bool(run.document["trash"]) == (more == [])


def test_nothing_is_left_where_nothing_went(gsvckpt, tmp_path, monkeypatch):
    folder = voices(tmp_path / "voices")
    meanwhile(monkeypatch, lambda: os.utime(folder / "alice_e1_s16.pth", (NOW, NOW)))
    assert gsvckpt("prune", folder, "--keep-last", "1", "--yes").code == 3
    assert names(folder) == [f"alice_e{epoch}_s{epoch * 16}.pth" for epoch in (1, 2, 3)]


# --- disks ----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder(gsvckpt, tmp_path):
    folder = voices(tmp_path / "voices")
    folder.chmod(0o500)
    before = snapshot(tmp_path)
    run = gsvckpt("prune", folder, "--keep-last", "1", "--yes")
    folder.chmod(0o700)
    assert_one_error(run, folder, 5)
    folder.chmod(0o500)
    assert snapshot(tmp_path) == before
    folder.chmod(0o700)


def test_a_folder_that_is_mounted_at_a_second_place(gsvckpt, tmp_path):
    voices(tmp_path / "elsewhere")
    place = tmp_path / "all" / "a mount"
    place.mkdir(parents=True)
    mount = shutil.which("mount")
    if mount is None or subprocess.run([mount, "--bind", tmp_path / "elsewhere", place], capture_output=True, check=False).returncode:
        pytest.skip("only root may mount, and only on Linux")
    try:
        before = snapshot(tmp_path)
        gsvckpt.json("prune", tmp_path / "all", "--keep-last", "1", "--yes")
        assert names(place) == [".gsvckpt-trash", "alice_e3_s48.pth"]
        gsvckpt.json("prune", tmp_path / "all", "--undo")
        assert snapshot(tmp_path) == before
    finally:
        subprocess.run(["umount", place], check=True)


def test_what_cannot_be_moved_is_told_as_that(gsvckpt, tmp_path, monkeypatch):
    folder = voices(tmp_path / "voices")
    before = snapshot(tmp_path)
    for name in ("link", "rename"):
        fails(monkeypatch, name, lambda source, *_: "_e1_" in source and "part" not in source, errno.EACCES)
    (error,) = [one["error"] for one in gsvckpt.json("prune", folder, "--keep-last", "2", "--yes", exit_code=5).document["files"]]
    assert "moved" in error["why"]
    assert "write in its folder" in error["hint"]["text"]
    assert snapshot(tmp_path) == before


def fails(monkeypatch, name, when, number):
    """A system call that fails for some paths."""
    real = getattr(os, name)

    def call(*args, **more):
        if when(*map(str, args)):
            raise OSError(number, os.strerror(number), args[0])
        return real(*args, **more)

    monkeypatch.setattr(os, name, call)


def test_a_file_that_cannot_be_moved_stays_with_its_pair(gsvckpt, tmp_path, monkeypatch):
    folder = pairs(tmp_path / "run", 1, 2, 3)
    for name in ("link", "rename"):
        fails(monkeypatch, name, lambda source, *_: source.endswith("D_16.pth"), errno.EPERM)
    run = gsvckpt.json("prune", folder, "--keep-last", "1", "--yes", exit_code=5)
    assert names(folder) == [TRASH, "D_16.pth", "D_48.pth", "G_16.pth", "G_48.pth"]
    assert run.document["freed_bytes"] == sum(len(whole(letter, "v2", 2, 0)) for letter in "GD")
    monkeypatch.undo()
    assert gsvckpt("prune", folder, "--undo").code == 0
    assert len(names(folder)) == 6


def test_a_disk_without_hard_links(gsvckpt, tmp_path, monkeypatch):
    folder = pairs(tmp_path / "run", 1, 2, 3)
    before = snapshot(tmp_path)
    fails(monkeypatch, "link", lambda *_: True, errno.EPERM)
    gsvckpt.json("prune", folder, "--keep-last", "1", "--yes")
    assert names(folder) == [TRASH, "D_48.pth", "G_48.pth"]
    gsvckpt.json("prune", folder, "--undo")
    assert snapshot(tmp_path) == before


def test_a_journal_that_cannot_be_written(gsvckpt, tmp_path, monkeypatch):
    folder = voices(tmp_path / "voices")
    before = snapshot(tmp_path)
    for name in ("link", "rename"):
        fails(monkeypatch, name, lambda _, target, *more: target.endswith("journal.jsonl"), errno.ENOSPC)
    gsvckpt.json("prune", folder, "--keep-last", "1", "--yes")
    assert not list(folder.rglob("journal.jsonl"))
    assert len(list((folder / TRASH).rglob("*.pth"))) == 2
    gsvckpt.json("prune", folder, "--undo")
    assert snapshot(tmp_path) == before


def test_emptying_a_trash_without_a_journal(gsvckpt, tmp_path, monkeypatch):
    folder = voices(tmp_path / "voices")
    for name in ("link", "rename"):
        fails(monkeypatch, name, lambda _, target, *more: target.endswith("journal.jsonl"), errno.ENOSPC)
    gsvckpt.json("prune", folder, "--keep-last", "1", "--yes")
    gsvckpt.json("prune", folder, "--empty-trash", "--yes")
    assert names(folder) == ["alice_e3_s48.pth"]


def test_a_disk_without_room_for_a_folder(gsvckpt, tmp_path, monkeypatch):
    folder = voices(tmp_path / "voices")
    before = snapshot(tmp_path)
    full = [True]
    fails(monkeypatch, "mkdir", lambda path, *_: TRASH in str(path) and full[0], errno.ENOSPC)
    done = gsvckpt("prune", folder, "--keep-last", "1", "--yes")
    assert (done.code, "--purge" in done.err) == (5, True)
    assert snapshot(tmp_path) == before
    unlink = os.unlink

    def frees(path, *more, **named):
        unlink(path, *more, **named)
        full[0] = full[0] and not str(path).endswith(".pth")

    monkeypatch.setattr(os, "unlink", frees)
    gsvckpt.json("prune", folder, "--keep-last", "1", "--yes", "--purge")
    assert names(folder) == ["alice_e3_s48.pth"]


@pytest.mark.parametrize("held", ["G_16.pth", "D_16.pth"])
def test_a_file_that_another_program_holds_as_windows_does(gsvckpt, tmp_path, monkeypatch, held):
    """Neither of a file's names can be removed while it is open; the rest of its save is put back all the same."""
    folder = pairs(tmp_path / "run", 1, 2, 3)
    before = snapshot(tmp_path)
    fails(monkeypatch, "unlink", lambda path, *_: os.path.basename(path) == held, errno.EACCES)
    fails(monkeypatch, "chmod", lambda path, *_: os.path.basename(path) == held, errno.EACCES)
    done = gsvckpt("prune", folder, "--keep-last", "2", "--yes")
    assert done.code == 5
    assert held in done.err
    assert {"G_16.pth", "D_16.pth"} <= set(names(folder))
    monkeypatch.undo()
    gsvckpt("prune", folder, "--empty-trash", "--yes")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("held", ["G_16.pth", "D_32.pth"])
def test_undo_goes_on_behind_a_file_that_cannot_be_moved(gsvckpt, tmp_path, monkeypatch, held):
    folder = pairs(tmp_path / "run", 1, 2, 3)
    before = snapshot(tmp_path)
    gsvckpt.json("prune", folder, "--keep-last", "1", "--yes")
    for name in ("link", "rename"):
        fails(monkeypatch, name, lambda source, *_: os.path.basename(source) == held, errno.EACCES)
    done = gsvckpt("prune", folder, "--undo")
    assert done.code == 5
    assert held in done.err
    assert set(names(folder)) - {TRASH} == {path.rpartition("/")[2] for path in before} - {"run", held}
    monkeypatch.undo()
    gsvckpt.json("prune", folder, "--undo")
    assert snapshot(tmp_path) == before


def test_a_full_disk_while_saves_shrink(gsvckpt, tmp_path, monkeypatch):
    folder = pairs(tmp_path / "run", 1, 2, 3)
    before = snapshot(tmp_path)
    fails(monkeypatch, "pwrite", lambda *_: any(folder.rglob("journal.jsonl")), errno.ENOSPC)
    run = gsvckpt.json("prune", folder, "--keep-last", "1", "--demote-after", "1", "--yes", exit_code=5)
    assert snapshot(tmp_path) == before
    assert run.document["freed_bytes"] == 0


def test_an_archive_on_a_full_disk(gsvckpt, tmp_path, monkeypatch):
    folder, archive = pairs(tmp_path / "run", 1, 2, 3), tmp_path / "archive"
    before = snapshot(folder)
    fails(monkeypatch, "pwrite", lambda *_: any(folder.rglob("journal.jsonl")), errno.ENOSPC)
    run = gsvckpt.json("prune", folder, "--keep-last", "1", "--archive", archive, "--yes", exit_code=5)
    assert snapshot(folder) == before
    assert {file["error"]["kind"] for file in run.document["files"]} == {"output"}
    assert not [path for path in archive.rglob("*") if path.is_file()]


def test_an_archive_of_another_disk(gsvckpt, tmp_path):
    shared_memory = "/dev/shm"  # noqa: S108 - a file system of its own on Linux, in which a folder with a random name is made
    with tempfile.TemporaryDirectory(dir=shared_memory if os.path.isdir(shared_memory) else None) as elsewhere:
        if os.stat(elsewhere).st_dev == tmp_path.stat().st_dev:
            pytest.skip("there is one file system only")
        folder = pairs(tmp_path / "run", 1, 2, 3)
        gone = {path.name: path.read_bytes() for path in folder.iterdir() if "48" not in path.name}
        gsvckpt.json("prune", folder, "--keep-last", "1", "--archive", elsewhere, "--purge", "--yes")
        assert names(folder) == ["D_48.pth", "G_48.pth"]
        assert {path.name: path.read_bytes() for path in Path(elsewhere).rglob("*.pth")} == gone


def test_an_archive_inside_what_is_pruned(gsvckpt, tmp_path):
    folder = voices(tmp_path / "voices")
    os.symlink(folder, tmp_path / "other name")
    before = snapshot(tmp_path)
    for archive in (folder / "old", folder, tmp_path / "other name" / "old"):
        assert_one_error(gsvckpt("prune", folder, "--keep-last", "1", "--archive", archive, "--yes"), "--archive", 2)
    assert snapshot(tmp_path) == before


def test_a_manifest_that_cannot_be_understood_stays_as_it_is(gsvckpt, tmp_path):
    folder = voices(tmp_path / "voices" / "alice")
    (folder / NAME).write_text("files = no toml")
    gsvckpt.json("prune", tmp_path / "voices", "--keep-last", "1", "--yes")
    assert names(folder) == ["alice_e3_s48.pth", NAME]
    assert (folder / NAME).read_text() == "files = no toml"


def test_rules_that_cannot_be_understood(gsvckpt, tmp_path):
    folder = voices(tmp_path / "voices")
    (folder / NAME).write_text("[prune]\nkeep-lots = 1\n")
    before = snapshot(tmp_path)
    assert_one_error(gsvckpt("prune", folder, "--keep-last", "1", "--yes"), f"{folder / NAME}:2", 2)
    assert snapshot(tmp_path) == before


# --- the command line -----------------------------------------------------------------------------------------------------------------------------


def test_a_folder_without_checkpoints(gsvckpt, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("no model")
    (tmp_path / "empty").mkdir()
    for folder in ("notes", "empty", "missing"):
        run = gsvckpt("prune", tmp_path / folder, "--keep-last", "1", "--yes")
        assert_one_error(run, tmp_path / folder, 3)
        assert "hint: " in run.err


def test_nobody_confirms(gsvckpt, tmp_path):
    folder = voices(tmp_path / "voices")
    before = snapshot(tmp_path)
    for words in (["--keep-last", "1"], ["--keep-last", "1", "--purge"], ["--keep-last", "1", "--json"]):
        run = gsvckpt("prune", folder, *words)
        assert run.code == 4
        assert "--yes" in run.err
        assert snapshot(tmp_path) == before
    gsvckpt.json("prune", folder, "--keep-last", "1", "--yes")
    before = snapshot(tmp_path)
    assert gsvckpt("prune", folder, "--empty-trash").code == 4
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--keep-last", "0"],
        ["--keep-last", "-1"],
        ["--keep-every", "0"],
        ["--keep-within", "soon"],
        ["--max-size", "much"],
        ["--mode", "best"],
        ["--demote-to", "nothing"],
        ["--purge"],
        ["--archive", "old"],
        ["--undo", "--empty-trash"],
        ["--undo", "--keep-last", "1"],
        ["--undo", "--purge"],
        ["--undo", "--archive", "old"],
        ["--undo", "--older-than", "7d"],
        ["--undo", "--metrics", "missing.csv"],
        ["--undo", "--demote-to", "stripped"],
        ["--empty-trash", "--metric", "loss"],
        ["--empty-trash", "--keep", "*"],
        ["--empty-trash", "--policy", "x.toml"],
        ["--keep-last", "1", "--older-than", "7d"],
        ["--empty-trash", "--older-than", "soon"],
    ],
    ids=str,
)
def test_options_that_do_not_go_together(gsvckpt, tmp_path, words):
    folder = voices(tmp_path / "voices")
    before = snapshot(tmp_path)
    run = gsvckpt("prune", folder, *words, "--yes")
    assert run.code == 2, run
    assert snapshot(tmp_path) == before


# --- the trash ------------------------------------------------------------------------------------------------------------------------------------


def test_undo_where_another_file_has_the_name(gsvckpt, pruned):
    folder, journal = pruned
    (folder / "alice_e1_s16.pth").write_bytes(b"mine")
    kept = journal.parent / "files" / "alice_e1_s16.pth"
    old = kept.read_bytes()
    run = gsvckpt("prune", folder, "--undo")
    assert run.code == 4
    assert str(folder / "alice_e1_s16.pth") in run.err.splitlines()[0]
    assert run.err.splitlines()[2] == "1 file brought back"
    assert (folder / "alice_e1_s16.pth").read_bytes() == b"mine"
    assert kept.read_bytes() == old
    assert (folder / "alice_e2_s32.pth").exists()
    os.rename(folder / "alice_e1_s16.pth", folder / "mine")
    assert gsvckpt("prune", folder, "--undo").err == "1 file brought back\n"
    assert (folder / "alice_e1_s16.pth").read_bytes() == old
    assert TRASH not in names(folder)


def test_undo_of_what_is_gone_for_good(gsvckpt, tmp_path):
    folder = voices(tmp_path / "voices")
    gsvckpt.json("prune", folder, "--keep-last", "2", "--yes", "--purge")
    assert_one_error(gsvckpt("prune", folder, "--undo"), folder, 3)
    assert names(folder) == ["alice_e2_s32.pth", "alice_e3_s48.pth"]


def test_undo_goes_back_run_by_run(gsvckpt, tmp_path):
    folder = voices(tmp_path / "voices")
    states = [snapshot(tmp_path)]
    for count in ("2", "1"):
        gsvckpt.json("prune", folder, "--keep-last", count, "--yes")
        states.append(snapshot(tmp_path))
    assert gsvckpt.json("prune", folder, "--undo", "--dry-run").document["runs"][0]["paths"] == [str(folder / "alice_e2_s32.pth")]
    assert snapshot(tmp_path) == states[2]
    for state in (states[1], states[0]):
        gsvckpt.json("prune", folder, "--undo")
        assert snapshot(tmp_path) == state
    assert gsvckpt("prune", folder, "--undo").code == 3


def test_only_old_runs_are_emptied(gsvckpt, pruned):
    folder, journal = pruned
    day = time.strftime("%Y%m%dT%H%M%S", time.gmtime(time.time() - 8 * 86_400))
    old = journal.parent.with_name(f"{day}.000000000")
    os.rename(journal.parent, old)
    voices(folder, epochs=(4,))
    gsvckpt.json("prune", folder, "--keep-last", "1", "--yes")
    assert gsvckpt.json("prune", folder, "--empty-trash", "--older-than", "9d", "--yes").document["freed_bytes"] == 0
    assert len(names(folder / TRASH)) == 2
    freed = gsvckpt.json("prune", folder, "--empty-trash", "--older-than", "7d", "--yes").document["freed_bytes"]
    assert freed == sum(len(whole("sovits", "v2", epoch, epoch * 16)) for epoch in (1, 2))
    assert len(names(folder / TRASH)) == 1
    gsvckpt.json("prune", folder, "--empty-trash", "--yes")
    assert names(folder) == ["alice_e4_s64.pth"]


def test_emptying_frees_nothing_of_what_has_another_name(gsvckpt, tmp_path):
    folder = voices(tmp_path / "voices")
    os.link(folder / "alice_e1_s16.pth", tmp_path / "other name")
    run = gsvckpt.json("prune", folder, "--keep-last", "1", "--yes")
    assert run.document["freed_bytes"] == len(whole("sovits", "v2", 2, 32))
    assert gsvckpt.json("prune", folder, "--empty-trash", "--yes").document["freed_bytes"] == run.document["freed_bytes"]


# --- who a file belongs to ------------------------------------------------------------------------------------------------------------------------


def test_shards_that_another_index_needs_stay(gsvckpt, tmp_path):
    values = {f"layer.{part}": ("F32", (8,), bytes(32)) for part in range(2)}
    for name, value in values.items():
        (tmp_path / f"{name}.safetensors").write_bytes(safetensors({name: value}))
    for index in (1, 2):
        text = json.dumps({"metadata": {"total_size": 64}, "weight_map": {name: f"{name}.safetensors" for name in values}})
        (tmp_path / f"model-{index}.safetensors.index.json").write_text(text)
    gsvckpt("prune", tmp_path, "--keep-last", "1", "--yes")
    assert {"layer.0.safetensors", "layer.1.safetensors"} <= set(names(tmp_path))


def test_a_folder_that_is_named_twice(gsvckpt, tmp_path, monkeypatch):
    folder = voices(tmp_path / "voices")
    os.symlink(folder, tmp_path / "link")
    monkeypatch.chdir(tmp_path)
    plan = gsvckpt.json("prune", "voices", folder, "link", "voices/../voices", "--keep-last", "1", "--dry-run").document
    assert [len(group["remove"]) for group in plan["groups"]] == [2]
    assert gsvckpt("prune", "voices", folder, "link", "--keep-last", "1", "--yes").code == 0
    assert names(folder) == [TRASH, "alice_e3_s48.pth"]
    assert gsvckpt("prune", folder, "link", "--undo").code == 0
    assert names(folder) == [f"alice_e{epoch}_s{epoch * 16}.pth" for epoch in (1, 2, 3)]


def test_a_models_folder_whose_files_are_called_after_the_time(gsvckpt, tmp_path):
    """Only where GPT-SoVITS works are such files what interrupted saves left; elsewhere the numbers say nothing of training."""
    for number in (1, 2, 3):
        path = tmp_path / f"17450000{number:02}.5.pth"
        path.write_bytes(whole("training", "", number, number))
        os.utime(path, (NOW - 10**7, NOW - 10**7))
    gsvckpt.json("prune", tmp_path, "--keep-last", "2", "--yes")
    assert len([name for name in names(tmp_path) if name.endswith(".pth")]) == 3


# --- what shrinks ---------------------------------------------------------------------------------------------------------------------------------


def experiment(tmp_path, version):
    folder = tmp_path / "logs" / "alice" / f"logs_s2_{version}"
    folder.mkdir(parents=True)
    for epoch in (1, 2, 3):
        for letter in "GD":
            path = folder / f"{letter}_{epoch * 16}.pth"
            path.write_bytes(whole(letter, version, epoch, 0))
            os.utime(path, (NOW + epoch, NOW + epoch))
    (folder.parent / "config.json").write_text(json.dumps(sovits_config("alice", version, 3)))
    return folder


def test_older_saves_become_small_weights(gsvckpt, tmp_path):
    folder = experiment(tmp_path, "v1")
    before = snapshot(tmp_path)
    used = disk_use(tmp_path)
    words = ["prune", folder, "--keep-last", "1", "--demote-after", "1", "--demote-to", "inference"]
    plan = gsvckpt.json(*words, "--dry-run").document
    real = gsvckpt.json(*words, "--yes").document
    assert plan["groups"] == real["groups"]
    assert plan["freed_bytes"] == real["freed_bytes"]
    assert names(folder) == [TRASH, "D_48.pth", "G_48.pth", "alice_e1_s16.pth", "alice_e2_s32.pth"]
    file = gsvckpt.json("inspect", folder / "alice_e2_s32.pth").file
    assert (file["kind"], file["version"], file["progress"]["epoch"]) == ("sovits-weights", "v1", 2)
    gsvckpt.json("prune", folder, "--undo")
    assert snapshot(tmp_path) == before
    gsvckpt.json(*words, "--purge", "--yes")
    assert used - disk_use(tmp_path) == plan["freed_bytes"]


def test_a_name_that_is_taken_leaves_the_pair_as_it_was(gsvckpt, tmp_path):
    folder = experiment(tmp_path, "v1")
    (folder / "alice_e1_s16.pth").write_bytes(b"mine")
    gsvckpt("prune", folder, "--keep-last", "1", "--demote-after", "1", "--demote-to", "inference", "--yes")
    assert names(folder) == [TRASH, "D_16.pth", "D_48.pth", "G_16.pth", "G_48.pth", "alice_e1_s16.pth", "alice_e2_s32.pth"]
    assert (folder / "alice_e1_s16.pth").read_bytes() == b"mine"
    assert (folder / "G_16.pth").read_bytes() == whole("G", "v1", 1, 0)


def test_what_would_be_refused_is_not_planned(gsvckpt, tmp_path):
    """Files this small would be read as v1 by GPT-SoVITS."""
    folder = experiment(tmp_path, "v2")
    plan = gsvckpt.json("prune", folder, "--keep-last", "1", "--demote-after", "1", "--demote-to", "inference", "--yes").document
    assert plan["groups"][0]["demote"] == []
    assert "cannot be made smaller" in plan["groups"][0]["keep"][1]["reasons"][0]


# --- what GPT-SoVITS is set to use ----------------------------------------------------------------------------------------------------------------

LONG = "GPT_weights_v2/a voice with a long name that has many blanks in it so that PyYAML folds the line here-e1.ckpt"
SETTINGS = {
    "marked": ("weight.json", b'\xef\xbb\xbf{"GPT": {"v2": "GPT_weights_v2/alice-e1.ckpt"}}'),
    "cut off": ("weight.json", b'{\n  "GPT": {\n    "v2": "GPT_weights_v2/alice-e1.ckpt",\n    "v4": "GPT_w'),
    "of Windows": ("weight.json", rb'{"GPT": {"v2": "C:\\GPT-SoVITS\\GPT_weights_v2\\alice-e1.ckpt"}}'),
    "plain": ("GPT_SoVITS/configs/tts_infer.yaml", b"custom:\n  t2s_weights_path: GPT_weights_v2/alice-e1.ckpt\n  version: v2\n"),
    "quoted": ("tts_infer.yaml", b"custom:\n  t2s_weights_path: 'GPT_weights_v2/alice-e1.ckpt'  # mine\n"),
    "folded": (
        "tts_infer.yaml",
        f"custom:\n  t2s_weights_path: {LONG.replace(' many blanks', chr(10) + '    many blanks')}\n  version: v2\n".encode(),
    ),
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("asked", [".", "GPT_weights_v2"])
def test_what_is_in_use_stays(gsvckpt, tmp_path, settings, asked):
    name, data = SETTINGS[settings]
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(data)
    used = LONG if settings == "folded" else "GPT_weights_v2/alice-e1.ckpt"
    (tmp_path / "GPT_weights_v2").mkdir()
    for epoch in (1, 2, 3):
        (tmp_path / used.replace("-e1", f"-e{epoch}")).write_bytes(whole("gpt", "v2", epoch, epoch))
    gsvckpt.json("prune", tmp_path / asked, "--keep-last", "1", "--yes")
    assert sorted(path.name.rpartition("-")[2] for path in (tmp_path / "GPT_weights_v2").glob("*.ckpt")) == ["e1.ckpt", "e3.ckpt"]


def test_state_dicts_of_one_time_are_ordered_by_the_numbers_in_their_names(gsvckpt, tmp_path):
    for number in (8, 9, 10, 11):
        path = tmp_path / f"net_step_{number}.pt"
        path.write_bytes(whole("state", "", number, number))
        os.utime(path, (NOW - number, NOW - number))  # as unpacking or copying leaves them
    gsvckpt.json("prune", tmp_path, "--keep-last", "1", "--yes")
    assert names(tmp_path) == [TRASH, "net_step_11.pt"]


def test_a_damaged_save_does_not_shrink(gsvckpt, tmp_path):
    folder = pairs(tmp_path / "run", 1, 2, 3)
    (folder / "D_16.pth").write_bytes(damaged(random.Random(1), "flipped", "D", "v2", 1, 0))
    os.utime(folder / "D_16.pth", (NOW + 1, NOW + 1))
    plan = gsvckpt.json("prune", folder, "--keep-last", "1", "--demote-after", "1", "--yes").document
    (group,) = plan["groups"]
    assert [[path.rpartition("/")[2] for path in entry["paths"]] for entry in group["demote"]] == [["G_32.pth", "D_32.pth"]]
    assert "damaged" in group["keep"][1]["reasons"][0]
