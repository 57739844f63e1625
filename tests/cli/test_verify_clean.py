"""Voices of full size, as training writes them: sound, with nothing to remark at warning or above. And every kind of damage to one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.verified import ids, remarkable, verify

from gsvckpt.commands.verify.result import Options
from tests.support import voices

SMALL = ["v1", "v2", "v2Pro", "v2ProPlus"]


@pytest.fixture(scope="module")
def maker():
    return voices.Maker()


@pytest.mark.parametrize("version", SMALL)
def test_sovits_weights(maker, tmp_path: Path, version: str) -> None:
    path = voices.write(
        voices.sovits_weights(maker, "alice", version, epoch=8, step=200), tmp_path / f"SoVITS_weights_{version}" / "alice_e8_s200.pth", version
    )
    try:
        result = verify(path)
        assert remarkable(result) == []
        assert (result.status, result.kind, result.version, result.epoch, result.step) == ("sound", "sovits-weights", version, 8, 200)
        if version == "v2Pro":
            _damage(path)
    finally:
        path.unlink()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_gpt_weights(maker, tmp_path: Path, version: str) -> None:
    path = voices.write(voices.gpt_weights(maker, "alice", version, epoch=8), tmp_path / "alice-e8.ckpt")
    try:
        result = verify(path)
        assert remarkable(result) == []
        assert (result.status, result.kind, result.version, result.epoch) == ("sound", "gpt-weights", version, 8)
    finally:
        path.unlink()


def test_a_training_file_that_can_be_resumed_from(maker, tmp_path: Path) -> None:
    path = voices.write(voices.generator_training(maker, "v2", epoch=8, step=200), tmp_path / "logs" / "alice" / "logs_s2_v2" / "G_200.pth")
    try:
        result = verify(path, options=Options(resume=True))
        assert remarkable(result) == []
        assert result.resume is not None
        assert result.resume.groups == result.resume.wanted_groups
        assert len(result.resume.groups or ()) == 4
    finally:
        path.unlink()


def _damage(path: Path) -> None:
    """Single bytes anywhere in a file of real size, and its end cut off."""
    rng = random.Random(20261125)
    whole = path.stat().st_size
    with path.open("r+b") as file:
        for _ in range(4):
            at = rng.randrange(whole)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ rng.randrange(1, 256)]))
            file.flush()
            assert remarkable(verify(path)), at
            file.seek(at)
            file.write(bytes([byte]))
            file.flush()
        assert not remarkable(verify(path))
        file.truncate(whole * 2 // 3)
        file.flush()
        result = verify(path)
        assert "container.truncated" in ids(result)
        assert any(" of 678" in finding.found for finding in result.findings)
