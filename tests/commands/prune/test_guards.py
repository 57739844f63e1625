"""What is kept whatever a policy says, as something else names it."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from cli.samples import adamw, generator, gpt, s1_training, save
from cli.trees import dated

from gsvckpt.commands.prune.guards import Guards
from gsvckpt.commands.prune.inventory import take_inventory
from gsvckpt.commands.verify.manifest import ManifestEntry, record

needs_links = pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links")


def guards_of(folder: Path) -> dict[str, tuple[str, ...]]:
    """The guards of each save below a folder, by the name of its first file, or of the folder that it is."""
    inventory = take_inventory([str(folder)], 1)
    return {os.path.basename(save.place or save.paths[0]): save.guards for save in inventory.saves}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """`checkpoints/epoch_001.ckpt` and on, as migrate --bundle makes them, without a best one."""
    for epoch in (1, 2, 3):
        tree = s1_training(gpt()) | {"epoch": epoch - 1, "global_step": 12 * epoch, "callbacks": {}}
        dated(save(tmp_path / "我的声音" / "checkpoints" / f"epoch_00{epoch}.ckpt", tree), epoch)
    return tmp_path / "我的声音"


@needs_links
@pytest.mark.parametrize("inside", ["", "checkpoints"], ids=["the bundle", "its checkpoints alone"])
def test_what_the_best_model_of_a_bundle_links_to(bundle: Path, inside: str) -> None:
    (bundle / "best_model.ckpt").symlink_to(Path("checkpoints") / "epoch_002.ckpt")
    found = guards_of(bundle / inside)
    assert {name: guards for name, guards in found.items() if guards} == {"epoch_002.ckpt": ("best_model.ckpt links to it",)}


def test_the_best_model_of_a_bundle_itself(bundle: Path) -> None:
    (bundle / "best_model.ckpt").write_bytes((bundle / "checkpoints" / "epoch_002.ckpt").read_bytes())
    assert "the best model of a bundle" in guards_of(bundle)["best_model.ckpt"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("experiment.yaml", "voice: alice\nbest: checkpoints/epoch_002.ckpt  # the one that sounds best\n"),
        ("config.yaml", 'best: "epoch_002.ckpt"\n'),
        ("experiment.yaml", "best: D:\\voices\\我的声音\\checkpoints\\epoch_002.ckpt\n"),
        ("gsvckpt.toml", 'best = "checkpoints/epoch_002.ckpt"\n'),
        ("checkpoints/gsvckpt.toml", "[mine]\nbest = 'epoch_002.ckpt'\n"),
    ],
)
def test_what_is_named_in_a_bundle(bundle: Path, name: str, text: str) -> None:
    (bundle / name).write_text(text, encoding="utf-8")
    for folder in (bundle, bundle / "checkpoints"):
        assert {path: guards for path, guards in guards_of(folder).items() if guards} == {"epoch_002.ckpt": (f"{os.path.basename(name)} names it",)}


def test_what_a_manifest_records_may_go(bundle: Path) -> None:
    """It lists all files that are there. Another bundle's words are about another file."""
    record(str(bundle / "checkpoints"), [ManifestEntry(f"epoch_00{epoch}.ckpt", 1, 1) for epoch in (1, 2, 3)])
    (bundle.parent / "bob").mkdir()
    (bundle.parent / "bob" / "experiment.yaml").write_text("best: checkpoints/epoch_002.ckpt\n")
    (bundle / "experiment.yaml").write_text("base: pretrained/other.ckpt\nlog: epoch_002.txt\n")
    assert set(guards_of(bundle).values()) == {()}


# --- what training called the best -----------------------------------------------------------------------------------------------------------------


def lightning(folder: Path, epoch: int, best: object) -> Path:
    callback = {"monitor": "val_loss", "best_model_path": best, "best_k_models": {}}
    state = generator("v2")
    tree = {"epoch": epoch, "global_step": 10 * epoch, "pytorch-lightning_version": "2.5.0", "state_dict": state, "optimizer_states": [adamw(state)]}
    return dated(save(folder / f"epoch={epoch}-step={10 * epoch}.ckpt", tree | {"callbacks": {"ModelCheckpoint": callback}}), epoch)


@pytest.mark.parametrize("place", ["/home/me/run/epoch=1-step=10.ckpt", "D:\\run\\epoch=1-step=10.ckpt", "epoch=1-step=10.ckpt"])
def test_the_newest_save_of_lightning_names_the_best(tmp_path: Path, place: str) -> None:
    for epoch in (0, 1, 2, 3):
        lightning(tmp_path / "run", epoch, place if epoch == 3 else f"/home/me/run/epoch={epoch}-step={10 * epoch}.ckpt")
    found = {name: guards for name, guards in guards_of(tmp_path).items() if guards}
    assert found == {"epoch=1-step=10.ckpt": ("epoch=3-step=30.ckpt calls it the best",)}


@pytest.mark.parametrize("told", ["", None, 7, "gone.ckpt", "/home/me/run/"])
def test_a_best_that_is_not_there_keeps_nothing(tmp_path: Path, told: object) -> None:
    for epoch in (0, 1):
        lightning(tmp_path / "run", epoch, told)
    assert set(guards_of(tmp_path).values()) == {()}


def trainer(folder: Path, step: int, best: int, hours: float) -> None:
    """A save of Hugging Face's Trainer."""
    place = folder / f"checkpoint-{step}"
    save(place / "pytorch_model.bin", generator("v2"))
    (place / "trainer_state.json").write_text(json.dumps({"global_step": step, "best_model_checkpoint": f"/old/out/checkpoint-{best}"}))
    for path in (*place.iterdir(), place):
        dated(path, hours)


def test_the_newest_save_of_hugging_face_names_the_best(tmp_path: Path) -> None:
    """Older ones were the best when they were saved, which keeps none of them."""
    for step in (100, 200, 300, 400):
        trainer(tmp_path / "out", step, min(step, 300), step)
    found = {name: guards for name, guards in guards_of(tmp_path).items() if guards}
    assert found == {"checkpoint-300": ("trainer_state.json of checkpoint-400 names it",)}


def test_so_does_the_newest_of_a_run_that_began_anew(tmp_path: Path) -> None:
    for step, best, hours in ((100, 100, 8), (200, 100, 9), (300, 300, 1), (400, 300, 2)):
        trainer(tmp_path / "out", step, best, hours)
    assert {name for name, guards in guards_of(tmp_path).items() if guards} == {"checkpoint-100", "checkpoint-300"}


def test_and_what_was_written_when_training_ended(tmp_path: Path) -> None:
    for step in (100, 200):
        trainer(tmp_path / "out", step, 200, step)
    (tmp_path / "out" / "trainer_state.json").write_text(json.dumps({"global_step": 200, "best_model_checkpoint": "out/checkpoint-100"}))
    assert Guards([str(tmp_path)]).of_folder(str(tmp_path / "out" / "checkpoint-100")) == ("trainer_state.json of out names it",)
