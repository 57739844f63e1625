"""Folders as GPT-SoVITS leaves them, in the fewest tensors."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from pathlib import Path

from .samples import discriminator, generator, gpt, s1_training, s2_training, save, small

HOUR = 3_600
NOW = 1_790_000_000


def dated(path: Path, hours: float) -> Path:
    """A file of a time that every run has alike."""
    os.utime(path, (NOW + hours * HOUR, NOW + hours * HOUR))
    return path


def s2_run(folder: Path, epochs: range, version: str = "v2") -> Path:
    """`G_*.pth` and `D_*.pth` of a SoVITS run, two steps an epoch."""
    for epoch in epochs:
        dated(save(folder / f"G_{2 * epoch}.pth", s2_training(generator(version, enc_q=True), epoch)), epoch)
        dated(save(folder / f"D_{2 * epoch}.pth", s2_training(discriminator(), epoch)), epoch)
    return folder


def s1_run(folder: Path, epochs: range, **callback: object) -> Path:
    """Lightning files of a GPT run, twelve steps an epoch."""
    for epoch in epochs:
        tree = s1_training(gpt()) | {"epoch": epoch - 1, "global_step": 12 * epoch}
        if callback:
            tree["callbacks"] = {"my_model_ckpt{'monitor': 'top_3_acc', 'mode': 'max'}": callback}
        dated(save(folder / f"epoch={epoch - 1}-step={12 * epoch}.ckpt", tree), epoch)
    return folder


def small_weights(root: Path, name: str, epochs: range, version: str = "v2") -> None:
    """What GPT-SoVITS saves for inference of both models."""
    for epoch in epochs:
        voice = small(generator(version, "float16"), version) | {"info": f"{epoch}epoch_{2 * epoch}iteration"}
        dated(save(root / f"SoVITS_weights_{version}" / f"{name}_e{epoch}_s{2 * epoch}.pth", voice), epoch)
        tree = OrderedDict(weight=gpt(), config={"train": {"epochs": 8}}, info=f"GPT-e{epoch}")
        dated(save(root / f"GPT_weights_{version}" / f"{name}-e{epoch}.ckpt", tree), epoch)


def gpt_sovits(root: Path, name: str = "alice", epochs: range = range(1, 6)) -> Path:
    """A GPT-SoVITS folder with one experiment."""
    s2_run(root / "logs" / name / "logs_s2_v2", epochs)
    s1_run(root / "logs" / name / "logs_s1_v2" / "ckpt", epochs)
    small_weights(root, name, epochs)
    (root / "logs" / name / "config.json").write_text("{}")
    return root


def settings(root: Path, **weights: str) -> None:
    """The weight.json in which the inference page remembers its choice."""
    (root / "weight.json").write_text(json.dumps({stage: {"v2": path} for stage, path in weights.items()}))


def snapshot(root: Path) -> dict[str, tuple[bytes, int]]:
    """All files with their bytes and times."""
    return {p.relative_to(root).as_posix(): (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(root.rglob("*")) if p.is_file()}
