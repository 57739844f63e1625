"""Which output each source gets, by its path alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gsvckpt.commands.rewrite.destination import Destination
from gsvckpt.errors import UsageError

RUN = f"logs{os.sep}我的声音{os.sep}logs_s1_v2"
LIGHTNING = "epoch=1-step=12.ckpt"


@pytest.mark.parametrize(
    ("source", "output"),
    [
        (f"{RUN}/ckpt/{LIGHTNING}", f"{RUN}/x-{LIGHTNING}"),
        (f"{RUN}/ckpt/声音-e2.ckpt", f"{RUN}/声音-e2.x.ckpt"),
        (f"{RUN}/ckpt/sharded/", f"{RUN}/sharded.x"),
        (f"{RUN}/{LIGHTNING}", f"{RUN}/x-{LIGHTNING}"),
        (f"backup/ckpt/{LIGHTNING}", f"backup/ckpt/x-{LIGHTNING}"),
        ("logs/a/logs_s2_v2/ckpt/G_16.pth", "logs/a/logs_s2_v2/ckpt/x-G_16.pth"),
        (f"s3://bucket/logs/a/logs_s1_v2/ckpt/{LIGHTNING}", f"s3://bucket/logs/a/logs_s1_v2/ckpt/x-{LIGHTNING}"),
    ],
)
def test_what_is_made_of_a_file_does_not_stand_where_gpt_sovits_removes_files(source: str, output: str) -> None:
    destination = Destination("x", dry_run=True)
    (found,) = destination.assign([source])
    assert found == (output if "://" in output else os.path.normpath(output))
    moved = source.startswith(f"{RUN}/ckpt")
    assert ["one folder up" in note for note in destination.notes(source, found, "")] == [True] * moved


@pytest.mark.parametrize(
    ("here", "source", "output"), [(RUN, f"ckpt/{LIGHTNING}", ""), (f"{RUN}/ckpt", LIGHTNING, ".."), (f"{RUN}/ckpt", f"./{LIGHTNING}", "..")]
)
def test_paths_stay_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str, source: str, output: str) -> None:
    (tmp_path / here).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / here)
    assert Destination("x").assign([source]) == [os.path.join(output, f"x-{LIGHTNING}")]


@pytest.mark.parametrize(
    ("destination", "output"),
    [
        (Destination("x", in_place=True), f"{RUN}/ckpt/{LIGHTNING}"),
        (Destination("x", "there/x.ckpt"), "there/x.ckpt"),
        (Destination("x", f"{RUN}/ckpt/"), f"{RUN}/ckpt/{LIGHTNING}"),
    ],
    ids=["in place", "a file", "a folder"],
)
def test_what_the_user_chose_stays(destination: Destination, output: str) -> None:
    source = f"{RUN}/ckpt/{LIGHTNING}"
    assert destination.assign([source]) == [output]
    assert destination.notes(source, output, "GPT_weights_v2") == ()


def test_two_that_would_share_a_name_one_folder_up_are_refused() -> None:
    with pytest.raises(UsageError, match="both be written"):
        Destination("x").assign([f"{RUN}/ckpt/a.ckpt", f"{RUN}/a.ckpt"])
    outputs = Destination("x").assign([f"{RUN}/ckpt/a.ckpt", f"{RUN}/ckpt/b.ckpt"])
    assert outputs == [os.path.join(RUN, "a.x.ckpt"), os.path.join(RUN, "b.x.ckpt")]
