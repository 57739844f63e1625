"""`make readers`: let the programs that read voices load all that gsvckpt writes, and compare what they got with what they get of the original.

GSV-TTS-Lite loads each file with its own loader: no key may be missing or unwanted, every tensor must be the original's to the bit, and so must the
sound or the tokens that it makes. Where something was cast, the differences are shown. Genie-TTS converts each to ONNX: every file must be the
original's, byte for byte. The run fails where one is not. `--quick` does a choice, as CI does; the whole run puts its table into docs/fidelity.md.
`--plant-fault lite` or `genie` changes one byte of one output, which must make the run fail.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.runtimes.lite import PEAK
from tests.runtimes.outputs import VERSIONS, Voice, make_voice, write
from tests.runtimes.rows import Row, judge, table
from tests.runtimes.rules import prove, rules_table
from tests.support.generated import write_section

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "fidelity.md"
ONNX = ("v2", "v2ProPlus", "gpt")  # what Genie-TTS takes


def main(argv: Sequence[str] | None = None) -> int:
    """Run all voices. Returns 1 where one output is not what it must be."""
    parser = argparse.ArgumentParser(prog="make readers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a choice of outputs")
    parser.add_argument("--plant-fault", choices=("lite", "genie"), help="change one byte of one output, which that program must show")
    asked = parser.parse_args(argv)
    begin = time.monotonic()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sovits: Path | None = None  # Genie-TTS converts pairs
        gpt = make_voice("gpt", folder / "gpt", whole=not asked.quick)
        for version in VERSIONS:
            voice = make_voice(version, folder / version, whole=not asked.quick)
            rows += run_voice(voice, folder, gpt.original, asked.plant_fault)
            if sovits is None:
                sovits = folder / "sovits.pth"
                shutil.copyfile(voice.original, sovits)
            shutil.rmtree(folder / version)
        rows += run_voice(gpt, folder, sovits or gpt.original, None)
        proofs = prove(folder / "rules", ask) if not (asked.quick or asked.plant_fault) else []
    seconds = time.monotonic() - begin
    wrong = [row for row in rows if row.problem]
    lies = [proof for proof in proofs if proof.said != proof.does]
    for proof in lies:
        print(f"  WRONG: {proof.file}: gsvckpt says that {proof.runtime} {'takes' if proof.said else 'does not take'} it ({proof.why})")
    for row in wrong:
        print(f"  WRONG: {row.voice}, {row.output}: {row.problem}")
    print(f"{len(rows):,} outputs in {seconds:,.0f} s: {len(rows) - len(wrong):,} are what they must be")
    if proofs:
        print(f"{len(proofs):,} rows of `runs in`: {len(proofs) - len(lies):,} say what the program does")
    if not wrong and not lies and proofs:
        write_section(DOCUMENT, "make readers", f"{table(rows, seconds)}\n\n{rules_table(proofs)}")
    return 1 if wrong or lies or not rows else 0


def run_voice(voice: Voice, folder: Path, partner: Path, fault: str | None) -> list[Row]:
    """All outputs of one voice through both programs; what was written is gone afterwards."""
    place = folder / "outputs"
    place.mkdir()
    made: dict[str, Path] = {}
    for number, output in enumerate(voice.outputs):
        first = number == 0 and voice.name == "v2" and fault is not None
        made[output.name] = write(voice, output, place / str(number), spoil if first else None)
    paths = {name: str(path) for name, path in made.items()}
    lite = ask("lite", {"kind": voice.kind, "original": str(voice.original), "others": paths if fault != "genie" else {}}, folder)
    converted: Mapping[str, object] = {}
    if voice.name in ONNX and fault != "lite":
        pairs = {output.name: paths[output.name] for output in voice.outputs if output.onnx and not grows(voice, Path(paths[output.name]))}
        both = {
            name: [path, str(partner)] if voice.kind == "gpt" else [str(partner), path] for name, path in {"": str(voice.original), **pairs}.items()
        }
        converted = ask("genie", {"pairs": both}, folder)
    shutil.rmtree(place)
    peak = lite["peak"]
    assert isinstance(peak, float)
    if voice.kind == "sovits" and not PEAK < peak < 1:
        sys.exit(f"{voice.name}: the signal has a peak of {peak}, which shows nothing")
    rows = [judge(voice, output, lite, converted) for output in voice.outputs]
    print(f"{voice.name}: {len(rows)} outputs, {sum(not row.problem for row in rows)} right", flush=True)
    return rows


def grows(voice: Voice, path: Path) -> bool:
    """Whether a v2 file is so large that Genie-TTS takes it for v2ProPlus and removes its own output."""
    return voice.name == "v2" and path.stat().st_size > 150 << 20


def spoil(path: Path) -> None:
    """Flip a bit of the file's last tensor, in the middle of it."""
    import zipfile

    with zipfile.ZipFile(path) as archive:
        last = max((entry for entry in archive.infolist() if "/data/" in entry.filename), key=lambda entry: entry.file_size)
    with path.open("r+b") as file:
        file.seek(last.header_offset + 4096 + last.file_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def ask(client: str, job: Mapping[str, object], folder: Path) -> dict[str, object]:
    """Run a client in a process and a folder of its own, as each replaces modules that others need."""
    place = folder / client
    place.mkdir()
    (place / "job.json").write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, "-m", f"tests.runtimes.{client}", "job.json", "answer.json"]
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    done = subprocess.run(command, cwd=place, env=surroundings, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{client} failed\n{done.stderr[-3000:]}")
    answer: dict[str, object] = json.loads((place / "answer.json").read_text(encoding="utf-8"))
    shutil.rmtree(place)
    return answer


if __name__ == "__main__":
    sys.exit(main())
