"""gsvckpt inspect: files that would run code, act on the terminal, or break a careless reader."""

from __future__ import annotations

import os
import struct
import sys
from collections import OrderedDict

import pytest
from hostile.payloads import payloads
from support.builders import Make, Name, Raw, Store, View, pickled, torch_zip

from .samples import assert_one_error, evil, generator, numbers, save, small


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
    told = {"name": "os.system", "verdict": "unsafe", "called": True, "arguments": '"touch /tmp/gsvckpt-was-here"'}
    assert told in files[0]["safety"]["globals"]
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
    assert file["safety"] == {"verdict": "unknown", "globals": [{"name": "collections.OrderedDict", "verdict": "safe", "called": False}]}
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


def test_a_call_in_a_file_that_ends_early_is_told_with_its_arguments(gsvckpt, tmp_path):
    whole = torch_zip(evil())
    for size in (len(whole) // 2, len(whole) - 30):
        (tmp_path / "x.pth").write_bytes(whole[:size])
        run = gsvckpt("inspect", str(tmp_path / "x.pth"))
        assert 'it would run os.system("touch /tmp/gsvckpt-was-here")' in run.err
        assert run.code == 3
