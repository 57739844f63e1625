"""`verify --resume` gates a run: what would start over or mix two saves exits 1, a first run 0, and JSON says what goes on from where."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gsvckpt as api

from .samples import assert_one_error, discriminator, generator, gpt, s1_training, s2_training, save

CHECKS = ("--resume", "--checks", "resume.file,resume.pair,resume.keys,resume.stale")
NOTHING = {"G": None, "D": None, "epoch": None}
NO_LINKS = pytest.mark.skipif(os.name == "nt", reason="making a link needs a privilege on Windows")
POWERLESS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []


def g(path: Path, step: int, epoch: int) -> Path:
    return save(path / f"G_{step}.pth", {**s2_training(generator("v2", enc_q=True), epoch), "optimizer": None})


def d(path: Path, step: int, epoch: int) -> Path:
    return save(path / f"D_{step}.pth", s2_training(discriminator(), epoch))


def lightning(path: Path) -> Path:
    settings = {"config": {"train": {"epochs": 20}}, "output_dir": "logs/x/logs_s1_v2"}
    return save(path / "ckpt" / "epoch=1-step=12.ckpt", {**s1_training(gpt(dtype="float32")), "hyper_parameters": settings})


@pytest.fixture
def logs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return Path("logs")


def resume(gsvckpt, path, exit_code=0):
    return gsvckpt.json("verify", path, *CHECKS, exit_code=exit_code).document["resume"]


def test_a_whole_pair_goes_on(gsvckpt, logs):
    run = logs / "alice" / "logs_s2_v2"
    g(run, 16, 2), d(run, 16, 2)
    expected = {"goes_on": True, "from": {"G": "G_16.pth", "D": "D_16.pth", "epoch": 2}}
    for place in (logs, logs / "alice", run, run / "G_16.pth", run / "D_16.pth"):
        found = resume(gsvckpt, place)
        assert {key: found[key] for key in expected} == expected
        assert found["why"] == "training resumes from G_16.pth and D_16.pth at epoch 3"


def test_a_mixed_pair_stops_a_script(gsvckpt, logs):
    run = logs / "alice" / "logs_s2_v2"
    g(run, 16, 2), d(run, 16, 2), g(run, 24, 3)
    found = resume(gsvckpt, logs / "alice", exit_code=1)
    assert (found["goes_on"], found["from"]) == (False, {"G": "G_24.pth", "D": "D_16.pth", "epoch": 3})
    assert "G_24.pth is of epoch 3, D_16.pth of epoch 2" in found["why"]
    shutil.move(run / "G_24.pth", "elsewhere.pth")  # as the hint says
    assert resume(gsvckpt, logs / "alice")["goes_on"] is True


@pytest.mark.parametrize("letter", ["G", "D"])
@pytest.mark.parametrize("what", ["gone", "cut", "empty"])
def test_a_silent_restart_stops_a_script(gsvckpt, logs, letter, what):
    run = logs / "alice" / "logs_s2_v2"
    path = {"G": g(run, 16, 2), "D": d(run, 16, 2)}[letter]
    whole = path.read_bytes()
    path.unlink() if what == "gone" else path.write_bytes(whole[:-1000] if what == "cut" else b"")
    code = 1 if what == "gone" else gsvckpt("verify", path).code
    found = resume(gsvckpt, logs / "alice", exit_code=code)
    assert found["goes_on"] is False
    assert "starts over" in found["why"]
    path.write_bytes(whole)
    assert resume(gsvckpt, logs / "alice")["goes_on"] is True


@pytest.mark.parametrize("place", ["logs/alice", "logs/alice/logs_s2_v2", "logs/alice/logs_s1_v2", "logs", "somewhere/else"])
def test_a_first_run_is_legal(gsvckpt, logs, place):
    for _ in range(2):  # before its folder is there, and after
        found = resume(gsvckpt, place)
        assert (found["goes_on"], found["from"]) == (False, NOTHING)
        assert "from the pretrained model at epoch 1" in found["why"]
        assert gsvckpt("verify", place, *CHECKS, "--fail-on", "warning").code == 0
        Path(place).mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize("folder", ["3-bert", "logs_s1_v2", "logs_s2_v2", "logs_s1_v2/ckpt"])
def test_what_is_made_before_the_first_save_is_a_first_run(gsvckpt, logs, folder):
    """`make crash` found the folder of a GPT run without its ckpt."""
    (logs / "alice" / folder).mkdir(parents=True)
    assert resume(gsvckpt, logs / "alice")["from"] == NOTHING
    assert resume(gsvckpt, logs)["from"] == NOTHING


def test_what_is_no_experiment_is_told(gsvckpt, logs):
    (logs / "alice").mkdir(parents=True)
    (logs / "alice" / "notes.txt").write_text("x")
    assert_one_error(gsvckpt("verify", logs / "alice", *CHECKS), logs / "alice", 3)
    assert_one_error(gsvckpt("verify", logs, *CHECKS), logs, 3)
    missing = logs / "alice" / "G_16.pth"
    assert_one_error(gsvckpt("verify", missing, *CHECKS), missing, 3)


def test_logs_answers_for_every_experiment(gsvckpt, logs):
    for name in ("alice", "bob"):
        g(logs / name / "logs_s2_v2", 16, 2), d(logs / name / "logs_s2_v2", 16, 2)
    lightning(logs / "carol" / "logs_s1_v2")
    assert resume(gsvckpt, logs) == {"goes_on": True, "from": NOTHING, "why": "all 3 runs go on"}
    g(logs / "bob" / "logs_s2_v2", 24, 3)
    document = gsvckpt.json("verify", logs, *CHECKS, exit_code=1).document
    assert document["resume"]["from"] == {"G": "G_24.pth", "D": "D_16.pth", "epoch": 3}
    answers = {Path(file["path"]).parts[1]: file["resume"]["goes_on"] for file in document["files"] if "resume" in file}
    assert answers == {"alice": True, "bob": False, "carol": True}


@pytest.mark.parametrize("other", ["first", "done", "good"])
def test_of_several_runs_the_one_that_would_lose_something_is_told(gsvckpt, logs, other):
    """Whatever stands before it in the folder."""
    first = logs / "alice" / "logs_s2_v2"
    first.mkdir(parents=True)
    if other != "first":
        g(first, 16, 2), d(first, 16, 2)
    if other == "done":
        (first.parent / "config.json").write_text('{"train": {"epochs": 2}, "model": {"version": "v2"}}')
    assert resume(gsvckpt, logs)["goes_on"] is (other == "good")
    run = logs / "bob" / "logs_s2_v2"
    g(run, 24, 3), d(run, 16, 2)
    found = resume(gsvckpt, logs, exit_code=1)
    assert (found["goes_on"], found["from"]) == (False, {"G": "G_24.pth", "D": "D_16.pth", "epoch": 3})
    assert found["why"].startswith(f"{run}: G_24.pth is of epoch 3")


def lead_astray(path: Path, how: str) -> Path:
    """Something at `path` that is no folder, and no free place either."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if how == "file":
        path.write_text("x")
    else:
        path.symlink_to(path.name if how == "circle" else "/mnt/a drive/that is not connected")
    return path


PLACES = ("logs", "logs/alice", "logs/alice/logs_s2_v2", "logs/alice/logs_s1_v2", "logs/alice/logs_s1_v2/ckpt")
FILE = ("logs/alice", "file")  # which may be asked about by itself
ASTRAY = [(place, how) for place in PLACES for how in ("drive", "circle", "file") if (place, how) != FILE]


@NO_LINKS
@pytest.mark.parametrize(("place", "how"), ASTRAY)
def test_what_cannot_be_looked_at_is_no_first_run(gsvckpt, logs, place, how):
    """A drive that is not connected has the run on it, and saying `first run` would let a script train over it."""
    lead_astray(Path(place), how)
    found = gsvckpt.json("verify", "logs/alice", *CHECKS, exit_code=3).document
    assert (found["resume"]["goes_on"], found["resume"]["from"]) == (False, NOTHING)
    assert found["resume"]["why"].startswith(place)
    Path(place).unlink()
    assert resume(gsvckpt, "logs/alice")["from"] == NOTHING


@NO_LINKS
@pytest.mark.parametrize("place", ["alice", "alice/logs_s2_v2", "alice/logs_s1_v2/ckpt"])
def test_an_experiment_on_a_drive_that_is_gone_does_not_hide_the_others(gsvckpt, logs, place):
    g(logs / "bob" / "logs_s2_v2", 16, 2), d(logs / "bob" / "logs_s2_v2", 16, 2)
    assert resume(gsvckpt, logs)["goes_on"] is True
    (logs / "notes.txt").write_text("x")
    (logs / "empty").mkdir()
    link = lead_astray(logs / place, "drive")
    document = gsvckpt.json("verify", logs, *CHECKS, exit_code=3).document
    assert document["resume"]["goes_on"] is False
    assert document["resume"]["why"].startswith(f"{link}: is a link to /mnt/a drive")
    answers = {file["path"]: file["resume"]["goes_on"] for file in document["files"] if "resume" in file}
    assert answers == {str(logs / "bob" / "logs_s2_v2"): True}


@pytest.mark.parametrize("folder", ["logs", "logs/alice", "logs/alice/logs_s2_v2"])
def test_a_folder_that_may_not_be_read_is_no_first_run(logs, folder):
    if os.name == "nt" or (POWERLESS and (shutil.which("setpriv") is None or subprocess.run([*POWERLESS, "true"], check=False).returncode)):
        pytest.skip("every folder may be read here")
    g(logs / "alice" / "logs_s2_v2", 16, 2), d(logs / "alice" / "logs_s2_v2", 16, 2)
    command = [*POWERLESS, sys.executable, "-m", "gsvckpt", "verify", "logs/alice", *CHECKS]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    os.chmod(folder, 0)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    finally:
        os.chmod(folder, 0o700)
    assert done.returncode == 3
    assert "Permission denied" in done.stderr


def test_a_damaged_tensor_is_for_the_exit_code(gsvckpt, logs):
    """GPT-SoVITS trains on with it, so `goes_on` is true; but a script must not."""
    run = logs / "alice" / "logs_s2_v2"
    path = g(run, 16, 2)
    d(run, 16, 2)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    document = gsvckpt.json("verify", logs / "alice", "--resume", "--checks", "resume,record", exit_code=1).document
    assert document["resume"]["goes_on"] is True
    (found,) = [finding for file in document["files"] for finding in file["findings"] if finding["severity"] == "error"]
    assert found["check"] == "record.crc"


def test_two_stages_are_two_runs(gsvckpt, logs):
    g(logs / "alice" / "logs_s2_v2", 16, 2), d(logs / "alice" / "logs_s2_v2", 16, 2)
    path = lightning(logs / "alice" / "logs_s1_v2")
    assert resume(gsvckpt, logs / "alice")["goes_on"] is True
    path.write_bytes(path.read_bytes()[:-1000])
    found = resume(gsvckpt, logs / "alice", exit_code=gsvckpt("verify", path).code)
    assert (found["goes_on"], found["from"]["G"]) == (False, "epoch=1-step=12.ckpt")


def test_from_python(logs):
    run = logs / "alice" / "logs_s2_v2"
    g(run, 16, 2), d(run, 16, 2)
    result = api.verify("logs/alice", resume=True, checks="resume.pair,resume.file")
    assert (result.exit_code, result.as_json()["resume"]["goes_on"]) == (0, True)
