"""gsvckpt inspect: several files, folders, two files compared, and files that are hostile or broken."""

from __future__ import annotations

import os
import struct
import sys
from collections import OrderedDict

import pytest
from builders import Make, Name, Raw, Store, View, pickled, tensor, torch_zip
from hostile.payloads import payloads

from .samples import assert_one_error, evil, generator, gpt, numbers, s2_training, save, small, weights

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
    assert "damaged" in run.out
    assert "alice_e8_s200.pth" in run.out


def test_a_folder_without_checkpoints_does_not_stop_the_others(gsvckpt, voices, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert_one_error(gsvckpt("inspect", empty), empty, 3)
    document = gsvckpt.json("inspect", empty, voices, exit_code=3).document
    assert [("error" in file, os.path.basename(file["path"])) for file in document["files"]] == [(True, "empty"), (False, "weights_without_a_name")]
    assert "weights_without_a_name" in gsvckpt("inspect", empty, voices).out


@pytest.mark.skipif(not LINK_TO_ITSELF, reason="needs symbolic links")
def test_odd_entries_of_a_folder_are_passed_over(gsvckpt, voices):
    (voices / "loop.pth").symlink_to(voices / "loop.pth")
    (voices / "gone.pth").symlink_to(voices / "nowhere.pth")
    (voices / "up").symlink_to(voices)
    os.mkfifo(voices / "pipe.pth")
    assert len(gsvckpt.json("inspect", voices, "-r").document["files"]) == 4


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
    assert gsvckpt("inspect", one, "--diff", two, "--include", "same").code == 0


def test_a_difference_that_cannot_be_told_is_no_success(gsvckpt, tmp_path):
    one, bad = save(tmp_path / "one.pth", weights({"w": (2, 2)})), tmp_path / "bad.pth"
    bad.write_bytes(b"no checkpoint")
    for pair in ((one, bad), (bad, one)):
        run = gsvckpt.json("inspect", pair[0], "--diff", pair[1], exit_code=3)
        assert run.document["diff"] is None
        assert run.file["path"] == str(bad)
        assert_one_error(gsvckpt("inspect", pair[0], "--diff", pair[1]), bad, 3)
    assert_one_error(gsvckpt("inspect", one, "--diff", tmp_path), tmp_path, 3)


# --- hostile files -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("-q",), ("--json",), ("--tensors",), ("--config",), ("--memory",), ("--depth", "3")], ids=" ".join)
def test_an_unsafe_file_is_shown_and_the_warning_cannot_be_missed(gsvckpt, tmp_path, options):
    path = save(tmp_path / "evil.pth", evil())
    run = gsvckpt("inspect", path, *options)
    assert run.code == 0
    (line,) = run.err.splitlines()
    assert str(path) in line
    assert "UNSAFE" in line
    assert "os.system" in line


def test_its_verdict_in_json_and_in_an_inventory(gsvckpt, tmp_path):
    save(tmp_path / "evil.pth", evil())
    save(tmp_path / "odd.pth", {"weight": generator("v2"), "x": Make(Name("somewhere", "Thing"))})
    save(tmp_path / "good.pth", small(generator("v2"), "v2"))
    files = gsvckpt.json("inspect", tmp_path).document["files"]
    assert {os.path.basename(file["path"]): file["safety"]["verdict"] for file in files} == {
        "evil.pth": "unsafe",
        "odd.pth": "unknown",
        "good.pth": "safe",
    }
    assert {"name": "os.system", "verdict": "unsafe"} in files[0]["safety"]["globals"]
    run = gsvckpt("inspect", tmp_path)
    assert "unsafe" in run.out
    assert "evil.pth" in run.err


@pytest.mark.parametrize("name", payloads("x"))
def test_no_payload_runs_and_none_is_called_safe(gsvckpt, tmp_path, name):
    marker = tmp_path / "marker"
    path = tmp_path / "x.pth"
    path.write_bytes(torch_zip(payloads(str(marker))[name]))
    run = gsvckpt("inspect", path, "--json")
    assert run.code in (0, 3)
    assert run.file["safety"]["verdict"] == "unsafe"
    assert "UNSAFE" in run.err
    assert not marker.exists()


def test_a_damaged_file_shows_what_is_known_all_the_same(gsvckpt, tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(torch_zip(b"\x80\x02ccollections\nOrderedDict\n\xff."))
    file = gsvckpt.json("inspect", path, exit_code=3).file
    assert file["error"]["kind"] == "damaged"
    assert (file["size"], file["container"]["format"], file["container"]["head"]) == (path.stat().st_size, "torch-zip", "PK")
    assert file["safety"] == {"verdict": "unknown", "globals": [{"name": "collections.OrderedDict", "verdict": "safe"}]}
    run = gsvckpt("inspect", path)
    assert_one_error(run, path, 3)
    assert "torch-zip" in run.out
    assert "collections.OrderedDict" in run.out
    assert gsvckpt("inspect", path, "-q").out == ""


NASTY = "\x1b[31mred\x07\r\n\t[bold]b[/bold] :smile: \u202egpj\u2066 \x9b2J {x}"


def test_names_from_a_file_cannot_act_on_the_terminal(gsvckpt, tmp_path):
    surrogate = Raw(b"X" + struct.pack("<I", 5) + b"a\xed\xa0\x80z")  # a lone surrogate, as Python's own pickler writes it
    code = {NASTY: numbers((2, 2)), f"{NASTY}.weight": numbers((2, 2)), "text": NASTY}
    tree = OrderedDict(
        weight=code | generator("v2"), config={NASTY: NASTY, "surrogate": surrogate}, info=NASTY, extra=Make(Name("os", "\x1b[31m\u202eevil"))
    )
    path = save(tmp_path / "x.pth", tree)
    for options in (
        [],
        ["--tensors"],
        ["--stats"],
        ["--config"],
        ["--config", "--format", "json"],
        ["--globals"],
        ["--depth", "9", "-v"],
        ["--json", "--config"],
    ):
        run = gsvckpt("inspect", path, *options)
        assert run.code == 0, run.err
        assert [char for char in run.out + run.err if not char.isprintable() and char != "\n"] == []
        assert "[bold]" in run.out or options in ([], ["--globals"])
    state = gsvckpt.json("inspect", path, "--tensors").file["state"]
    assert state[0]["name"] == NASTY  # a script gets it as it is


@pytest.mark.skipif(sys.platform == "win32", reason="such names cannot be there")
def test_neither_can_the_name_of_the_file(gsvckpt, tmp_path):
    good = save(tmp_path / f"{NASTY.replace('/', '|')}.pth", small(generator("v2"), "v2"))
    bad = tmp_path / "\x1b]0;title\x07\udcff.pth"
    bad.write_bytes(b"no")
    for argv in (
        ["inspect", good],
        ["inspect", bad],
        ["inspect", tmp_path],
        ["convert-fp16", good, "-n"],
        ["convert-fp16", bad],
        ["strip-optimizer", good],
        ["inspect", good, "--json"],
    ):
        run = gsvckpt(*argv)
        assert [char for char in run.out + run.err if not char.isprintable() and char != "\n"] == []
        assert len(run.err.splitlines()) <= 2


LARGE = Store("float32", bytes(4))
HOSTILE = {
    "deep": Raw(b"}X\x01\x00\x00\x00x" * 2000 + b"N" + b"s" * 2000),
    "empty": {},
    "none": None,
    "a list of itself": Raw(b"]q\x00h\x00a"),
    "a dict of itself": Raw(b"}q\x00X\x01\x00\x00\x00xh\x00s"),
    "a shape of 2**61": {"w": View(LARGE, (1 << 30, 1 << 31), (0, 0))},
    "many dimensions": {"w": View(LARGE, (1,) * 64, (1,) * 64)},
    "numbers as keys": {1: numbers((2, 2)), 2.5: numbers((2, 2)), (3, "x"): numbers((2, 2)), None: 1},
    "a huge integer": {"w": numbers((2,)), "iteration": 1 << 2000, "epoch": -1, "config": {"x": 1 << 2000}},
    "not a number": {"w": numbers((2,)), "config": {"x": float("nan"), "y": float("-inf")}, "epoch": float("nan")},
    "a config of itself": {"weight": generator("v2"), "config": Raw(b"}q\x00X\x01\x00\x00\x00xh\x00s")},
    "optimizer of nothing": {"model": {}, "optimizer": {"state": {}, "param_groups": []}, "iteration": "x", "learning_rate": None},
    "a name of a megabyte": {"w" * (1 << 20): numbers((2,))},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_trees_get_an_answer(gsvckpt, tmp_path, name):
    path = save(tmp_path / "x.pth", HOSTILE[name])
    everything = ["--tensors", "--stats", "--config", "--globals", "--memory"]
    for argv in (["inspect", path], ["inspect", path, *everything], ["inspect", path, *everything, "--json"], ["inspect", path, "--diff", path]):
        assert gsvckpt(*argv).code in (0, 3)
    for command in ("convert-fp16", "strip-optimizer"):
        assert gsvckpt(command, path, "-o", tmp_path / f"{command}.pth").code in (0, 3, 4)


def test_a_bare_pickle_is_judged_but_not_read(gsvckpt, tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickled({"x": Make(Name("os", "system"), ("true",))}))
    run = gsvckpt.json("inspect", path, exit_code=3)
    assert run.file["safety"]["verdict"] == "unsafe"
    assert "UNSAFE" in run.err
