"""gsvckpt prune on whole trees as programs leave them: for two rules each, exactly what may go."""

from __future__ import annotations

import json
from collections import OrderedDict

from support.builders import hparams, tensor, torch_zip

from .foreign import below, deepspeed, distributed, fill, flat, going, left, lightning, model, put, trainer, vits
from .samples import adamw, discriminator, generator, gpt, lora, numbers, s1_training, s2_training
from .trees import dated, settings

LAST = ("--keep-last", "1")
HEADS = {"v2Pro": b"05", "v2ProPlus": b"06", "v3": b"03", "v4": b"04"}


def each(spelled: str, *numbers: object) -> set[str]:
    return {spelled.format(*number) if isinstance(number, tuple) else spelled.format(number) for number in numbers}


# --- GPT-SoVITS ---------------------------------------------------------------------------------------------------------------------------------


def gpt_sovits(root, version, experiments):
    """The folder of an installation, with features, tools, pretrained models and runs. Experiments are (name, epochs); two steps an epoch."""
    old = version == "v1"
    suffix = "" if old else f"_{version}"
    symbols = "v1" if old else "v2"
    put(root / "webui.py", "# GPT-SoVITS")
    pretrained = root / "GPT_SoVITS" / "pretrained_models"
    put(pretrained / "s2G488k.pth", {"weight": generator("v1", enc_q=True), "config": hparams({}), "info": ""})
    put(pretrained / "s2D488k.pth", {"weight": discriminator()})
    put(pretrained / "s1bert25hz-2kh-longer-epoch=68e-step=50232.ckpt", {"weight": gpt(322), "config": {}, "info": "GPT-e68"})
    put(pretrained / "gsv-v2final-pretrained" / "s1bert25hz-5kh-longer-epoch=12-step=369668.ckpt", {"weight": gpt(), "config": {}, "info": "GPT-e12"})
    put(pretrained / "chinese-hubert-base" / "pytorch_model.bin", model())
    fill(root / "tools" / "uvr5" / "uvr5_weights", {"HP2_all_vocals.pth": model(2), "HP5_only_main_vocal.pth": model(3)})
    put(root / "tools" / "asr" / "models" / "step_100" / "model.pt", {"step": 100, "model": model(), "optimizer": adamw(model())})
    put(root / "tools" / "asr" / "models" / "step_200" / "model.pt", {"step": 200, "model": model(), "optimizer": adamw(model())})
    for name, epochs in experiments:
        logs = root / "logs" / name
        put(logs / "config.json", {"train": {"epochs": epochs}, "model": {"version": version}, "version": version})
        for folder in ("3-bert", "4-cnhubert", "7-sv_cn"):
            fill(logs / folder, {f"{name}_{clip:010}.wav.pt": numbers((4, 8)) for clip in range(4)})
        put(logs / "2-name2text.txt", "a\tb\n")
        put(logs / f"logs_s2{suffix}" / "eval" / "events.out.tfevents.1", b"")
        for epoch in range(1, epochs + 1):
            step = 2 * epoch
            put(logs / f"logs_s2{suffix}" / f"G_{step}.pth", s2_training(generator(version, enc_q=True), epoch), epoch)
            put(logs / f"logs_s2{suffix}" / f"D_{step}.pth", s2_training(discriminator(8 if "Pro" in version else 6), epoch), epoch)
            state = s1_training(gpt(322 if old else 732)) | {"epoch": epoch - 1, "global_step": step}
            put(logs / f"logs_s1{suffix}" / "ckpt" / f"epoch={epoch - 1}-step={step}.ckpt", state, epoch)
            config = hparams({"model": hparams({"version": version}), "train": hparams({"epochs": 8}), "name": name, "version": version})
            voice = OrderedDict(weight=generator(version, "float16"), config=config, info=f"{epoch}epoch_{step}iteration")
            put(root / f"SoVITS_weights{suffix}" / f"{name}_e{epoch}_s{step}.pth", torch_zip(voice, head=HEADS.get(version, b"PK")), epoch)
            spoken = OrderedDict(weight=gpt(322 if symbols == "v1" else 732), config={"train": {"exp_name": name}}, info=f"GPT-e{epoch}")
            put(root / f"GPT_weights{suffix}" / f"{name}-e{epoch}.ckpt", spoken, epoch)
    return root


def all_of_gpt_sovits(name, suffix, epochs):
    """The files of an experiment's saves of some epochs."""
    return {
        path
        for epoch in epochs
        for path in (
            f"logs/{name}/logs_s2{suffix}/G_{2 * epoch}.pth",
            f"logs/{name}/logs_s2{suffix}/D_{2 * epoch}.pth",
            f"logs/{name}/logs_s1{suffix}/ckpt/epoch={epoch - 1}-step={2 * epoch}.ckpt",
            f"SoVITS_weights{suffix}/{name}_e{epoch}_s{2 * epoch}.pth",
            f"GPT_weights{suffix}/{name}-e{epoch}.ckpt",
        )
    }


def test_gpt_sovits_v1(gsvckpt, tmp_path):
    gpt_sovits(tmp_path, "v1", (("alice", 4), ("声音", 3)))
    assert going(gsvckpt, tmp_path, *LAST) == all_of_gpt_sovits("alice", "", (1, 2, 3)) | all_of_gpt_sovits("声音", "", (1, 2))
    assert going(gsvckpt, tmp_path, "--keep-every", "2") == all_of_gpt_sovits("alice", "", (1, 3)) | all_of_gpt_sovits("声音", "", (1,))


def test_gpt_sovits_v2(gsvckpt, tmp_path):
    gpt_sovits(tmp_path, "v2", (("alice", 4), ("alice2", 2)))
    settings(tmp_path, GPT="GPT_weights_v2/alice-e2.ckpt", SoVITS="SoVITS_weights_v2/alice_e1_s2.pth")
    used = {"GPT_weights_v2/alice-e2.ckpt", "SoVITS_weights_v2/alice_e1_s2.pth"}
    assert going(gsvckpt, tmp_path, *LAST) == (all_of_gpt_sovits("alice", "_v2", (1, 2, 3)) | all_of_gpt_sovits("alice2", "_v2", (1,))) - used
    assert going(gsvckpt, tmp_path, "--keep-last", "3") == all_of_gpt_sovits("alice", "_v2", (1,)) - used
    assert "GPT_SoVITS" in left(gsvckpt, tmp_path, *LAST)


def test_gpt_sovits_v2pro(gsvckpt, tmp_path):
    gpt_sovits(tmp_path, "v2Pro", (("alice", 3),))
    assert going(gsvckpt, tmp_path, *LAST) == all_of_gpt_sovits("alice", "_v2Pro", (1, 2))
    assert going(gsvckpt, tmp_path, "--keep", "*_e1_*", "--keep-every", "3") == all_of_gpt_sovits("alice", "_v2Pro", (1, 2)) - {
        "SoVITS_weights_v2Pro/alice_e1_s2.pth"
    }


def test_gpt_sovits_of_several_versions(gsvckpt, tmp_path):
    """One voice as v2, as v2Pro and as LoRAs of two ranks: each is a run of its own."""
    gpt_sovits(tmp_path, "v2", (("alice", 2),))
    gpt_sovits(tmp_path, "v2Pro", (("alice", 2),))
    for rank in (4, 8):
        for epoch in (1, 2, 3):
            weights = OrderedDict(
                weight=lora(rank), config=hparams({"name": "alice", "version": "v3"}), info=f"{epoch}epoch_{2 * epoch}iteration", lora_rank=rank
            )
            path = tmp_path / "SoVITS_weights_v3" / f"alice_e{epoch}_s{2 * epoch}_l{rank}.pth"
            put(path, torch_zip(weights, head=b"03"), epoch)
    loras = each("SoVITS_weights_v3/alice_e{}_s{}_l{}.pth", *((epoch, 2 * epoch, rank) for epoch in (1, 2) for rank in (4, 8)))
    rest = all_of_gpt_sovits("alice", "_v2", (1,)) | all_of_gpt_sovits("alice", "_v2Pro", (1,))
    assert going(gsvckpt, tmp_path, *LAST) == loras | rest
    assert going(gsvckpt, tmp_path, "--keep-last", "2") == each("SoVITS_weights_v3/alice_e1_s2_l{}.pth", 4, 8)


# --- others of VITS -----------------------------------------------------------------------------------------------------------------------------


def test_so_vits_svc(gsvckpt, tmp_path):
    logs = tmp_path / "logs" / "44k"
    for step, epoch in ((0, 1), (800, 20), (1600, 40), (2400, 60)):
        put(logs / f"G_{step}.pth", vits(epoch), epoch)
        put(logs / f"D_{step}.pth", vits(epoch, discriminator()), epoch)
        put(logs / "diffusion" / f"model_{step}.pt", {"global_step": step, "model": model(), "optimizer": adamw(model())}, epoch)
    put(logs / "config.json", {"spk": {"alice": 0, "bob": 1}})
    put(logs / "kmeans_10000.pt", {"alice": {"n_features_in_": 4, "cluster_centers_": numbers((10, 4))}})
    fill(tmp_path / "dataset" / "44k" / "alice", {f"{clip}.wav.{what}.pt": numbers((4, 8)) for clip in range(3) for what in ("spec", "soft")})
    put(tmp_path / "pretrain" / "checkpoint_best_legacy_500.pt", {"args": None, "model": model(), "extra_state": {"epoch": 5}})
    put(tmp_path / "pretrain" / "nsf_hifigan" / "model", {"generator": model()})
    put(tmp_path / "pretrain" / "diffusion" / "model_0.pt", {"global_step": 0, "model": model(), "optimizer": adamw(model())})
    spelled = ("logs/44k/G_{}.pth", "logs/44k/D_{}.pth", "logs/44k/diffusion/model_{}.pt")
    assert going(gsvckpt, tmp_path, *LAST) == {path for one in spelled for path in each(one, 0, 800, 1600)}
    assert going(gsvckpt, tmp_path, "--keep-every", "40") == each(spelled[0], 800) | each(spelled[1], 800) | each(spelled[0], 0) | each(spelled[1], 0)
    assert going(gsvckpt, tmp_path, "--keep-every", "1600steps") == {path for one in spelled for path in each(one, 800)}


def rvc(name, epoch):
    """A voice of RVC (process_ckpt.py there)."""
    config = [1025, 32, 192, 192, 768, 2, 6, 3, 0, "1", [3, 7, 11], [[1, 3, 5]] * 3, [10, 10, 2, 2], 512, [16, 16, 4, 4], 109, 256, 40000]
    state = {"enc_p.emb_phone.weight": numbers((4, 768), "float16"), "dec.conv_pre.weight": numbers((8, 4), "float16")}
    return OrderedDict(weight=state, config=config, info=f"{epoch}epoch", sr="40k", f0=1, version="v2")


def test_rvc(gsvckpt, tmp_path):
    for epoch in (20, 40, 60):
        put(tmp_path / "assets" / "weights" / f"alice_e{epoch}_s{epoch * 10}.pth", rvc("alice", epoch), epoch)
        put(tmp_path / "assets" / "weights" / f"bob_e{epoch}_s{epoch * 5}.pth", rvc("bob", epoch), epoch)
        put(tmp_path / "logs" / "alice" / f"G_{epoch * 10}.pth", vits(epoch), epoch)
        put(tmp_path / "logs" / "alice" / f"D_{epoch * 10}.pth", vits(epoch, discriminator()), epoch)
    for number, name in enumerate(("alice", "bob", "singer1", "singer2")):
        put(tmp_path / "assets" / "weights" / f"{name}.pth", rvc(name, 60), number)
    for letter in "GD":
        put(tmp_path / "logs" / "bob" / f"{letter}_2333333.pth", vits(60, discriminator() if letter == "D" else None), 60)
        put(tmp_path / "assets" / "pretrained_v2" / f"f0{letter}40k.pth", {"model": model()})
        put(tmp_path / "assets" / "pretrained_v2" / f"f0{letter}48k.pth", {"model": model()})
    put(tmp_path / "assets" / "hubert" / "hubert_base.pt", {"model": model(), "args": None})
    put(tmp_path / "assets" / "rmvpe" / "rmvpe.pt", model())
    put(tmp_path / "logs" / "alice" / "added_IVF256_Flat_nprobe_1_alice_v2.index", b"IxFI")
    put(tmp_path / "logs" / "alice" / "3_feature768" / "0_0.npy", b"\x93NUMPY")

    def saves(*epochs):
        voices = {path for epoch in epochs for path in (f"alice_e{epoch}_s{epoch * 10}.pth", f"bob_e{epoch}_s{epoch * 5}.pth")}
        return {f"assets/weights/{path}" for path in voices} | each("logs/alice/{}_{}.pth", *((x, e * 10) for x in "GD" for e in epochs))

    assert going(gsvckpt, tmp_path, *LAST) == saves(20, 40)
    assert going(gsvckpt, tmp_path, "--keep-every", "40") == saves(20)


def test_bert_vits2(gsvckpt, tmp_path):
    models = tmp_path / "Data" / "alice" / "models"
    for step, epoch in ((0, 1), (1000, 10), (2000, 20), (3000, 30)):
        for letter in ("G", "D", "DUR", "WD"):
            put(models / f"{letter}_{step}.pth", vits(epoch, discriminator() if letter == "D" else None if letter == "G" else model()), epoch)
    fill(tmp_path / "Data" / "alice" / "wavs", {f"{clip}.{what}.pt": numbers((4, 8)) for clip in range(3) for what in ("bert", "spec", "emo")})
    put(tmp_path / "Data" / "alice" / "config.yml", "train: 1\n")
    put(tmp_path / "bert" / "chinese-roberta-wwm-ext-large" / "pytorch_model.bin", model())
    put(tmp_path / "slm" / "wavlm-base-plus" / "pytorch_model.bin", model())

    def saves(*steps):
        return each("Data/alice/models/{}_{}.pth", *((letter, step) for letter in ("G", "D", "DUR", "WD") for step in steps))

    assert going(gsvckpt, tmp_path, *LAST) == saves(0, 1000, 2000)
    assert going(gsvckpt, tmp_path, "--keep-last", "2") == saves(0, 1000)


def test_f5_tts(gsvckpt, tmp_path):
    """Checkpoints know updates only; `model_last.pt` is what it goes on from, and `pretrained_*` what it began with (trainer.py there)."""
    folder = tmp_path / "ckpts" / "F5TTS_v1_Base_vocos_pinyin_alice"

    def save(update):
        ema = {f"ema_model.{name}": value for name, value in model().items()} | {"initted": tensor("bool", (1,), [True])}
        states = {"model_state_dict": model(), "optimizer_state_dict": adamw(model()), "ema_model_state_dict": ema}
        return {**states, "scheduler_state_dict": {"last_epoch": update}, "update": update}

    for update in (10_000, 20_000, 30_000, 40_000):
        put(folder / f"model_{update}.pt", save(update), update / 1000)
    put(folder / "model_last.pt", save(41_000), 41)
    put(folder / "pretrained_model_1250000.safetensors", {f"ema_model.{name}": value for name, value in model().items()})
    put(folder / "pretrained_model_1200000.pt", {"ema_model_state_dict": {f"ema_model.{name}": value for name, value in model().items()}})
    put(folder / "samples" / "update_10000_gen.wav", b"RIFF")
    place = "ckpts/F5TTS_v1_Base_vocos_pinyin_alice/model_{}.pt"
    assert going(gsvckpt, tmp_path, *LAST) == each(place, 10_000, 20_000, 30_000)
    assert going(gsvckpt, tmp_path, "--keep-every", "20000steps") == each(place, 10_000, 30_000)
    assert going(gsvckpt, tmp_path, "--keep-every", "20000") == each(place, 10_000, 30_000)


# --- Lightning ----------------------------------------------------------------------------------------------------------------------------------


def test_lightning_with_save_top_k(gsvckpt, tmp_path):
    """Two versions of one run: the three best of each, and the last."""
    losses = {0: 0.9, 3: 0.4, 7: 0.3, 8: 0.5}
    for version in (0, 1):
        base = tmp_path / "lightning_logs" / f"version_{version}" / "checkpoints"
        best = {f"{base}/epoch={epoch}-val_loss={loss:.2f}.ckpt": tensor("float32", (), [loss]) for epoch, loss in losses.items()}
        told = {"best_k_models": best, "best_model_path": f"{base}/epoch=7-val_loss=0.30.ckpt"}
        for epoch, loss in losses.items():
            put(base / f"epoch={epoch}-val_loss={loss:.2f}.ckpt", lightning(epoch, 100 * (epoch + 1), str(base), **told), epoch)
        put(base / "last.ckpt", lightning(9, 1000, str(base), **told), 9)
        put(base.parent / "hparams.yaml", "lr: 1\n")
    place = "lightning_logs/version_{}/checkpoints/epoch={}-val_loss={}.ckpt"
    assert going(gsvckpt, tmp_path, "--keep-best", "2") == each(place, *((version, 0, "0.90") for version in (0, 1)))
    # the best that the newest save names stays, whatever the rule
    earlier = each(place, *((version, *save) for version in (0, 1) for save in ((0, "0.90"), (3, "0.40"))))
    assert going(gsvckpt, tmp_path, *LAST) == earlier


def test_lightning_without_save_top_k(gsvckpt, tmp_path):
    """Every epoch, and two files of one name; another experiment in the same folder has other hyperparameters."""
    base = tmp_path / "checkpoints"
    for epoch in range(3):
        put(base / f"epoch={epoch}-step={100 * (epoch + 1)}.ckpt", lightning(epoch, 100 * (epoch + 1)), epoch)
    put(base / "epoch=2-step=300-v1.ckpt", lightning(2, 300), 4)
    for step in (1000, 2000):
        put(base / f"other-step={step}.ckpt", lightning(5, step) | {"hyper_parameters": {"lr": 0.1}}, step)
    earlier = each("checkpoints/epoch={}-step={}.ckpt", (0, 100), (1, 200))
    gone = going(gsvckpt, tmp_path, *LAST)
    assert gone == earlier | {"checkpoints/epoch=2-step=300.ckpt", "checkpoints/other-step=1000.ckpt"}
    assert going(gsvckpt, tmp_path, "--keep-last", "2") == earlier


# --- folders ------------------------------------------------------------------------------------------------------------------------------------


def test_hf_trainer_on_four_gpus(gsvckpt, tmp_path):
    """The output folder holds the final model, too."""
    run = tmp_path / "output"
    for step in (500, 1000, 1500, 2000):
        trainer(run, step, step, ranks=4, best="output/checkpoint-1000" if step > 500 else "output/checkpoint-500")
    fill(run, {"model.safetensors": model(), "config.json": {}, "training_args.bin": {"seed": 1}, "all_results.json": {}}, 2000)
    for step in (100, 200):
        trainer(tmp_path / "another", step, step, ranks=4)
    assert going(gsvckpt, tmp_path, *LAST) == below(tmp_path, "output/checkpoint-500", "output/checkpoint-1500", "another/checkpoint-100")
    # of `another` the rule keeps nothing, so nothing of it goes
    assert going(gsvckpt, tmp_path, "--keep-every", "1000steps") == below(tmp_path, "output/checkpoint-500", "output/checkpoint-1500")
    assert going(gsvckpt, tmp_path, "--keep-last", "3") == below(tmp_path, "output/checkpoint-500")


def test_deepspeed_zero_3(gsvckpt, tmp_path):
    """Alone, and below the folders of Hugging Face's Trainer, whose weights are in 16 bits beside it."""
    for step in (100, 200, 300):
        fill(tmp_path / "alone" / f"global_step{step}", deepspeed(step, 4), step)
        folder = trainer(tmp_path / "hf", step, step, ranks=4)
        fill(folder / f"global_step{step}", deepspeed(step, 4), step)
        fill(folder, {"latest": f"global_step{step}", "zero_to_fp32.py": "# script"}, step)
        (folder / "optimizer.pt").unlink()
        index = {
            "metadata": {},
            "weight_map": {"net.a.weight": "model-00001-of-00002.safetensors", "net.b.weight": "model-00002-of-00002.safetensors"},
        }
        (folder / "model.safetensors").unlink()
        fill(folder, {f"model-0000{part}-of-00002.safetensors": model(1, name) for part, name in ((1, "a"), (2, "b"))}, step)
        put(folder / "model.safetensors.index.json", index, step)
    put(tmp_path / "alone" / "latest", "global_step300")
    put(tmp_path / "alone" / "zero_to_fp32.py", "# script")
    assert going(gsvckpt, tmp_path, *LAST) == below(
        tmp_path, *(f"{one}{step}" for one in ("alone/global_step", "hf/checkpoint-") for step in (100, 200))
    )
    assert going(gsvckpt, tmp_path, "--keep-last", "2") == below(tmp_path, "alone/global_step100", "hf/checkpoint-100")


def test_fsdp(gsvckpt, tmp_path):
    """Below the Trainer's folders as accelerate has it, torchtitan's `step-N`, and Lightning's."""
    for step in (100, 200, 300):
        folder = trainer(tmp_path / "hf", step, step, ranks=2)
        (folder / "optimizer.pt").unlink()
        (folder / "model.safetensors").unlink()
        fill(folder / "pytorch_model_fsdp_0", distributed(), step)
        fill(folder / "optimizer_0", distributed(), step)
        fill(tmp_path / "titan" / "checkpoint" / f"step-{step}", distributed(4), step)
        meta = lightning(step // 100 - 1, step) | {"state_dict": {}}
        fill(tmp_path / "lightning" / f"epoch={step // 100 - 1}-step={step}.ckpt", {**distributed(), "meta.pt": meta}, step)
    (tmp_path / "titan" / "checkpoint" / "step-300" / "__3_0.distcp").unlink()
    folders = ("hf/checkpoint-{0}", "titan/checkpoint/step-{0}", "lightning/epoch={1}-step={0}.ckpt")
    first, second = ([one.format(step, step // 100 - 1) for one in folders] for step in (100, 200))
    second.remove("titan/checkpoint/step-200")
    assert going(gsvckpt, tmp_path, *LAST) == below(tmp_path, *first, *second)
    assert going(gsvckpt, tmp_path, "--keep-last", "2") == below(tmp_path, *(place for place in first if "titan" not in place))


# --- LoRAs --------------------------------------------------------------------------------------------------------------------------------------


def kohya(name, session, epoch, step):
    """The metadata of sd-scripts (train_network.py there)."""
    told = {"ss_session_id": session, "ss_output_name": name, "ss_training_started_at": "1790000000.1", "ss_epoch": str(epoch), "ss_steps": str(step)}
    return flat({"lora_unet_a.lora_down.weight": numbers((4, 8)), "lora_unet_a.lora_up.weight": numbers((8, 4))}, told)


def test_a_lora_collection(gsvckpt, tmp_path):
    """Runs of one's own with their epochs and steps, and what others made, numbered by version, strength or chance."""
    own = tmp_path / "loras"
    for epoch in (2, 4, 6):
        put(own / f"alice-{epoch:06}.safetensors", kohya("alice", "1", epoch, epoch * 10), epoch)
    put(own / "alice.safetensors", kohya("alice", "1", 8, 80), 8)
    for step in (200, 400):
        put(own / f"bob-step{step:08}.safetensors", kohya("bob", "2", 1, step), step)
    for number in (1, 2, 3):  # downloaded: each of a run of its own, two without what their trainer wrote
        put(own / f"style_v{number}.safetensors", kohya("style", f"s{number}", 10, 500), number)
        put(own / f"add_detail-{number}.safetensors", flat(model(number), {"sshs_legacy_hash": "1"}), number)
        put(own / f"{number}.safetensors", kohya("last", f"l{number}", number, 100), number)
    put(own / "add_detail.civitai.info", json.dumps({"id": 1}))
    names = [f"loras/alice-{epoch:06}.safetensors" for epoch in (2, 4, 6)]
    gone = {*names[:2], "loras/bob-step00000200.safetensors"}
    assert going(gsvckpt, tmp_path, *LAST) == gone
    assert going(gsvckpt, tmp_path, "--keep-every", "4") == {names[0]}  # those of bob are all of epoch 1
    dated(own / "style_v1.safetensors", 10_000)
    assert going(gsvckpt, tmp_path, *LAST) == gone
