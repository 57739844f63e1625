"""What is run on both systems: scenarios of commands, each in a fresh copy of the same files."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support import voices

SCENARIOS: dict[str, tuple[str, ...]] = {
    "inspect": (
        "inspect SoVITS_weights_v2/鲁迅_e8_s200.pth --json",
        "inspect . -r --json",
        "inspect 'logs/alice/logs_s2_v2/G_200.pth' --tensors --stats --json",
        "inspect GPT_weights_v2/alice-e15.ckpt --config",
        "inspect GPT_weights_v2/alice-e15.ckpt --config --format json",
        "inspect 'a b.pth' --globals --memory --json",
        "inspect logs/alice/logs_s2_v2/G_100.pth --diff logs/alice/logs_s2_v2/G_200.pth --json",
    ),
    "convert-fp16": (
        "convert-fp16 logs/alice/logs_s2_v2/G_200.pth --json",
        "convert-fp16 logs/alice/logs_s2_v2/G_100.pth logs/alice/logs_s2_v2/D_100.pth -o small/ --json",
        "convert-fp16 logs/alice/logs_s2_v2/D_200.pth --in-place --json",
        "convert-fp16 logs/alice/logs_s2_v2/G_200.pth --dry-run --json",
    ),
    "strip-optimizer": (
        "strip-optimizer logs/alice/logs_s2_v2/G_200.pth --json",
        "strip-optimizer logs/alice/logs_s2_v2/D_200.pth --in-place --json",
        "strip-optimizer logs/alice/logs_s2_v2/G_100.pth --check --json",
    ),
    "verify": (
        "verify . -r --json",
        "verify 'a b.pth' --format junit",
        "verify cut.pth --format sarif",
        "verify logs/alice --resume --layout none --json",
        "verify 'a b.pth' --against SoVITS_weights_v2/鲁迅_e8_s200.pth --json",
    ),
    "record": (
        "verify SoVITS_weights_v2 --record --json",
        "verify SoVITS_weights_v2 --backup copies --json",
        "verify copies -r --json",
        "verify SoVITS_weights_v2 --write-checksums sums.xxh128 --json",
        "verify SoVITS_weights_v2 --checksums sums.xxh128 --json",
    ),
    "migrate": (
        "migrate 'a b.pth' --to safetensors -o a.safetensors --force --json",
        "migrate a.safetensors --to torch -o back.pth --force --json",
        "migrate SoVITS_weights_v2/鲁迅_e8_s200.pth --plain --scrub-paths --dtype float32 -o plain.pth --force --json",
        "migrate logs/alice/logs_s2_v2/G_200.pth --to-inference -o weights/ --force --json",
        "migrate cut.pth --salvage --json",
        "migrate 'a b.pth' --to safetensors --max-shard-size 1KB -o shards --force --json",
        "migrate 'a b.pth' -o 'a b.pth' --json",
    ),
    "prune": (
        "prune logs/alice --keep-last 1 -n --json",
        "prune logs/alice --keep-last 1 -y --json",
        "prune logs/alice --undo --json",
        "prune logs/alice --demote-after 1 -y --json",
        "prune logs/alice --keep-last 1 --archive old -y --json",
        "prune logs/alice --empty-trash -y --json",
    ),
}


def make_files(folder: Path) -> None:
    """Voices of one element a tensor, with training files of two saves, a cut file, and names that Windows' users have."""
    maker = voices.Maker(tiny=True)
    small = folder / "SoVITS_weights_v2" / "鲁迅_e8_s200.pth"
    voices.write(voices.sovits_weights(maker, "鲁迅", "v2", epoch=8, step=200), small)
    voices.write(voices.sovits_weights(maker, "alice", "v2", epoch=8, step=200), folder / "a b.pth")
    voices.write(voices.gpt_weights(maker, "alice", "v2", epoch=15), folder / "GPT_weights_v2" / "alice-e15.ckpt")
    run = folder / "logs" / "alice" / "logs_s2_v2"
    for step, epoch in ((100, 4), (200, 8)):
        for letter in "GD":
            voices.write(voices.generator_training(maker, "v2", epoch=epoch, step=step), run / f"{letter}_{step}.pth")
    (run.parent / "config.json").write_text(json.dumps(voices.sovits_config("alice", "v2", 20)), encoding="utf-8")
    (folder / "cut.pth").write_bytes((folder / "a b.pth").read_bytes()[:-3000])
    for name in ("small", "weights"):
        (folder / name).mkdir()
