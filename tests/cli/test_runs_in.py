"""Which programs take a file, on files of full size: what inspect shows, verify tells, and migrate warns of."""

from __future__ import annotations

import pytest

from tests.support import voices

TAKEN = {"v2": {"GPT-SoVITS": True, "GSV-TTS-Lite": True, "Genie-TTS": True}, "v2Pro": {"GPT-SoVITS": True, "GSV-TTS-Lite": True, "Genie-TTS": False}}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Small weights of two versions, 220 MB in all."""
    folder, maker = tmp_path_factory.mktemp("voices"), voices.Maker()
    made = {version: folder / f"alice_{version}_e8_s200.pth" for version in TAKEN}
    for version, path in made.items():
        voices.write(voices.sovits_weights(maker, "alice", version, epoch=8, step=200), path, version)
    yield made
    for path in made.values():
        path.unlink()


@pytest.mark.parametrize("version", TAKEN)
def test_inspect_names_the_programs(gsvckpt, weights, version):
    rows = gsvckpt.json("inspect", weights[version]).file["runs_in"]
    assert {row["runtime"]: row["takes"] for row in rows if row["role"] in ("inference", "conversion")} == TAKEN[version]
    assert [row["role"] for row in rows] == ["inference", "training base", "resume", "ONNX export", "inference", "conversion"]
    shown = gsvckpt("inspect", weights[version]).out
    assert "runs in" in shown
    assert ("not in Genie-TTS: it takes the file for v2 by its size" in " ".join(shown.replace("│", " ").split())) == (version == "v2Pro")


@pytest.mark.parametrize("version", TAKEN)
def test_verify_tells_it_for_information(gsvckpt, weights, version):
    run = gsvckpt.json("verify", "--quick", weights[version])
    told = {finding["check"]: finding["severity"] for finding in run.file["findings"] if finding["check"].startswith("readers.")}
    assert told == ({} if version == "v2" else {"readers.genie-tts": "info"})
    assert {"readers.gpt-sovits", "readers.gsv-tts-lite"} <= set(run.file["checks"]["passed"])


def test_a_v2_file_that_outgrows_the_line_is_warned_of(gsvckpt, weights, tmp_path):
    run = gsvckpt.json("migrate", weights["v2"], "--dtype", "float32", "-n")
    assert ["150 MiB" in warning for warning in run.file["warnings"]] == [True]
    run = gsvckpt.json("migrate", weights["v2Pro"], "--dtype", "float32", "-n")
    assert not any("150 MiB" in warning for warning in run.file["warnings"])


def test_other_files_run_in_nothing(gsvckpt, tmp_path):
    from .samples import numbers, save

    path = save(tmp_path / "x.pth", {"w": numbers((3,))})
    assert gsvckpt.json("inspect", path).file["runs_in"] == []
    assert "runs in" not in gsvckpt("inspect", path).out
    checks = gsvckpt.json("verify", path).file["checks"]
    assert {check for check in checks["skipped"] if check.startswith("readers.")} == {
        "readers.gpt-sovits",
        "readers.gsv-tts-lite",
        "readers.genie-tts",
    }
