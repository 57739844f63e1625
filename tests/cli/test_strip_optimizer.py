"""gsvckpt strip-optimizer: what goes, that all else keeps its bytes, and that GPT-SoVITS resumes from what is left."""

from __future__ import annotations

import pickle
import re
import shlex
from pathlib import Path

import pytest
import torch
from support.oracle import assert_same, state_dict

from .samples import assert_one_error, discriminator, generator, gpt, numbers, s1_training, s2_training, save, shared, small, weights

KEYS = {"removed", "bytes_before", "bytes_after", "source", "output"}


def strip(gsvckpt, source, *options):
    output = source.with_name(f"out{source.suffix}")
    return gsvckpt.json("strip-optimizer", source, "-o", output, "--force", *options).file, torch.load(output, weights_only=False)


@pytest.mark.parametrize("model", [generator("v2", enc_q=True), discriminator()], ids=["G", "D"])
def test_s2_keeps_the_key_optimizer_with_none(gsvckpt, tmp_path, model):
    source = save(tmp_path / "G_16.pth", s2_training(model))
    file, after = strip(gsvckpt, source)
    before = torch.load(source)
    assert file.keys() >= KEYS
    moments = sum(part.nbytes for state in before["optimizer"]["state"].values() for part in state.values())
    assert file["removed"] == [{"key": "optimizer", "bytes": moments}]
    assert file["bytes_before"] - file["bytes_after"] >= moments
    assert list(after) == ["model", "iteration", "optimizer", "learning_rate", "global_step"]
    assert after["global_step"] == 16  # as the optimizer counted: nothing else in the file would tell it
    assert after["optimizer"] is None
    assert (after["iteration"], after["learning_rate"]) == (8, 1e-4)
    assert_same(after["model"], before["model"])


@pytest.mark.parametrize("name", ["G_16.pth", "G_233333333333.pth", "copy.pth", "G_12.pth"])
def test_the_step_is_noted_unless_the_name_states_another(gsvckpt, tmp_path, name):
    source = save(tmp_path / name, s2_training(generator("v2", enc_q=True)))
    _, after = strip(gsvckpt, source)
    assert after.get("global_step") == (None if name == "G_12.pth" else 16)
    other = tmp_path / "other.pth"
    assert gsvckpt("strip-optimizer", source, "-o", other).code == 0
    assert gsvckpt.json("inspect", other).file["progress"]["step"] == (None if name == "G_12.pth" else 16)
    assert gsvckpt("strip-optimizer", other, "--check").code == 0  # nothing is left to remove


def test_s1_keeps_empty_lists_and_its_loops(gsvckpt, tmp_path):
    source = save(tmp_path / "epoch=1-step=12.ckpt", s1_training(gpt(dtype="float32")))
    file, after = strip(gsvckpt, source)
    before = torch.load(source, weights_only=False)
    assert [entry["key"] for entry in file["removed"]] == ["callbacks", "optimizer_states", "lr_schedulers", "MixedPrecision"]
    assert list(after) == [key for key in before if key not in ("callbacks", "MixedPrecision")]
    assert (after["optimizer_states"], after["lr_schedulers"]) == ([], [])
    for key in ("epoch", "global_step", "pytorch-lightning_version", "state_dict", "loops", "hparams_name", "hyper_parameters"):
        assert_same(after[key], before[key])


@pytest.mark.parametrize("command", ["strip-optimizer", "convert-fp16", "migrate"])
def test_a_gpt_training_file_says_what_todays_lightning_needs(gsvckpt, tmp_path, command):
    source = save(tmp_path / "epoch=1-step=12.ckpt", s1_training(gpt(dtype="float32")))
    output = tmp_path / "it's out.ckpt"
    run = gsvckpt.json(command, source, "-o", output)
    (note,) = (note for note in run.file["notes"] if "pytorch-lightning 2.6" in note)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(output, weights_only=True)  # as Lightning does
    program, *words = shlex.split(note.rpartition(": ")[2])
    assert (program, gsvckpt(*words).code) == ("gsvckpt", 0)
    assert torch.load(output, weights_only=True)["hyper_parameters"]["output_dir"] == "logs/xxx/logs_s1_v2"


def test_nothing_is_said_of_lightning_where_nothing_is_to_be_done(gsvckpt, tmp_path):
    source = save(tmp_path / "epoch=1-step=12.ckpt", s1_training(gpt(dtype="float32")))
    assert gsvckpt.json("migrate", source, "--plain", "-o", tmp_path / "plain.ckpt").file["notes"] == []
    assert not any(
        "lightning" in note for note in gsvckpt.json("strip-optimizer", tmp_path / "plain.ckpt", "-o", tmp_path / "out.ckpt").file["notes"]
    )
    other = save(tmp_path / "G_16.pth", s2_training(generator("v2", enc_q=True)))
    assert gsvckpt.json("strip-optimizer", other, "-o", tmp_path / "out.pth").file["notes"] == []


def test_every_tensor_that_stays_keeps_its_exact_bytes(gsvckpt, tmp_path):
    torch.manual_seed(1)
    odd = torch.randn(64)
    odd[0], odd[1], odd[2] = torch.nan, torch.inf, -0.0
    model = state_dict() | {"odd": odd, "view": odd[::2], "half": odd.half(), "brain": odd.bfloat16()}
    torch.save(
        {"model": model, "optimizer": torch.optim.AdamW([torch.nn.Parameter(odd)]).state_dict(), "iteration": 3, "learning_rate": 1e-4},
        tmp_path / "G_1.pth",
    )
    _, after = strip(gsvckpt, tmp_path / "G_1.pth")
    assert_same(after["model"], torch.load(tmp_path / "G_1.pth")["model"])


def test_other_projects_files(gsvckpt, tmp_path):
    model = weights({"w": (4, 4)})
    state = s2_training(model)["optimizer"]
    tree = {
        "net_g": model,
        "optim_g": state,
        "optim_d": state,
        "scheduler": {"last_epoch": 3},
        "scaler": {"scale": 65536.0},
        "epoch": 3,
        "notes": ["keep me"],
    }
    file, after = strip(gsvckpt, save(tmp_path / "x.pth", tree))
    assert {entry["key"] for entry in file["removed"]} == {"optim_g", "optim_d", "scheduler", "scaler"}
    assert [entry["bytes"] for entry in file["removed"]].count(0) == 3  # one state under two keys frees its bytes once
    assert list(after) == ["net_g", "epoch", "notes"]


def test_what_the_model_shares_with_its_optimizer_stays(gsvckpt, tmp_path):
    model = weights({"w": (4, 4)})
    tree = s2_training(model)
    tree["optimizer"]["state"][0]["exp_avg"] = shared("float32", (4, 4), model["w"].store)
    file, after = strip(gsvckpt, save(tmp_path / "G_1.pth", tree))
    assert file["removed"] == [{"key": "optimizer", "bytes": 4 + 64}]
    assert after["model"]["w"].shape == (4, 4)


def test_drop_and_keep(gsvckpt, tmp_path):
    source = save(tmp_path / "x.ckpt", s1_training(gpt(dtype="float32")))
    file, after = strip(gsvckpt, source, "--keep", "callbacks", "--keep", "lr_schedulers", "--drop", "hyper_parameters")
    assert {entry["key"] for entry in file["removed"]} == {"optimizer_states", "MixedPrecision", "hyper_parameters"}
    assert "hyper_parameters" not in after
    assert after["lr_schedulers"] != []


@pytest.mark.parametrize("option", ["--drop", "--keep"])
def test_a_key_that_is_not_there_is_a_usage_error(gsvckpt, tmp_path, option):
    source = save(tmp_path / "G_1.pth", s2_training(generator("v2")))
    run = gsvckpt("strip-optimizer", source, option, "optimiser")
    assert_one_error(run, source, 2)
    assert "optimiser" in run.err
    assert "learning_rate" in run.err
    assert [path.name for path in tmp_path.iterdir()] == ["G_1.pth"]


def test_dropping_what_goes_anyhow_leaves_what_resuming_needs(gsvckpt, tmp_path):
    _, after = strip(gsvckpt, save(tmp_path / "G_1.pth", s2_training(generator("v2"))), "--drop", "optimizer")
    assert after["optimizer"] is None
    _, after = strip(gsvckpt, save(tmp_path / "x.ckpt", s1_training(gpt())), "--drop", "optimizer_states")
    assert after["optimizer_states"] == []


@pytest.mark.parametrize(
    ("name", "key"), [("G_1.pth", "iteration"), ("G_1.pth", "model"), ("x.ckpt", "pytorch-lightning_version"), ("x.ckpt", "loops")]
)
def test_dropping_what_resuming_cannot_do_without_is_refused(gsvckpt, tmp_path, name, key):
    source = save(tmp_path / name, s2_training(generator("v2")) if name == "G_1.pth" else s1_training(gpt()))
    assert_one_error(gsvckpt("strip-optimizer", source, "--drop", key), source, 4)
    _, after = strip(gsvckpt, source, "--drop", key)  # `strip` insists
    assert key not in after


@pytest.mark.parametrize(
    "tree",
    [small(generator("v2"), "v2"), {"weight": gpt(), "config": {}}, {"w": numbers((2, 2))}, [numbers((2,))], {"optimizer": None, "model": {}}],
    ids=range(5),
)
def test_files_without_training_state_have_nothing_to_change(gsvckpt, tmp_path, tree):
    file = gsvckpt.json("strip-optimizer", save(tmp_path / "x.pth", tree)).file
    assert (file["changed"], file["output"], file["removed"]) == (False, None, [])


def test_a_second_time_changes_nothing(gsvckpt, tmp_path):
    for name, tree in (("G_1.pth", s2_training(generator("v2"))), ("x.ckpt", s1_training(gpt()))):
        source = save(tmp_path / name, tree)
        strip(gsvckpt, source)
        output = source.with_name(f"out{source.suffix}")
        data = output.read_bytes()
        file = gsvckpt.json("strip-optimizer", output, "--in-place").file
        assert (file["changed"], file["removed"], output.read_bytes()) == (False, [], data)


# --- resuming as GPT-SoVITS does -----------------------------------------------------------------------------------------------------------------


def latest_checkpoint_path(folder: Path, pattern: str) -> Path:
    """utils.py:112-117: the largest number made of all digits of the whole path."""
    return max(folder.glob(pattern), key=lambda path: int("".join(filter(str.isdigit, str(path)))))


def load_checkpoint(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer | None) -> tuple[float, int]:
    """utils.py:23-60: every key is taken without a default, and a missing weight keeps its fresh value."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=False)
    iteration, learning_rate = checkpoint["iteration"], checkpoint["learning_rate"]
    if optimizer is not None and checkpoint["optimizer"] is not None:
        optimizer.load_state_dict(checkpoint["optimizer"])
    saved = checkpoint["model"]
    model.load_state_dict({name: saved.get(name, value) for name, value in model.state_dict().items()})
    return learning_rate, iteration


@pytest.fixture
def run_folder(tmp_path):
    """A folder after two saves of a training run, and its model."""
    torch.manual_seed(2)
    model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)
    for step in (8, 16):
        model(torch.ones(1, 4)).sum().backward()
        optimizer.step()
        tree = {"model": model.state_dict(), "iteration": step // 2, "optimizer": optimizer.state_dict(), "learning_rate": 1e-4}
        torch.save(tree, tmp_path / f"G_{step}.pth")
    return tmp_path, model


def test_training_resumes_from_a_stripped_file(gsvckpt, run_folder):
    folder, model = run_folder
    assert gsvckpt("strip-optimizer", folder / "G_8.pth", folder / "G_16.pth", "--in-place").code == 0
    fresh = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 2))
    optimizer = torch.optim.AdamW(fresh.parameters(), 1e-4)
    path = latest_checkpoint_path(folder, "G_*.pth")
    assert path.name == "G_16.pth"
    assert load_checkpoint(path, fresh, optimizer) == (1e-4, 8)
    assert all(torch.equal(one, two) for one, two in zip(fresh.parameters(), model.parameters(), strict=True))
    assert optimizer.state == {}


@pytest.mark.parametrize("command", ["strip-optimizer", "convert-fp16"])
def test_an_output_beside_its_source_does_not_become_the_latest(gsvckpt, run_folder, command):
    folder, _ = run_folder
    assert gsvckpt(command, folder / "G_8.pth", folder / "G_16.pth").code == 0
    assert len(list(folder.iterdir())) == 4
    assert latest_checkpoint_path(folder, "G_*.pth") == folder / "G_16.pth"
    assert len(list(folder.glob("G_*.pth"))) == 2


def test_neither_does_one_of_lightning(gsvckpt, tmp_path):
    save(tmp_path / "epoch=1-step=12.ckpt", s1_training(gpt(dtype="float32")))
    for command in ("strip-optimizer", "convert-fp16"):
        assert gsvckpt(command, tmp_path / "epoch=1-step=12.ckpt").code == 0
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 3
    assert [name for name in names if re.match(r"epoch=(\d+)-step=(\d+)\.ckpt", name)] == ["epoch=1-step=12.ckpt"]  # AR/utils/__init__.py:8-24
