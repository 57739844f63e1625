"""gsvckpt migrate --bundle: one voice in one folder, whole or not at all, and an experiment that is never touched."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.builders import tensor

from gsvckpt.commands.verify.manifest import read_manifest
from gsvckpt.files.publish import Target
from gsvckpt.sovits import upstream
from tests.support.voices import sovits_config

from .samples import assert_one_error, discriminator, environment, evil, generator, gpt, leftovers, lora, s1_training, s2_training, save, small

VERIFY = ("--checks", "container,record,pickle,tensor,manifest,version")  # shrunken trees lack tensors of their layouts
CONFIG = sovits_config("alice", "v2Pro", 8)
CLOCK = 1_700_000_000


def at(path: Path, second: int) -> Path:
    """Saved then."""
    os.utime(path, (CLOCK + second, CLOCK + second))
    return path


def s1(epoch: int, best: str | None = None, scores: dict[str, float] | None = None) -> dict[str, object]:
    config = {"train": {"exp_name": "alice", "lr": 1e-5, "epochs": 2}, "pretrained_s1": "GPT_SoVITS/pretrained_models/s1v3.ckpt"}
    tree = {**s1_training(gpt(dtype="float32")), "epoch": epoch - 1, "global_step": epoch * 6}
    tree["hyper_parameters"] = {**tree["hyper_parameters"], "config": config}
    known = {f"/home/me/{name}": tensor("float32", (), [score]) for name, score in (scores or {}).items()}
    callback = {"best_model_path": f"/home/me/{best}" if best else "", "best_k_models": known}
    tree["callbacks"] = {"my_model_ckpt{'monitor': 'top_3_acc', 'mode': 'max'}": callback}
    return tree


class Voice:
    """An experiment, and GPT-SoVITS's folder around it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "logs" / "alice"
        self.path.mkdir(parents=True)
        (self.path / "config.json").write_text(json.dumps(CONFIG))

    def gpt(self, epoch: int, second: int, run: str = "logs_s1_v2Pro", **more: object) -> Path:
        return at(save(self.path / run / "ckpt" / f"epoch={epoch - 1}-step={epoch * 6}.ckpt", s1(epoch, **more)), second)

    def pair(self, epoch: int, second: int, run: str = "logs_s2_v2Pro", version: str = "v2Pro", step: int | None = None) -> tuple[Path, Path]:
        step = step or epoch * 2
        one = save(self.path / run / f"G_{step}.pth", s2_training(generator(version, enc_q=True), epoch))
        two = save(self.path / run / f"D_{step}.pth", s2_training(discriminator(8 if "Pro" in version else 6), epoch))
        return at(one, second), at(two, second)

    def small_gpt(self, epoch: int, second: int, folder: str = "GPT_weights_v2Pro") -> Path:
        tree = {"weight": gpt(), "config": {"train": {"exp_name": "alice"}}, "info": f"GPT-e{epoch}"}
        return at(save(self.root / folder / f"alice-e{epoch}.ckpt", tree), second)

    def small_sovits(self, epoch: int, second: int, version: str = "v2Pro", folder: str = "SoVITS_weights_v2Pro", name: str | None = None) -> Path:
        tree = {**small(generator(version, "float16"), version), "info": f"{epoch}epoch_{epoch * 2}iteration"}
        head = upstream.head_for(version, lora=False).encode()
        return at(save(self.root / folder / (name or f"alice_e{epoch}_s{epoch * 2}.pth"), tree, head=head), second)

    def facts(self) -> dict[str, tuple[bytes, int]]:
        return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in self.root.rglob("*") if path.is_file()}


@pytest.fixture
def voice(tmp_path):
    return Voice(tmp_path / "GPT-SoVITS")


@pytest.fixture
def trained(voice):
    """Two epochs of GPT, two pairs of SoVITS, and logs."""
    voice.gpt(1, 10, best="epoch=0-step=6.ckpt")
    voice.gpt(2, 20, best="epoch=1-step=12.ckpt", scores={"epoch=0-step=6.ckpt": 0.25, "epoch=1-step=12.ckpt": 0.5})
    voice.pair(4, 30)
    voice.pair(8, 40)
    at(voice.path / "config.json", 30)
    (voice.path / "train.log").write_text("SoVITS goes on")
    return voice


def flip(path: Path) -> None:
    """Alter one bit of a tensor, which torch would load without complaint."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def bundle(gsvckpt, voice, folder, *options, exit_code=0):
    """The JSON object of a run that writes; what it says is what there is, and the experiment is as it was."""
    before = voice.facts()
    file = gsvckpt.json("migrate", voice.path, "--bundle", folder, *options, exit_code=exit_code).file
    assert voice.facts() == before
    assert not leftovers(folder.parent)
    assert file["written"]
    assert {item["path"]: item["bytes"] for item in file["bundle"]} == {name: (folder / name).stat().st_size for name in names(folder)}
    assert file["bytes_after"] == sum(item["bytes"] for item in file["bundle"])
    return file


def origins(file) -> dict[str, tuple[str, str]]:
    return {item["path"]: (item["how"], item["from"] and Path(item["from"]).name) for item in file["bundle"]}


# --- what a bundle is ----------------------------------------------------------------------------------------------------------------------------


def test_a_voice_comes_whole_and_is_sound_elsewhere(gsvckpt, trained, tmp_path):
    out = tmp_path / "out"
    file = bundle(gsvckpt, trained, out)
    assert origins(file) == {
        "checkpoints/epoch_001.ckpt": ("copy", "epoch=0-step=6.ckpt"),
        "checkpoints/epoch_002.ckpt": ("copy", "epoch=1-step=12.ckpt"),
        "checkpoints/sovits_epoch_004_G.pth": ("copy", "G_8.pth"),
        "checkpoints/sovits_epoch_004_D.pth": ("copy", "D_8.pth"),
        "checkpoints/sovits_epoch_008_G.pth": ("copy", "G_16.pth"),
        "checkpoints/sovits_epoch_008_D.pth": ("copy", "D_16.pth"),
        "best_model.ckpt": ("copy", "epoch=1-step=12.ckpt"),
        "alice-e2.ckpt": ("extracted", "epoch=1-step=12.ckpt"),
        "alice_e8_s16.pth": ("extracted", "G_16.pth"),
        "config.json": ("copy", "config.json"),
        "config.yaml": ("written", "epoch=1-step=12.ckpt"),
        "log.txt": ("written", "train.log"),
        "checkpoints/gsvckpt.toml": ("written", None),
        "gsvckpt.toml": ("written", None),
    }
    assert (file["source"], file["output"], file["warnings"], file["left_out"]) == (str(trained.path), str(out), [], [])
    for item in file["bundle"]:
        if item["how"] == "copy":
            assert (out / item["path"]).read_bytes() == Path(item["from"]).read_bytes()
    away = out.rename(tmp_path / "away")
    checked = gsvckpt.json("verify", away, "-r", *VERIFY).document["files"]
    assert [one["status"] for one in checked] == ["sound"] * 9
    for name in ("best_model.ckpt", "checkpoints/sovits_epoch_008_D.pth"):
        assert torch.load(away / name, weights_only=False)
    manifest = read_manifest(str(away / "checkpoints" / "gsvckpt.toml"))
    assert sorted(manifest.entries) == [
        name.removeprefix("checkpoints/") for name in names(away) if name.startswith("checkpoints/") and "toml" not in name
    ]
    entry = manifest.entries["sovits_epoch_008_G.pth"]
    assert (entry.kind, entry.version, entry.epoch, entry.step) == ("sovits-generator-training", "v2Pro", 8, 16)
    assert set(entry.digests) == {"content", "md5", "sha256", "xxh3_128"}


def test_damage_on_the_other_machine_is_found(gsvckpt, trained, tmp_path):
    bundle(gsvckpt, trained, tmp_path / "out")
    path = tmp_path / "out" / "alice_e8_s16.pth"
    flip(path)
    (tmp_path / "out" / "best_model.ckpt").unlink()
    run = gsvckpt.json("verify", tmp_path / "out", "-r", *VERIFY, exit_code=1)
    found = {Path(one["path"]).name: {finding["check"] for finding in one["findings"]} for one in run.document["files"]}
    assert "record.crc" in found[path.name]
    assert found["best_model.ckpt"] == {"manifest.missing"}


def test_a_bundle_can_be_recorded_anew(gsvckpt, trained, tmp_path):
    bundle(gsvckpt, trained, tmp_path / "out")
    before = (tmp_path / "out" / "gsvckpt.toml").read_text()
    gsvckpt("verify", tmp_path / "out", "-r", "--record")
    assert (tmp_path / "out" / "gsvckpt.toml").read_text() == before


def test_extracted_weights_are_those_of_to_inference(gsvckpt, trained, tmp_path):
    bundle(gsvckpt, trained, tmp_path / "out")
    for name, source in (("alice-e2.ckpt", "logs_s1_v2Pro/ckpt/epoch=1-step=12.ckpt"), ("alice_e8_s16.pth", "logs_s2_v2Pro/G_16.pth")):
        gsvckpt.json("migrate", trained.path / source, "--to-inference", "-o", tmp_path / name)
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_no_path_of_this_machine_comes_into_what_is_written(gsvckpt, trained, tmp_path):
    bundle(gsvckpt, trained, tmp_path / "out")
    for name in ("gsvckpt.toml", "checkpoints/gsvckpt.toml", "config.yaml", "log.txt"):
        assert str(tmp_path) not in (tmp_path / "out" / name).read_text()


def test_settings_are_yaml_that_training_reads(gsvckpt, trained, tmp_path):
    yaml = pytest.importorskip("yaml")
    bundle(gsvckpt, trained, tmp_path / "out")
    found = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert found == s1(2)["hyper_parameters"]["config"]
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == CONFIG


def test_logs_stand_in_the_order_of_time_under_their_runs(gsvckpt, trained, tmp_path):
    for run, second, text in (("logs_s2_v2Pro", 5, "first\n"), ("logs_s1_v2Pro", 9, "second\n"), ("logs_s2_v2", 7, "of another run\n")):
        (trained.path / run).mkdir(exist_ok=True)
        (trained.path / run / "train.log").write_text(text)
        at(trained.path / run / "train.log", second)
    bundle(gsvckpt, trained, tmp_path / "out")
    assert (tmp_path / "out" / "log.txt").read_text() == (
        "===== logs_s2_v2Pro/train.log =====\nfirst\n===== logs_s1_v2Pro/train.log =====\nsecond\n===== train.log =====\nSoVITS goes on\n"
    )


@pytest.mark.parametrize("terminal", [True, False])
def test_the_table_fits_a_terminal_and_names_stay_whole_in_a_pipe(gsvckpt, trained, tmp_path, monkeypatch, terminal):
    monkeypatch.setenv("COLUMNS", "80")
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    run = gsvckpt("migrate", trained.path, "--bundle", tmp_path / "out")
    assert run.code == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", run.out).splitlines()
    assert (max(map(len, lines)) <= 80) == terminal
    assert ["file", "from", "size"] in [line.split() for line in lines]
    assert any("checkpoints/sovits_epoch_008_G.pth" in line and "logs_s2_v2Pro/G_16.pth" in line for line in lines)
    assert any("logs_s1_v2Pro/ckpt/epoch=1-step=12.ckpt" in line for line in lines) != terminal
    assert any(line.startswith("14 files, ") for line in lines)
    assert gsvckpt("migrate", trained.path, "--bundle", tmp_path / "more", "-q").out == ""


# --- small weights -------------------------------------------------------------------------------------------------------------------------------


def test_weights_that_are_as_new_are_copied(gsvckpt, trained, tmp_path):
    trained.small_gpt(1, 11)
    newest = trained.small_gpt(2, 21), trained.small_sovits(8, 41)
    trained.small_sovits(4, 31)
    at(save(trained.root / "SoVITS_weights_v2Pro" / "bob_e9_s18.pth", small(generator("v2Pro", "float16"), "v2Pro"), head=b"05"), 90)
    found = origins(bundle(gsvckpt, trained, tmp_path / "out"))
    assert (found["alice-e2.ckpt"], found["alice_e8_s16.pth"]) == (("copy", "alice-e2.ckpt"), ("copy", "alice_e8_s16.pth"))
    assert len(found) == 14
    for path in newest:
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(("epoch", "second"), [(4, 90), (8, 39), (15, 5)], ids=["earlier epoch", "of the run before", "longer run before"])
def test_weights_that_are_older_than_training_are_not(gsvckpt, trained, tmp_path, epoch, second):
    trained.small_sovits(epoch, second)
    assert origins(bundle(gsvckpt, trained, tmp_path / "out"))["alice_e8_s16.pth"] == ("extracted", "G_16.pth")


def test_older_weights_are_better_than_none(gsvckpt, trained, tmp_path):
    trained.small_sovits(4, 31)
    (trained.path / "config.json").unlink()
    file = bundle(gsvckpt, trained, tmp_path / "out", exit_code=3)
    assert origins(file)["alice_e4_s8.pth"] == ("copy", "alice_e4_s8.pth")
    assert [Path(left["path"]).name for left in file["left_out"]] == ["G_16.pth"]
    assert "small weights cannot be made from it" in file["left_out"][0]["why"]
    assert any("older than the training files" in warning for warning in file["warnings"])
    assert any("no config.json" in warning for warning in file["warnings"])


def test_damaged_weights_are_extracted_anew(gsvckpt, trained, tmp_path):
    path = trained.small_sovits(8, 41)
    path.write_bytes(path.read_bytes()[:-300])
    at(path, 41)
    file = bundle(gsvckpt, trained, tmp_path / "out", exit_code=3)
    assert origins(file)["alice_e8_s16.pth"] == ("extracted", "G_16.pth")
    assert "damaged" in file["left_out"][0]["why"]


def test_weights_alone_are_a_voice(gsvckpt, voice, tmp_path):
    voice.small_gpt(2, 21)
    voice.small_sovits(8, 41)
    file = bundle(gsvckpt, voice, tmp_path / "out")
    assert sorted(origins(file)) == ["alice-e2.ckpt", "alice_e8_s16.pth", "config.json", "config.yaml", "gsvckpt.toml"]
    assert [warning for warning in file["warnings"] if "no GPT run" in warning or "no SoVITS run" in warning] == file["warnings"]


def test_a_lora_run_has_no_d_and_takes_weights_of_its_rank(gsvckpt, voice, tmp_path):
    voice.gpt(2, 20, run="logs_s1_v3")
    at(save(voice.path / "logs_s2_v3_lora_32" / "G_16.pth", s2_training(lora(), 8)), 40)
    for rank in (32, 64):
        tree = small(lora(), "v3", lora_rank=4)
        at(save(voice.root / "SoVITS_weights_v3" / f"alice_e8_s16_l{rank}.pth", tree, head=b"03"), 41)
    file = bundle(gsvckpt, voice, tmp_path / "out")
    found = origins(file)
    assert found["alice_e8_s16_l32.pth"] == ("copy", "alice_e8_s16_l32.pth")
    assert [name for name in found if "sovits" in name] == ["checkpoints/sovits_epoch_008_G.pth"]
    assert not any("G and D" in warning for warning in file["warnings"])


def test_a_step_that_nothing_tells_is_counted_or_named(gsvckpt, voice, tmp_path):
    voice.pair(8, 40, step=233333333333)
    assert "alice_e8_s16.pth" in origins(bundle(gsvckpt, voice, tmp_path / "out"))
    assert "alice_e8_s5.pth" in origins(bundle(gsvckpt, voice, tmp_path / "more", "--step", "5"))


# --- which run, which files ----------------------------------------------------------------------------------------------------------------------


def test_old_names_are_understood_and_empty_folders_ignored(gsvckpt, voice, tmp_path):
    voice.gpt(2, 20, run="logs_s1")
    voice.pair(8, 40, run="logs_s2")
    voice.pair(12, 30, run="logs_s2", version="v1")  # every version went there once
    for folder in ("logs_s1_v2", "logs_s2_v3", "logs_s2_v3_lora_32", "eval", "3-bert"):
        (voice.path / folder).mkdir()
    file = bundle(gsvckpt, voice, tmp_path / "out")
    assert [name for name in origins(file) if name.startswith("checkpoints/") and "toml" not in name] == [
        "checkpoints/epoch_002.ckpt",
        "checkpoints/sovits_epoch_008_G.pth",
        "checkpoints/sovits_epoch_008_D.pth",
    ]
    left = {Path(one["path"]).name: one["why"] for one in file["left_out"]}
    assert left == dict.fromkeys(("G_24.pth", "D_24.pth"), "is of v1, and the bundle's SoVITS of v2Pro")


def test_the_newest_run_decides_and_the_others_are_told(gsvckpt, trained, tmp_path):
    trained.gpt(5, 90, run="logs_s1_v2")
    trained.pair(9, 5, run="logs_s2_v2", version="v2")
    file = bundle(gsvckpt, trained, tmp_path / "out", exit_code=4)
    found = origins(file)
    assert "checkpoints/epoch_005.ckpt" in found and "checkpoints/epoch_002.ckpt" not in found
    assert "checkpoints/sovits_epoch_009_G.pth" in found and "checkpoints/sovits_epoch_008_G.pth" not in found
    left = {Path(one["path"]).name: one["why"] for one in file["left_out"]}
    assert {"logs_s1_v2Pro", "logs_s2_v2Pro"} <= set(left)
    assert "4 training files of v2Pro" in left["logs_s2_v2Pro"]
    assert any("logs_s2_v2Pro" in warning for warning in file["warnings"])
    assert any("config.json is for v2Pro" in warning for warning in file["warnings"])  # so that nothing is extracted with it


def test_a_config_decides_for_its_version(gsvckpt, trained, tmp_path):
    trained.gpt(5, 90, run="logs_s1_v2")
    trained.pair(9, 95, run="logs_s2_v2", version="v2")
    file = bundle(gsvckpt, trained, tmp_path / "out", "--config", trained.path / "config.json")
    assert {"checkpoints/epoch_002.ckpt", "checkpoints/sovits_epoch_008_G.pth", "alice_e8_s16.pth"} <= set(origins(file))
    assert sorted(Path(one["path"]).name for one in file["left_out"]) == ["logs_s1_v2", "logs_s2_v2"]


def test_a_stage_without_a_run_of_the_version_is_told(gsvckpt, voice, tmp_path):
    voice.gpt(2, 20, run="logs_s1_v2")
    voice.pair(8, 40)
    file = bundle(gsvckpt, voice, tmp_path / "out")
    assert "checkpoints/epoch_002.ckpt" in origins(file)
    assert any("there is no GPT run of v2Pro; logs_s1_v2 of another version is used" in warning for warning in file["warnings"])


def test_of_one_epoch_saved_twice_the_later_pair_counts(gsvckpt, trained, tmp_path):
    later = trained.pair(8, 50, step=233333333333)
    file = bundle(gsvckpt, trained, tmp_path / "out")
    for letter, path in zip("GD", later, strict=True):
        assert origins(file)[f"checkpoints/sovits_epoch_008_{letter}.pth"] == ("copy", path.name)
    assert sorted(Path(left["path"]).name for left in file["left_out"]) == ["D_16.pth", "G_16.pth"]


def test_weights_of_other_versions_are_no_voice(gsvckpt, voice, tmp_path):
    voice.small_gpt(2, 20, folder="GPT_weights_v2")
    run = gsvckpt("migrate", voice.path, "--bundle", tmp_path / "out", "--config", voice.path / "config.json")
    assert_one_error(run, voice.path, 3)


def test_half_a_pair_is_told(gsvckpt, trained, tmp_path):
    (trained.path / "logs_s2_v2Pro" / "D_16.pth").unlink()
    file = bundle(gsvckpt, trained, tmp_path / "out")
    assert any("epoch 8 has only one of G and D" in warning for warning in file["warnings"])


# --- the best one --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "expected", "said"),
    [
        ({"best": "epoch=1-step=12.ckpt"}, 2, ""),
        (
            {"best": "epoch=8-step=54.ckpt", "scores": {"epoch=0-step=6.ckpt": 0.5, "epoch=1-step=12.ckpt": 0.75, "epoch=8-step=54.ckpt": 0.9}},
            2,
            "is not",
        ),
        ({"scores": {"epoch=0-step=6.ckpt": 0.5, "epoch=1-step=12.ckpt": float("nan")}}, 1, ""),
        ({"best": "epoch=8-step=54.ckpt"}, 3, "is the newest"),
        ({}, 3, "is the newest"),
    ],
    ids=["its path", "its score", "no number", "gone", "unknown"],
)
def test_the_best_is_what_training_called_so(gsvckpt, voice, tmp_path, state, expected, said):
    for epoch in (1, 2, 3):
        voice.gpt(epoch, epoch, **(state if epoch == 3 else {}))
    file = bundle(gsvckpt, voice, tmp_path / "out")
    assert origins(file)["best_model.ckpt"] == ("copy", f"epoch={expected - 1}-step={expected * 6}.ckpt")
    notes = [warning for warning in file["warnings"] if warning.startswith("best_model.ckpt")]
    assert len(notes) == (1 if said else 0) and all(said in note for note in notes)


# --- what is wrong -------------------------------------------------------------------------------------------------------------------------------


def test_damaged_files_stay_behind_and_the_newest_sound_one_counts(gsvckpt, trained, tmp_path):
    for path in (trained.path / "logs_s1_v2Pro/ckpt/epoch=1-step=12.ckpt", trained.path / "logs_s2_v2Pro/G_16.pth"):
        flip(path)
    file = bundle(gsvckpt, trained, tmp_path / "out", exit_code=3)
    found = origins(file)
    assert found["best_model.ckpt"] == ("copy", "epoch=0-step=6.ckpt")
    assert {"alice-e1.ckpt", "alice_e4_s8.pth"} <= set(found)
    assert sorted(Path(left["path"]).name for left in file["left_out"]) == ["G_16.pth", "epoch=1-step=12.ckpt"]
    assert all("is damaged" in left["why"] for left in file["left_out"])


def test_an_unsafe_file_never_comes_along(gsvckpt, trained, tmp_path):
    tree = {**s2_training(generator("v2Pro", enc_q=True), 9), "extra": evil()["extra"]}
    at(save(trained.path / "logs_s2_v2Pro" / "G_18.pth", tree), 50)
    file = bundle(gsvckpt, trained, tmp_path / "out", "--force", exit_code=4)
    assert not any("009" in name for name in origins(file))
    assert "unsafe" in file["left_out"][0]["why"]


@pytest.mark.parametrize("what", ["nothing", "empty", "run", "file", "other"])
def test_what_is_no_experiment_is_missing(gsvckpt, voice, tmp_path, what):
    path = {
        "nothing": tmp_path / "none",
        "empty": voice.path,
        "run": voice.path / "logs_s2_v2",
        "file": voice.path / "config.json",
        "other": tmp_path,
    }[what]
    (voice.path / "logs_s1_v2" / "ckpt").mkdir(parents=True)
    (voice.path / "logs_s2_v2").mkdir()
    run = gsvckpt("migrate", path, "--bundle", tmp_path / "out")
    assert_one_error(run, path, 3)
    assert "hint: " in run.err
    assert not (tmp_path / "out").exists()
    assert gsvckpt.json("migrate", path, "--bundle", tmp_path / "out", exit_code=3).file["written"] is False


def test_where_nothing_is_sound_nothing_is_written(gsvckpt, voice, tmp_path):
    path = voice.gpt(1, 10)
    path.write_bytes(path.read_bytes()[:-50])
    run = gsvckpt("migrate", voice.path, "--bundle", tmp_path / "out")
    assert run.code == 3
    assert "epoch=0-step=6.ckpt is damaged" in run.err
    save(path, {**s1(1), "extra": evil()["extra"]})
    assert gsvckpt("migrate", voice.path, "--bundle", tmp_path / "out").code == 4
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_refused(gsvckpt, trained, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("x")
    assert_one_error(gsvckpt("migrate", trained.path, "--bundle", out, "--force"), out, 4)
    assert names(out) == ["mine"]
    (out / "mine").unlink()
    bundle(gsvckpt, trained, out)  # an empty one will do
    assert_one_error(gsvckpt("migrate", trained.path, "--bundle", trained.path / "config.json"), "config.json", 4)


def test_a_folder_inside_the_experiment_is_refused(gsvckpt, trained):
    before = trained.facts()
    assert gsvckpt("migrate", trained.path, "--bundle", trained.path / "bundle").code == 4
    assert gsvckpt("migrate", trained.path, "--bundle", trained.path / "logs_s1_v2Pro" / "ckpt" / "b").code == 4
    assert trained.facts() == before


def test_a_folder_in_none_cannot_be_made(gsvckpt, trained, tmp_path):
    assert_one_error(gsvckpt("migrate", trained.path, "--bundle", tmp_path / "no" / "out"), "out", 5)


def test_a_dry_run_says_what_a_real_one_does(gsvckpt, trained, tmp_path):
    trained.small_gpt(2, 21)
    said = gsvckpt.json("migrate", trained.path, "--bundle", tmp_path / "out", "-n").file
    assert not (tmp_path / "out").exists()
    assert said["written"] is False
    assert bundle(gsvckpt, trained, tmp_path / "out") == {**said, "written": True}
    again = gsvckpt.json("migrate", trained.path, "--bundle", tmp_path / "out", "-n").file
    assert any("exists already, so a real run would stop here" in warning for warning in again["warnings"])


@pytest.mark.parametrize(
    "options",
    [
        *("--salvage --to-inference --fill --plain --scrub-paths --over-base --in-place --check".split()),
        *("--merge-lora=x --rules=ddp --include=* --exclude=x --like=v2 --dtype=float16 --to=torch --head=PK --max-shard-size=5M -o=x".split()),
        "--on-overflow=clamp",
    ],
)
def test_steps_do_not_go_with_a_bundle(gsvckpt, trained, tmp_path, options):
    assert gsvckpt("migrate", trained.path, "--bundle", tmp_path / "out", options).code == 2
    assert not (tmp_path / "out").exists()


def test_several_experiments_are_a_usage_error(gsvckpt, trained, tmp_path):
    assert gsvckpt("migrate", trained.path, trained.path, "--bundle", tmp_path / "out").code == 2


# --- all at once ---------------------------------------------------------------------------------------------------------------------------------


def failing(monkeypatch, error: BaseException, after: int) -> None:
    written = 0

    def write_at(self, offset, data, original=Target.write_at):
        nonlocal written
        written += len(data)
        if written > after:
            raise error
        original(self, offset, data)

    monkeypatch.setattr(Target, "write_at", write_at)


@pytest.mark.parametrize("after", [0, 9000, 60_000, 112_000, 125_000])
@pytest.mark.parametrize(("error", "code"), [(OSError(28, "No space left on device"), 5), (KeyboardInterrupt(), 130)], ids=["full", "Ctrl-C"])
def test_a_failure_at_any_time_leaves_nothing(gsvckpt, trained, tmp_path, monkeypatch, error, code, after):
    before = trained.facts()
    failing(monkeypatch, error, after)
    run = gsvckpt("migrate", trained.path, "--bundle", tmp_path / "out")
    assert run.code == code
    assert ".gsvckpt-" not in run.err
    assert [path.name for path in tmp_path.iterdir()] == ["GPT-SoVITS"]
    assert trained.facts() == before


KILLED = """
import os, signal, sys
from gsvckpt.files.publish import Target
from gsvckpt.cli.app import main
written = 0
def write_at(self, offset, data, original=Target.write_at):
    global written
    written += len(data)
    if written > int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
    original(self, offset, data)
Target.write_at = write_at
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("after", [5000, 118_000])
def test_a_killed_run_leaves_no_bundle(gsvckpt, trained, tmp_path, after):
    before = trained.facts()
    command = [sys.executable, "-c", KILLED, str(after), "migrate", str(trained.path), "--bundle", str(tmp_path / "out")]
    assert subprocess.run(command, env=environment(), capture_output=True, check=False, timeout=60).returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert trained.facts() == before
    assert all(path.name.startswith(".gsvckpt-") for path in tmp_path.iterdir() if path.name != "GPT-SoVITS")
    bundle_again = gsvckpt("migrate", trained.path, "--bundle", tmp_path / "out")
    assert bundle_again.code == 0


def test_training_that_goes_on_meanwhile_makes_no_mixed_bundle(gsvckpt, trained, tmp_path, monkeypatch):
    from gsvckpt.commands.bundle import bundle as bundling

    def record(folder, entries, original=bundling.record):
        at(trained.path / "logs_s2_v2Pro" / "G_16.pth", 99)
        return original(folder, entries)

    monkeypatch.setattr(bundling, "record", record)
    run = gsvckpt("migrate", trained.path, "--bundle", tmp_path / "out")
    assert run.code == 3
    assert "changed while it was bundled" in run.err
    assert not (tmp_path / "out").exists()
    assert not leftovers(tmp_path)
