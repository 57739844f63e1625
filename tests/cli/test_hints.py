"""What is advised can be pasted: it names real files, and a shell runs nothing else."""

from __future__ import annotations

import pytest

from .samples import assert_one_error, discriminator, generator, s2_training, save, small


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
        ("migrate", "logs/alice", "gsvckpt migrate logs/alice --bundle DIR "),
        ("migrate", "logs/alice/", "gsvckpt migrate logs/alice/ --bundle DIR "),
        ("migrate", "logs/alice/logs_s2_v2", "name the files: gsvckpt migrate logs/alice/logs_s2_v2/*.pth"),
        ("migrate", "SoVITS weights", "name the files: gsvckpt migrate 'SoVITS weights'/*.pth"),
        ("migrate", ".", "name the files; gsvckpt inspect . -r lists"),
        ("migrate", "none", "name the files; gsvckpt inspect none -r lists"),
        ("strip-optimizer", "logs/alice", "name the files; gsvckpt inspect logs/alice -r lists"),
        ("convert-fp16", "SoVITS weights/", "name the files: gsvckpt convert-fp16 'SoVITS weights'/*.pth"),
    ],
)
def test_a_folder_is_answered_with_what_to_name(gsvckpt, experiment, command, folder, hint):
    run = gsvckpt(command, folder)
    assert_one_error(run, folder, 3)
    assert run.err.splitlines()[1].startswith(f"hint: {hint}")


def test_in_a_folder_of_files_their_ending_is_enough(gsvckpt, experiment, monkeypatch):
    monkeypatch.chdir(experiment)
    save(experiment / "x.$(touch pwned)", small(generator("v2"), "v2"))
    assert gsvckpt("migrate", ".").err.splitlines()[1] == "hint: name the files: gsvckpt migrate *.pth"
