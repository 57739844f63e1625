"""Whether the rules of `gsvckpt.sovits.runtimes` say what the programs do: each layout in float16 and float32, asked of both."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.runtimes.clients import ask
from tests.support import voices

_LAYOUTS = (
    *(("sovits", version) for version in ("v1", "v2", "v2Pro", "v2ProPlus", "v3", "v4")),
    *(("lora", version) for version in ("v3", "v4")),
    *(("gpt", version) for version in ("v1", "v2")),
)
_RUNTIMES = {"GSV-TTS-Lite": "lite", "Genie-TTS": "genie"}


class Proof(NamedTuple):
    """What gsvckpt says of one file and one program, and what that program does."""

    file: str
    runtime: str
    said: bool
    does: bool
    why: str


def prove(folder: Path) -> list[Proof]:
    """Build every layout in both types, one layout at a time, and ask about it. Files are gone afterwards."""
    folder.mkdir()
    maker = voices.Maker(loud=True)
    partners = {"gpt": folder / "partner.ckpt", "sovits": folder / "partner.pth"}
    voices.write(voices.gpt_weights(maker, "alice", "v2", epoch=15), partners["gpt"])
    voices.write(voices.sovits_weights(maker, "alice", "v2", epoch=8, step=200), partners["sovits"], "v2")
    found: list[Proof] = []
    for kind, version in _LAYOUTS:
        half = folder / (f"alice-{version}-e15.ckpt" if kind == "gpt" else f"alice_{version}_e8_s200.pth")
        if kind == "lora":
            voices.write_lora(voices.lora_weights(maker, "alice", version, epoch=8, step=200), half, version)
        elif kind == "sovits":
            voices.write(voices.sovits_weights(maker, "alice", version, epoch=8, step=200), half, version)
        else:
            voices.write(voices.gpt_weights(maker, "alice", version, epoch=15), half)
        full = half.with_name(f"float32-{half.name}")
        command = [sys.executable, "-m", "gsvckpt", "migrate", half, "--dtype", "float32", "--force", "-q", "-o", full]
        subprocess.run(command, check=True, capture_output=True)
        files = {f"{kind} {version}, float16": half, f"{kind} {version}, float32": full}
        found += _of_layout(files, kind, partners, folder)
        for path in files.values():
            path.unlink()
    return found


def _of_layout(files: Mapping[str, Path], kind: str, partners: Mapping[str, Path], folder: Path) -> list[Proof]:
    pairs = {name: [str(path), str(partners["sovits"])] if kind == "gpt" else [str(partners["gpt"]), str(path)] for name, path in files.items()}
    lite = {name: ["gpt" if kind == "gpt" else "sovits", str(path)] for name, path in files.items()}
    answers = ask({"lite": {"takes": lite}, "genie": {"pairs": pairs, "load": True}}, folder)
    found = []
    for name, path in files.items():
        done = subprocess.run([sys.executable, "-m", "gsvckpt", "inspect", path, "--json"], check=True, capture_output=True, text=True)
        rows = {row["runtime"]: row for row in json.loads(done.stdout)["files"][0]["runs_in"] if row["runtime"] in _RUNTIMES}
        for runtime, client in _RUNTIMES.items():
            found.append(Proof(name, runtime, rows[runtime]["takes"], answers[client][name]["takes"], rows[runtime]["why"]))
    return found


def rules_table(proofs: list[Proof]) -> str:
    """Which file which program takes, as gsvckpt says and as the program does."""
    files = dict.fromkeys(proof.file for proof in proofs)
    cells = {(proof.file, proof.runtime): ("yes" if proof.does else f"no: {proof.why}") for proof in proofs}
    told = "What `inspect` says in `runs in`, for every layout in both types; the programs do as it says:"
    lines = [told, "", "| file | GSV-TTS-Lite takes it | Genie-TTS takes it |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {file} | {cells[file, 'GSV-TTS-Lite']} | {cells[file, 'Genie-TTS']} |" for file in files)])
