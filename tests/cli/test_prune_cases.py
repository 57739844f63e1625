"""gsvckpt prune on what people reported that it took: each case with exactly what may go, and cases beside it."""

from __future__ import annotations

import os
import shutil
from collections import OrderedDict

import pytest
from support.builders import hparams, tensor, torch_zip

from .foreign import below, cut, deepspeed, distributed, fill, flat, going, left, lightning, model, notes, put, trainer, vits
from .samples import adamw, discriminator, generator, gpt, numbers, s1_training, s2_training, weights
from .trees import NOW, dated, s2_run, settings

LAST = ("--keep-last", "1")
CLIPS = [f"alice_interview.wav_{number * 160000:010}_{(number + 1) * 160000:010}.wav.pt" for number in range(1, 6)]


def voice(speaker, epoch, step, version="v2"):
    """SoVITS weights of a speaker, as the config inside calls them."""
    config = hparams({"model": hparams({"version": version}), "train": hparams({"epochs": 8}), "name": speaker, "version": version})
    return OrderedDict(weight=generator(version, "float16"), config=config, info=f"{epoch}epoch_{step}iteration")


def gpt_voice(speaker, epoch):
    return OrderedDict(weight=gpt(), config={"train": {"exp_name": speaker, "epochs": 20}}, info=f"GPT-e{epoch}")


def put_at(path, tree, stamp, hours):
    """A file as upstream's `my_save` writes it: the folder in the zip is the clock (process_ckpt.py:12-17)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(torch_zip(tree, prefix=f"{stamp}.12"))
    return dated(path, hours)


# --- features -----------------------------------------------------------------------------------------------------------------------------------


def features(experiment):
    for folder, shape in (("3-bert", (8, 4)), ("4-cnhubert", (1, 8, 4)), ("7-sv_cn", (1, 20))):
        fill(experiment / folder, {clip: numbers(shape) for clip in CLIPS})
    put(experiment / "5-wav32k" / CLIPS[0].removesuffix(".pt"), b"RIFF")


def test_features_are_never_saves(gsvckpt, tmp_path):
    features(tmp_path / "logs" / "alice")
    assert going(gsvckpt, tmp_path, *LAST) == set()
    s2_run(tmp_path / "logs" / "alice" / "logs_s2_v2", range(1, 4))
    assert going(gsvckpt, tmp_path, *LAST) == {f"logs/alice/logs_s2_v2/{letter}_{step}.pth" for letter in "GD" for step in (2, 4)}
    assert left(gsvckpt, tmp_path, *LAST)["logs/alice/3-bert"] == "5 feature files, which training reads"


def test_inspect_counts_features_apart(gsvckpt, tmp_path):
    features(tmp_path / "logs" / "alice")
    s2_run(tmp_path / "logs" / "alice" / "logs_s2_v2", range(1, 2))
    document = gsvckpt.json("inspect", "-r", tmp_path).document
    size = sum(
        (tmp_path / name).stat().st_size for name in below(tmp_path, *(f"logs/alice/{folder}" for folder in ("3-bert", "4-cnhubert", "7-sv_cn")))
    )
    assert document["features"] == {"files": 15, "bytes": size}
    assert [os.path.basename(file["path"]) for file in document["files"]] == ["D_2.pth", "G_2.pth"]
    assert "feature caches: 15 files" in (gsvckpt("inspect", "-r", tmp_path).out + gsvckpt("inspect", "-r", tmp_path).err)


def test_features_in_any_folder(gsvckpt, tmp_path):
    features(tmp_path / "moved")
    (tmp_path / "moved" / "3-bert").rename(tmp_path / "moved" / "bert_of_alice")
    s2_run(tmp_path / "logs_s2_v2", range(1, 3))
    assert going(gsvckpt, tmp_path, *LAST) == {"logs_s2_v2/G_2.pth", "logs_s2_v2/D_2.pth"}
    assert going(gsvckpt, tmp_path / "moved" / "bert_of_alice", *LAST) == set()
    assert going(gsvckpt, tmp_path / "moved" / "4-cnhubert", *LAST) == set()


def test_features_whose_names_say_steps(gsvckpt, tmp_path):
    """A recording may be called so."""
    fill(tmp_path / "3-bert", {f"step-{number}.wav.pt": numbers((8, 4)) for number in range(5)})
    fill(tmp_path / "hubert", {f"epoch_{number}.pt": numbers((8, 4)) for number in range(5)})
    assert going(gsvckpt, tmp_path, *LAST) == set()


def test_features_of_so_vits(gsvckpt, tmp_path):
    clips = {f"{number}.wav.{what}.pt": numbers((8, 4)) for number in range(4) for what in ("spec", "soft", "mel")}
    fill(tmp_path / "dataset" / "44k" / "alice", clips)
    for step in (0, 800):
        put(tmp_path / "logs" / "44k" / f"G_{step}.pth", vits(step), step)
        put(tmp_path / "logs" / "44k" / f"D_{step}.pth", vits(step, discriminator()), step)
    assert going(gsvckpt, tmp_path, *LAST) == {"logs/44k/G_0.pth", "logs/44k/D_0.pth"}


def test_features_in_dicts(gsvckpt, tmp_path):
    fill(tmp_path, {f"clip_{number}.pt": {"feature": numbers((8, 4)), "text": "a", "length": 8} for number in range(5)})
    assert going(gsvckpt, tmp_path, *LAST) == set()


def test_a_damaged_feature_hides_no_others(gsvckpt, tmp_path):
    features(tmp_path)
    (tmp_path / "3-bert" / CLIPS[0]).write_bytes(b"")
    cut(tmp_path / "4-cnhubert" / CLIPS[2])
    assert going(gsvckpt, tmp_path, *LAST) == set()


# --- numbers that are no progress ---------------------------------------------------------------------------------------------------------------


def test_numbered_voices(gsvckpt, tmp_path):
    for file, speaker, epoch, step in (("voice1", "paimon", 8, 400), ("voice2", "zhongli", 12, 900), ("voice3", "klee", 4, 100)):
        put(tmp_path / "SoVITS_weights_v2" / f"{file}.pth", voice(speaker, epoch, step), epoch)
    for file, speaker, epoch in (("voice1", "paimon", 15), ("voice2", "zhongli", 20)):
        put(tmp_path / "GPT_weights_v2" / f"{file}.ckpt", gpt_voice(speaker, epoch), epoch)
    assert going(gsvckpt, tmp_path, *LAST) == set()


@pytest.mark.parametrize("spelled", ["voice ({})", "alice{}", "alice_{}", "{}", "alice-{}-final", "v{}", "speaker.{}", "声音{}"])
def test_voices_numbered_in_other_ways(gsvckpt, tmp_path, spelled):
    for number in (1, 2, 3):
        put(tmp_path / "SoVITS_weights_v2" / f"{spelled.format(number)}.pth", voice("", 8, 400), number)
        put(tmp_path / "GPT_weights_v2" / f"{spelled.format(number)}.ckpt", gpt_voice("", 8), number)
        put(tmp_path / "embeddings" / f"{spelled.format(number)}.pt", {"spk_emb": numbers((1, 4), seed=number)}, number)
        put(tmp_path / "loras" / f"{spelled.format(number)}.safetensors", model(number), number)
    assert going(gsvckpt, tmp_path, *LAST) == set()


def test_a_number_that_is_the_epoch_by_chance(gsvckpt, tmp_path):
    for number in (4, 8, 12):
        put(tmp_path / "SoVITS_weights_v2" / f"voice{number}.pth", voice("", number, 400), number)
    assert going(gsvckpt, tmp_path, *LAST) == set()


def test_two_speakers_under_one_name(gsvckpt, tmp_path):
    """Files renamed to one name: what they say inside are two voices."""
    folder = tmp_path / "SoVITS_weights_v2"
    for speaker, epoch in (("paimon", 4), ("paimon", 8), ("klee", 2), ("klee", 6)):
        put(folder / f"alice_e{epoch}_s{epoch * 10}.pth", voice(speaker, epoch, epoch * 10), epoch)
    assert going(gsvckpt, tmp_path, *LAST) == {f"SoVITS_weights_v2/alice_e{epoch}_s{epoch * 10}.pth" for epoch in (2, 4)}


def test_versions_are_no_progress(gsvckpt, tmp_path):
    for number in ("v1", "v2", "v1.2", "2.0", "3"):
        put(tmp_path / f"net_{number}.pth", model())
    assert going(gsvckpt, tmp_path, *LAST) == set()


def test_a_number_is_progress_where_the_file_tells_it(gsvckpt, tmp_path):
    for step in (100, 200):
        put(tmp_path / f"net_{step}.pt", {"model": model(), "step": step}, step)
        put(tmp_path / f"ema_{step}.pt", model(), step)
    assert going(gsvckpt, tmp_path, *LAST) == {"net_100.pt"}


# --- parts of one save --------------------------------------------------------------------------------------------------------------------------


def test_numbered_parts_of_one_save(gsvckpt, tmp_path):
    optimizer = adamw(model())
    fill(tmp_path / "llama-2-13b", {f"consolidated.{rank:02}.pth": model(rank) for rank in range(2)})
    fill(tmp_path / "shards", {f"model-{part:05}-of-00004.safetensors": model(part, str(part)) for part in range(1, 5)})
    fill(tmp_path / "bins", {f"pytorch_model-{part:05}-of-00003.bin": model(part, str(part)) for part in range(1, 4)})
    fill(
        tmp_path / "run" / "checkpoint-10",
        {"model.safetensors": model(), **{f"rng_state_{rank}.pth": {"cpu": tensor("uint8", (16,))} for rank in range(4)}},
    )
    names = ("model.safetensors", "model_1.safetensors", "optimizer.bin", "optimizer_1.bin")
    fill(tmp_path / "accel" / "checkpoint_0", {name: model() if "model" in name else optimizer for name in names})
    for rank in range(2):
        ranked = {"model_optim_rng.pt": {"model": model(rank), "iteration": 100, "optimizer": optimizer}}
        fill(tmp_path / "megatron" / "iter_0000100" / f"mp_rank_{rank:02}", ranked)
    fill(tmp_path / "deepspeed" / "global_step600", deepspeed(600, 4))
    fill(tmp_path / "parts", {f"decoder_{number}.pth": model(number) for number in (1, 2)})
    fill(tmp_path / "voices", {f"speaker_{number}.pt": {"spk_emb": numbers((1, 4), seed=number)} for number in range(5)})
    assert going(gsvckpt, tmp_path, *LAST) == set()


@pytest.mark.parametrize("spelled", ["step-{}-rank{}.pt", "rank{1}_step_{0}.pt", "iter_{}_part_{}.pth", "model-step-{}-0000{}-of-00002.bin"])
def test_ranks_in_one_folder_stay_and_go_together(gsvckpt, tmp_path, spelled):
    for step in (100, 200, 300):
        for rank in (1, 2):
            put(tmp_path / spelled.format(step, rank), {"model": model(rank), "step": step, "optimizer": adamw(model())}, step)
    assert going(gsvckpt, tmp_path, *LAST) == {spelled.format(step, rank) for step in (100, 200) for rank in (1, 2)}


def test_ranks_that_tell_progress_inside_alone(gsvckpt, tmp_path):
    for rank in range(4):
        put(tmp_path / f"model_rank_{rank}.pt", {"model": model(rank), "step": 100, "optimizer": adamw(model())}, rank)
    assert going(gsvckpt, tmp_path, *LAST) == set()


def test_ranks_without_progress(gsvckpt, tmp_path):
    for rank in range(4):
        put(tmp_path / f"model_rank_{rank}.pt", model(rank), rank)
        put(tmp_path / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt", {"optimizer_state_dict": {"zero_stage": 2, "flat": [numbers((9,))]}}, rank)
    assert going(gsvckpt, tmp_path, *LAST) == set()


def test_a_rank_that_is_missing(gsvckpt, tmp_path):
    """The newest iteration was being written when the machine died."""
    for step in (100, 200, 300):
        for rank in range(2):
            folder = tmp_path / f"iter_{step:07}" / f"mp_rank_{rank:02}"
            put(folder / "model_optim_rng.pt", {"model": model(rank), "iteration": step, "optimizer": adamw(model())}, step)
    shutil.rmtree(tmp_path / "iter_0000300" / "mp_rank_01")
    assert going(gsvckpt, tmp_path, *LAST) == below(tmp_path, "iter_0000100")


@pytest.mark.parametrize("steps", [(100, 200), (100, 200, 300)])
@pytest.mark.parametrize("spelled", ["step-{}-rank{}.pt", "model-step-{}-0000{}-of-00002.bin"])
def test_a_rank_that_is_missing_in_one_folder(gsvckpt, tmp_path, spelled, steps):
    for step in steps:
        for rank in (1, 2):
            put(tmp_path / spelled.format(step, rank), {"model": model(rank), "step": step, "optimizer": adamw(model())}, step)
    (tmp_path / spelled.format(steps[-1], 2)).unlink()
    assert going(gsvckpt, tmp_path, *LAST) == {spelled.format(step, rank) for step in steps[:-2] for rank in (1, 2)}


def test_an_optimizer_that_is_missing(gsvckpt, tmp_path):
    for step in (100, 200):
        put(tmp_path / f"model_step_{step}.pt", {"model": model(), "step": step}, step)
        put(tmp_path / f"optimizer_step_{step}.pt", adamw(model()), step)
    (tmp_path / "optimizer_step_200.pt").unlink()
    assert going(gsvckpt, tmp_path, *LAST) == set()


# --- pairs --------------------------------------------------------------------------------------------------------------------------------------


def so_vits(folder, letters="GD", saves=((0, 1), (800, 20), (1600, 40), (2400, 60))):
    for step, epoch in saves:
        for letter in letters.split() if " " in letters else letters:
            put(folder / f"{letter}_{step}.pth", vits(epoch, discriminator() if letter == "D" else None if letter == "G" else model()), epoch)
    return folder


def of_steps(letters, *steps):
    return {f"{letter}_{step}.pth" for letter in letters.split() for step in steps}


def test_the_newest_pair_was_cut_off(gsvckpt, tmp_path):
    so_vits(tmp_path, "G D DUR")
    cut(tmp_path / "D_2400.pth", 0.1)
    assert going(gsvckpt, tmp_path, *LAST) == of_steps("G D DUR", 0, 800)


@pytest.mark.parametrize("letter", ["G", "DUR", "WD"])
def test_any_member_that_is_damaged_stands_for_all(gsvckpt, tmp_path, letter):
    so_vits(tmp_path, "G D DUR WD")
    path = tmp_path / f"{letter}_2400.pth"
    data = bytearray(path.read_bytes())
    at = data.index(numbers((4, 4)).store.data if letter != "G" else weights({"emb_g.weight": (1, 8)})["emb_g.weight"].store.data)
    data[at] ^= 1
    path.write_bytes(data)
    dated(path, 60)
    assert going(gsvckpt, tmp_path, *LAST) == of_steps("G D DUR WD", 0, 800)


@pytest.mark.parametrize("letter", ["G", "D"])
def test_a_member_that_is_missing(gsvckpt, tmp_path, letter):
    so_vits(tmp_path)
    (tmp_path / f"{letter}_2400.pth").unlink()
    assert going(gsvckpt, tmp_path, *LAST) == of_steps("G D", 0, 800)


@pytest.mark.parametrize("letter", ["G", "D", "DUR"])
def test_of_two_saves_the_newest_lacks_a_member(gsvckpt, tmp_path, letter):
    so_vits(tmp_path, "G D DUR", ((0, 1), (800, 20)))
    (tmp_path / f"{letter}_800.pth").unlink()
    assert going(gsvckpt, tmp_path, *LAST) == set()


def test_a_generator_alone_is_a_save_where_all_are(gsvckpt, tmp_path):
    so_vits(tmp_path, "G")
    assert going(gsvckpt, tmp_path, *LAST) == of_steps("G", 0, 800, 1600)


def test_discriminators_alone_are_no_saves(gsvckpt, tmp_path):
    """Nothing goes on from them, so none is the newest, and none goes: nobody knows which G they belong to."""
    so_vits(tmp_path, "D")
    assert going(gsvckpt, tmp_path, *LAST) == set()


def test_latest_is_one_of_them(gsvckpt, tmp_path):
    so_vits(tmp_path)
    for letter in "GD":
        put(tmp_path / f"{letter}_latest.pth", vits(70, discriminator() if letter == "D" else None), 70)
    assert going(gsvckpt, tmp_path, *LAST) == of_steps("G D", 0, 800, 1600, 2400)
    assert going(gsvckpt, tmp_path, "--keep-last", "2") == of_steps("G D", 0, 800, 1600)


def test_a_damaged_latest_does_not_count(gsvckpt, tmp_path):
    so_vits(tmp_path)
    for letter in "GD":
        put(tmp_path / f"{letter}_latest.pth", vits(70, discriminator() if letter == "D" else None), 70)
    cut(tmp_path / "D_latest.pth")
    assert going(gsvckpt, tmp_path, *LAST) == of_steps("G D", 0, 800, 1600)


def test_letters_without_training_are_models(gsvckpt, tmp_path):
    for number in (1, 2, 3):
        put(tmp_path / f"G_{number}.pth", model(number), number)
        put(tmp_path / f"UNET_{number}.pth", model(number), number)
    assert going(gsvckpt, tmp_path, *LAST) == set()


@pytest.mark.parametrize("kind", ["gpt", "lora"])
def test_a_save_that_somebody_renamed_stands_for_itself(gsvckpt, tmp_path, kind):
    """The renamed one is the newest or the oldest: the others go by the rules as if it were not there."""
    place = "cfm.base_model.model.estimator.transformer_blocks.0.attn.to_q"
    shapes = {f"{place}.base_layer.weight": (8, 8), f"{place}.lora_A.default.weight": (4, 8), f"{place}.lora_B.default.weight": (8, 4)}

    def write(epoch, name):
        if kind == "gpt":
            tree = s1_training(gpt()) | {"epoch": epoch - 1, "global_step": epoch, "callbacks": {}}
            return put(tmp_path / "logs" / "alice" / "logs_s1_v2" / "ckpt" / f"{name or f'epoch={epoch - 1}-step={epoch}'}.ckpt", tree, epoch)
        state = weights(shapes | {"bridge.0.weight": (4, 4), "enc_p.ssl_proj.weight": (8, 4)})
        return put(tmp_path / "logs" / "alice" / "logs_s2_v3_lora_4" / f"{name or f'G_{epoch}'}.pth", s2_training(state, epoch), epoch)

    old, middle, _ = (write(epoch, "") for epoch in (2, 3, 4))
    write(1, "good one")
    write(5, "最好的")
    assert going(gsvckpt, tmp_path, *LAST) == {path.relative_to(tmp_path).as_posix() for path in (old, middle)}


# --- what is in use -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("named", [".", "GPT-SoVITS", "GPT-SoVITS/GPT_weights_v2"])
def test_a_voice_in_use_stays_whatever_folder_is_named(gsvckpt, tmp_path, named):
    root = tmp_path / "GPT-SoVITS"
    weights_of_alice(root / "GPT_weights_v2")
    settings(root, GPT="GPT_weights_v2/alice-e5.ckpt")
    assert going(gsvckpt, tmp_path / named, *LAST) == {f"{'GPT-SoVITS/GPT_weights_v2/alice-e10.ckpt'.removeprefix(named).removeprefix('/')}"}


def test_settings_of_one_installation_say_nothing_of_another(gsvckpt, tmp_path):
    for name in ("old", "new"):
        weights_of_alice(tmp_path / name / "GPT_weights_v2")
    settings(tmp_path / "new", GPT="GPT_weights_v2/alice-e5.ckpt")
    assert going(gsvckpt, tmp_path, *LAST) == {
        "old/GPT_weights_v2/alice-e5.ckpt",
        "old/GPT_weights_v2/alice-e10.ckpt",
        "new/GPT_weights_v2/alice-e10.ckpt",
    }


@pytest.mark.parametrize("of", ["folder", "file in it", "shard", "file"])
def test_what_a_link_leads_to_stays(gsvckpt, tmp_path, of):
    for step in (100, 200, 300):
        trainer(tmp_path / "run", step, step)
        names = [f"net-step-{step}-0000{part}-of-00002.safetensors" for part in (1, 2)]
        for name, part in zip(names, "ab", strict=True):
            put(tmp_path / name, model(1, part), step)
        index = {"metadata": {}, "weight_map": {f"net.{part}.weight": name for name, part in zip(names, "ab", strict=True)}}
        put(tmp_path / f"net-step-{step}.safetensors.index.json", index, step)
    target = {
        "folder": "run/checkpoint-100",
        "file in it": "run/checkpoint-100/model.safetensors",
        "shard": "net-step-100-00002-of-00002.safetensors",
        "file": "net-step-100.safetensors.index.json",
    }[of]
    (tmp_path / f"best{os.path.splitext(target)[1]}").symlink_to(target)
    old = [below(tmp_path, f"run/checkpoint-{step}") for step in (100, 200)]
    old += [{path.name for path in tmp_path.glob(f"net-step-{step}*")} for step in (100, 200)]
    old.pop(0 if of in ("folder", "file in it") else 2)
    assert going(gsvckpt, tmp_path, *LAST) == set().union(*old)


# --- trained again ------------------------------------------------------------------------------------------------------------------------------

DAYS = 24


def test_trained_again_under_the_same_name(gsvckpt, tmp_path):
    folder = tmp_path / "SoVITS_weights_v2"
    old, new = ((4, 100, 0), (8, 200, 1)), ((2, 30, 59 * DAYS), (4, 60, 59 * DAYS + 1))
    for epoch, step, hours in (*old, *new):
        stamp = NOW + hours * 3600
        put_at(folder / f"alice_e{epoch}_s{step}.pth", voice("alice", epoch, step), stamp, hours)
    assert going(gsvckpt, tmp_path, *LAST) == {"SoVITS_weights_v2/alice_e4_s100.pth", "SoVITS_weights_v2/alice_e2_s30.pth"}
    assert [group["group"] for group in gsvckpt.json("prune", tmp_path, *LAST, "--dry-run").document["groups"]] == ["alice/sovits-weights/v2"] * 2


def test_trained_three_times_on_one_day(gsvckpt, tmp_path):
    folder = tmp_path / "SoVITS_weights_v2"
    minutes = iter(range(0, 600, 10))
    for run in (1, 2, 3):
        for epoch in (4, 8):
            put_at(folder / f"alice_e{epoch}_s{epoch * run}.pth", voice("alice", epoch, epoch * run), NOW + 60 * next(minutes), 0)
    assert going(gsvckpt, tmp_path, *LAST) == {f"SoVITS_weights_v2/alice_e4_s{4 * run}.pth" for run in (1, 2, 3)}


def test_times_of_copying_tell_nothing(gsvckpt, tmp_path):
    """Copied in the order of their names: e12, e16, e4, e8, all within seconds; nothing inside tells the time."""
    folder = tmp_path / "SoVITS_weights_v2"
    for number, epoch in enumerate((12, 16, 4, 8)):
        path = put(folder / f"alice_e{epoch}_s{epoch}.pth", voice("alice", epoch, epoch))
        os.utime(path, (NOW + number, NOW + number))
    assert going(gsvckpt, tmp_path, *LAST) == {f"SoVITS_weights_v2/alice_e{epoch}_s{epoch}.pth" for epoch in (4, 8, 12)}


def test_the_time_inside_goes_before_that_of_the_file(gsvckpt, tmp_path):
    """Somebody copied the old run's files lately, one a day; inside they tell that all of them are one run."""
    folder = tmp_path / "SoVITS_weights_v2"
    for number, epoch in enumerate((4, 8, 12)):
        put_at(folder / f"alice_e{epoch}_s{epoch}.pth", voice("alice", epoch, epoch), NOW + number * 600, -number * DAYS)
    assert going(gsvckpt, tmp_path, *LAST) == {f"SoVITS_weights_v2/alice_e{epoch}_s{epoch}.pth" for epoch in (4, 8)}
    assert notes(gsvckpt, tmp_path, *LAST) == []


def test_times_of_files_where_nothing_inside_tells(gsvckpt, tmp_path):
    folder = tmp_path / "GPT_weights_v2"
    for epoch, name, day in ((8, "alice-e8", 0), (12, "alice-e12", 1), (4, "alice-e4", 30)):
        put(folder / f"{name}.ckpt", gpt_voice("alice", epoch), day * DAYS)
    assert going(gsvckpt, tmp_path, *LAST) == {"GPT_weights_v2/alice-e8.ckpt"}


def test_a_run_that_went_on_is_one_run(gsvckpt, tmp_path):
    folder = tmp_path / "GPT_weights_v2"
    for epoch, day in ((4, 0), (8, 1), (12, 40), (16, 90)):
        put(folder / f"alice-e{epoch}.ckpt", gpt_voice("alice", epoch), day * DAYS)
    assert going(gsvckpt, tmp_path, *LAST) == {f"GPT_weights_v2/alice-e{epoch}.ckpt" for epoch in (4, 8, 12)}


# --- folders ------------------------------------------------------------------------------------------------------------------------------------


def test_a_new_run_into_the_same_folder(gsvckpt, tmp_path):
    for step, hours in ((500, 0), (600, 1), (700, 2), (100, 49)):
        trainer(tmp_path / "run", step, hours)
    assert going(gsvckpt, tmp_path, *LAST) == below(tmp_path, "run/checkpoint-500", "run/checkpoint-600")


def test_a_folder_with_a_link_in_it_stays(gsvckpt, tmp_path):
    for step in (100, 200, 300):
        trainer(tmp_path / "run", step, step)
    elsewhere = put(tmp_path / "elsewhere" / "tokenizer.json", "{}")
    (tmp_path / "run" / "checkpoint-100" / "tokenizer.json").symlink_to(elsewhere)
    assert going(gsvckpt, tmp_path, *LAST) == below(tmp_path, "run/checkpoint-200")


@pytest.mark.parametrize("missing", ["model.safetensors", "optimizer.pt", "rng_state.pth"])
def test_a_folder_that_was_being_written(gsvckpt, tmp_path, missing):
    for step in (100, 200, 300):
        trainer(tmp_path / "run", step, step)
    (tmp_path / "run" / "checkpoint-300" / missing).unlink()
    assert going(gsvckpt, tmp_path, *LAST) == below(tmp_path, "run/checkpoint-100")


@pytest.mark.parametrize("missing", ["model.safetensors", "optimizer.pt", "rng_state.pth"])
def test_of_two_folders_the_newest_was_being_written(gsvckpt, tmp_path, missing):
    for step in (100, 200):
        trainer(tmp_path / "run", step, step)
    (tmp_path / "run" / "checkpoint-200" / missing).unlink()
    assert going(gsvckpt, tmp_path, *LAST) == set()


@pytest.mark.parametrize("spelled", [(".",), ("./run",), ("run/",), ("run//",), ("run", "./run"), ("run", "link"), ("../here/run",), ("run/../run",)])
def test_a_folder_is_one_save_however_it_is_spelled(gsvckpt, tmp_path, monkeypatch, spelled):
    here = tmp_path / "here"
    for step in (100, 200):
        trainer(here / "run", step, step, ranks=2)
    (here / "link").symlink_to("run")
    monkeypatch.chdir(here)
    (group,) = gsvckpt.json("prune", *spelled, *LAST, "--dry-run").document["groups"]
    (gone,) = group["remove"]
    assert {os.path.realpath(path) for path in gone["paths"]} == {str(path) for path in (here / "run" / "checkpoint-100").iterdir()}


def test_a_folder_is_kept_by_its_name(gsvckpt, tmp_path):
    for step in (100, 200, 300):
        trainer(tmp_path / "run", step, step)
    for glob in ("checkpoint-100", "run/checkpoint-1*", "checkpoint-100/*"):
        assert going(gsvckpt, tmp_path, "--keep", glob) == below(tmp_path, "run/checkpoint-200")


def test_a_folder_with_a_file_cut_off(gsvckpt, tmp_path):
    for step in (100, 200, 300):
        trainer(tmp_path / "run", step, step)
    cut(tmp_path / "run" / "checkpoint-300" / "model.safetensors")
    assert going(gsvckpt, tmp_path, *LAST) == below(tmp_path, "run/checkpoint-100")


def test_the_best_that_the_trainer_names_stays(gsvckpt, tmp_path):
    for step in (100, 200, 300, 400):
        trainer(tmp_path / "run", step, step, best="run/checkpoint-200" if step > 100 else "run/checkpoint-100")
    assert going(gsvckpt, tmp_path, *LAST) == below(tmp_path, "run/checkpoint-300", "run/checkpoint-100")


def test_the_best_of_each_of_two_runs_stays(gsvckpt, tmp_path):
    for hours, (step, best) in enumerate(((500, 500), (600, 600), (700, 600), (100, 100), (200, 200), (300, 200))):
        trainer(tmp_path / "run", step, hours * DAYS, best=f"/old/place/checkpoint-{best}")
    assert going(gsvckpt, tmp_path, *LAST) == below(tmp_path, "run/checkpoint-500", "run/checkpoint-100")


def test_what_latest_names_stays(gsvckpt, tmp_path):
    for step in (100, 200, 300):
        fill(tmp_path / f"global_step{step}", deepspeed(step, 2), step)
    put(tmp_path / "latest", "global_step200")
    assert going(gsvckpt, tmp_path, *LAST) == below(tmp_path, "global_step100")


def test_a_metric_with_a_slash(gsvckpt, tmp_path):
    base = tmp_path / "lightning_logs" / "version_0" / "checkpoints"
    losses = {0: 0.91, 1: 0.55, 2: 0.41, 3: 0.62, 4: 0.70}
    for epoch, loss in losses.items():
        put(base / f"epoch={epoch}-val" / f"loss={loss:.2f}.ckpt", lightning(epoch, 100 * epoch + 100, str(base)), epoch)
    put(base / "last.ckpt", lightning(4, 500, str(base)), 4)
    gone = {f"lightning_logs/version_0/checkpoints/epoch={epoch}-val/loss={losses[epoch]:.2f}.ckpt" for epoch in range(4)}
    assert going(gsvckpt, tmp_path, *LAST) == gone


def test_two_metrics_with_slashes(gsvckpt, tmp_path):
    for epoch in range(3):
        put(tmp_path / f"epoch={epoch}-val" / f"loss=0.{epoch}-val" / f"acc=0.{9 - epoch}.ckpt", lightning(epoch, 10 * epoch + 10), epoch)
    assert going(gsvckpt, tmp_path, *LAST) == {f"epoch={epoch}-val/loss=0.{epoch}-val/acc=0.{9 - epoch}.ckpt" for epoch in range(2)}


def test_a_metric_with_a_slash_before_the_step(gsvckpt, tmp_path):
    for step in (100, 200, 300):
        put(tmp_path / f"step={step}-train" / f"loss={step / 1000}.ckpt", lightning(0, step), step)
    assert going(gsvckpt, tmp_path, *LAST) == below(tmp_path, "step=100-train", "step=200-train")


def test_two_saves_of_one_epoch_are_two(gsvckpt, tmp_path):
    """Told apart by the metric in their names, or by Lightning's `-v1`."""
    for epoch, losses in ((0, (0.9, 0.8)), (1, (0.7, 0.6))):
        for half, loss in enumerate(losses):
            put(tmp_path / "halves" / f"epoch={epoch}-loss={loss}.ckpt", lightning(epoch, 100 * epoch + 50 * half + 50), 2 * epoch + half)
    for hours, name in enumerate(("epoch=0-step=10", "epoch=1-step=20", "epoch=1-step=20-v1", "epoch=1-step=20-v2")):
        put(tmp_path / "again" / f"{name}.ckpt", lightning(int(name[6]), 10 * int(name[6]) + 10), hours)
    cut(tmp_path / "again" / "epoch=1-step=20-v2.ckpt")
    halves = {f"halves/epoch={epoch}-loss={loss}.ckpt" for epoch, loss in ((0, 0.9), (0, 0.8), (1, 0.7))}
    assert going(gsvckpt, tmp_path, *LAST) == halves | {"again/epoch=0-step=10.ckpt", "again/epoch=1-step=20.ckpt"}


def sharded(root):
    for epoch, step in ((0, 10), (1, 20), (2, 30)):
        fill(root / f"epoch={epoch}-step={step}.ckpt", {**distributed(), "meta.pt": lightning(epoch, step) | {"state_dict": {}}}, step)
    return root


def test_folders_of_distributed_checkpoints(gsvckpt, tmp_path):
    sharded(tmp_path / "checkpoints")
    assert going(gsvckpt, tmp_path, *LAST) == below(tmp_path, "checkpoints/epoch=0-step=10.ckpt", "checkpoints/epoch=1-step=20.ckpt")


@pytest.mark.parametrize("harm", ["missing", "short", "not metadata", "broken metadata", "no meta.pt"])
def test_a_distributed_checkpoint_that_is_not_whole(gsvckpt, tmp_path, harm):
    newest = sharded(tmp_path) / "epoch=2-step=30.ckpt"
    if harm == "short":
        cut(newest / "__1_0.distcp")
    elif harm == "broken metadata":
        cut(newest / ".metadata")
    else:
        (newest / {"missing": "__1_0.distcp", "not metadata": ".metadata", "no meta.pt": "meta.pt"}[harm]).unlink()
    assert going(gsvckpt, tmp_path, *LAST) == below(tmp_path, "epoch=0-step=10.ckpt")


def test_distributed_checkpoints_of_bare_names(gsvckpt, tmp_path):
    for number in (1, 2):
        fill(tmp_path / f"model{number}", distributed())
        fill(tmp_path / f"step-{number}", distributed(), number)
    assert going(gsvckpt, tmp_path, *LAST) == below(tmp_path, "step-1")


def test_a_save_of_fewer_ranks_does_not_count(gsvckpt, tmp_path):
    """A run that went on with fewer GPUs looks like one whose newest save was being written: then the last of the others stays, too."""
    for step, ranks in ((100, 4), (200, 4), (300, 4), (400, 2)):
        trainer(tmp_path / "run", step, step, ranks=ranks)
    assert going(gsvckpt, tmp_path, *LAST) == below(tmp_path, "run/checkpoint-100", "run/checkpoint-200")


# --- copies -------------------------------------------------------------------------------------------------------------------------------------

APPLE = bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(40)
COPIES = [
    "{} (1){}",
    "{} - Copy{}",
    "{} - Copy (2){}",
    "{} copy{}",
    "{} copy 2{}",
    "Copy of {}{}",
    "{} - 副本{}",
    "{} - 副本 (2){}",
    "{}的副本{}",
    "{} 拷贝{}",
    "{} - コピー{}",
    "{} - Kopie{}",
    "{}.sync-conflict-20260901-101500-ABCDEFG{}",
    "{} (Alice's conflicted copy 2026-09-01){}",
    "{} (冲突副本 2026-09-01){}",
    "{}-DESKTOP-1A2B3C4{}",
    "{}-LAPTOP-1A2B3C4{}",
    "{}{}.bak",
    "{}{}.old",
    "{}{}~",
    ".ipynb_checkpoints/{}-checkpoint{}",
]


def weights_of_alice(root):
    for epoch in (5, 10, 15):
        put(root / f"alice-e{epoch}.ckpt", gpt_voice("alice", epoch), epoch)
    return root


def test_names_of_copies(gsvckpt, tmp_path):
    folder = weights_of_alice(tmp_path / "GPT_weights_v2")
    for epoch in (5, 10, 15):
        put(folder / f"._alice-e{epoch}.ckpt", APPLE, 99)
    (folder / ".ipynb_checkpoints").mkdir()
    for of, copied in (
        ("alice-e15.ckpt", "alice-e15 (1).ckpt"),
        ("alice-e10.ckpt", "alice-e10.sync-conflict-20260901-101500-ABCDEFG.ckpt"),
        ("alice-e10.ckpt", ".ipynb_checkpoints/alice-e10-checkpoint.ckpt"),
        ("alice-e15.ckpt", "alice-e15 - 副本.ckpt"),
    ):
        shutil.copyfile(folder / of, folder / copied)
    put(folder / "alice-e20.ckpt.crdownload", (folder / "alice-e15.ckpt").read_bytes()[:300])
    put(folder / "desktop.ini", "[.ShellClassInfo]\n")
    assert going(gsvckpt, tmp_path, *LAST) == {"GPT_weights_v2/alice-e5.ckpt", "GPT_weights_v2/alice-e10.ckpt"}
    assert left(gsvckpt, tmp_path, *LAST)["GPT_weights_v2/alice-e15 (1).ckpt"] == "a copy of alice-e15.ckpt, by its name"


@pytest.mark.parametrize("spelled", COPIES)
def test_copies_of_many_programs(gsvckpt, tmp_path, spelled):
    """A copy of the newest, of the oldest and of one that is not there any more change nothing, whatever their times."""
    weights_of_alice(tmp_path)
    for epoch in (5, 15, 20):
        put(tmp_path / spelled.format(f"alice-e{epoch}", ".ckpt"), gpt_voice("alice", epoch), 99)
    assert going(gsvckpt, tmp_path, *LAST) == {"alice-e5.ckpt", "alice-e10.ckpt"}


@pytest.mark.parametrize("spelled", ["{} (1){}", "{} - 副本{}", "{}.sync-conflict-20260901-101500-ABCDEFG{}"])
def test_copies_of_pairs_and_of_lightning(gsvckpt, tmp_path, spelled):
    """GPT-SoVITS itself takes such a copy for a save when it goes on (AR/utils/__init__.py:8-24); here it is none."""
    run = s2_run(tmp_path / "logs_s2_v2", range(1, 4))
    ckpt = tmp_path / "logs_s1_v2" / "ckpt"
    for epoch in range(3):
        put(ckpt / f"epoch={epoch}-step={epoch + 1}.ckpt", s1_training(gpt()) | {"epoch": epoch, "global_step": epoch + 1}, epoch)
    for letter in "GD":
        shutil.copyfile(run / f"{letter}_2.pth", run / spelled.format(f"{letter}_2", ".pth"))
    shutil.copyfile(ckpt / "epoch=0-step=1.ckpt", ckpt / spelled.format("epoch=0-step=1", ".ckpt"))
    pairs = {f"logs_s2_v2/{letter}_{step}.pth" for letter in "GD" for step in (2, 4)}
    assert going(gsvckpt, tmp_path, *LAST) == pairs | {f"logs_s1_v2/ckpt/epoch={epoch}-step={epoch + 1}.ckpt" for epoch in range(2)}


@pytest.mark.parametrize("end", [".crdownload", ".part", ".partial", ".download", ".aria2", ".tmp", ".incomplete", ".!ut", ".xltd"])
def test_unfinished_downloads(gsvckpt, tmp_path, end):
    weights_of_alice(tmp_path)
    put(tmp_path / f"alice-e20.ckpt{end}", (tmp_path / "alice-e15.ckpt").read_bytes(), 99)
    assert going(gsvckpt, tmp_path, *LAST) == {"alice-e5.ckpt", "alice-e10.ckpt"}


def test_the_time_of_a_copy_does_not_divide_a_run(gsvckpt, tmp_path):
    weights_of_alice(tmp_path)
    put(tmp_path / "alice-e5 (1).ckpt", gpt_voice("alice", 5), 99 * DAYS)
    assert going(gsvckpt, tmp_path, *LAST) == {"alice-e5.ckpt", "alice-e10.ckpt"}


def test_safetensors_of_a_step_and_its_copy(gsvckpt, tmp_path):
    for step in (100, 200):
        put(tmp_path / f"lora-step-{step}.safetensors", flat(model()), step)
    put(tmp_path / "lora-step-300 (1).safetensors", flat(model()), 300)
    assert going(gsvckpt, tmp_path, *LAST) == {"lora-step-100.safetensors"}


def test_pairs_of_gpt_sovits_with_a_training_file_beside(gsvckpt, tmp_path):
    """A file that a user keeps beside the run, by a name of its own."""
    run = s2_run(tmp_path / "logs_s2_v2", range(1, 4))
    put(run / "good one.pth", s2_training(generator("v2", enc_q=True), 1), 50)
    assert going(gsvckpt, tmp_path, *LAST) == {f"logs_s2_v2/{letter}_{step}.pth" for letter in "GD" for step in (2, 4)}
