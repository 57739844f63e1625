"""prune where something is in its way: it says so, with the right exit code, and nothing is lost or left behind."""

from __future__ import annotations

import os
import signal

import tomli

from gsvckpt import trash
from gsvckpt.manifest import NAME

from .prune_trees import NOW, record, snapshot, whole

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
    (group,) = gsvckpt.json("prune", folder, "--keep-every", "5", "--dry-run").document["groups"]
    assert [[path.rpartition("/")[2] for path in entry["paths"]] for entry in group["keep"]] == [["G_3.pth"], ["G_4.pth"]]


def test_an_interruption_takes_all_back(gsvckpt, tmp_path, monkeypatch):
    folder = voices(tmp_path / "voices")
    before, real = snapshot(tmp_path), trash.Run.take

    def interrupt(run, step):
        if step.path.endswith("e2_s32.pth"):
            signal.raise_signal(signal.SIGINT)
        real(run, step)

    monkeypatch.setattr(trash.Run, "take", interrupt)
    assert gsvckpt("prune", folder, "--keep-last", "1", "--yes").code == 130
    assert snapshot(tmp_path) == before


def test_what_an_interrupted_run_took_is_not_deleted_with_the_trash(gsvckpt, tmp_path, monkeypatch):
    folder = voices(tmp_path / "voices")
    before = snapshot(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(trash.Run, "finish", lambda run: None)  # killed when all was moved, but for saying so
        gsvckpt.json("prune", folder, "--keep-last", "1", "--yes")
    gsvckpt.json("prune", folder, "--empty-trash", "--yes")
    assert snapshot(tmp_path) == before


def test_the_next_run_begins_with_what_an_interrupted_one_took(gsvckpt, tmp_path, monkeypatch):
    folder = voices(tmp_path / "voices")
    with monkeypatch.context() as patch:
        patch.setattr(trash.Run, "finish", lambda run: None)
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
        assert gsvckpt("prune", folder, *words).code == 3
        assert snapshot(tmp_path) == before


def test_a_folder_that_no_run_is_called_after(gsvckpt, pruned):
    folder, journal = pruned
    os.rename(journal.parent, journal.parent.with_name("mine"))
    assert_one_error(gsvckpt("prune", folder, "--empty-trash", "--yes"), "journal.jsonl", 3)


def test_no_room_is_given_twice(gsvckpt, tmp_path):
    """The newest sound one stays even where it does not fit, and then there is no room for older ones of other groups."""
    run = pairs(tmp_path / "logs" / "zoe" / "logs_s2_v2", 1, 2, 3)
    (run / "G_48.pth").write_bytes(b"")  # GPT-SoVITS would resume from it
    voices(tmp_path / "SoVITS_weights_v2", name="carol", epochs=(1, 2))
    damaged = sum(path.stat().st_size for path in run.glob("?_48.pth"))
    room = damaged + sum(path.stat().st_size for path in run.glob("?_32.pth")) - 1
    plan = gsvckpt.json("prune", tmp_path, "--max-size", f"{room}", "--dry-run").document
    kept = {path.rpartition("/")[2] for group in plan["groups"] for entry in group["keep"] for path in entry["paths"]}
    assert kept == {"G_48.pth", "D_48.pth", "G_32.pth", "D_32.pth", "carol_e2_s32.pth"}
