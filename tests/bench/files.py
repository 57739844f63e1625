"""The checkpoints that the jobs work on, built once into a cache folder. `python -m tests.bench.files NAME PATH` builds one.

The bench starts that as a process of its own, because building needs NumPy and the bench itself has to stay small (see measure).
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

GIB = 1 << 30
EDITION = "2"  # a new number when what is built changes


@dataclass(frozen=True)
class Input:
    """A file: its name in the cache, about how large it is, and how much disk its job writes besides."""

    name: str
    size: int
    output: int = 0


V2 = Input("v2.pth", 85_000_000)
GPT = Input("gpt.ckpt", 155_000_000)
GPT_FLOATS = Input("gpt-float32.ckpt", 310_000_000)
V3 = Input("v3.pth", 769_000_000)
SMALL_FLOATS = Input("float32-85MB.pth", 20 << 22)
HUNDRED = Input("float32-100MiB.pth", 25 << 22)
FLOATS = Input("float32-1GiB.pth", GIB)
MANY_FLOATS = Input("float32-8GiB.pth", 8 * GIB)
STREAM = Input("stream-1GiB.pth", GIB)  # as torch wrote files before 1.6
THOUSANDS = tuple(Input(f"{count}-tensors.pth", 300 * count) for count in (25_000, 50_000, 100_000))
VOICES = Input("500-voices", 400_000_000)
TRAINING = Input("G_200.pth", 1_178_000_000, 2 * 400_000_000)
SAVES = Input("10000-saves-of-250-voices", 4_500_000_000)
LORA = Input("G_100_lora.pth", 1_845_000_000, 2 * 769_000_000)


def cache() -> Path:
    """Where the files are kept: $GSVCKPT_BENCH_DIR or ~/.cache/gsvckpt-bench."""
    chosen = os.environ.get("GSVCKPT_BENCH_DIR")
    return Path(chosen) if chosen else Path.home() / ".cache" / "gsvckpt-bench"


def place(wanted: Input) -> Path:
    return cache() / EDITION / wanted.name


def provide(wanted: Input) -> str | None:
    """Build the file unless it is there. Returns why it cannot be, None when all is well."""
    path = place(wanted)
    path.parent.mkdir(parents=True, exist_ok=True)
    needed = wanted.output + (0 if path.exists() else wanted.size)
    free = shutil.disk_usage(path.parent).free
    if free < needed * 1.05:
        return f"needs {needed / GIB:.1f} GiB of disk in {path.parent}, {free / GIB:.1f} are free"
    if not path.exists():
        print(f"building {path} ({wanted.size / GIB:.1f} GiB, once) ...", file=sys.stderr, flush=True)
        subprocess.run([sys.executable, "-m", "tests.bench.files", wanted.name, path], check=True)
    return None


def build(name: str, path: Path) -> None:
    from tests.support import voices

    maker = voices.Maker()
    if name == V2.name:
        voices.write(voices.sovits_weights(maker, "bench", "v2", epoch=8, step=200), path, "v2")
    elif name == GPT.name:
        voices.write(voices.gpt_weights(maker, "bench", "v2", epoch=8), path)
    elif name == GPT_FLOATS.name:
        voices.write(voices.gpt_weights(maker, "bench", "v2", epoch=8) | {"weight": maker.state("gpt-v2", "float32")}, path)
    elif name == V3.name:
        voices.write(voices.sovits_weights(maker, "bench", "v3", epoch=8, step=200), path, "v3")
    elif name == VOICES.name:
        build_voices(path)
    elif name == SAVES.name:
        build_saves(path)
    elif name == TRAINING.name:
        voices.write(voices.generator_training(maker, "v2ProPlus", epoch=8, step=200), path)
        path.with_suffix(".json").write_text(json.dumps(voices.sovits_config("bench", "v2ProPlus", 8)))
    elif name == LORA.name:
        voices.write(voices.lora_training(maker, "v3", epoch=4, step=100), path)
        path.with_suffix(".json").write_text(json.dumps(voices.sovits_config("bench", "v3", 4)))
    elif name == STREAM.name:
        build_stream(path)
    elif name in (file.name for file in THOUSANDS):
        count = int(name.partition("-")[0])
        voices.write({f"layers.{n}.weight": maker.tensor(f"layers.{n}.weight", (8,)) for n in range(count)}, path)
    else:
        count = next(file.size for file in (SMALL_FLOATS, HUNDRED, FLOATS, MANY_FLOATS) if file.name == name) >> 22
        voices.write({f"layers.{n}.weight": maker.tensor(f"layers.{n}.weight", (1024, 1024)) for n in range(count)}, path)


def build_stream(path: Path) -> None:
    import torch

    torch.manual_seed(0)
    state = {f"layers.{n}.weight": torch.randn(1024, 1024) for n in range(256)}
    torch.save(state, path, _use_new_zipfile_serialization=False)


def build_voices(folder: Path) -> None:
    """500 weight files with all their tensors, each of which is small: so most of the work is opening them."""
    from tests.support import voices

    folder.mkdir()
    maker = voices.Maker()
    for number in range(500):
        state = {name: maker.tensor(name, (300,), "float16") for name in maker.state("sovits-v2-small", "float16")}
        voices.write({"weight": state, "info": f"{number}epoch_{number}iteration"}, folder / f"voice_e{number}_s{number}.pth")


def build_saves(folder: Path) -> None:
    """10,000 saves of four kinds and 250 experiments, with all their tensors, each of which is tiny: so most of the work is seeing what they are.

    Each names its own experiment, as weights do, so those of two are not equal.
    """
    from tests.support import voices

    maker = voices.Maker(tiny=True)
    template = folder.with_name("one-save.pth")
    for epoch in range(1, 11):
        step = epoch * 25
        trees = {
            f"logs/{{}}/logs_s2_v2/G_{step}.pth": voices.generator_training(maker, "v2", epoch, step),
            f"SoVITS_weights_v2/{{}}_e{epoch}_s{step}.pth": voices.sovits_weights(maker, "voice000", "v2", epoch, step, 10),
            f"SoVITS_weights_v2Pro/{{}}_e{epoch}_s{step}.pth": voices.sovits_weights(maker, "voice000", "v2Pro", epoch, step, 10),
            f"GPT_weights_v2/{{}}-e{epoch}.ckpt": voices.gpt_weights(maker, "voice000", "v2", epoch, 10),
        }
        for name, tree in trees.items():
            voices.write(tree, template)
            with zipfile.ZipFile(template) as archive:
                (record,) = (info for info in archive.infolist() if info.filename.endswith("/data.pkl"))
                pickled = archive.read(record)
            whole = template.read_bytes()
            for experiment in range(250):
                path = folder / name.format(f"voice{experiment:03}")
                path.parent.mkdir(parents=True, exist_ok=True)
                renamed = pickled.replace(b"voice000", f"voice{experiment:03}".encode())
                path.write_bytes(whole.replace(pickled, renamed).replace(_crc(pickled), _crc(renamed)))
    template.unlink()


def _crc(record: bytes) -> bytes:
    return struct.pack("<I", zlib.crc32(record))


if __name__ == "__main__":
    build(sys.argv[1], Path(sys.argv[2]))
