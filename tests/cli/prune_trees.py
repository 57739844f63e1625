"""Folders of training at random, as users have them, and what is true of every save in them because it was made so."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import stat
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from support.builders import safetensors, tensor, torch_zip

from .samples import discriminator, generator, gpt, lora, numbers, s1_training, s2_training, small

DAY = 86_400
NOW = 1_790_000_000  # 2026-09
HEADS = {"v2Pro": b"05", "v2ProPlus": b"06", "lora": b"03"}
DAMAGES = ("truncated", "empty", "flipped", "nan")


@dataclass
class Save:
    """What was saved at once. `group` and `names` are the truth; `names` are below the tree. `guarded`: why it may not be touched."""

    group: tuple[str, str, str, str]  # folder, experiment, kind, version
    names: tuple[str, ...]
    epoch: int | None
    step: int | None
    mtime: float
    trained: bool = False
    sound: bool = True
    legible: bool = True
    guarded: str = ""
    score: float = math.nan
    size: int = 0

    @property
    def age(self):
        return (-1 if self.epoch is None else self.epoch, -1 if self.step is None else self.step, self.mtime)


@dataclass
class Tree:
    """A tree below `root`, its saves, and files of which nothing may ever change. `dead`: what interrupted saves left, which always goes."""

    root: Path
    rng: random.Random
    saves: list[Save] = field(default_factory=list)
    untouchable: set[str] = field(default_factory=set)
    dead: set[str] = field(default_factory=set)

    def write(self, name: str, data: bytes, mtime: float = NOW) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        os.utime(path, (mtime, mtime))
        return path

    def groups(self) -> list[list[Save]]:
        """Saves by run, newest first: a run begins where one saved later has seen less training; what cannot be read is of the newest."""
        named: dict[tuple[str, str, str, str], list[Save]] = {}
        for one in self.saves:
            named.setdefault(one.group, []).append(one)
        found: list[list[Save]] = []
        for members in named.values():
            runs: list[list[Save]] = [[]]
            for one in sorted((one for one in members if one.legible and one.epoch is not None), key=lambda one: one.mtime):
                if any(one.epoch < other.epoch for other in runs[-1]):
                    runs.append([])
                runs[-1].append(one)
            runs[-1] += [one for one in members if not one.legible or one.epoch is None]
            found += [sorted(run, key=lambda one: one.age, reverse=True) for run in runs]
        return found


# --- files ---------------------------------------------------------------------------------------------------------------------------------------


def training(epoch: int, step: int) -> dict[str, object]:
    """A file of another project."""
    state = {"layer.weight": numbers((4, 4))}
    moments = {0: {"step": epoch, "exp_avg": numbers((4, 4 + epoch))}}
    return {"epoch": epoch, "global_step": step, "state_dict": state, "optimizer": {"state": moments, "param_groups": [{"lr": 0.1, "params": [0]}]}}


def lora_training(epoch: int) -> dict[str, object]:
    place = "cfm.base_model.model.estimator.transformer_blocks.0.attn.to_q"
    shapes = {f"{place}.base_layer.weight": (8, 8), f"{place}.lora_A.default.weight": (4, 8), f"{place}.lora_B.default.weight": (8, 4)}
    state = {name: numbers(shape) for name, shape in shapes.items()} | {"bridge.0.weight": numbers((4, 4)), "enc_p.ssl_proj.weight": numbers((8, 4))}
    return s2_training(state, epoch)


@cache
def whole(kind: str, version: str, epoch: int, step: int, nan: bool = False) -> bytes:
    """The bytes of a sound file, or of one with a weight that is no number."""
    more = {"enc_p.more.weight": numbers((4,))}
    rest = "x" * (epoch % 5 * 600)  # files of one run differ in size
    if nan:
        more["enc_p.more.weight"] = tensor("float32", (4,), [0.5, math.nan, 0.25, 1.0])
    head = b"PK"
    if kind == "G":
        tree: object = lora_training(epoch) if version == "lora" else s2_training(generator(version, enc_q=True), epoch)
        tree["model"] |= more
        tree["rest"] = rest
    elif kind == "D":
        tree = s2_training(discriminator(8 if "Pro" in version else 6), epoch)
        tree["model"] |= {name.replace("enc_p", "discriminators.0"): value for name, value in more.items()}
        tree["rest"] = rest
    elif kind == "gpt-training":
        tree = {**s1_training(gpt(dtype="float32") | more), "epoch": epoch - 1, "global_step": step, "callbacks": {}, "rest": rest}
    elif kind == "gpt":
        tree = OrderedDict(weight=gpt() | more, config={"model": {"n_layer": 1}, "rest": rest}, info=f"GPT-e{epoch}")
    elif kind == "sovits":
        state = lora() if version == "lora" else generator(version, "float16")
        tree = small(state | more, "v3" if version == "lora" else version, **({"lora_rank": 4} if version == "lora" else {}))
        tree |= {"info": f"{epoch}epoch_{step}iteration", "rest": rest}
        head = HEADS.get(version, b"PK")
    elif kind == "training":
        tree = training(epoch, step)
        tree["state_dict"] |= more
    else:
        tree = {"layer.weight": numbers((4, 4)), **more}
    return torch_zip(tree, head=head)


def damaged(rng: random.Random, how: str, kind: str, version: str, epoch: int, step: int) -> bytes:
    data = whole(kind, version, epoch, step, how == "nan")
    if how == "truncated":
        return data[: rng.choice((len(data) // 2, len(data) - 100, 70))]
    if how == "empty":
        return b""
    if how == "flipped":
        weight = numbers((4,)).store.data
        at = data.index(weight) + rng.randrange(len(weight))
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    return data


# --- folders -------------------------------------------------------------------------------------------------------------------------------------


def make_tree(root: Path, rng: random.Random, most: int = 6) -> Tree:
    """One to three groups with up to `most` saves each, and what else lies about."""
    tree = Tree(root, rng)
    root.mkdir(parents=True)
    makers = [_sovits_run, _sovits_run, _lora_run, _gpt_run, _gpt_weights, _sovits_weights, _sovits_weights, _plain, _lightning, _states, _sharded]
    for make in rng.sample(makers, rng.choice((1, 1, 2, 2, 3))):
        make(tree, rng.choice(("alice", "bob 2", "声音", "e5_s7")), rng.randint(1, most))
    _guard_resumed(tree)
    for add in (_pointers, _pretrained, _links, _strays, _others, _not_looked_into, _manifests):
        if rng.random() < 0.35 or (add is _not_looked_into):
            add(tree)
    for one in tree.saves:
        one.size = sum((root / name).stat().st_size for name in one.names)
    return tree


def _points(tree: Tree, count: int) -> list[tuple[int, int, float]]:
    """(epoch, step, time) of saves; times do not always follow."""
    rng = tree.rng
    epochs = sorted(rng.sample(range(1, 13), count))
    days = sorted(rng.sample(range(1, 60), count))
    if rng.random() < 0.25:
        rng.shuffle(days)
    return [(epoch, epoch * 16, NOW - (60 - day) * DAY + rng.randrange(1000)) for epoch, day in zip(epochs, days, strict=True)]


def _save(tree: Tree, group, files, point, *, trained=False, step=None) -> Save:
    """Write the files of a save, (name, kind, version) each, perhaps with a damage."""
    rng, (epoch, number, mtime) = tree.rng, point
    sound, legible, hurt = True, True, rng.randrange(len(files)) if rng.random() < 0.12 else -1
    for index, (name, kind, version) in enumerate(files):
        how = rng.choice(DAMAGES) if index == hurt else ""
        sound, legible = sound and not how, legible and how not in ("truncated", "empty")
        data = damaged(rng, how, kind, version, epoch, number) if how else whole(kind, version, epoch, number)
        tree.write(name, data, mtime - index)
    one = Save(group, tuple(name for name, _, _ in files), epoch, step, mtime, trained, sound, legible, score=_score(rng))
    tree.saves.append(one)
    return one


def _score(rng: random.Random) -> float:
    return math.nan if rng.random() < 0.2 else round(rng.uniform(0, 9), 6)


def _sovits_run(tree: Tree, experiment: str, count: int) -> None:
    rng, version = tree.rng, tree.rng.choice(("v1", "v2", "v2Pro", "v2ProPlus"))
    old = rng.random() < 0.2
    folder = f"logs/{experiment}/logs_s2" if old else f"logs/{experiment}/logs_s2_{version}"
    if (tree.root / folder).exists():
        return
    points = _points(tree, count)
    numbers_ = [step for _, step, _ in points]
    if rng.random() < 0.25:
        rng.shuffle(numbers_)  # somebody renamed them: the content counts
    latest = rng.randrange(count) if rng.random() < 0.3 else -1
    for index, (point, number) in enumerate(zip(points, numbers_, strict=True)):
        end = "233333333333" if index == latest else str(number)
        step = None if index == latest else number
        lacks = rng.choice("GD") if rng.random() < 0.08 else ""
        files = [(f"{folder}/{letter}_{end}.pth", letter, version) for letter in "GD" if letter != lacks]
        one = _save(tree, (folder, experiment, "sovits-training", version), files, point, trained=True, step=step)
        if lacks == "G":
            one.sound = one.legible = False  # nothing resumes from a discriminator
    own = [one for one in tree.saves if one.group[0] == folder]
    if any(f"{folder}/D_" in name for one in own for name in one.names):
        for one in own:
            if not any("/D_" in name for name in one.names):
                one.sound = one.legible = False  # others have a discriminator, and without it training does not go on


def _lora_run(tree: Tree, experiment: str, count: int) -> None:
    folder = f"logs/{experiment}/logs_s2_v3_lora_4"
    for point in _points(tree, count):
        _save(
            tree,
            (folder, experiment, "sovits-lora-training", "v3"),
            [(f"{folder}/G_{point[1]}.pth", "G", "lora")],
            point,
            trained=True,
            step=point[1],
        )


def _gpt_run(tree: Tree, experiment: str, count: int) -> None:
    folder = f"logs/{experiment}/logs_s1_v2/ckpt"
    for point in _points(tree, count):
        name = f"{folder}/epoch={point[0] - 1}-step={point[1]}.ckpt"
        _save(tree, (folder, experiment, "gpt-training", "v2"), [(name, "gpt-training", "v2")], point, trained=True, step=point[1])


def _gpt_weights(tree: Tree, experiment: str, count: int) -> None:
    for point in _points(tree, count):
        _save(tree, ("GPT_weights_v2", experiment, "gpt-weights", "v2"), [(f"GPT_weights_v2/{experiment}-e{point[0]}.ckpt", "gpt", "v2")], point)


def _sovits_weights(tree: Tree, experiment: str, count: int) -> None:
    """One folder of several experiments and, before the folders were named after versions, of several versions."""
    rng = tree.rng
    folder, versions = rng.choice(
        (("SoVITS_weights", ("v1", "v2")), ("SoVITS_weights_v2", ("v2",)), ("SoVITS_weights_v2Pro", ("v2Pro",)), ("SoVITS_weights_v3", ("lora",)))
    )
    for name in (experiment, "carol") if rng.random() < 0.5 else (experiment,):
        if any(name == one.group[1] and one.group[0] == folder for one in tree.saves):
            continue
        for point in _points(tree, count):
            version = rng.choice(versions)
            end = "_l4" if version == "lora" else ""
            kind = "sovits-lora" if end else "sovits-weights"
            file = f"{folder}/{name}_e{point[0]}_s{point[1]}{end}.pth"
            _save(tree, (folder, name, kind, "v3" if end else version), [(file, "sovits", version)], point, step=point[1])


def _plain(tree: Tree, _: str, count: int) -> None:
    for point in _points(tree, count):
        _save(
            tree,
            ("runs/net", "net/model_#.pth", "training", ""),
            [(f"runs/net/model_{point[1]}.pth", "training", "")],
            point,
            trained=True,
            step=point[1],
        )


def _lightning(tree: Tree, _: str, count: int) -> None:
    for point in _points(tree, count):
        name = f"lightning/checkpoints/epoch={point[0] - 1}-step={point[1]}.ckpt"
        group = ("lightning/checkpoints", "checkpoints/epoch=#-step=#.ckpt", "training", "")
        _save(tree, group, [(name, "training", "")], point, trained=True, step=point[1])


def _states(tree: Tree, _: str, count: int) -> None:
    """State dicts, which do not tell how old they are; those whose names do not say it either are no saves."""
    says = tree.rng.random() < 0.7
    for index, point in enumerate(sorted(_points(tree, count), key=lambda point: point[2])):
        if not says:
            tree.write(f"flat/net_{index + 10}.pt", whole("state", "", *point[:2]), point[2])
            tree.untouchable.add(f"flat/net_{index + 10}.pt")
            continue
        group = ("flat", "flat/net_step_#.pt", "state-dict", "")
        one = _save(tree, group, [(f"flat/net_step_{index + 10}.pt", "state", "")], point, step=index + 10)
        one.epoch = None


def _sharded(tree: Tree, _: str, count: int) -> None:
    for index, (_, _, mtime) in enumerate(sorted(_points(tree, count), key=lambda point: point[2])):
        names = [f"big-step-{index + 1}-0000{part}-of-00002.safetensors" for part in (1, 2)]
        values = {f"layer.{part}": ("F32", (8,), numbers((8,), seed=part).store.data) for part in range(4)}
        where = {name: names[place % 2] for place, name in enumerate(values)}
        for name in names:
            tree.write(f"shards/{name}", safetensors({key: value for key, value in values.items() if where[key] == name}), mtime)
        first = f"shards/big-step-{index + 1}.safetensors.index.json"
        tree.write(first, json.dumps({"metadata": {"total_size": 128}, "weight_map": where}).encode(), mtime)
        sound = tree.rng.random() > 0.12
        if not sound:
            tree.write(f"shards/{names[1]}", (tree.root / f"shards/{names[1]}").read_bytes()[:-4], mtime)
        group = ("shards", "shards/big-step-#.safetensors.index.json", "state-dict", "")
        tree.saves.append(Save(group, (first, *(f"shards/{name}" for name in names)), None, index + 1, mtime, sound=sound, score=_score(tree.rng)))


def _guard_resumed(tree: Tree) -> None:
    """The file with the largest number, of G and of D, and the latest of Lightning's names: where GPT-SoVITS would go on (utils.py:112-117)."""
    for folder in {one.group[0] for one in tree.saves if "/logs_s" in one.group[0]}:
        names = {name: one for one in tree.saves if one.group[0] == folder for name in one.names}
        for letter in "GD":
            numbered = {int(name.rpartition("_")[2].removesuffix(".pth")): one for name, one in names.items() if f"/{letter}_" in name}
            if numbered:
                numbered[max(numbered)].guarded = "resumed"
        steps = {
            tuple(map(int, name.rpartition("epoch=")[2].removesuffix(".ckpt").split("-step="))): one
            for name, one in names.items()
            if "epoch=" in name
        }
        if steps:
            steps[max(steps)].guarded = "resumed"


def _pointers(tree: Tree) -> None:
    rng = tree.rng
    usable = [one for one in tree.saves if "_weights" in one.group[0]]
    if usable:
        gpt_one, sovits_one = rng.choice(usable), rng.choice(usable)
        tree.write("weight.json", json.dumps({"GPT": {"v2": gpt_one.names[0]}, "SoVITS": {}}).encode())
        place = "GPT_SoVITS/configs/tts_infer.yaml"
        tree.write(place, f"custom:\n  device: cpu\n  is_half: false\n  t2s_weights_path: {sovits_one.names[0]}\n  version: v2\n".encode())
        gpt_one.guarded = sovits_one.guarded = "pointed"
        tree.untouchable |= {"weight.json", place}


def _pretrained(tree: Tree) -> None:
    base = "GPT_SoVITS/pretrained_models"
    names = {f"{base}/mine_e{n}_s{n}.pth": whole("sovits", "v2", n, n) for n in (1, 2, 3)} | {f"{base}/s1v3.ckpt": whole("gpt", "v2", 5, 1)}
    for name, data in names.items():
        tree.write(name, data, NOW - 80 * DAY)
    tree.untouchable |= names.keys()


def _links(tree: Tree) -> None:
    """Symbolic links to a save, to a file elsewhere and to a folder, and a second name of a save outside the tree."""
    rng, outside = tree.rng, tree.root.parent / "outside"
    outside.mkdir(exist_ok=True)
    (outside / "far_e1_s1.pth").write_bytes(whole("sovits", "v2", 1, 1))
    one, other = rng.choice(tree.saves), rng.choice(tree.saves)
    folder = tree.root / one.group[0]
    os.symlink(tree.root / one.names[0], folder / "best.pth")
    one.guarded = "linked"
    os.symlink(outside / "far_e1_s1.pth", folder / "far.pth")
    os.symlink(outside, folder / "far")
    os.link(tree.root / other.names[0], outside / "second name")
    tree.untouchable |= {f"{one.group[0]}/{name}" for name in ("best.pth", "far.pth", "far")}


def _not_looked_into(tree: Tree) -> None:
    """Beside GPT-SoVITS itself, only `logs*` and `*weights*` hold saves."""
    if not (tree.root / "GPT_SoVITS").exists() or not any((tree.root / name).exists() for name in ("webui.py", "weight.json", "logs")):
        return
    for one in list(tree.saves):
        if not one.group[0].startswith(("logs", "SoVITS_weights", "GPT_weights")):
            tree.saves.remove(one)
            tree.untouchable |= set(one.names)


def _strays(tree: Tree) -> None:
    tree.write("webui.py", b"# GPT-SoVITS\n")
    tree.write("1745000000.1234567.pth", whole("sovits", "v2", 3, 3), NOW - 30 * DAY)
    fresh = tree.write("1745000001.5.pth", whole("sovits", "v2", 4, 4))
    os.utime(fresh)
    tree.dead.add("1745000000.1234567.pth")
    tree.untouchable |= {"webui.py", "1745000001.5.pth"}


def _manifests(tree: Tree) -> None:
    folder = tree.rng.choice([one.group[0] for one in tree.saves] or [""])
    if folder:
        record(tree.root / folder, [name.rpartition("/")[2] for one in tree.saves if one.group[0] == folder for name in one.names])


def record(folder: Path, names: Iterable[str]) -> None:
    """A manifest, as `verify --record` writes it beside files, with words of the user's."""
    mark = "# --- written by gsvckpt verify --record; what stands below is written anew each time ---\n"
    text = f'# mine\n[note]\nwho = "me"\n\n{mark}\n'
    for name in sorted(names):
        facts = (folder / name).stat()
        text += f"[files.{json.dumps(name, ensure_ascii=False)}]\nsize = {facts.st_size}\nmtime_ns = {facts.st_mtime_ns}\n\n"
    (folder / "gsvckpt.toml").write_text(text.rstrip("\n") + "\n", encoding="utf-8")


def _others(tree: Tree) -> None:
    for name, data in {
        "logs/alice/config.json": b"{}",
        "notes.txt": b"e5 sounds best",
        "logs/alice/2-name2text.txt": b"a|b",
        "x.wav": b"RIFF",
    }.items():
        tree.write(name, data)
        tree.untouchable.add(name)


# --- what a tree is at a moment -------------------------------------------------------------------------------------------------------------------


def snapshot(base: Path) -> dict[str, tuple[object, ...]]:
    """Every path: kind, mode, and for files size, time, content and which names are one file; for links where they lead."""
    found: dict[str, tuple[object, ...]] = {}
    first: dict[tuple[int, int], str] = {}
    for path in sorted(base.rglob("*")):
        facts, name = path.lstat(), str(path.relative_to(base))
        if stat.S_ISLNK(facts.st_mode):
            found[name] = ("link", os.readlink(path))
        elif stat.S_ISDIR(facts.st_mode):
            found[name] = ("folder", facts.st_mode)
        else:
            digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            same = first.setdefault((facts.st_dev, facts.st_ino), name)
            found[name] = ("file", facts.st_mode, facts.st_size, facts.st_mtime_ns, digest, same, facts.st_nlink)
    return found


def disk_use(base: Path) -> int:
    """Bytes of files, each counted once whatever its names; without manifests and the program's own."""
    sizes = {}
    for path in base.rglob("*"):
        facts = path.lstat()
        if stat.S_ISREG(facts.st_mode) and path.name != "gsvckpt.toml":
            sizes[facts.st_dev, facts.st_ino] = facts.st_size
    return sum(sizes.values())
