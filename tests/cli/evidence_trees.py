"""Whole folders of GPT-SoVITS at random, as people have them. What each file is, no save or a save of some run, is so because it was made so."""

from __future__ import annotations

import json
import os
import random
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import NamedTuple

from support.builders import hparams, safetensors, torch_zip

from .foreign import deepspeed, distributed, flat, lightning, model, vits
from .samples import adamw, discriminator, generator, gpt, lora, numbers, s1_training

DAY = 86_400
NOW = 1_790_000_000  # 2026-09
HEADS = {"v2Pro": b"05", "v3": b"03"}
NAMES = ("alice", "alice2", "bob 2", "声音", "e5_s7", "step_1", "G_1")
APPLE = bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(40)
COPIES = (
    "{} (1){}",
    "{} - Copy{}",
    "Copy of {}{}",
    "{} - 副本{}",
    "{}的副本{}",
    "{}.sync-conflict-20260901-101500-ABCDEFG{}",
    "{}-DESKTOP-1A2B3C4{}",
)
BACKUPS = ("{}{}.bak", "{}{}~", "{} (Alice's conflicted copy 2026-09-01){}", "{} 拷贝{}")
MARK = numbers((4,)).store.data  # stands in one tensor of each file, so that a byte of it can be turned


@dataclass(eq=False)
class Save:
    """What was saved at once. `run` is the run's name, `again` tells the later of two runs under one name; `hurt`: its damage shows at once
    ("known"), when it is read whole ("hidden"), or there is none.

    `guarded`: why it may not go; `files` are paths below the tree.
    """

    run: str
    files: list[str]
    epoch: int | None
    step: int | None
    hurt: str = ""
    guarded: str = ""
    folder: str = ""
    mtime: float = 0
    again: bool = False

    @property
    def order(self) -> tuple[int, int]:
        return (-1 if self.epoch is None else self.epoch, -1 if self.step is None else self.step)

    def is_before(self, other: Save) -> bool:
        """Whether it has seen less training, as far as both tell."""
        if self.epoch != other.epoch:
            return self.order < other.order
        return None not in (self.step, other.step) and self.order < other.order


@dataclass
class Tree:
    """A folder that holds `GPT-SoVITS`. `strays` are what interrupted saves left, which always go; what is in no save is none."""

    root: Path
    rng: random.Random
    saves: list[Save] = field(default_factory=list)
    strays: set[str] = field(default_factory=set)

    def write(self, name: str, data: object, mtime: float = NOW) -> str:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode() if isinstance(data, str) else torch_zip(data))
        os.utime(path, (mtime, mtime))
        return name

    def chance(self, share: float) -> bool:
        return self.rng.random() < share


class Point(NamedTuple):
    epoch: int
    step: int
    mtime: float


def make_tree(root: Path, rng: random.Random) -> Tree:
    """One or two experiments of GPT-SoVITS, what other programs trained beside them, and what else lies about."""
    tree = Tree(root, rng)
    for name in ("webui.py", "api.py", "GPT_SoVITS/s2_train.py"):
        tree.write(f"GPT-SoVITS/{name}", "# GPT-SoVITS")
    for name in rng.sample(NAMES, rng.choice((1, 1, 2))):
        for make in (_features, _sovits_run, _gpt_run, _gpt_voices, _sovits_voices):
            if tree.chance(0.75):
                make(tree, name)
    others = (_lora_run, _so_vits, _f5, _trainer, _ranks, _deepspeed, _distributed, _metrics_in_folders, _shards, _kohya)
    for make in rng.sample(others, rng.choice((0, 1, 1, 2))):
        make(tree, "")
    _join_runs(tree)
    for one in tree.saves:
        one.mtime = max((root / name).stat().st_mtime for name in one.files)
    for add in (_pretrained, _tools, _voices, _models, _own_files, _copies, _links, _strays, _pointers):
        if tree.chance(0.5):
            add(tree, "")
    _guard_resumed(tree)
    return tree


# --- runs ---------------------------------------------------------------------------------------------------------------------------------------


def _points(tree: Tree, most: int = 5, begin: float = 0, below: int = 8, steps: int = 16) -> list[Point]:
    """A run's saves, hours or days apart, the first of an epoch below `below`, with so many steps an epoch."""
    rng = tree.rng
    first = rng.randrange(1, min(below, 8))
    pace = rng.choice((3600, DAY))
    epochs = [first, *sorted(rng.sample(range(first + 1, first + 9), rng.randint(0, most - 1)))]
    return [Point(epoch, epoch * steps, NOW - 90 * DAY + begin + epoch * pace) for epoch in epochs]


def _runs(tree: Tree) -> tuple[list[list[Point]], str]:
    """The points of one run, or of two under one name of which the later one begins anew; and how its times can be told: by the clock inside, by the
    files' own times, or not at all, as all of it was copied.
    """
    how = tree.rng.choice(("clock", "clock", "times", "times", "copied", "copied with clock"))
    runs = [_points(tree)]
    if tree.chance(0.35) and runs[0][-1][0] > 1:
        runs.append(_points(tree, begin=45 * DAY, below=runs[0][-1][0], steps=tree.rng.choice((10, 22))))
    return runs, how


def _save_runs(tree: Tree, run: str, write: Callable[[Point, str], dict[str, bytes]], *, by_step: bool = True) -> list[Save]:
    """Write the saves of one or two runs. `write` makes the files of a save from its point and the folder in the zip; files of one name are
    overwritten by the later run, as they are in life.
    """
    runs, how = _runs(tree)
    written: dict[str, Save] = {}
    for number, points in enumerate(runs):
        lacking = tree.rng.randrange(len(points)) if len(points) > 2 and tree.chance(0.15) else -1
        for index, point in enumerate(points):
            clock = f"{int(point.mtime)}.{tree.rng.randrange(1, 10**6)}" if "clock" in how else "archive"
            files = write(point, clock)
            for other in {written[name] for name in files if name in written}:
                tree.saves.remove(other)
            one = Save(run, list(files), point.epoch, point.step if by_step else None, again=number > 0)
            _write_save(tree, one, files, point.mtime, lacks=index == lacking and len(files) > 1)
            written |= dict.fromkeys(files, one)
    saves = [one for one in tree.saves if one.run == run]
    if how.startswith("copied"):
        for number, name in enumerate(sorted(name for one in saves for name in one.files)):
            os.utime(tree.root / name, (NOW + number * 0.1, NOW + number * 0.1))
    if how == "copied":  # nothing tells two runs
        for one in saves:
            one.again = False
    return saves


def _join_runs(tree: Tree) -> None:
    """Two runs of which no save that can be read shows that training began anew are one."""
    for run in {one.run for one in tree.saves}:
        first, second = ([one for one in tree.saves if one.run == run and one.again is again and one.hurt != "known"] for again in (False, True))
        if not first or not second or not any(second[0].is_before(one) for one in first):
            for one in tree.saves:
                one.again = one.again and one.run != run


def _write_save(tree: Tree, one: Save, files: dict[str, bytes], mtime: float, *, lacks: bool = False, hide: bool = True) -> None:
    """Write a save, perhaps with a damage, and note it."""
    rng = tree.rng
    names = list(files)
    hurt = rng.choice(names) if tree.chance(0.12) else ""
    for name, data in files.items():
        content = data
        if name == hurt:
            how = rng.choice(("cut", "empty", "turned")) if hide and MARK in data else rng.choice(("cut", "empty"))
            one.hurt = one.hurt if one.hurt == "known" else "hidden" if how == "turned" else "known"
            content = _turned(data, rng) if how == "turned" else b"" if how == "empty" else data[: rng.choice((len(data) // 2, len(data) - 90))]
        tree.write(name, content, mtime)
    if lacks:
        gone = rng.choice(names)
        (tree.root / gone).unlink()
        one.files.remove(gone)
        one.hurt = "known"
    tree.saves.append(one)


def _turned(data: bytes, rng: random.Random) -> bytes:
    at = data.index(MARK) + rng.randrange(len(MARK))
    return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]


@cache
def _state(kind: str) -> tuple[dict[str, object], dict[str, object]]:
    """The tensors of a kind of model, and its optimizer."""
    made = {
        "gpt": gpt,
        "gpt-training": lambda: gpt(dtype="float32"),
        "lora": lora,
        "D": discriminator,
        "so-vits": lambda: vits(1)["model"],
        "other": model,
    }
    state = {
        **(made[kind]() if kind in made else generator(kind.removeprefix("voice "), "float16" if " " in kind else "float32", enc_q=" " not in kind))
    }
    more = "discriminators.0.more.weight" if kind == "D" else "model.more.weight" if kind.startswith("gpt") else "enc_p.more.weight"
    state[more] = numbers((4,))
    return state, adamw(state)


def _vits(kind: str, epoch: int, clock: str) -> bytes:
    state, optimizer = _state(kind)
    return torch_zip({"model": OrderedDict(state), "iteration": epoch, "optimizer": optimizer, "learning_rate": 1e-4}, prefix=clock)


def _sovits_run(tree: Tree, name: str) -> None:
    version = tree.rng.choice(("v1", "v2", "v2Pro"))
    folder = f"GPT-SoVITS/logs/{name}/logs_s2_{version}"
    latest = tree.chance(0.2)

    def write(point: Point, clock: str) -> dict[str, bytes]:
        epoch, step, _ = point
        return {f"{folder}/G_{step}.pth": _vits(version, epoch, clock), f"{folder}/D_{step}.pth": _vits("D", epoch, clock)}

    own = _save_runs(tree, folder, write)
    if latest and own[-1].hurt == "":  # "save only the latest" was switched on
        for index, old in enumerate(own[-1].files):
            new = re.sub(r"_[0-9]+\.pth", "_233333333333.pth", old)
            (tree.root / old).rename(tree.root / new)
            own[-1].files[index] = new
        own[-1].step = None


def _lora_run(tree: Tree, _: str) -> None:
    folder = "GPT-SoVITS/logs/carol/logs_s2_v3_lora_4"
    place = "cfm.base_model.model.estimator.transformer_blocks.0.attn.to_q"
    shapes = {f"{place}.base_layer.weight": (8, 8), f"{place}.lora_A.default.weight": (4, 8), f"{place}.lora_B.default.weight": (8, 4)}
    state = {name: numbers(shape) for name, shape in shapes.items()} | {"bridge.0.weight": numbers((4, 4)), "enc_p.ssl_proj.weight": numbers((4,))}

    def write(point: Point, clock: str) -> dict[str, bytes]:
        tree_ = {"model": OrderedDict(state), "iteration": point[0], "optimizer": adamw(state), "learning_rate": 1e-4}
        return {f"{folder}/G_{point[1]}.pth": torch_zip(tree_, prefix=clock)}

    _save_runs(tree, folder, write)


def _gpt_run(tree: Tree, name: str) -> None:
    folder = f"GPT-SoVITS/logs/{name}/logs_s1_v2/ckpt"

    def write(point: Point, clock: str) -> dict[str, bytes]:
        epoch, step, _ = point
        content = {**s1_training(_state("gpt-training")[0]), "epoch": epoch - 1, "global_step": step, "callbacks": {}}
        return {f"{folder}/epoch={epoch - 1}-step={step}.ckpt": torch_zip(content, prefix=clock)}

    _save_runs(tree, folder, write)


def _gpt_voices(tree: Tree, name: str) -> None:
    def write(point: Point, clock: str) -> dict[str, bytes]:
        content = OrderedDict(weight=_state("gpt")[0], config={"train": {"exp_name": name}}, info=f"GPT-e{point[0]}")
        return {f"GPT-SoVITS/GPT_weights_v2/{name}-e{point[0]}.ckpt": torch_zip(content, prefix=clock)}

    _save_runs(tree, f"GPT-SoVITS/GPT_weights_v2/{name}-e", write, by_step=False)


def _sovits_voices(tree: Tree, name: str) -> None:
    version = tree.rng.choice(("v2", "v2Pro"))
    folder = f"GPT-SoVITS/SoVITS_weights_{version}"

    def write(point: Point, clock: str) -> dict[str, bytes]:
        epoch, step, _ = point
        config = hparams({"model": hparams({"version": version}), "train": hparams({"epochs": 8}), "name": name, "version": version})
        content = OrderedDict(weight=_state(f"voice {version}")[0], config=config, info=f"{epoch}epoch_{step}iteration")
        return {f"{folder}/{name}_e{epoch}_s{step}.pth": torch_zip(content, head=HEADS.get(version, b"PK"), prefix=clock)}

    _save_runs(tree, f"{folder}/{name}_e", write)


def _so_vits(tree: Tree, _: str) -> None:
    folder = "GPT-SoVITS/logs/44k"
    letters = tree.rng.choice(("G D", "G D", "G D DUR", "G D DUR WD", "G"))

    def write(point: Point, clock: str) -> dict[str, bytes]:
        kinds = {"G": "so-vits", "D": "D"}
        return {f"{folder}/{letter}_{point[1]}.pth": _vits(kinds.get(letter, "other"), point[0], clock) for letter in letters.split()}

    _save_runs(tree, folder, write)


def _f5(tree: Tree, _: str) -> None:
    """Updates alone; a run that began anew would have overwritten them."""
    folder = "GPT-SoVITS/logs/F5TTS_alice"
    state, optimizer = _state("other")
    for epoch, step, mtime in _points(tree, steps=1000):
        content = torch_zip({"model_state_dict": state, "optimizer_state_dict": optimizer, "ema_model_state_dict": state, "update": step})
        _write_save(tree, Save("f5", [f"{folder}/model_{step}.pt"], None, step), {f"{folder}/model_{step}.pt": content}, mtime)
        last = step + 10 * epoch, content
    tree.write(f"{folder}/model_last.pt", last[1])
    tree.write(f"{folder}/pretrained_model_1250000.safetensors", flat(model()))


def _trainer(tree: Tree, _: str) -> None:
    """Hugging Face's Trainer, on one or more GPUs."""
    rng, ranks = tree.rng, tree.rng.choice((1, 2, 4))
    above = "GPT-SoVITS/logs/hf"
    points = _points(tree, steps=100)
    best = rng.choice((None, *(step for _, step, _ in points)))
    saves = []
    for epoch, step, mtime in points:
        folder = f"{above}/checkpoint-{step}"
        state = {"global_step": step, "epoch": epoch, "best_model_checkpoint": best and f"/old/checkpoint-{min(best, step)}"}
        files = {f"{folder}/rng_state_{rank}.pth": torch_zip({"cpu": numbers((16,))}) for rank in range(ranks)}
        files |= {f"{folder}/model.safetensors": flat(model()), f"{folder}/optimizer.pt": torch_zip(adamw(model()))}
        one = Save("hf", list(files), None, step, folder=folder)
        _write_save(tree, one, files, mtime, lacks=len(points) > 2 and tree.chance(0.1) and not any(other.hurt for other in saves), hide=False)
        one.files += [tree.write(f"{folder}/trainer_state.json", json.dumps(state), mtime), tree.write(f"{folder}/config.json", "{}", mtime)]
        saves.append(one)
        one.guarded = "best" if step == best else ""
    if tree.chance(0.5):
        tree.write(f"{above}/model.safetensors", flat(model()))
    if tree.chance(0.2):
        (tree.root / saves[0].folder / "tokenizer.json").symlink_to(tree.root / "GPT-SoVITS" / "webui.py")
        saves[0].guarded = "holds a link"


def _ranks(tree: Tree, _: str) -> None:
    """Each rank's file of a step, in one folder."""
    count = tree.rng.choice((1, 2, 4))
    spelled = tree.rng.choice(("step-{}-rank{}.pt", "model_iter_{}_part{}.pth", f"model-step-{{}}-{{}}-of-{count}.bin"))
    folder = f"GPT-SoVITS/logs/ranks{count}"
    state, optimizer = _state("other")
    points = _points(tree, steps=100)
    lacking = tree.rng.randrange(len(points)) if len(points) > 2 and count > 1 and tree.chance(0.2) else -1
    for index, (_, step, mtime) in enumerate(points):
        content = torch_zip({"model": state, "step": step, "optimizer": optimizer})
        files = {f"{folder}/{spelled.format(step, rank)}": content for rank in range(1, count + 1)}
        _write_save(tree, Save("ranks", list(files), None, step), files, mtime, lacks=index == lacking)


def _deepspeed(tree: Tree, _: str) -> None:
    ranks = tree.rng.choice((1, 2, 4))
    points = _points(tree, steps=10)
    for _, step, mtime in points:
        folder = f"GPT-SoVITS/logs/zero/global_step{step}"
        files = {f"{folder}/{name}": torch_zip(content) for name, content in deepspeed(step, ranks).items()}
        _write_save(tree, Save("zero", list(files), None, step, folder=folder), files, mtime)
    if tree.chance(0.5):
        named = tree.rng.choice(points)[1]
        tree.write("GPT-SoVITS/logs/zero/latest", f"global_step{named}")
        next(one for one in tree.saves if one.run == "zero" and one.step == named).guarded = "named by latest"


def _distributed(tree: Tree, _: str) -> None:
    for _, step, mtime in _points(tree, steps=50):
        folder = f"GPT-SoVITS/logs/titan/step-{step}"
        files = {f"{folder}/{name}": content for name, content in distributed(3).items()}
        _write_save(tree, Save("titan", list(files), None, step, folder=folder), files, mtime, lacks=tree.chance(0.1))


def _metrics_in_folders(tree: Tree, _: str) -> None:
    """Lightning, with a slash in the metric."""
    for epoch, step, mtime in _points(tree):
        folder = f"GPT-SoVITS/logs/lightning/epoch={epoch - 1}-val"
        name = f"{folder}/loss=0.{99 - epoch}.ckpt"
        content = lightning(epoch - 1, step)
        content["state_dict"] = _state("other")[0]
        _write_save(tree, Save("lightning", [name], epoch, step, folder=folder), {name: torch_zip(content)}, mtime)


def _shards(tree: Tree, _: str) -> None:
    """An index and its shards, whose names say the step."""
    values = {f"layer.{part}": ("F32", (8,), numbers((8,), seed=part).store.data) for part in range(4)}
    for _, step, mtime in _points(tree):
        begin = f"GPT-SoVITS/logs/big/big-step-{step}"
        names = [f"{begin}-0000{part}-of-00002.safetensors" for part in (1, 2)]
        where = {name: os.path.basename(names[place % 2]) for place, name in enumerate(values)}
        files = {path: safetensors({key: values[key] for key in values if where[key] == os.path.basename(path)}) for path in names}
        files[f"{begin}.safetensors.index.json"] = json.dumps({"metadata": {"total_size": 128}, "weight_map": where}).encode()
        one = Save("big", list(files), None, step)
        _write_save(tree, one, files, mtime, hide=False)
        one.hurt = one.hurt and "hidden"  # it shows at once or later


def _kohya(tree: Tree, _: str) -> None:
    """A run of LoRAs, and the last one, which is called after the run alone."""
    for epoch, step, mtime in _points(tree):
        told = {
            "ss_session_id": "7",
            "ss_output_name": "dora",
            "ss_training_started_at": "1790000000.1",
            "ss_epoch": str(epoch),
            "ss_steps": str(step),
        }
        content = flat({"lora_unet_a.lora_down.weight": numbers((4, 8)), "lora_unet_a.lora_up.weight": numbers((8, 4))}, told)
        name = f"GPT-SoVITS/lora_weights/dora-{epoch:06}.safetensors"
        _write_save(tree, Save("kohya", [name], epoch, step), {name: content}, mtime, hide=False)
    tree.write("GPT-SoVITS/lora_weights/dora.safetensors", content)


# --- what is no save ----------------------------------------------------------------------------------------------------------------------------


def _features(tree: Tree, name: str) -> None:
    logs = f"GPT-SoVITS/logs/{name}"
    spelled = tree.rng.choice(("{}.wav_{:010}.wav.pt", "{}_step-{}.wav.pt", "{}_epoch_{}.pt", "{}{}.pt"))
    for folder in ("3-bert", "4-cnhubert", "7-sv_cn", "old hubert"):
        for clip in range(tree.rng.randint(1, 4)):
            tree.write(f"{logs}/{folder}/{spelled.format(name, clip)}", {} if tree.chance(0.02) else numbers((4, 4)))
    tree.write(f"{logs}/config.json", json.dumps({"train": {"epochs": 8}}))
    tree.write(f"{logs}/2-name2text.txt", "a")


def _pretrained(tree: Tree, _: str) -> None:
    place = "GPT-SoVITS/GPT_SoVITS/pretrained_models"
    tree.write(f"{place}/s2G488k.pth", {"weight": _state("v1")[0], "info": ""})
    for epoch, step in ((12, 369668), (10, 300000)):
        name = f"{place}/gsv-v2final-pretrained/s1bert25hz-5kh-longer-epoch={epoch}-step={step}.ckpt"
        tree.write(name, OrderedDict(weight=_state("gpt")[0], config={}, info=f"GPT-e{epoch}"))


def _tools(tree: Tree, _: str) -> None:
    """What would be saves elsewhere."""
    for step in (100, 200):
        tree.write(f"GPT-SoVITS/tools/asr/models/step_{step}/model.pt", {"step": step, "model": model(), "optimizer": adamw(model())})
        tree.write(f"GPT-SoVITS/tools/uvr5/uvr5_weights/HP{step}_vocals.pth", model())
        tree.write(f"GPT-SoVITS/TEMP/x_e{step}_s{step}.pth", _vits("D", step, "archive"))


def _voices(tree: Tree, _: str) -> None:
    """Voices that somebody numbered."""
    spelled = tree.rng.choice(("voice{}", "voice ({})", "speaker_{}", "{}", "alice{}"))
    for number in range(1, tree.rng.randint(2, 5)):
        config = hparams({"model": hparams({"version": "v2"}), "name": tree.rng.choice(("", "x", f"x{number}")), "version": "v2"})
        content = OrderedDict(weight=_state("voice v2")[0], config=config, info=f"{tree.rng.choice((8, number))}epoch_16iteration")
        tree.write(f"GPT-SoVITS/SoVITS_weights_v2/{spelled.format(number)}.pth", content, NOW + number * DAY)
        tree.write(f"GPT-SoVITS/logs/embeddings/{spelled.format(number)}.pt", {"spk_emb": numbers((1, 4), seed=number)})
    config = hparams(
        {"model": hparams({"version": "v2"}), "name": "somebody else", "version": "v2"}
    )  # whose voice a friend sent, under a name in use
    content = OrderedDict(weight=_state("voice v2")[0], config=config, info="1epoch_5iteration")
    tree.write(f"GPT-SoVITS/SoVITS_weights_v2/{tree.rng.choice(NAMES)}_e1_s5.pth", content, NOW - 80 * DAY)


def _models(tree: Tree, _: str) -> None:
    """Numbered models that nobody trains on, parts of one model, and versions."""
    for number in (1, 2, 3):
        for name in ("decoder_{}.pth", "net.v1.{}.pth", "consolidated.0{}.pth", "G_{}.pth", "rng_state_{}.pth", "zero_pp_rank_{}_states.pt"):
            if tree.chance(0.6):
                tree.write(f"GPT-SoVITS/logs/models/{name.format(number)}", model(number))
        if tree.chance(0.5):
            tree.write(f"GPT-SoVITS/logs/models/model-0000{number}-of-00003.safetensors", flat(model(number)))


def _own_files(tree: Tree, _: str) -> None:
    """A save that somebody renamed stands for itself: it is the newest, and only, one of its name."""
    for one in tree.rng.sample(tree.saves, min(2, len(tree.saves))):
        if len(one.files) == 1 and not one.folder:
            path, end = os.path.splitext(one.files[0])
            name = tree.rng.choice(("good one", "最好的", "final"))
            tree.write(f"{os.path.dirname(path)}/{name}{end}", (tree.root / one.files[0]).read_bytes(), NOW + 20 * DAY)


def _copies(tree: Tree, _: str) -> None:
    rng = tree.rng
    for one in rng.sample(tree.saves, min(3, len(tree.saves))):
        for name in one.files if rng.random() < 0.5 else one.files[:1]:
            if one.folder:
                continue
            folder, base = os.path.split(name)
            stem, end = os.path.splitext(base)
            spelled = rng.choice((*COPIES, *BACKUPS))
            tree.write(f"{folder}/{spelled.format(stem, end)}", (tree.root / name).read_bytes(), NOW + rng.choice((-1, 0, 1)) * 40 * DAY)
            if rng.random() < 0.5:
                tree.write(f"{folder}/._{base}", APPLE)
            if rng.random() < 0.3:
                tree.write(f"{folder}/.ipynb_checkpoints/{stem}-checkpoint{end}", (tree.root / name).read_bytes())
            if rng.random() < 0.3:
                tree.write(f"{folder}/{base}{rng.choice(('.crdownload', '.part', '.aria2'))}", (tree.root / name).read_bytes()[:200])


def _links(tree: Tree, _: str) -> None:
    rng = tree.rng
    single = [one for one in tree.saves if not one.folder]
    for one in rng.sample(single, min(2, len(single))):
        if "/logs_s" in one.files[0]:  # GPT-SoVITS may take it to go on from, as one of its own
            continue
        target = tree.root / one.files[0]
        link = target.with_name(f"{rng.choice(('best', 'current', 'x-e99', 'x_e99_s99'))}{target.suffix}")
        if not link.exists():
            link.symlink_to(target.name)
            one.guarded = "a link leads to it"
    elsewhere = tree.root.parent / "elsewhere" / "logs_s2_v2"
    for step in (1, 2):
        tree.write(os.path.relpath(elsewhere / f"G_{step}.pth", tree.root), _vits("v2", step, "archive"))
    logs = tree.root / "GPT-SoVITS" / "logs"
    logs.mkdir(exist_ok=True)
    (logs / "moved to another disk").symlink_to(elsewhere, target_is_directory=True)


def _strays(tree: Tree, _: str) -> None:
    for number in range(tree.rng.randint(1, 2)):
        tree.strays.add(tree.write(f"GPT-SoVITS/17450000{number:02}.1234.pth", b"half of a save", NOW - 60 * DAY))
    tree.write("GPT-SoVITS/logs/1745000003.77.pth", b"a name of somebody's choice", NOW - 60 * DAY)


def _pointers(tree: Tree, _: str) -> None:
    """What the inference page goes on with."""
    used = [one for one in tree.saves if "_weights_" in one.files[0]]
    if used:
        one, other = tree.rng.choice(used), tree.rng.choice(used)
        told = {"GPT": {"v2": one.files[0].removeprefix("GPT-SoVITS/")}, "SoVITS": {}}
        tree.write("GPT-SoVITS/weight.json", json.dumps(told))
        yaml = f"custom:\n  device: cuda\n  vits_weights_path: {other.files[0].removeprefix('GPT-SoVITS/')}\n"
        tree.write("GPT-SoVITS/GPT_SoVITS/configs/tts_infer.yaml", yaml)
        one.guarded = other.guarded = "in use"


def _guard_resumed(tree: Tree) -> None:
    """What GPT-SoVITS would go on from: of G and of D the one whose path has the largest number, of all digits together (utils.py:112-117); of GPT's
    the largest epoch and step of a name that begins as such do (AR/utils/__init__.py:8-24).
    """
    save_of = {name: one for one in tree.saves for name in one.files}
    for folder in {os.path.dirname(name) for name in save_of if "/logs_s" in name}:
        names = sorted(os.listdir(tree.root / folder))
        for letter in "GD":
            found = [name for name in names if fnmatchcase(name, f"{letter}_*.pth")]
            if "/logs_s2" in folder and found:
                chosen = max(found, key=lambda name: int("".join(filter(str.isdigit, f"{folder.removeprefix('GPT-SoVITS/')}/{name}"))))
                if f"{folder}/{chosen}" in save_of:
                    save_of[f"{folder}/{chosen}"].guarded = "resumed"
        told = [
            (int(match[1]), int(match[2]), -at, name) for at, name in enumerate(names) if (match := re.match(r"epoch=(\d+)-step=(\d+)\.ckpt", name))
        ]
        if "/logs_s1" in folder and told and f"{folder}/{max(told)[3]}" in save_of:
            save_of[f"{folder}/{max(told)[3]}"].guarded = "resumed"
