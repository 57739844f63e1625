"""The Python side of verify: for a training script, after each save."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import gsvckpt
from gsvckpt.commands.verify.manifest import NAME, read_manifest
from gsvckpt.errors import DamagedError, MissingError


def test_a_training_script_records_what_it_saved(tmp_path: Path) -> None:
    for step in range(3):
        path = tmp_path / f"G_{step}.pth"
        torch.save({"model": {"dec.w": torch.full((4,), float(step))}, "iteration": step, "optimizer": None, "learning_rate": 0.1}, path)
        assert gsvckpt.record(path, tensors=True).intact
    entries = read_manifest(str(tmp_path / NAME)).entries
    assert {name: entry.epoch for name, entry in entries.items()} == {f"G_{step}.pth": step for step in range(3)}
    assert all(entry.tensors and set(entry.digests) == {"xxh3_128", "content", "sha256", "md5"} for entry in entries.values())


def test_what_is_damaged_is_not_recorded(tmp_path: Path) -> None:
    torch.save({"dec.w": torch.ones(100)}, tmp_path / "x.pth")
    data = (tmp_path / "x.pth").read_bytes()
    (tmp_path / "x.pth").write_bytes(data[:-30])
    result = gsvckpt.record(tmp_path / "x.pth")
    assert (result.intact, result.status) == (False, "damaged")
    assert not (tmp_path / NAME).exists()
    assert gsvckpt.verify(tmp_path / "x.pth").status == "damaged"


@pytest.mark.parametrize("ask", [gsvckpt.verify, gsvckpt.record])
def test_a_file_that_is_not_there_is_an_error(tmp_path: Path, ask: Callable[[Path], object]) -> None:
    with pytest.raises(MissingError, match=r"none\.pth: there is no such file"):
        ask(tmp_path / "none.pth")
    assert not (tmp_path / NAME).exists()


def test_a_manifest_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    torch.save({"dec.w": torch.ones(3)}, tmp_path / "x.pth")
    (tmp_path / NAME).write_text("[files\n")
    with pytest.raises(DamagedError):
        gsvckpt.record(tmp_path / "x.pth")
