"""gsvckpt inspect: several files, folders, two files compared, and files that are hostile or broken."""

from __future__ import annotations

import os
import re
import sys

import pytest
from support.builders import Make, Name, tensor, torch_zip

from .samples import assert_one_error, generator, gpt, numbers, s2_training, save, small, weights

LINK_TO_ITSELF = sys.platform != "win32"


@pytest.fixture
def voices(tmp_path):
    """A folder as users have them."""
    folder = tmp_path / "GPT-SoVITS"
    save(folder / "SoVITS_weights_v2" / "alice_e8_s200.pth", small(generator("v2"), "v2"))
    save(folder / "GPT_weights_v2" / "alice-e15.ckpt", {"weight": gpt(), "config": {}, "info": "GPT-e15"})
    save(folder / "logs" / "alice" / "logs_s2_v2" / "G_200.pth", s2_training(generator("v2", enc_q=True)))
    save(folder / "weights_without_a_name", weights({"w": (2, 2)}))
    (folder / "readme.txt").write_text("no checkpoint")
    return folder


def test_several_files_in_the_order_they_were_given(gsvckpt, voices):
    paths = [voices / "weights_without_a_name", voices / "GPT_weights_v2" / "alice-e15.ckpt"]
    assert [file["path"] for file in gsvckpt.json("inspect", *paths).document["files"]] == list(map(str, paths))
    out = gsvckpt("inspect", *paths).out
    assert "alice-e15.ckpt" in out
    assert "weights_without_a_name" in out


def test_a_folder_alone_and_with_what_is_below(gsvckpt, voices):
    flat = gsvckpt.json("inspect", voices).document
    assert [os.path.basename(file["path"]) for file in flat["files"]] == ["weights_without_a_name"]
    assert (flat["folders"], flat["ignored"]) == ([str(voices)], 1)
    deep = gsvckpt.json("inspect", voices, "-r").document
    assert {file["kind"] for file in deep["files"]} == {"state-dict", "gpt-weights", "sovits-weights", "sovits-generator-training"}
    out = gsvckpt("inspect", voices, "--recursive").out
    assert all(word in out for word in ("alice_e8_s200.pth", "alice-e15.ckpt", "G_200.pth", "4 checkpoints", "1 other file"))
    assert gsvckpt("inspect", voices, "-r", "-q").out == ""


def test_parts_of_many_stand_under_the_name_of_each(gsvckpt, voices):
    out = gsvckpt("inspect", voices, "-r", "--tensors").out
    assert out.count("# ") == 4
    assert "# " not in gsvckpt("inspect", voices / "weights_without_a_name", "--tensors").out


def test_a_bad_file_among_good_ones(gsvckpt, voices):
    bad = voices / "cut.pth"
    bad.write_bytes(torch_zip(small(generator("v2"), "v2"))[:3000])
    document = gsvckpt.json("inspect", voices, "-r", exit_code=3).document
    (failed,) = [file for file in document["files"] if "error" in file]
    assert len(document["files"]) == 5
    assert failed["path"] == str(bad)
    run = gsvckpt("inspect", voices, "-r")
    assert_one_error(run, bad, 3)
    lines = [line.strip() for line in run.out.splitlines()]
    (place,) = [number for number, line in enumerate(lines) if re.match(r"cut\.pth +damaged ", line)]
    assert lines[place - 1] == ""  # it belongs to no experiment
    assert "alice_e8_s200.pth" in run.out


def test_a_folder_without_checkpoints_does_not_stop_the_others(gsvckpt, voices, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert_one_error(gsvckpt("inspect", empty), empty, 3)
    document = gsvckpt.json("inspect", empty, voices, exit_code=3).document
    assert [("error" in file, os.path.basename(file["path"])) for file in document["files"]] == [(True, "empty"), (False, "weights_without_a_name")]
    assert "weights_without_a_name" in gsvckpt("inspect", empty, voices).out


@pytest.mark.skipif(not LINK_TO_ITSELF, reason="needs symbolic links")
def test_odd_entries_of_a_folder_are_passed_over_and_links_to_nothing_are_named(gsvckpt, voices):
    (voices / "up").symlink_to(voices)
    os.mkfifo(voices / "pipe.pth")
    assert len(gsvckpt.json("inspect", voices, "-r").document["files"]) == 4
    (voices / "loop.pth").symlink_to(voices / "loop.pth")
    (voices / "gone.pth").symlink_to(voices / "nowhere.pth")
    files = gsvckpt.json("inspect", voices, "-r", exit_code=3).document["files"]
    assert [os.path.basename(file["path"]) for file in files if "error" in file] == ["gone.pth", "loop.pth"]


# --- two files compared --------------------------------------------------------------------------------------------------------------------------


def test_equal_files_whatever_the_container(gsvckpt, tmp_path):
    one, two = (save(tmp_path / name, {"a": numbers((4, 4)), "b": tensor("int64", (2,), [1, 2])}, prefix=name) for name in ("one", "two"))
    run = gsvckpt("inspect", one, "--diff", two)
    assert (run.code, run.err) == (0, "")
    assert "equal" in run.out
    run = gsvckpt.json("inspect", one, "--diff", two)
    assert run.document["diff"]["equal"] is True
    assert [file["path"] for file in run.document["files"]] == [str(one), str(two)]


def test_what_differs(gsvckpt, tmp_path):
    one = save(
        tmp_path / "one.pth",
        {"gone": numbers((2,)), "shape": numbers((2,)), "dtype": tensor("float32", (1,), [1]), "value": tensor("float32", (3,), [1, 2, 3])},
    )
    two = save(
        tmp_path / "two.pth",
        {"new": numbers((2,)), "shape": numbers((3,)), "dtype": tensor("float16", (1,), [1]), "value": tensor("float32", (3,), [1, 2.5, 3])},
    )
    diff = gsvckpt.json("inspect", one, "--diff", two, exit_code=1).document["diff"]
    assert (diff["equal"], diff["only_left"], diff["only_right"]) == (False, ["gone"], ["new"])
    assert diff["changed_shape"] == [["shape", [2], [3]]]
    assert diff["changed_dtype"] == [["dtype", "float32", "float16"]]
    assert diff["values"] == [["value", 0.5]]
    run = gsvckpt("inspect", one, "--diff", two)
    assert run.code == 1
    assert all(word in run.out for word in ("gone", "new", "float16", "0.5"))
    assert gsvckpt("inspect", one, "--diff", two, "--include", "shape", "--exclude", "shape").code == 0


def test_a_difference_that_cannot_be_told_is_no_success(gsvckpt, tmp_path):
    one, bad = save(tmp_path / "one.pth", weights({"w": (2, 2)})), tmp_path / "bad.pth"
    bad.write_bytes(b"no checkpoint")
    for pair in ((one, bad), (bad, one)):
        run = gsvckpt.json("inspect", pair[0], "--diff", pair[1], exit_code=3)
        assert run.document["diff"] is None
        assert run.file["path"] == str(bad)
        assert_one_error(gsvckpt("inspect", pair[0], "--diff", pair[1]), bad, 3)
    assert_one_error(gsvckpt("inspect", one, "--diff", tmp_path), tmp_path, 3)


def test_a_folder_with_more_than_anybody_reads_is_summed_up_by_run(gsvckpt, tmp_path, monkeypatch):
    monkeypatch.setattr("gsvckpt.report.inventory._MANY", 5)
    for epoch in range(1, 7):
        save(tmp_path / "logs" / "alice" / "logs_s2_v2" / f"G_{epoch}.pth", s2_training(generator("v2", enc_q=True), epoch=epoch))
    save(tmp_path / "logs" / "alice" / "logs_s2_v2" / "weights-G_6.pth", {"weight": generator("v2"), "config": evil_config(), "info": "x"})
    run = gsvckpt("inspect", tmp_path, "-r")
    (line,) = [line for line in run.out.splitlines() if "6 files" in line]
    assert "1-6" in line
    assert "G_6.pth" not in run.out.replace("weights-G_6.pth", "")
    assert "weights-G_6.pth" in run.out  # alone of its kind
    assert ("-v lists each" in run.out, "UNSAFE" in run.err) == (True, True)
    listed = gsvckpt("inspect", tmp_path, "-r", "-v").out
    assert all(f"G_{epoch}.pth" in listed for epoch in range(1, 7))
    assert "-v lists each" not in listed


def evil_config():
    return Make(Name("os", "system"), ("true",))


def test_the_worst_verdict_of_a_run_is_shown(gsvckpt, tmp_path, monkeypatch):
    monkeypatch.setattr("gsvckpt.report.inventory._MANY", 2)
    for epoch in range(1, 5):
        tree = s2_training(generator("v2", enc_q=True), epoch=epoch)
        save(tmp_path / f"G_{epoch}.pth", {**tree, "x": evil_config()} if epoch == 2 else tree)
    (line,) = [line for line in gsvckpt("inspect", tmp_path).out.splitlines() if "4 files" in line]
    assert "unsafe" in line
