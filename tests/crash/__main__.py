"""`make crash`: kill a trainer at every file event of its saves, resume it, and hold `verify --resume` against what resuming really did.

ckpt-chaos does the killing; the trainer saves with torch. The run fails where one answer is wrong, or an outcome is not met as often as expected.
`--quick` does the matrices s1 and s2 with fewer points, as CI does; the whole run puts its table into docs/resume.md. `--plant-fault` cuts one byte
off a file between the answer and the resumption, which must make the run fail.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.crash.points import OUTCOMES, Point, complaints, counts, read_points
from tests.crash.trainer import MATRICES
from tests.support.generated import write_section

HERE = Path(__file__).parent
DOCUMENT = HERE.parents[1] / "docs" / "resume.md"
QUICK = {"s2": 14, "s1": 10}  # points of each
_MOST = 1_000
_OTHER_DRIVES = ("/dev/shm", "/run/shm")  # noqa: S108 - a drive of its own on most Linux systems


def main(argv: Sequence[str] | None = None) -> int:
    """Run the matrices. Returns 1 where gsvckpt and the trainer disagree at one point."""
    parser = argparse.ArgumentParser(prog="make crash", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="s2 and s1 alone, and fewer points")
    parser.add_argument("--matrix", choices=MATRICES, action="append", help="only this one (repeatable)")
    parser.add_argument("--plant-fault", action="store_true", help="spoil one file, which the run must notice")
    asked = parser.parse_args(argv)
    quick = asked.quick or asked.plant_fault
    names = list(asked.matrix or (QUICK if quick else MATRICES))
    if quick and not set(names) <= set(QUICK):
        parser.error(f"--quick and --plant-fault know {' and '.join(QUICK)} alone")
    begin = time.monotonic()
    found: dict[str, list[Point]] = {}
    for name in names:
        other = _other_drive() if MATRICES[name].elsewhere else None
        if MATRICES[name].elsewhere and other is None:
            print(f"{name}: not run, as there is no other drive ({', '.join(_OTHER_DRIVES)})")
            continue
        found[name] = _run(name, QUICK[name] if quick else _MOST, other, plant=asked.plant_fault)
        print(f"{name}: {len(found[name])} points: {_told(found[name])}", flush=True)
    seconds = time.monotonic() - begin
    points = [point for some in found.values() for point in some]
    wrong = complaints(found, quick=quick)
    for line in wrong:
        print(line)
    print(f"{len(points):,} crash points in {seconds:,.0f} s: verify --resume agrees at {sum(point.agrees for point in points):,}")
    if not wrong and set(found) == set(MATRICES):
        write_section(DOCUMENT, "make crash", _table(found, seconds))
    return 1 if wrong or not points else 0


def _run(name: str, most: int, other: Path | None, *, plant: bool) -> list[Point]:
    """One matrix, in folders that are gone afterwards."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory(dir=other) as elsewhere:
        work = Path(folder) / "work"
        python = [sys.executable]
        resume = shlex.join([*python, str(HERE / "resume.py"), name, "{out}"])
        command = [*python, "-m", "ckpt_chaos", "run", "--work", str(work), "--step-regex", r"resumed from step (\d+)"]
        command += ["--result-file", "{out}/final.pt", "--jobs", str(os.cpu_count() or 1), "--max-points", str(most), "--fail-on", ""]
        command += ["--resume-cmd", resume, "--", *python, str(HERE / "trainer.py"), name, "{out}"]
        planted = {"PLANT_FAULT": str(Path(folder) / "planted")} if plant else {}
        epochs = "2" if most < _MOST else "3"
        done = subprocess.run(
            command, cwd=folder, env={**os.environ, "EPOCHS": epochs, "ELSEWHERE": elsewhere, **planted}, capture_output=True, text=True, check=False
        )
        if not (work / "pt_control" / "result.json").exists():
            sys.exit(f"{name}: the matrix did not run\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return read_points(work)


def _other_drive() -> Path | None:
    """A folder on another drive than that of temporary files."""
    here = os.stat(tempfile.gettempdir()).st_dev
    return next(
        (Path(place) for place in _OTHER_DRIVES if os.path.isdir(place) and os.stat(place).st_dev != here and os.access(place, os.W_OK)), None
    )


def _told(points: Sequence[Point]) -> str:
    return ", ".join(f"{outcome} {number}" for outcome, number in zip(OUTCOMES, counts(points), strict=True) if number)


def _table(found: dict[str, list[Point]], seconds: float) -> str:
    lines = [
        f"{sum(map(len, found.values())):,} crash points, {seconds:,.0f} s on {os.cpu_count()} cores: `verify --resume` agrees at every one.",
        "",
    ]
    lines += [f"| matrix | points | {' | '.join(OUTCOMES)} | gsvckpt agrees |", f"|---|---:|{'---:|' * len(OUTCOMES)}---:|"]
    for name, points in found.items():
        cells = " | ".join(str(number or "-") for number in counts(points))
        lines.append(f"| {name} | {len(points)} | {cells} | {sum(point.agrees for point in points)} |")
    for name, points in found.items():
        lines += ["", f"<details><summary>{name}: every point</summary>", "", "| killed | resuming | `verify --resume` |", "|---|---|---|"]
        lines += [f"| {point.label} | {point.happened} | {point.said} |" for point in points]
        lines += ["", "</details>"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
