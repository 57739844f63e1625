"""What tables say of results: sizes that grow, shrink or stay, and that they fit where they are shown."""

from __future__ import annotations

import re

import pytest
from support.builders import tensor

from .samples import generator, save, small


def voices(folder, dtype, count=2):
    return [save(folder / f"{number}.pth", small(generator("v2", dtype), "v2")) for number in range(count)]


def cells(run, name):
    """The cells of a file's line."""
    (line,) = [line for line in run.out.splitlines() if line.startswith(f" {name} ")]
    return re.split(r" {2,}", line.strip())


def test_what_shrinks_is_saved(gsvckpt, tmp_path):
    run = gsvckpt("convert-fp16", *voices(tmp_path, "float32"), "-n")
    assert re.fullmatch(r"\d\d%", cells(run, "0.pth")[3])
    assert re.search(r"^2 files, [\d.]+ kB saved$", run.out, re.MULTILINE)


def test_what_grows_is_larger(gsvckpt, tmp_path):
    run = gsvckpt("migrate", *voices(tmp_path, "float16"), "--dtype", "float32", "-n")
    assert cells(run, "0.pth")[3] == "larger"
    assert re.search(r"^2 files, [\d.]+ kB larger$", run.out, re.MULTILINE)
    assert "%" not in run.out
    assert run.out.count("; no value changed") == 2


def test_what_stays_is_neither(gsvckpt, tmp_path):
    assert gsvckpt("migrate", *voices(tmp_path, "float16"), "-o", tmp_path / "one").code == 0
    run = gsvckpt("migrate", tmp_path / "one" / "0.pth", tmp_path / "one" / "1.pth", "-o", tmp_path / "two")
    assert run.code == 0
    assert cells(run, "0.pth")[3] == "-"
    assert "saved\n" not in run.out
    assert run.out.count("no change to its content") == 2
    assert "larger" not in run.out


def test_less_than_a_percent_is_no_zero(gsvckpt, tmp_path):
    tree = {"w": tensor("float32", (100_000,)), "v": tensor("float32", (10,))}
    run = gsvckpt("migrate", save(tmp_path / "x.pth", tree), "--exclude", "v", "-n")
    assert cells(run, "x.pth")[3] == "< 1%"


def test_one_value_is_no_plural(gsvckpt, tmp_path):
    tree = {"w": tensor("float32", (3,), [1.0, 1e-9, 1.0]), "large": tensor("float32", (2,), [1e9, 1.0])}
    run = gsvckpt("convert-fp16", save(tmp_path / "x.pth", tree), "-n")
    assert "; 1 value rounded to zero" in run.out
    assert "large (1 value)" in run.out


@pytest.mark.parametrize(("columns", "lines"), [("80", 2), ("160", 1)])
def test_statistics_fit_the_terminal(gsvckpt, tmp_path, monkeypatch, columns, lines):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", columns)
    names = ["cfm.estimator.transformer_blocks.0.attn.to_q.weight", "w"]
    path = save(tmp_path / "x.pth", {names[0]: tensor("float32", (1, 2, 3), [1.0, float("nan"), 1, 1, 1, 2]), names[1]: tensor("float32", (2,))})
    shown = gsvckpt("inspect", path, "--stats").out.splitlines()
    assert max(map(len, shown)) <= int(columns)
    assert len(shown) == lines * 3
    for name in names:
        assert any(name in re.split(r"[ ,]", line) for line in shown)
    assert sum("[1 NaN]" in line for line in shown) == 1


def test_statistics_have_one_line_a_tensor_in_a_pipe(gsvckpt, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    run = gsvckpt("inspect", save(tmp_path / "x.pth", {"w" * 60: tensor("float32", (2,)), "v": tensor("float32", (2,))}), "--stats")
    assert [line.split()[-1] for line in run.out.splitlines()] == ["name", "w" * 60, "v"]


def test_modules_fit_the_terminal_and_lose_no_number(gsvckpt, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    tree = {f"model.{'rather_long_name.' * 3}layers.w": tensor("float32", (1400,)), "model.h.l.w": tensor("float32", (500,))}
    lines = gsvckpt("inspect", save(tmp_path / "x.pth", tree), "--depth", "6").out.splitlines()
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    assert max(len(line) for line in lines if "can be removed: gsvckpt" not in line) <= 80
    assert ["module", "tensors", "parameters", "size"] in [line.split() for line in lines]
    assert ["model.h.l", "1", "500", "2.0", "kB", "█" * 5] in [line.split() for line in lines]
    assert sum("█" * 14 in line for line in lines) == 1
