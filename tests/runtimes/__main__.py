"""`make readers`: let the programs that read voices load all that gsvckpt writes, and compare what they got with what they get of the original.

GSV-TTS-Lite loads each file with its own loader: no key may be missing or unwanted, every tensor must be the original's to the bit, and so must the
sound or the tokens that it makes. Genie-TTS converts each to ONNX: every file must be the original's, byte for byte. Where something was cast, both
must get what they get of torch's own cast, and the differences from the original are shown. The run fails where one is not what it must be, or where
a program does not show that one bit of a copy was flipped. `--quick` does a choice, as CI does; the whole run puts its table into docs/fidelity.md.
`--plant-fault lite` or `genie` flips one bit of one output and asks that program alone, which must make the run fail.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.runtimes.clients import ROOT, ask
from tests.runtimes.lite import PEAK
from tests.runtimes.outputs import VERSIONS, Output, Voice, make_voice, write, write_reference
from tests.runtimes.rows import Row, judge_genie, judge_lite, make_row, table
from tests.runtimes.rules import prove, rules_table
from tests.support.generated import write_section

DOCUMENT = ROOT / "docs" / "fidelity.md"
ONNX = ("v2", "v2ProPlus", "gpt")  # what Genie-TTS takes
CONTROL = Output("a copy with one bit flipped", (), "")


def main(argv: Sequence[str] | None = None) -> int:
    """Run all voices. Returns 1 where one output is not what it must be."""
    parser = argparse.ArgumentParser(prog="make readers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a choice of outputs")
    parser.add_argument("--plant-fault", choices=("lite", "genie"), help="flip one bit of one output, which that program must show")
    asked = parser.parse_args(argv)
    begin = time.monotonic()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        partner = folder / "sovits.pth"  # Genie-TTS converts pairs
        gpt = make_voice("gpt", folder / "gpt", whole=not asked.quick)
        for version in VERSIONS:
            voice = make_voice(version, folder / version, whole=not asked.quick)
            rows += run_voice(voice, folder, gpt.original, asked.plant_fault)
            if not partner.exists():
                shutil.copyfile(voice.original, partner)
            shutil.rmtree(folder / version)
        rows += run_voice(gpt, folder, partner, asked.plant_fault)
        shutil.rmtree(folder / "gpt")
        proofs = [] if asked.quick or asked.plant_fault else prove(folder / "rules")
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
    made = {
        output.name: write(voice, output, place / str(number), spoil if fault and number == 0 and voice.name == "v2" else None)
        for number, output in enumerate(voice.outputs)
    }
    references = {output.name: write_reference(voice, output, place / f"torch-{output.cast}.pth") for output in voice.outputs if output.cast}
    made[CONTROL.name] = place / "flipped.pth"
    shutil.copyfile(voice.original, made[CONTROL.name])
    spoil(made[CONTROL.name])

    pairs = {output.name: made[output.name] for output in (*voice.outputs, CONTROL) if output.onnx and not grows(voice, made[output.name])}
    casts = {torchs(name): path for name, path in references.items() if name in pairs}
    wanted = {"": voice.original, **pairs, **casts}
    jobs: dict[str, dict[str, object]] = {
        "lite": {"kind": voice.kind, "original": str(voice.original), "others": texts(made), "references": texts(references)},
        "genie": {"pairs": {name: [str(one) for one in pair(voice, path, partner)] for name, path in wanted.items()}},
    }
    knowing = ("lite", "genie") if voice.name in ONNX else ("lite",)
    answers = ask({client: jobs[client] for client in knowing if fault in (None, client)}, folder)
    shutil.rmtree(place)
    if "lite" in answers:
        check_original(voice, answers["lite"])
    rows = [judge(voice, output, answers, output.name in pairs) for output in voice.outputs]
    print(f"{voice.name}: {len(rows)} outputs, {sum(not row.problem for row in rows)} right", flush=True)
    return rows + unseen(voice, answers)


def judge(voice: Voice, output: Output, answers: dict[str, dict[str, Any]], converted: bool) -> Row:
    """Hold one output against the original, or against torch's own cast."""
    lite = answers["lite"]["others"][output.name] if "lite" in answers else None
    onnx = answers["genie"] if "genie" in answers and converted else None
    must = onnx[torchs(output.name) if output.cast else ""] if onnx else None
    return make_row(voice.name, output.name, judge_lite(output, lite), judge_genie(must, onnx[output.name] if onnx else None))


def unseen(voice: Voice, answers: dict[str, dict[str, Any]]) -> list[Row]:
    """A row for each program that took the spoiled copy for the original."""
    verdicts = {
        "lite": lambda found: judge_lite(CONTROL, found["others"][CONTROL.name]),
        "genie": lambda found: judge_genie(found[""], found[CONTROL.name]),
    }
    blind = [client for client, found in answers.items() if not verdicts[client](found).problems]
    return [Row(voice.name, CONTROL.name, "-", "-", "-", f"{client} does not show it") for client in blind]


def check_original(voice: Voice, lite: dict[str, Any]) -> None:
    """End the run where the original itself is no witness: keys are missing, or it is all but silent."""
    if lite["missing"] or lite["unexpected"]:
        sys.exit(f"{voice.name}: the original has keys missing ({lite['missing']}) or unwanted ({lite['unexpected']})")
    if voice.kind == "sovits" and not PEAK < lite["peak"] < 1:
        sys.exit(f"{voice.name}: the signal has a peak of {lite['peak']}, which shows nothing")


def pair(voice: Voice, path: Path, partner: Path) -> tuple[Path, Path]:
    """GPT and SoVITS, of which one is of the voice."""
    return (path, partner) if voice.kind == "gpt" else (partner, path)


def grows(voice: Voice, path: Path) -> bool:
    """Whether a v2 file is so large that Genie-TTS takes it for v2ProPlus and removes its own output."""
    return voice.name == "v2" and path.stat().st_size > 150 << 20


def torchs(name: str) -> str:
    """Under which name Genie-TTS is asked about torch's own cast."""
    return f"{name}, by torch"


def texts(paths: dict[str, Path]) -> dict[str, str]:
    return {name: str(path) for name, path in paths.items()}


def spoil(path: Path) -> None:
    """Flip a bit of the file's largest tensor, in the middle of it."""
    with zipfile.ZipFile(path) as archive:
        largest = max((entry for entry in archive.infolist() if "/data/" in entry.filename), key=lambda entry: entry.file_size)
    with path.open("r+b") as file:
        file.seek(largest.header_offset + 4096 + largest.file_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


if __name__ == "__main__":
    sys.exit(main())
