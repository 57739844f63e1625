"""What is written for `make readers`: voices, and every kind of output that gsvckpt makes of them, as commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from tests.runtimes.by_torch import write_cast, write_stream
from tests.support import voices

Kind = Literal["sovits", "gpt"]
VERSIONS = ("v2", "v2Pro", "v2ProPlus")
_PAIRED = "logs/alice/logs_s2_v2/G_200.pth"
_LIGHTNING = "logs/alice/logs_s1_v2/ckpt/epoch=14-step=300.ckpt"


class Output(NamedTuple):
    """One output: the commands that make it, of which `{in}` is the voice and `{training}` its training file, and the path of the result.

    `cast`: the dtype to which it was cast, so that it must be what torch's own cast gives; without one it must be the original, to the bit.
    `quick`: CI makes it, too. `onnx`: Genie-TTS converts it.
    """

    name: str
    commands: tuple[str, ...]
    result: str
    cast: str = ""
    quick: bool = False
    onnx: bool = True


_ANY = (
    Output("migrate", ("migrate {stream} -o out.pth",), "out.pth", quick=True),  # torch's older format becomes today's zip
    Output("migrate --dtype float32", ("migrate {in} --dtype float32 -o out.pth",), "out.pth", quick=True),
    Output("... then convert-fp16", ("migrate {in} --dtype float32 -o big.pth", "convert-fp16 big.pth -o out.pth"), "out.pth", quick=True),
    Output("migrate --dtype bfloat16", ("migrate {in} --dtype bfloat16 -o out.pth",), "out.pth", cast="bfloat16"),
    Output("migrate --plain", ("migrate {in} --plain -o out.pth",), "out.pth", quick=True),
    Output("migrate --scrub-paths", ("migrate {in} --scrub-paths -o out.pth",), "out.pth"),
    Output(
        "migrate --to safetensors, and back",
        ("migrate {in} --to safetensors -o a.safetensors", "migrate a.safetensors --to torch -o out.pth"),
        "out.pth",
    ),
    Output(
        "... in shards, and back",
        ("migrate {in} --to safetensors --max-shard-size 32MB -o shards", "migrate shards/model.safetensors.index.json --to torch -o out.pth"),
        "out.pth",
    ),
    Output("migrate --salvage --fill of a cut file", ("migrate {cut} --salvage --like {in} --fill -o out.pth --force",), "out.pth"),
)
_FOLDER = ("migrate {in} --to safetensors --rules gsv-tts-lite -o {out}/model.safetensors", "inspect {in} --config --format json > {out}/CONFIG")
SOVITS = (
    *_ANY,
    Output(
        "--rules gsv-tts-lite, its folder form", tuple(command.replace("CONFIG", "hps.json") for command in _FOLDER), "voice", quick=True, onnx=False
    ),
    Output("migrate --head of the version", ("migrate {in} --head {head} -o out.pth --force",), "out.pth"),
)
TRAINED_SOVITS = (
    Output("migrate --to-inference", ("migrate {training} --to-inference -o out.pth",), "out.pth", quick=True),
    Output(
        "migrate --to-inference --dtype float32",
        ("migrate {training} --to-inference --dtype float32 -o out.pth --force",),
        "out.pth",
        cast="float32",
    ),
    Output(
        "prune --demote-to inference",
        ("prune {run} --demote-after 1 --demote-to inference --yes",),
        "{run}/logs_s2_v2/alice_e4_s100.pth",
    ),
    Output(
        "strip-optimizer, then --to-inference",
        ("strip-optimizer {training} -o {folder}weights-G_200.pth", "migrate {folder}weights-G_200.pth --to-inference -o out.pth"),
        "out.pth",
    ),
    Output(
        "... convert-fp16 between",
        (
            "strip-optimizer {training} -o {folder}weights-G_200.pth --force",
            "convert-fp16 {folder}weights-G_200.pth -o {folder}fp16-weights-G_200.pth",
            "migrate {folder}fp16-weights-G_200.pth --to-inference -o out.pth",
        ),
        "out.pth",
    ),
)
TRAINED_GPT = (
    Output("migrate --to-inference", ("migrate {training} --to-inference -o out.ckpt",), "out.ckpt", quick=True),
    Output("--rules gsv-tts-lite, its folder", tuple(line.replace("CONFIG", "config.json") for line in _FOLDER), "voice", onnx=False),
)
HEADS = {"v2": "01", "v2Pro": "05", "v2ProPlus": "06"}


class Voice(NamedTuple):
    """An original as GPT-SoVITS writes it, and what its outputs are made from."""

    name: str
    kind: Kind
    original: Path
    words: Mapping[str, str]
    outputs: tuple[Output, ...]


def make_voice(name: str, folder: Path, *, whole: bool) -> Voice:
    """Build one voice below `folder`: small weights of a version, or `gpt`; with training files for v2 and GPT. Not `whole`: the quick choice."""
    maker = voices.Maker(loud=True)
    kind: Kind = "gpt" if name == "gpt" else "sovits"
    original = folder / ("alice-e15.ckpt" if kind == "gpt" else f"alice_{name}_e8_s200.pth")
    training = folder / (_LIGHTNING if kind == "gpt" else _PAIRED)
    if kind == "gpt":
        voices.write(voices.gpt_weights(maker, "alice", "v2", epoch=15), original)
        voices.write(voices.gpt_training(maker, "v2", epoch=15, step=300), training)
        outputs = (*_ANY, *TRAINED_GPT)
    else:
        voices.write(voices.sovits_weights(maker, "alice", name, epoch=8, step=200), original, name)
        outputs = SOVITS
        if name == "v2":
            _write_runs(maker, folder, training, whole=whole)
            outputs = (*SOVITS, *TRAINED_SOVITS)
    cut, stream = folder / f"cut{original.suffix}", folder / f"stream{original.suffix}"
    data = original.read_bytes()
    cut.write_bytes(data[: len(data) * 6 // 10])
    write_stream(original, stream)
    words = {"in": original, "cut": cut, "stream": stream, "training": training, "head": HEADS.get(name, "PK"), "folder": f"{training.parent}/"}
    words["run"] = folder / "run" / "alice"
    chosen = tuple(output for output in outputs if whole or (output.quick and (name in ("v2", "gpt") or "float32" in output.name)))
    return Voice(name, kind, original, {word: str(value) for word, value in words.items()}, chosen)


def _write_runs(maker: voices.Maker, folder: Path, training: Path, *, whole: bool) -> None:
    """A run with the training file. If `whole`, another with that file and an older one, which prune may change."""
    voices.write(voices.generator_training(maker, "v2", epoch=8, step=200), training)
    experiments = [training.parent.parent]
    if whole:
        other = folder / "run" / "alice" / training.parent.name
        voices.write(voices.generator_training(maker, "v2", epoch=4, step=100), other / "G_100.pth")
        os.link(training, other / training.name)
        experiments.append(other.parent)
    for experiment in experiments:
        (experiment / "config.json").write_text(json.dumps(voices.sovits_config("alice", "v2", 8)), encoding="utf-8")


def write_reference(voice: Voice, output: Output, target: Path) -> Path:
    """What torch itself makes where gsvckpt cast."""
    of_training = any("{training}" in command for command in output.commands)
    write_cast(voice.original, output.cast, target, Path(voice.words["training"]) if of_training else None)
    return target


def write(voice: Voice, output: Output, folder: Path, spoil: Callable[[Path], None] | None = None) -> Path:
    """Run the commands of one output in a folder of its own. Returns the file that they made; ends the run where one of them fails."""
    (folder / "voice").mkdir(parents=True)
    for line in output.commands:
        command, _, target = line.format(**voice.words, out="voice").partition(" > ")
        words = [*command.split(), *(() if target else ("-q",))]
        done = subprocess.run([sys.executable, "-m", "gsvckpt", *words], cwd=folder, capture_output=True, text=True, check=False)
        if target:
            (folder / target).write_text(done.stdout, encoding="utf-8")
        if done.returncode not in (0, 1):  # 1: --salvage tells that something was lost
            sys.exit(f"{voice.name}, {output.name}: gsvckpt {' '.join(words)}\n{done.stderr}")
    result = folder / output.result.format(**voice.words)
    for path in folder.iterdir():
        if path.is_file() and path != result:
            path.unlink()
    if spoil is not None:
        spoil(result)
    return result
