"""What GPT-SoVITS detects against what the tensors say, and names that lie."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli.samples import generator, lora, small
from support.builders import torch_zip
from support.verified import remarkable, verify

from gsvckpt.cli.app import main
from gsvckpt.commands.verify.result import Options
from gsvckpt.sovits import upstream

from .test_layouts import voice

QUICK = Options(quick=True, layout="none")


def found(path: Path, data: bytes) -> list[tuple[str, str]]:
    return [(finding.check, finding.severity) for finding in remarkable(verify(path, data, QUICK)) if finding.check.startswith("version")]


def test_the_right_head_is_no_finding(tmp_path: Path) -> None:
    assert found(tmp_path / "x_e8_s16.pth", voice("v2Pro")) == []


def test_a_pro_voice_under_pk_is_an_error_and_the_hint_has_the_head(tmp_path: Path) -> None:
    path = tmp_path / "x_e8_s16.pth"
    data = b"PK" + voice("v2Pro")[2:]
    assert found(path, data) == [("version.upstream", "error")]
    (finding,) = [finding for finding in remarkable(verify(path, data, QUICK)) if finding.check == "version.upstream"]
    assert (finding.found, finding.expected) == ("v2", "v2Pro") or finding.found == "v1"
    assert "--head 05" in finding.hint.command


def test_v2_below_its_size_is_a_warning(tmp_path: Path) -> None:
    assert ("version.upstream", "warning") in found(tmp_path / "x_e8_s16.pth", torch_zip(small(generator("v2", "float16"), "v2")))


@pytest.mark.parametrize(("missing", "mends"), [(1000, True), (upstream.MAX_PADDING - 10_000, True), (upstream.MAX_PADDING + 1, False)])
def test_the_hint_at_migrate_is_given_where_that_mends_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: int, mends: bool) -> None:
    """A file that misses its window by more has lost tensors, as after --salvage, and migrate has nothing to change."""
    path, data = tmp_path / "x_e8_s16.pth", torch_zip(small(generator("v2", "float16"), "v2"))
    monkeypatch.setattr(upstream, "V2_MIN_SIZE", len(data) + missing)
    (finding,) = [finding for finding in remarkable(verify(path, data, QUICK)) if finding.check == "version.upstream"]
    assert ("gsvckpt migrate" in finding.hint.command) is mends
    assert main(["migrate", str(path), "-q"]) == 0
    assert (tmp_path / "x_e8_s16.migrated.pth").exists() is mends
    if mends:
        assert found(tmp_path / "x_e8_s16.migrated.pth", (tmp_path / "x_e8_s16.migrated.pth").read_bytes()) == []


def test_full_v4_is_read_as_v3(tmp_path: Path) -> None:
    tree = small(generator("v4", "float16"), "v4")
    assert ("version.upstream", "error") in found(tmp_path / "x_e8_s16.pth", torch_zip(tree))


def test_an_unknown_head_stops_gpt_sovits(tmp_path: Path) -> None:
    assert ("version.upstream", "error") in found(tmp_path / "x_e8_s16_l4.pth", torch_zip(small(lora(), "v3", lora_rank=4), head=b"07"))


@pytest.mark.parametrize(("name", "count"), [("x_e8_s16.pth", 0), ("x_e9_s16.pth", 1), ("x_e9_s17.pth", 2)])
def test_names_that_say_another_epoch_or_step(tmp_path: Path, name: str, count: int) -> None:
    assert found(tmp_path / name, voice("v2Pro")).count(("version.name", "warning")) == count


def test_a_folder_that_names_another_version(tmp_path: Path) -> None:
    folder = tmp_path / "SoVITS_weights_v2ProPlus"
    folder.mkdir()
    assert ("version.claims", "warning") in found(folder / "x_e8_s16.pth", voice("v2Pro"))
