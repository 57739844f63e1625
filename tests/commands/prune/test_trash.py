"""The trash: moved, journalled, brought back."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gsvckpt.commands.prune import trash_run
from gsvckpt.commands.prune.trash import alone, find_runs, settle_interrupted, undo_last
from gsvckpt.commands.prune.trash_run import Step, begin, new_stamp
from gsvckpt.errors import DamagedError, OutputError, RefusedError
from gsvckpt.files.publish import TRASH


def step(path, place=""):
    return Step(path, 4, 0, place)


def fill(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name}!")


def tree(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def started(folder, *steps):
    return begin(str(folder), steps, new_stamp())


def test_what_went_comes_back(tmp_path):
    fill(tmp_path, "a/x.pth", "b.pth", "c.pth")
    before = tree(tmp_path)
    run = started(tmp_path, step("a/x.pth"), step("b.pth"))
    for one in run.steps:
        run.take(one)
    run.finish()
    assert set(tree(tmp_path)) == {"c.pth", *(f"{TRASH}/{run.stamp}/{name}" for name in ("journal.jsonl", "files/a/x.pth", "files/b.pth"))}
    runs, conflicts = undo_last([str(tmp_path)])
    assert ([one.stamp for one in runs], conflicts) == ([run.stamp], [])
    assert tree(tmp_path) == before
    assert not (tmp_path / TRASH).exists()


def test_the_journal_is_there_before_anything_moves(tmp_path):
    fill(tmp_path, "a.pth")
    started(tmp_path, step("a.pth"))
    assert (tmp_path / "a.pth").exists()
    (run,) = find_runs(str(tmp_path))
    assert (run.state, run.steps) == ("begun", (step("a.pth"),))


def test_the_last_run_is_undone_first(tmp_path):
    fill(tmp_path, "a.pth", "b.pth")
    for name in ("a.pth", "b.pth"):
        run = started(tmp_path, step(name))
        run.take(run.steps[0])
        run.finish()
    undo_last([str(tmp_path)])
    assert (tmp_path / "b.pth").exists()
    assert not (tmp_path / "a.pth").exists()
    undo_last([str(tmp_path)])
    assert (tmp_path / "a.pth").exists()


def test_a_run_sorts_behind_those_before_it_though_the_clock_was_put_back(monkeypatch):
    before = new_stamp()
    monkeypatch.setattr(trash_run.time, "time_ns", lambda: 0)
    after = new_stamp(before)
    assert after > before
    assert new_stamp(after) > after
    assert new_stamp("20300101T000000") == "20300101T000000.000000001"


def test_a_replaced_file_comes_back_and_its_heir_goes(tmp_path):
    fill(tmp_path, "G_1.pth")
    before = tree(tmp_path)
    run = started(tmp_path, step("G_1.pth", "small.pth"))
    run.replace(run.steps[0], lambda path: Path(path).touch())
    assert (tmp_path / "small.pth").exists()
    run.finish()
    undo_last([str(tmp_path)])
    assert tree(tmp_path) == before


def test_what_was_written_since_stays(tmp_path):
    fill(tmp_path, "G_1.pth")
    run = started(tmp_path, step("G_1.pth"))
    run.take(run.steps[0])
    run.finish()
    fill(tmp_path, "G_1.pth")
    (tmp_path / "G_1.pth").write_text("trained since")
    _, conflicts = undo_last([str(tmp_path)])
    assert "another file now has its name" in str(conflicts[0])
    assert (tmp_path / "G_1.pth").read_text() == "trained since"
    (tmp_path / "G_1.pth").unlink()
    assert undo_last([str(tmp_path)])[1] == []
    assert (tmp_path / "G_1.pth").read_text() == "G_1.pth!"


@pytest.mark.parametrize("count", range(4))
def test_an_interrupted_run_is_undone(tmp_path, count):
    fill(tmp_path, "a.pth", "b.pth", "c.pth")
    before = tree(tmp_path)
    run = started(tmp_path, step("a.pth"), step("b.pth"), step("c.pth"))
    for one in run.steps[:count]:
        run.take(one)
    assert len(settle_interrupted([str(tmp_path)])) == 1
    assert tree(tmp_path) == before


def test_an_interrupted_purge_is_finished(tmp_path):
    fill(tmp_path, "a.pth", "b.pth")
    run = started(tmp_path, step("a.pth"), step("b.pth"))
    for one in run.steps:
        run.take(one)
    run.finish()
    run._say({"state": "purging"})
    os.unlink(run.kept(run.steps[0]))
    assert undo_last([str(tmp_path)]) == ([], [])
    settle_interrupted([str(tmp_path)])
    assert tree(tmp_path) == {}


def test_a_move_that_was_killed_between_two_names_is_understood(tmp_path):
    fill(tmp_path, "a.pth")
    run = started(tmp_path, step("a.pth"))
    os.makedirs(os.path.dirname(run.kept(run.steps[0])))
    os.link(tmp_path / "a.pth", run.kept(run.steps[0]))
    run.restore()
    assert tree(tmp_path) == {"a.pth": b"a.pth!"}


def test_a_run_that_got_no_journal_is_swept(tmp_path):
    fill(tmp_path, "a.pth", f"{TRASH}/20261125T000000.000000001/.gsvckpt-1-ab.part", f"{TRASH}/20261125T000000.000000002/files/mine.pth")
    ((run, conflicts),) = settle_interrupted([str(tmp_path)])  # of the one that had no room for a journal
    assert ([step.path for step in run.steps], conflicts) == (["mine.pth"], [])
    assert set(tree(tmp_path)) == {"a.pth", "mine.pth"}


def test_a_torn_last_line_is_no_damage(tmp_path):
    fill(tmp_path, "a.pth")
    run = started(tmp_path, step("a.pth"))
    with open(os.path.join(run.folder, "journal.jsonl"), "a") as file:
        file.write('{"state": "do')
    assert find_runs(str(tmp_path))[0].state == "begun"


@pytest.mark.parametrize("path", ["../../x.pth", "/etc/passwd", "a/../../x"])
def test_a_journal_that_leads_elsewhere_is_refused(tmp_path, path):
    fill(tmp_path, "a.pth")
    run = started(tmp_path, step("a.pth"))
    journal = Path(run.folder, "journal.jsonl")
    journal.write_text(journal.read_text().replace('"a.pth"', json.dumps(path)))
    with pytest.raises(DamagedError, match="leads out of the folder"):
        find_runs(str(tmp_path))


def test_one_at_a_time(tmp_path):
    (tmp_path / "logs").mkdir()
    for inner, outer in ((tmp_path, tmp_path), (tmp_path / "logs", tmp_path), (tmp_path, tmp_path / "logs")):
        with alone([str(outer)]), pytest.raises(RefusedError, match="another prune"), alone([str(inner)]):
            pass
        assert tree(tmp_path) == {}
        assert not list(tmp_path.rglob(TRASH))


def test_a_full_disk_moves_nothing(tmp_path, monkeypatch):
    fill(tmp_path, "a.pth")

    def fail(*_, **__):
        raise OutputError("no space left")

    monkeypatch.setattr(trash_run, "publish_bytes", fail)
    with pytest.raises(OutputError):
        started(tmp_path, step("a.pth"))
    assert tree(tmp_path) == {"a.pth": b"a.pth!"}


def test_a_journal_is_the_same_on_every_system(monkeypatch):
    line = Step("logs/alice/G_8.pth", 1, 2, "logs/alice/weights-G_8.pth").as_line()
    with monkeypatch.context() as windows:
        windows.setattr(os, "sep", "\\")
        step = Step.of_line(line)
        assert (step.path, step.place) == ("logs\\alice\\G_8.pth", "logs\\alice\\weights-G_8.pth")
        assert step.as_line() == line
    assert "\\" not in line
    assert Step.of_line(line).as_line() == line
