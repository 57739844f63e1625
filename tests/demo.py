"""`make demo`: build a voice as a GPT-SoVITS user has one, then show what gsvckpt says of it and what it frees."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

FOLDER = Path("demo")
VOICE = "alice"
SOVITS = Path("SoVITS_weights_v2", f"{VOICE}_e8_s200.pth")
GPT = Path("GPT_weights_v2", f"{VOICE}-e15.ckpt")
TRAINING = Path("logs", VOICE, "logs_s2_v2", "G_200.pth")
STRIPPED = TRAINING.with_name("weights-G_200.pth")
SMALL = TRAINING.with_name(SOVITS.name)
SAFE = SOVITS.with_name(f"{SOVITS.stem}.safetensors")
HALVED = STRIPPED.with_name("weights-G_200.fp16.pth")


def build(folder: Path) -> None:
    """Build those of the three files that are not there yet, 850 MB in all. Each appears whole or not at all."""
    missing = [path for path in (SOVITS, GPT, TRAINING) if not (folder / path).exists()]
    if not missing:
        return
    from tests.support import voices

    maker = voices.Maker()
    roots = {
        SOVITS: lambda: voices.sovits_weights(maker, VOICE, "v2", epoch=8, step=200),
        GPT: lambda: voices.gpt_weights(maker, VOICE, "v2", epoch=15),
        TRAINING: lambda: voices.generator_training(maker, "v2", epoch=8, step=200),
    }
    print(f"building a small v2 voice in ./{folder} (850 MB, once) ...", flush=True)
    for path in missing:
        voices.write(roots[path](), folder / path, "v2" if path is SOVITS else None)
    (folder / "logs" / VOICE / "config.json").write_text(json.dumps(voices.sovits_config(VOICE, "v2", 8)), encoding="utf-8")


def gsvckpt(*arguments: str | Path) -> None:
    """Run the real program, as the user would."""
    texts = [argument.as_posix() if isinstance(argument, Path) else argument for argument in arguments]
    print(f"\n$ gsvckpt {shlex.join(texts)}", flush=True)
    code = subprocess.run([Path(sys.executable).with_name("gsvckpt"), *texts], check=False).returncode
    if code:
        sys.exit(code)  # it has said why


def main() -> None:
    build(FOLDER)
    for earlier in (STRIPPED, HALVED, SMALL, SAFE):
        (FOLDER / earlier).unlink(missing_ok=True)
    gsvckpt("inspect", "-r", FOLDER)
    gsvckpt("inspect", FOLDER / SOVITS)
    gsvckpt("strip-optimizer", FOLDER / TRAINING)
    gsvckpt("convert-fp16", FOLDER / STRIPPED)
    gsvckpt("migrate", FOLDER / TRAINING, "--to-inference")
    gsvckpt("migrate", FOLDER / SOVITS, "--to", "safetensors")
    gsvckpt("verify", FOLDER, "-r")
    gsvckpt("prune", FOLDER, "--keep-last", "1", "--dry-run")


if __name__ == "__main__":
    main()
