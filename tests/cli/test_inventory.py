"""What a folder holds, as retention sees it."""

from __future__ import annotations

import os
from functools import partial

import pytest
from support.builders import tensor

from gsvckpt.commands.prune.classify import BeginningCache, look, look_through
from gsvckpt.commands.prune.inventory import STRAYS, take_inventory
from gsvckpt.commands.prune.known_beginning import read_beginning, read_scalars, split_beginning
from gsvckpt.engine.discover import find_files
from gsvckpt.files.temporary import temp_name

from .samples import discriminator, evil, generator, gpt, lora, s1_training, s2_training, save, small, weights
from .trees import NOW, dated, gpt_sovits, s1_run, s2_run, settings

take = partial(take_inventory, jobs=1)


def saves(found):
    return {(save.group.label, save.epoch, tuple(os.path.basename(path) for path in save.paths)) for save in found.saves}


def only(found):
    (save,) = found.saves
    return save


def ignored(found):
    return {os.path.basename(left.path): left.why for left in found.ignored}


def test_every_kind_is_a_group_of_its_own(tmp_path):
    found = take([str(gpt_sovits(tmp_path, epochs=range(1, 3)))])
    assert saves(found) == {
        *(("alice/sovits-training/v2", n, (f"G_{2 * n}.pth", f"D_{2 * n}.pth")) for n in (1, 2)),
        *(("alice/gpt-training/v2", n, (f"epoch={n - 1}-step={12 * n}.ckpt",)) for n in (1, 2)),
        *(("alice/sovits-weights/v2", n, (f"alice_e{n}_s{2 * n}.pth",)) for n in (1, 2)),
        *(("alice/gpt-weights/v2", n, (f"alice-e{n}.ckpt",)) for n in (1, 2)),
    }
    assert {save.group.kind for save in found.saves if save.trained} == {"sovits-training", "gpt-training"}


def test_two_experiments_in_a_weights_folder_are_two_groups(tmp_path):
    for name in ("alice", "bob"):
        gpt_sovits(tmp_path, name, range(1, 2))
    found = take([str(tmp_path / "SoVITS_weights_v2")])
    assert {save.group.name for save in found.saves} == {"alice", "bob"}


def test_what_tells_no_progress_is_no_save(tmp_path):
    for name in ("x2.pth", "x4.pth", "vae.pth", "voice_v1.2.pth", "model_9.pth", "model_10.pth", "consolidated.00.pth"):
        save(tmp_path / name, weights({"a": (2, 2)}))
    found = take([str(tmp_path)])
    assert not found.saves
    assert len(ignored(found)) == 7
    assert all("does not state how far training had come" in why for why in ignored(found).values())


@pytest.mark.parametrize(
    "form", ["epoch={}.ckpt", "net_epoch_{:03}.pt", "net-e{}.pth", "net_e{}_s200.pth", "step-{}.pt", "iter_{}.pth", "ckpt-{}.pt"]
)
def test_names_that_say_progress_order_what_tells_nothing_itself(tmp_path, form):
    for number in (9, 10):
        dated(save(tmp_path / form.format(number), weights({"a": (2, 2)})), number)
    found = take([str(tmp_path)])
    assert len({one.group for one in found.saves}) == 1
    assert max(found.saves, key=lambda one: one.age).paths[0].endswith(form.format(10))


def test_different_models_of_one_name_are_two_runs(tmp_path):
    save(tmp_path / "net_epoch_1.pth", weights({"a": (2, 2)}))
    save(tmp_path / "net_epoch_2.pth", weights({"a": (4, 4)}))
    assert len({one.group for one in take([str(tmp_path)]).saves}) == 2


def test_a_damaged_g_is_still_half_of_its_pair(tmp_path):
    s2_run(tmp_path / "logs_s2_v2", range(1, 3))
    path = tmp_path / "logs_s2_v2" / "G_4.pth"
    path.write_bytes(path.read_bytes()[:1000])
    found = take([str(tmp_path)])
    (save,) = found.damaged
    assert sorted(os.path.basename(path) for path in save.paths) == ["D_4.pth", "G_4.pth"]
    assert "G_4.pth" in found.damaged[save]


def test_a_d_alone_counts_for_nothing(tmp_path):
    s2_run(tmp_path / "logs_s2_v2", range(1, 2))
    (tmp_path / "logs_s2_v2" / "G_2.pth").unlink()
    assert list(take([str(tmp_path)]).damaged.values()) == ["its G is missing"]


def test_a_lora_run_has_no_d(tmp_path):
    tree = s2_training(generator("v3") | {f"cfm.base_model.model.{name}": value for name, value in lora().items()})
    save(tmp_path / "logs" / "a" / "logs_s2_v3_lora_4" / "G_2.pth", tree)
    found = take([str(tmp_path)])
    assert only(found).group.label == "a/sovits-lora-training/v3"
    assert not found.damaged


def test_shards_are_one_unit(gsvckpt, tmp_path):
    source = save(tmp_path / "one.pth", {f"layer.{n}": tensor("float32", (100,), range(100)) for n in range(6)})
    gsvckpt.json("migrate", source, "--to", "safetensors", "--max-shard-size", "900", "-o", tmp_path / "out")
    (index,) = (tmp_path / "out").glob("*.index.json")
    index.rename(index.with_name("one-step-5.safetensors.index.json"))
    whole = only(take([str(tmp_path / "out")]))
    assert sorted(whole.paths) == sorted(str(path) for path in (tmp_path / "out").iterdir())


def test_the_file_that_gpt_sovits_resumes_from_is_guarded(tmp_path):
    run = s2_run(tmp_path / "logs" / "a" / "logs_s2_v2", range(1, 4))
    for letter, tree in (("G", generator("v2", enc_q=True)), ("D", discriminator())):
        dated(save(run / f"{letter}_233333333333.pth", s2_training(tree, 1)), 1)
    guarded = [save for save in take([str(tmp_path)]).saves if save.guards]
    assert [save.guards for save in guarded] == [("GPT-SoVITS resumes from it",)]
    assert "G_233333333333.pth" in guarded[0].paths[0]


@pytest.mark.parametrize("written", ["GPT_weights_v2/alice-e1.ckpt", "C:\\gsv\\GPT_weights_v2\\alice-e1.ckpt", "./GPT_weights_v2/alice-e1.ckpt"])
def test_what_settings_name_is_guarded(tmp_path, written):
    gpt_sovits(tmp_path, epochs=range(1, 3))
    settings(tmp_path, GPT=written)
    guarded = [save for save in take([str(tmp_path / "GPT_weights_v2")]).saves if save.guards]
    assert [save.guards for save in guarded] == [("weight.json names it",)]
    assert guarded[0].epoch == 1


def test_what_yaml_settings_name_is_guarded(tmp_path):
    gpt_sovits(tmp_path, "声音", range(1, 3))
    folder = tmp_path / "GPT_SoVITS" / "configs"
    folder.mkdir(parents=True)
    (folder / "tts_infer.yaml").write_text(
        'custom:\n  t2s_weights_path: GPT_weights_v2/other.ckpt\n  vits_weights_path: "SoVITS_weights_v2/\\u58F0\\u97F3_e2_s4.pth"\n'
    )
    guarded = [save for save in take([str(tmp_path)]).saves if any("tts_infer" in guard for guard in save.guards)]
    assert [save.epoch for save in guarded] == [2]


def test_pretrained_models_are_guarded_unless_they_are_named(tmp_path):
    folder = tmp_path / "GPT_SoVITS" / "pretrained_models"
    path = save(folder / "my_e1.pth", weights({"a": (2, 2)}))
    assert only(take([str(tmp_path)])).guards == ("a pretrained model",)
    assert not only(take([str(folder)])).guards
    assert not only(take([str(path)])).guards


def test_official_names_are_guarded(tmp_path):
    save(tmp_path / "s1v3.ckpt", {"state_dict": weights({"a": (2, 2)}), "epoch": 3})
    assert "official s1v3.ckpt" in only(take([str(tmp_path)])).guards[0]


def test_links_are_left_alone_and_what_they_lead_to_stays(tmp_path):
    s1_run(tmp_path / "in", range(1, 3))
    elsewhere = save(tmp_path / "elsewhere.ckpt", weights({"a": (2, 2)}))
    os.symlink(elsewhere, tmp_path / "in" / "out.ckpt")
    os.symlink("epoch=0-step=12.ckpt", tmp_path / "in" / "last.ckpt")
    found = take([str(tmp_path / "in")])
    assert "outside the folder" in ignored(found)["out.ckpt"]
    assert "a link" in ignored(found)["last.ckpt"]
    assert [save.guards for save in found.saves if save.epoch == 1] == [("last.ckpt links to it",)]


def test_what_cannot_be_identified_is_left_alone(tmp_path):
    (tmp_path / "notes.pth").write_text("hello")
    save(tmp_path / "evil.pth", evil())
    save(tmp_path / "numbers.pth", {"a": 1})
    found = take([str(tmp_path)])
    assert not found.saves
    assert set(ignored(found)) == {"notes.pth", "evil.pth", "numbers.pth"}


def test_strays_are_offered_once_nobody_can_be_saving_them(tmp_path):
    (tmp_path / "logs").mkdir()
    old = dated(save(tmp_path / "1745000000.1234567.pth", {"a": 1}), 0)
    new = dated(save(tmp_path / "1745000009.1.pth", {"a": 1}), 9.9)
    found = take([str(tmp_path)], now=NOW + 36_000)
    assert [(save.group.kind, save.paths) for save in found.saves] == [(STRAYS, (str(old),))]
    assert "the middle of a save" in ignored(found)[new.name]


def test_the_trash_is_no_place_to_look(tmp_path):
    save(tmp_path / ".gsvckpt-trash" / "x" / "files" / "G_1.pth", weights({"a": (2, 2)}))
    assert not take([str(tmp_path)]).saves


# --- known beginnings ---------------------------------------------------------------------------------------------------------------------------


def test_what_begins_as_another_is_seen_as_reading_it_sees_it(tmp_path):
    gpt_sovits(tmp_path, epochs=range(1, 300, 37))
    paths = find_files([str(tmp_path)], recursive=True).checkpoints
    assert look_through(paths, BeginningCache()) == [look(path) for path in paths]
    one, two = (read_beginning(path) for path in paths[:2])
    assert read_scalars(split_beginning(one), two) is not None


@pytest.mark.parametrize("change", ["cut", "other version", "stripped", "head"])
def test_what_differs_is_read(tmp_path, change):
    run = s2_run(tmp_path / "logs_s2_v2", range(1, 3))
    path = run / "G_4.pth"
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-40])
    elif change == "other version":
        save(path, s2_training(generator("v2Pro", enc_q=True), 2))
    elif change == "stripped":
        save(path, s2_training(generator("v2", enc_q=True), 2) | {"optimizer": None})
    else:
        path.write_bytes(b"05" + path.read_bytes()[2:])
    paths = [str(run / "G_2.pth"), str(path)]
    assert look_through(paths, BeginningCache()) == [look(path) for path in paths]


def test_a_folder_that_was_named_by_a_link_is_guarded_as_if_it_was_not(tmp_path):
    gpt_sovits(tmp_path / "gpt")
    settings(tmp_path / "gpt", SoVITS="SoVITS_weights_v2/alice_e1_s2.pth")
    for number, (folder, guard) in enumerate(
        {"SoVITS_weights_v2": "weight.json names it", "logs/alice/logs_s2_v2": "GPT-SoVITS resumes from it"}.items()
    ):
        link = tmp_path / f"link {number}"
        link.symlink_to(tmp_path / "gpt" / folder)
        assert [save.guards for save in take([str(link)]).saves if save.guards] == [(guard,)]


@pytest.mark.parametrize("inside", ["logs", "logs/alice", "logs/alice/logs_s2_v2"])
def test_groups_have_the_same_names_from_inside(tmp_path, monkeypatch, inside):
    gpt_sovits(tmp_path, epochs=range(1, 3))
    labels = {save.group.label for save in take([str(tmp_path / inside)]).saves}
    monkeypatch.chdir(tmp_path / inside)
    assert {save.group.label for save in take(["."]).saves} == labels
    assert all(label.startswith("alice/") for label in labels)


def test_voices_that_users_named_are_no_saves_of_one_training(tmp_path):
    for folder in ("SoVITS_weights_v2", "logs/voices"):
        for number, name in enumerate(("alice", "bob", "carol 2"), 1):
            save(tmp_path / folder / f"{name}.pth", small(generator("v2", "float16"), "v2") | {"info": f"{number}epoch_{number}iteration"})
    found = take([str(tmp_path)])
    assert len({save.group for save in found.saves}) == 6
    for name in ("alice_G_2.pth", "bob_G_4.pth"):
        save(tmp_path / "training" / name, s2_training(generator("v2", enc_q=True), 1))
    assert len({save.group for save in take([str(tmp_path / "training")]).saves}) == 2
    for name in ("alice_1.pth", "alice_2.pth"):
        save(tmp_path / "mine" / name, small(generator("v2", "float16"), "v2"))
    assert {save.group.label for save in take([str(tmp_path / "mine")]).saves} == {f"mine/alice_{number}.pth/sovits-weights/v2" for number in (1, 2)}


def test_a_bundle_is_one_experiment(tmp_path):
    folder = tmp_path / "alice" / "checkpoints"
    save(folder / "epoch_001.ckpt", s1_training(gpt()))
    save(folder / "sovits_epoch_001_G.pth", s2_training(generator("v2", enc_q=True), 1))
    save(folder / "sovits_epoch_001_D.pth", s2_training(discriminator(), 1))
    save(tmp_path / "alice" / "best_model.ckpt", s1_training(gpt()))
    found = take([str(tmp_path)])
    assert {save.group.name for save in found.saves if save.group.folder == str(folder)} == {"alice"}
    assert [len(save.paths) for save in found.saves if save.group.kind == "sovits-training"] == [2]
    assert [save.guards for save in found.saves if save.guards] == [("the best model of a bundle",)]


def test_links_to_folders_are_named_and_not_followed(tmp_path):
    s2_run(tmp_path / "elsewhere", range(1, 3))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to(tmp_path / "elsewhere")
    found = take([str(tmp_path / "here")])
    assert not found.saves
    assert "not followed" in ignored(found)["link"]


def test_what_a_killed_run_left_is_no_checkpoint(tmp_path):
    save(tmp_path / "voice.pth", weights({"a": (2, 2)}))
    save(tmp_path / temp_name(), weights({"a": (2, 2)}))
    assert find_files([str(tmp_path)], recursive=True, thorough=True).checkpoints == (str(tmp_path / "voice.pth"),)
