"""Where GPT-SoVITS empties a folder, and where then to put what is made of the files in it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from gsvckpt.sovits.runs import is_emptied, lasting_folder

RUN = Path("logs") / "我的声音" / "logs_s1_v2"


@pytest.mark.parametrize("run", ["logs_s1", "logs_s1_v1", "logs_s1_v2", "logs_s1_v2Pro", "logs_s1_v2ProPlus", "logs_s1_v4"])
@pytest.mark.parametrize("name", ["alice", "我的声音", "ckpt", "my voice"])
def test_the_folder_in_which_gpt_is_trained_is_emptied(tmp_path: Path, name: str, run: str) -> None:
    folder = tmp_path / "logs" / name / run / "ckpt"
    assert is_emptied(str(folder))
    assert is_emptied(f"{folder}{os.sep}")
    assert lasting_folder(str(folder)) == str(folder.parent)


@pytest.mark.parametrize(
    "folder",
    ["logs/a/logs_s1_v2", "logs/a/logs_s2_v2", "logs/a/logs_s2_v2/ckpt", "logs/a/logs_s2_v3_lora_32/ckpt", "logs/a/logs_s1_mine/ckpt", "logs/a/ckpt",
     "ckpt", "run/ckpt", "logs_s1_v2/ckpt/old", "logs_s1_v2/ckpts", "logs_s1_v2/ckpt.bak", "GPT_weights_v2", ""],
)  # fmt: skip
def test_any_other_folder_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert not is_emptied(folder)
    assert lasting_folder(folder) == folder


@pytest.mark.parametrize(
    ("here", "folder", "expected"),
    [
        (".", f"{RUN}/ckpt", str(RUN)),
        (RUN, "ckpt", ""),
        (RUN, "./ckpt", ""),
        (RUN / "ckpt", "", ".."),
        (RUN / "ckpt", ".", ".."),
        (RUN / "ckpt", "../ckpt", ".."),
        ("logs", "../logs/我的声音/logs_s1_v2/ckpt", "../logs/我的声音/logs_s1_v2"),
    ],
    ids=str,
)
def test_it_stays_as_it_was_spelt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: Path | str, folder: str, expected: str) -> None:
    (tmp_path / RUN / "ckpt").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / here)
    assert lasting_folder(folder) == os.path.normpath(expected) if expected else lasting_folder(folder) == ""


@pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links")
def test_a_link_hides_nothing(tmp_path: Path) -> None:
    run = tmp_path / RUN
    run.mkdir(parents=True)
    (tmp_path / "disk").mkdir()
    (run / "ckpt").symlink_to(tmp_path / "disk")  # emptied through the link
    assert lasting_folder(str(run / "ckpt")) == str(run)
    other = tmp_path / "logs" / "bob" / "logs_s1" / "ckpt"
    other.mkdir(parents=True)
    (tmp_path / "now").symlink_to(other)
    assert lasting_folder(str(tmp_path / "now")) == os.path.realpath(other.parent)
