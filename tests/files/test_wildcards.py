"""Wildcards as Windows' shells leave them to the program, and pasted quotes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gsvckpt.errors import MissingError
from gsvckpt.files.wildcards import read_paths

NAMES = ("voice1.pth", "voice[1].pth", "G_50.pth", "D_50.pth", "G_100.pth", "$HOME.pth", "a b.pth", "鲁迅.pth")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in NAMES:
        (tmp_path / name).touch()
    (tmp_path / "my [old] voices").mkdir()
    (tmp_path / "my [old] voices" / "x.pth").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("G_*.pth", ["G_100.pth", "G_50.pth"]),
        ("[GD]_50.pth", ["D_50.pth", "G_50.pth"]),
        ("voice?.pth", ["voice1.pth"]),
        ("voice[1].pth", ["voice[1].pth"]),  # it is there as it is written
        ("voice[2].pth", None),
        ("$HOME.pth", ["$HOME.pth"]),
        ("%TEMP%.pth", ["%TEMP%.pth"]),
        ("~/x.pth", ["~/x.pth"]),
        ("鲁*.pth", ["鲁迅.pth"]),
        ("x*.pth", None),
        ("my [old] voices/*.pth", [os.path.join("my [old] voices", "x.pth")]),
        ("*/x.pth", [os.path.join("my [old] voices", "x.pth")]),
        ("https://host/a?b=*", ["https://host/a?b=*"]),
        ('"a b.pth"', ["a b.pth"]),
        ('"gone.pth"', ["gone.pth"]),
        ('"G_*.pth"', ["G_100.pth", "G_50.pth"]),
        ('"', ['"']),
        ("-", ["-"]),
    ],
)
def test_where_the_shell_leaves_them_to_the_program(word: str, expected: list[str] | None) -> None:
    if expected is None:
        with pytest.raises(MissingError, match="no file has such a name"):
            read_paths([word], expands=True)
    else:
        assert read_paths([word], expands=True) == expected


@pytest.mark.parametrize("word", ["G_*.pth", "x*.pth", "voice[1].pth", "[GD]_50.pth"])
def test_where_the_shell_has_expanded_them_a_word_is_a_name(word: str) -> None:
    assert read_paths([word], expands=False) == [word]


def test_all_words_in_their_order() -> None:
    assert read_paths(["D_*.pth", "voice1.pth", '"a b.pth"'], expands=True) == ["D_50.pth", "voice1.pth", "a b.pth"]
