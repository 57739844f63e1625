"""What is advised can be pasted: it names real files, and a shell runs nothing else."""

from __future__ import annotations

import os
import shlex
import shutil
import zipfile

import pytest

from .samples import assert_one_error, discriminator, generator, gpt, numbers, s1_training, s2_training, save, small


@pytest.fixture
def experiment(tmp_path, monkeypatch):
    """GPT-SoVITS's own folder with one experiment, and weights of it."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "logs" / "alice" / "logs_s2_v2"
    save(run / "G_16.pth", s2_training(generator("v2", enc_q=True)))
    save(run / "D_16.pth", s2_training(discriminator()))
    save(tmp_path / "SoVITS weights" / "alice_e8_s16.pth", small(generator("v2", "float16"), "v2"))
    (tmp_path / "none").mkdir()
    return run


@pytest.mark.parametrize(
    ("command", "folder", "hint"),
    [
        ("migrate", "logs/alice", "gsvckpt migrate logs/alice --bundle <DIR>  # "),
        ("migrate", "logs/alice/", "gsvckpt migrate logs/alice/ --bundle <DIR>  # "),
        ("migrate", "logs/alice/logs_s2_v2", "gsvckpt migrate logs/alice/logs_s2_v2/*.pth"),
        ("migrate", "SoVITS weights", "gsvckpt migrate 'SoVITS weights'/*.pth"),
        ("migrate", ".", "gsvckpt inspect . -r  # lists"),
        ("migrate", "none", "gsvckpt inspect none -r  # lists"),
        ("strip-optimizer", "logs/alice", "gsvckpt inspect logs/alice -r  # lists"),
        ("convert-fp16", "SoVITS weights/", "gsvckpt convert-fp16 'SoVITS weights'/*.pth"),
    ],
)
def test_a_folder_is_answered_with_what_to_name(gsvckpt, experiment, command, folder, hint):
    run = gsvckpt(command, folder)
    assert_one_error(run, folder, 3)
    assert run.err.splitlines()[1].startswith(f"hint: {hint}")


def test_in_a_folder_of_files_their_ending_is_enough(gsvckpt, experiment, monkeypatch):
    monkeypatch.chdir(experiment)
    save(experiment / "x.$(touch pwned)", small(generator("v2"), "v2"))
    assert gsvckpt("migrate", ".").err.splitlines()[1] == "hint: gsvckpt migrate *.pth  # names the files"


# --- inspect and verify ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "tree", "leads"),
    [
        ("G_16.pth", s2_training(generator("v2", enc_q=True)), True),
        ("epoch=1-step=12.ckpt", s1_training(gpt(dtype="float32")), True),
        ("D_16.pth", s2_training(discriminator()), False),
        ("alice_e8_s16.pth", small(generator("v2", "float16"), "v2"), False),
    ],
)
def test_a_training_file_leads_on_to_its_weights(gsvckpt, tmp_path, name, tree, leads):
    path = save(tmp_path / "it's $(touch pwned)" / name, tree)
    said = f"weights for inference: gsvckpt migrate {shlex.quote(str(path))} --to-inference\n"
    assert (said in gsvckpt("inspect", path).out) == leads


@pytest.fixture
def recorded(gsvckpt, tmp_path):
    """A folder of one recorded voice, with a copy of it."""
    path = save(tmp_path / "my voices" / "x.pth", {"w": numbers((300,))})
    assert gsvckpt("verify", path, "--record", "--backup", tmp_path / "copies").code == 0
    return path


def hints(gsvckpt, *argv, exit_code=1):
    files = gsvckpt.json("verify", *argv, exit_code=exit_code).document["files"]
    return [finding["hint"]["command"] for file in files for finding in file.get("findings", ())]


@pytest.mark.parametrize("named", [True, False])
def test_a_missing_file_is_named(gsvckpt, recorded, tmp_path, named):
    recorded.unlink()
    found = hints(gsvckpt, recorded if named else recorded.parent, exit_code=3 if named else 1)
    command = f"gsvckpt verify {shlex.quote(str(recorded))} --restore-from <BACKUP>"
    assert command in found
    (word, *argv) = shlex.split(command.replace("<BACKUP>", str(tmp_path / "copies")))
    assert word == "gsvckpt"
    assert gsvckpt(*argv).code == 0
    assert recorded.exists()


def test_where_copies_are_is_said_when_it_is_known(gsvckpt, recorded, tmp_path):
    folder = tmp_path / "copies"
    recorded.unlink()
    found = hints(gsvckpt, recorded.parent, "--backup", folder)
    restoring = [hint for hint in found if "--restore-from" in hint]
    assert restoring
    assert all(hint.endswith(f" --restore-from {shlex.quote(str(folder))}") for hint in restoring)


@pytest.mark.parametrize("what", ["cut", "empty"])
def test_what_resuming_needs_comes_back(gsvckpt, tmp_path, what):
    """From the folder of a run alone, which --resume itself reads no manifest of."""
    tree = {**s1_training(gpt(dtype="float32")), "hyper_parameters": {"config": {"train": {"epochs": 20}}}}
    path = save(tmp_path / "my logs" / "alice" / "logs_s1_v2" / "ckpt" / "epoch=1-step=12.ckpt", tree)
    shutil.copytree(path.parent, tmp_path / "copies")
    assert gsvckpt("verify", path, "--record", "--layout", "none").code == 0
    os.truncate(path, path.stat().st_size - 500 if what == "cut" else 0)
    asked = ("verify", tmp_path / "my logs", "--resume", "--layout", "none")
    found = hints(gsvckpt, *asked, exit_code=gsvckpt(*asked).code)
    restoring = [hint for hint in found if hint.startswith(f"gsvckpt verify {shlex.quote(str(path.parent))} --restore-from")]
    _, *argv = shlex.split(restoring[0].replace("<BACKUP>", str(tmp_path / "copies")))
    assert gsvckpt(*argv, "--layout", "none").code == 0
    assert gsvckpt.json(*asked).document["resume"]["goes_on"] is True


def test_resuming_names_files_and_folders(gsvckpt, tmp_path):
    run = tmp_path / "my logs" / "alice" / "logs_s2_v2"
    save(run / "G_16.pth", s2_training(generator("v2", enc_q=True), epoch=8))
    save(run / "D_16.pth", s2_training(discriminator(), epoch=7))
    found = hints(gsvckpt, run.parent, "--resume", "--layout", "none")
    assert any(f"gsvckpt verify {shlex.quote(str(run))} --restore-from <BACKUP>" in hint for hint in found)
    save(tmp_path / "my logs" / "alice" / "logs_s1_v2" / "ckpt" / "epoch=1-step=12.ckpt", s1_training(gpt(dtype="float32")))
    found = hints(gsvckpt, run.parent, "--resume", "--layout", "none")
    path = run.parent / "logs_s1_v2" / "ckpt" / "epoch=1-step=12.ckpt"
    assert any(f"gsvckpt migrate {shlex.quote(str(path))} --plain" in hint for hint in found)
    assert not any("<FILE>" in hint or "<SOURCE>" in hint for hint in found)


def test_a_manifest_that_is_not_there_names_the_folder(gsvckpt, recorded):
    run = gsvckpt("verify", recorded, "--manifest", recorded.parent / "none.toml")
    assert run.code == 3
    assert f"gsvckpt verify {shlex.quote(str(recorded.parent))} --record" in run.err


@pytest.mark.parametrize("command", ["inspect", "strip-optimizer"])
def test_readers_name_the_file(gsvckpt, tmp_path, command):
    path = tmp_path / "a voice.pth"
    with zipfile.ZipFile(save(tmp_path / "x.pth", {"w": numbers((300,))})) as one, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as two:
        for name in one.namelist():
            two.writestr(name, one.read(name))
    run = gsvckpt(command, path)
    assert run.code == 3
    assert f"hint: gsvckpt migrate {shlex.quote(str(path))}  # stores its records plainly" in run.err
